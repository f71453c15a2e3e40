"""`relayproxy dkim`: make keys, list those that sign, and compare them with what DNS publishes.

Must not know how a signature is made. No command changes or removes a key that is there.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from relayproxy.cli.common import CONFIG_OPTION, FAILED, find_config

if TYPE_CHECKING:
    from relayproxy.api import Answer, Resolver
    from relayproxy.builtin._dkim_files import KeyFile
    from relayproxy.builtin.dkim_sign import DkimSignSettings
    from relayproxy.config.load import Loaded
    from relayproxy.config.values import Endpoint
    from relayproxy.mailauth.dkim_keys import SigningKey

_STRING = 255  # octets of one string of a TXT record (RFC 1035 section 3.3.14)
_SHORT_RSA = 2048


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def dkim() -> None:
    """Make DKIM keys, list them, and check what DNS publishes of them."""


_FOLDER = click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="The folder of keys; without it, what dkim_sign has in the configuration.",
)
_OUTPUT = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print it."
)


def _fail(reason: object) -> NoReturn:
    click.echo(f"relayproxy: {reason}", err=True)
    sys.exit(FAILED)


# -- keygen -----------------------------------------------------------------------------------------------------


@dkim.command()
@CONFIG_OPTION
@_FOLDER
@click.option("--selector", help="How the keys are called; without it, the year and the month.")
@click.option(
    "--type",
    "kind",
    type=click.Choice(["both", "rsa", "ed25519"]),
    default="both",
    help="Which keys to make. Few receivers verify Ed25519 yet, so it only makes sense beside RSA.",
)
@click.option("--bits", type=click.Choice(["2048", "3072", "4096"]), default="2048", help="Size for RSA.")
@click.argument("domain")
def keygen(
    path: Path | None, folder: Path | None, selector: str | None, kind: str, bits: str, domain: str
) -> None:
    """Make the keys of DOMAIN and print the records to publish.

    An RSA key and an Ed25519 key are written as DOMAIN/SELECTOR-rsa.key and DOMAIN/SELECTOR-ed25519.key, readable
    by their owner alone. dkim_sign signs with both from its next start or reload.
    """
    from relayproxy.mailauth.dkim_keys import new_ed25519_key, new_rsa_key
    from relayproxy.mailauth.dkim_sign import check_names
    from relayproxy.model.address import to_a_label

    selector = selector or time.strftime("%Y%m")
    domain = to_a_label(domain.rstrip("."))
    makers = {"rsa": lambda: new_rsa_key(int(bits)), "ed25519": new_ed25519_key}
    wanted = {f"{selector}-{name}": make for name, make in makers.items() if kind == "both"} or {
        selector: makers[kind]
    }
    home = (folder or _configured_folder(path)) / domain
    try:
        for name in wanted:
            check_names(domain, name)
            if (home / f"{name}.key").exists():
                raise FileExistsError(f"{home / name}.key is there already; choose another --selector")
        made = [(name, make()) for name, make in wanted.items()]
        for name, key in made:
            write_key(home / f"{name}.key", key)
    except (ValueError, OSError) as error:
        _fail(error)
    for name, _ in made:
        click.echo(f"wrote {home / name}.key", err=True)
    click.echo(
        "publish, and wait until `relayproxy dkim check` finds it, before dkim_sign uses the keys:", err=True
    )
    for name, key in made:
        click.echo(zone_line(f"{name}._domainkey.{domain}", key.record()))


def write_key(path: Path, key: "SigningKey") -> None:
    """Write a key where no file is yet, readable by its owner alone. Raises OSError.

    Made by root it belongs to the owner of the folder that holds all keys, as whom relayproxy runs.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "wb") as out:
        out.write(key.pem())
    if os.geteuid() == 0:
        owner = path.parent.parent.stat()
        for one in (path.parent, path):
            os.chown(one, owner.st_uid, owner.st_gid)


def zone_line(name: str, record: str) -> str:
    """Return a TXT record as a zone file has it, cut into strings."""
    strings = [f'"{record[at : at + _STRING]}"' for at in range(0, len(record), _STRING)]
    return f"{name}. 3600 IN TXT ( {' '.join(strings)} )"


# -- where the keys are -----------------------------------------------------------------------------------------


def _loaded(path: Path | None) -> "Loaded | None":
    """Return the configuration as far as it can be read: a mistake elsewhere must not hide the keys."""
    from relayproxy.config import load as loader

    place = find_config(path)
    return loader.load(place) if place else None


def _signing(loaded: "Loaded | None") -> "list[DkimSignSettings]":
    from relayproxy.builtin.dkim_sign import DkimSignSettings

    return [
        options
        for _, _, options in (loaded.choices if loaded else ())
        if isinstance(options, DkimSignSettings)
    ]


def _configured_folder(path: Path | None) -> Path:
    loaded = _loaded(path)
    folders = [options.keys for options in _signing(loaded) if options.keys]
    return loaded.folder / Path(folders[0]).expanduser() if loaded and folders else Path("keys")


def _key_files(path: Path | None, folder: Path | None) -> "list[KeyFile]":
    """Return all keys that sign; ends the program if there are none, or one can't be named."""
    from relayproxy.builtin._dkim_files import find_keys
    from relayproxy.builtin.dkim_sign import key_files
    from relayproxy.mailauth.dkim_keys import KeyFault

    files: list[KeyFile] = []
    try:
        if folder is not None:
            return find_keys(folder)
        loaded = _loaded(path)
        for options in _signing(loaded):
            assert loaded is not None
            files += key_files(options, loaded.folder)
    except KeyFault as fault:
        _fail(fault)
    if not files:
        _fail("there is no dkim_sign in a configuration; name one with -C, or a folder of keys with --folder")
    return files


# -- list -------------------------------------------------------------------------------------------------------


@dkim.command("list")
@CONFIG_OPTION
@_FOLDER
@_OUTPUT
@click.option("--records", is_flag=True, help="Print the records to publish.")
def list_(path: Path | None, folder: Path | None, output: str, *, records: bool) -> None:
    """The keys that sign, and what is wrong with them; exit 1 if one can't be used."""
    rows = [_row(file) for file in _key_files(path, folder)]
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
    else:
        for row in rows:
            if records and row["record"]:
                click.echo(zone_line(row["name"], row["record"]))
            elif not records:
                notes = "; ".join([row["fault"], *row["notes"]] if row["fault"] else row["notes"])
                kind = f"{row['kind']} {row['bits']}" if row["kind"] else "unusable"
                click.echo(
                    f"{row['domain']:<28} {row['selector']:<20} {kind:<12} {row['file']}{notes and f'  ({notes})'}"
                )
    if any(row["fault"] for row in rows):
        sys.exit(FAILED)


def _row(file: "KeyFile") -> dict[str, Any]:
    from relayproxy.mailauth.dkim_keys import KeyFault

    row: dict[str, Any] = {
        "domain": file.domain,
        "selector": file.selector,
        "senders": list(file.senders),
        "file": str(file.path),
        "name": f"{file.selector}._domainkey.{file.domain}",
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
    notes = []
    if key.public.kind == "rsa" and key.bits < _SHORT_RSA:
        notes.append(f"short: {_SHORT_RSA} bits are usual")
    if mode & 0o077:
        notes.append(f"others than its owner may read it: mode {mode & 0o777:04o}")
    return row | {"kind": key.public.kind, "bits": key.bits, "record": key.record(), "notes": notes}


# -- check ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Published:
    """What DNS says of a key: `state` is ok, missing, revoked, differs, unusable, unknown or unreadable."""

    name: str
    state: str
    reason: str = ""
    record: str = ""


def _server(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> "list[Endpoint]":
    from pydantic_core import PydanticCustomError

    from relayproxy.config.values import parse_endpoint

    try:
        return [parse_endpoint(value, default_port=53) for value in values]
    except PydanticCustomError as error:
        raise click.BadParameter(error.message()) from error


@dkim.command()
@CONFIG_OPTION
@_FOLDER
@_OUTPUT
@click.option(
    "--server",
    "servers",
    multiple=True,
    callback=_server,
    help="The name server to ask, as ADDRESS or ADDRESS:PORT; without it, those of the configuration.",
)
@click.argument("domains", nargs=-1)
def check(
    path: Path | None, folder: Path | None, output: str, servers: "list[Endpoint]", domains: tuple[str, ...]
) -> None:
    """Compare the keys (of DOMAINS, or all) with what DNS publishes; exit 1 if one of them is not as it should be."""
    from relayproxy.model.address import to_a_label

    wanted = {to_a_label(domain.rstrip(".")) for domain in domains}
    files = [file for file in _key_files(path, folder) if not wanted or file.domain in wanted]
    for domain in sorted(wanted - {file.domain for file in files}):
        _fail(f"there is no key of {domain}")
    found = asyncio.run(_ask(path, servers, files))
    if output == "json":
        shown = [{"name": one.name, "state": one.state, "reason": one.reason} for one in found]
        click.echo(json.dumps(shown, indent=2))
    else:
        for one in found:
            click.echo(f"{one.state:<10} {one.name}{one.reason and f'  {one.reason}'}")
        for one in found:
            if one.state in ("missing", "revoked", "differs", "unusable"):
                click.echo(f"\npublish\n{zone_line(one.name, one.record)}")
    if any(one.state != "ok" for one in found):
        sys.exit(FAILED)


async def _ask(path: Path | None, servers: "list[Endpoint]", files: "Iterable[KeyFile]") -> list[Published]:
    from relayproxy.resolver import CachingResolver

    loaded = None if servers else _loaded(path)
    if loaded is not None and loaded.config is not None:
        servers = list(loaded.config.dns.servers)
    resolver = CachingResolver(tuple((server.host, server.port) for server in servers))
    try:
        return await compare(files, resolver)
    finally:
        await resolver.close()


async def compare(files: "Iterable[KeyFile]", resolver: "Resolver") -> list[Published]:
    """Return for each key what DNS says of it; all are asked for side by side."""
    return await asyncio.gather(*(_compare(file, resolver) for file in files))


async def _compare(file: "KeyFile", resolver: "Resolver") -> Published:
    from relayproxy.mailauth.dkim_keys import KeyFault

    name = f"{file.selector}._domainkey.{file.domain}"
    try:
        key = file.current()
    except KeyFault as fault:
        return Published(name, "unreadable", str(fault))
    return Published(name, *_judged(key, await resolver.query(name, "TXT")), key.record())


def _judged(key: "SigningKey", answer: "Answer") -> tuple[str, str]:
    """Return state and reason."""
    from relayproxy.mailauth.dkim_header import read_record

    if answer.failed:
        return "unknown", f"DNS gave no answer ({answer.status.value})"
    if not answer.records:
        return "missing", ""
    if len(answer.records) > 1:
        return "unusable", f"there are {len(answer.records)} records, and receivers choose any"
    record = read_record(answer.records[0])
    if record.fault:
        return "unusable", record.fault
    if record.key is None:
        return "revoked", "its p= is empty"
    if record.key.octets != key.public.octets:
        return "differs", "another key is published"
    if not record.email or (record.hashes is not None and b"sha256" not in record.hashes):
        return "unusable", "its s= or h= keeps it from mail"
    return "ok", "but t=y says that it is a test: remove it when all is well" if record.testing else ""
