"""`relayproxy dkim`: make keys, list those that sign, and compare them with what DNS publishes.

Must not know how a signature is made. No command here changes or removes a key that is there.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relayproxy.cli.common import CONFIG_OPTION, FAILED, fail
from relayproxy.cli.dkim_keys import (
    FOLDER_OPTION,
    OUTPUT_OPTION,
    SERVER_OPTION,
    all_keys,
    asking,
    configured_folder,
    loaded_as_far_as_possible,
    resting_keys,
    write_key,
)
from relayproxy.cli.dkim_rotate import rotate
from relayproxy.mailauth.audit.report import Record

if TYPE_CHECKING:
    from relayproxy.api import Resolver
    from relayproxy.builtin._dkim_files import KeyFile
    from relayproxy.model.endpoint import Endpoint

_SHORT_RSA = 2048


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def dkim() -> None:
    """Make DKIM keys, list and replace them, and check what DNS publishes of them."""


dkim.add_command(rotate)


# -- keygen -----------------------------------------------------------------------------------------------------


@dkim.command()
@CONFIG_OPTION
@FOLDER_OPTION
@click.option("--selector", help="How the keys are called; without it, the year and the month.")
@click.option(
    "--type",
    "kind",
    type=click.Choice(["both", "rsa", "ed25519"]),
    default="both",
    help="Which keys to make. Few receivers verify Ed25519 yet, so it only makes sense beside RSA.",
)
@click.option("--bits", type=click.Choice(["2048", "3072", "4096"]), default="2048", help="Size for RSA.")
@click.option(
    "--wait",
    is_flag=True,
    help="The keys end in .next and sign only when `dkim rotate` has found their records in DNS.",
)
@click.argument("domain")
def keygen(
    path: Path | None,
    folder: Path | None,
    selector: str | None,
    kind: str,
    bits: str,
    domain: str,
    *,
    wait: bool,
) -> None:
    """Make the keys of DOMAIN and print the records to publish.

    An RSA key and an Ed25519 key are written as DOMAIN/SELECTOR-rsa.key and DOMAIN/SELECTOR-ed25519.key, readable
    by their owner alone. dkim_sign signs with both when it starts, or within seconds if it is running.
    """
    from relayproxy.builtin._dkim_files import NEXT
    from relayproxy.mailauth.dkim_keys import new_ed25519_key, new_rsa_key
    from relayproxy.mailauth.dkim_sign import check_names
    from relayproxy.model.address import to_a_label

    selector = selector or time.strftime("%Y%m")
    domain = to_a_label(domain.rstrip("."))
    makers = {"rsa": lambda: new_rsa_key(int(bits)), "ed25519": new_ed25519_key}
    wanted = {f"{selector}-{name}": make for name, make in makers.items() if kind == "both"} or {
        selector: makers[kind]
    }
    home = (folder or configured_folder(path)) / domain
    suffix = NEXT if wait else ".key"
    try:
        for name in wanted:
            check_names(domain, name)
            for ending in (".key", NEXT):
                if (home / f"{name}{ending}").exists():
                    raise FileExistsError(
                        f"{home / name}{ending} is there already; choose another --selector"
                    )
        made = [(name, make()) for name, make in wanted.items()]
        for name, key in made:
            write_key(home / f"{name}{suffix}", key)
    except (ValueError, OSError) as error:
        fail(error)
    for name, _ in made:
        click.echo(f"wrote {home / name}{suffix}", err=True)
    click.echo(
        f"publish, then let the keys sign with `relayproxy dkim rotate {domain}`:"
        if wait
        else "publish, and see with `relayproxy dkim check` that it is there:",
        err=True,
    )
    for name, key in made:
        click.echo(Record(f"{name}._domainkey.{domain}", key.record()).line())


# -- list -------------------------------------------------------------------------------------------------------


@dkim.command("list")
@CONFIG_OPTION
@FOLDER_OPTION
@OUTPUT_OPTION
@click.option("--records", is_flag=True, help="Print the records to publish.")
def list_(path: Path | None, folder: Path | None, output: str, *, records: bool) -> None:
    """The keys that sign, wait or are retired, and what is wrong with them; exit 1 if one can't be used."""
    rows = [_row(file) for file in all_keys(path, folder)]
    rows += [_row(file) for file in resting_keys(path, folder)]
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
    else:
        for row in rows:
            if records and row["record"] and row["state"] != "retired":
                click.echo(Record(row["name"], row["record"]).line())
            elif not records:
                notes = "; ".join([row["fault"], *row["notes"]] if row["fault"] else row["notes"])
                kind = f"{row['kind']} {row['bits']}" if row["kind"] else "unusable"
                click.echo(
                    f"{row['domain']:<28} {row['selector']:<20} {kind:<12} {row['file']}{notes and f'  ({notes})'}"
                )
    if any(row["fault"] for row in rows):
        sys.exit(FAILED)


def _row(file: "KeyFile") -> dict[str, Any]:
    from relayproxy.builtin._dkim_files import state_of
    from relayproxy.mailauth.dkim_keys import KeyFault

    row: dict[str, Any] = {
        "domain": file.domain,
        "selector": file.selector,
        "senders": list(file.senders),
        "file": str(file.path),
        "state": state_of(file.path),
        "name": file.name,
        "kind": "",
        "bits": 0,
        "record": "",
        "fault": "",
        "notes": [],
    }
    try:
        key = file.current()
        mode = file.path.stat().st_mode
    except (KeyFault, OSError) as fault:
        return row | {"fault": str(fault)}
    notes = {"waits": ["waits for its record"], "retired": ["retired"]}.get(row["state"], [])
    if key.public.kind == "rsa" and key.bits < _SHORT_RSA:
        notes.append(f"short: {_SHORT_RSA} bits are usual")
    if mode & 0o077:
        notes.append(f"others than its owner may read it: mode {mode & 0o777:04o}")
    return row | {"kind": key.public.kind, "bits": key.bits, "record": key.record(), "notes": notes}


# -- check ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Compared:
    """A key beside DNS: `state` is unreadable, or as that of mailauth.audit.dkim.Published."""

    name: str
    state: str
    reason: str = ""
    record: str = ""


@dkim.command()
@CONFIG_OPTION
@FOLDER_OPTION
@OUTPUT_OPTION
@SERVER_OPTION
@click.argument("domains", nargs=-1)
def check(
    path: Path | None, folder: Path | None, output: str, servers: "list[Endpoint]", domains: tuple[str, ...]
) -> None:
    """Compare the keys (of DOMAINS, or all) with what DNS publishes; exit 1 if one of them is not as it should be."""
    from relayproxy.model.address import to_a_label

    wanted = {to_a_label(domain.rstrip(".")) for domain in domains}
    files = [file for file in all_keys(path, folder) if not wanted or file.domain in wanted]
    for domain in sorted(wanted - {file.domain for file in files}):
        fail(f"there is no key of {domain}")
    found = asyncio.run(_ask(path, servers, files))
    if output == "json":
        shown = [{"name": one.name, "state": one.state, "reason": one.reason} for one in found]
        click.echo(json.dumps(shown, indent=2))
    else:
        for one in found:
            click.echo(f"{one.state:<10} {one.name}{one.reason and f'  {one.reason}'}")
        for one in found:
            if one.state in ("missing", "revoked", "differs", "unusable"):
                click.echo(f"\npublish\n{Record(one.name, one.record).line()}")
    if any(one.state != "ok" for one in found):
        sys.exit(FAILED)


async def _ask(
    path: Path | None, servers: "Sequence[Endpoint]", files: "Iterable[KeyFile]"
) -> list[Compared]:
    async with asking(None if servers else loaded_as_far_as_possible(path), servers) as resolver:
        return await compared(files, resolver)


async def compared(files: "Iterable[KeyFile]", resolver: "Resolver") -> list[Compared]:
    """Return for each key what DNS says of it; all are asked for side by side."""
    return await asyncio.gather(*(_compared(file, resolver) for file in files))


async def _compared(file: "KeyFile", resolver: "Resolver") -> Compared:
    from relayproxy.mailauth.audit.dkim import compare
    from relayproxy.mailauth.dkim_keys import KeyFault

    try:
        key = file.current()
    except KeyFault as fault:
        return Compared(file.name, "unreadable", str(fault))
    found = compare(key, await resolver.query(file.name, "TXT"))
    return Compared(file.name, found.state, found.reason, key.record())
