"""`relayproxy suppression`: who gets no more mail; to look at, to change, to bring in and to take out.

Works on the file or the database, whether or not the proxy runs: it sees what has changed. Must not know mail.
"""

import csv
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from relayproxy.cli.common import CONFIG_OPTION, FAILED, JSON_OPTION, fail, load
from relayproxy.cli.periods import DAY

if TYPE_CHECKING:
    from relayproxy.config.load import Loaded
    from relayproxy.model.suppressed import Suppressed, SuppressionList

COLUMNS = ("address", "scope", "class", "reason", "added", "expires", "source")
"""The columns of the CSV; only `address` has to be there."""

FILE_OPTION = click.option(
    "--file", "file", type=click.Path(path_type=Path), help="The list; without it, that of the configuration."
)
SCOPE_OPTION = click.option(
    "--scope",
    default="",
    help="global, tenant:NAME or campaign:NAME.",
    callback=lambda _c, _p, value: _scope(value),
)


def _scope(text: str) -> str:
    text = text.strip().lower()
    kind, colon, name = text.partition(":")
    if text in ("", "global") or (kind in ("tenant", "campaign") and colon and name):
        return text
    raise click.BadParameter(f"{text!r} is none of global, tenant:NAME and campaign:NAME")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def suppression() -> None:
    """Recipients that get no more mail: list, add, remove, import, export."""


@contextmanager
def opened(path: Path | None, file: Path | None) -> "Iterator[SuppressionList]":
    """Open the list that is named, or that the configuration names; exits 1 where it can't be used."""
    from relayproxy.api import ListFault
    from relayproxy.stores import suppression_of

    try:
        store = suppression_of(None)(file) if file is not None else _configured(load(path, {}))
    except ListFault as fault:
        fail(fault)
    try:
        yield store
    except ListFault as fault:
        fail(fault)
    finally:
        store.close()


def _configured(loaded: "Loaded") -> "SuppressionList":
    from relayproxy.builtin.bounces import BouncesSettings
    from relayproxy.builtin.suppression import SuppressionSettings, store_path
    from relayproxy.stores import suppression_of

    assert loaded.config is not None
    named = [
        store_path(loaded.folder, options.file)
        for *_, options in loaded.choices
        if isinstance(options, SuppressionSettings | BouncesSettings)
    ]
    if not named and loaded.config.suppression is None:
        fail("neither suppression nor bounces is in the pipeline: name the list with --file")
    return suppression_of(loaded.config.suppression)(named[0] if named else Path())


def _say(result: dict[str, Any], text: str, *, as_json: bool) -> None:
    click.echo(json.dumps(result) if as_json else text)


# -- looking ------------------------------------------------------------------------------------------------------


@suppression.command("list")
@CONFIG_OPTION
@FILE_OPTION
@SCOPE_OPTION
@JSON_OPTION
@click.argument("text", default="")
def list_(path: Path | None, file: Path | None, scope: str, text: str, *, as_json: bool) -> None:
    """Who is on the list; only addresses that hold TEXT."""
    with opened(path, file) as store:
        lines = store.lines(time.time(), scope=scope, text=text)
        if as_json:
            click.echo(json.dumps([_row(line) for line in lines], indent=2))
            return
        for line in lines:
            until = f"until {_written(line.expires)}" if line.expires else "for ever"
            click.echo(
                f"{line.address:<40} {line.scope:<20} {line.class_:<14} {until}  {line.reason[:100]}".rstrip()
            )


def _row(line: "Suppressed") -> dict[str, str]:
    times = (_written(line.added), _written(line.expires) if line.expires else "")
    values = (line.address, line.scope, line.class_, line.reason, *times, line.source)
    return dict(zip(COLUMNS, values, strict=True))


def _written(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# -- changing -----------------------------------------------------------------------------------------------------


@suppression.command()
@CONFIG_OPTION
@FILE_OPTION
@SCOPE_OPTION
@JSON_OPTION
@click.option("--reason", default="", help="Why, for those who look.")
@click.option("--days", type=click.IntRange(1, 3650), help="For how long; without it, for ever.")
@click.argument("addresses", nargs=-1, required=True)
def add(
    path: Path | None,
    file: Path | None,
    scope: str,
    reason: str,
    days: int | None,
    addresses: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Put ADDRESSES on the list; @example.org stands for a whole domain."""
    from relayproxy.model.suppressed import GLOBAL, Suppressed

    now = time.time()
    for address in addresses:
        if not _is_address(address):
            fail(f"{address!r} is neither an address nor @domain")
    expires = now + days * DAY if days else None
    lines = [Suppressed(one, scope or GLOBAL, "manual", reason, now, expires, "command") for one in addresses]
    with opened(path, file) as store:
        count = store.add(lines)
    _say({"added": count}, f"added {count}", as_json=as_json)


@suppression.command()
@CONFIG_OPTION
@FILE_OPTION
@SCOPE_OPTION
@JSON_OPTION
@click.argument("addresses", nargs=-1, required=True)
def remove(
    path: Path | None, file: Path | None, scope: str, addresses: tuple[str, ...], *, as_json: bool
) -> None:
    """Take ADDRESSES off the list, of one scope or of all; exit 1 if one of them wasn't on it."""
    with opened(path, file) as store:
        counts = [store.remove(address, scope) for address in addresses]
    _say({"removed": sum(counts)}, f"removed {sum(counts)}", as_json=as_json)
    if not all(counts):
        sys.exit(FAILED)


def _is_address(text: str) -> bool:
    local, at, domain = text.strip().rpartition("@")
    return bool(at and domain and len(text) <= 320 and "@" not in domain) and not (
        set(domain) | set(local)
    ) & set(" \t<>,;")


# -- in and out ---------------------------------------------------------------------------------------------------


@suppression.command("import")
@CONFIG_OPTION
@FILE_OPTION
@SCOPE_OPTION
@JSON_OPTION
@click.argument("source", type=click.File("r", encoding="utf-8-sig"))
def import_(path: Path | None, file: Path | None, scope: str, source: IO[str], *, as_json: bool) -> None:
    """Add the lines of a CSV SOURCE (- for standard input), all or none of them.

    Its first line names the columns, of which `address` has to be there and the others may be, in any order; a file
    without that is a list of addresses. --scope is for lines that have none.
    """
    lines = list(_read(source, scope))
    with opened(path, file) as store:
        count = store.add(lines)
    _say({"imported": count}, f"imported {count}", as_json=as_json)


def _read(source: IO[str], scope: str) -> "Iterator[Suppressed]":
    from relayproxy.model.suppressed import GLOBAL, Suppressed

    now = time.time()
    names: list[str] = []
    try:
        for number, row in enumerate(csv.reader(source), 1):
            cells = [cell.strip() for cell in row]
            if not names:
                heading = [cell.lower() for cell in cells]
                names = heading if "address" in heading else ["address"]
                if names is heading:
                    continue
            held = dict(zip(names, cells, strict=False))
            if not any(cells):
                continue
            if not _is_address(held.get("address", "")):
                fail(f"line {number}: {held.get('address', '')!r} is neither an address nor @domain")
            yield Suppressed(
                held["address"],
                _scope(held.get("scope", "")) or scope or GLOBAL,
                held.get("class") or "imported",
                held.get("reason", ""),
                _seconds(held.get("added", ""), number) or now,
                _seconds(held.get("expires", ""), number),
                held.get("source") or "import",
            )
    except (csv.Error, UnicodeDecodeError, click.BadParameter) as error:
        fail(f"line {number if names else 1}: {getattr(error, 'message', error)}")


def _seconds(text: str, number: int) -> float | None:
    """Return the seconds of an ISO 8601 time (UTC where it names no zone), None for none."""
    if not text:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        fail(f"line {number}: {text!r} is no time: write 2026-12-31T00:00:00Z")
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


@suppression.command()
@CONFIG_OPTION
@FILE_OPTION
@SCOPE_OPTION
@click.option(
    "-o",
    "--output",
    type=click.File("w", encoding="utf-8", atomic=True),
    default="-",
    help="Where to; without it, standard output.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON lines in place of CSV.")
def export(path: Path | None, file: Path | None, scope: str, output: IO[str], *, as_json: bool) -> None:
    """Write what is in force as CSV, as `import` reads it."""
    with opened(path, file) as store:
        rows = (_row(line) for line in store.lines(time.time(), scope=scope))
        if as_json:
            output.writelines(json.dumps(row) + "\n" for row in rows)
            return
        writer = csv.DictWriter(output, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
