"""`relayproxy queue export` and `import`: the queue moves to another machine. Must not know tables or formats."""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from relayproxy.cli.common import CONFIG_OPTION, FAILED, JSON_OPTION, YES_OPTION, fail, load_config

if TYPE_CHECKING:
    from relayproxy.config.models import Config
    from relayproxy.spool.archive import Counts
    from relayproxy.spool.transfer import Exported, Transfer

_FILE = click.argument(
    "file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True)
)
_DASH = Path("-")


def _open(path: Path | None) -> "tuple[Config, Transfer]":
    from relayproxy.stores import transfer_of

    config = load_config(path)
    if config.spool is None:
        fail("the configuration has no spool")
    place = config.spool.path
    if place is not None and not place.exists():
        fail(f"{place} is not there; it is made at the first start")
    return config, transfer_of(config.spool)


def _agree(counts: "Counts", verb: str, *, yes: bool) -> None:
    question = f"{counts.messages} messages to {counts.recipients} recipients, {counts.octets} octets."
    if yes:
        click.echo(question, err=True)
    else:
        click.confirm(f"{question} {verb} them?", abort=True, err=True)


@click.command("export")
@CONFIG_OPTION
@click.option("--move", is_flag=True, help="Delete what was written, once it is on disk. Not with -.")
@YES_OPTION
@JSON_OPTION
@_FILE
def export_queue(file: Path, path: Path | None, *, move: bool, yes: bool, as_json: bool) -> None:
    """Write queued and held messages to FILE, or to standard output (-).

    What is in delivery at this moment is left out, so stop relayproxy before, or repeat it. The archive holds mail and
    is readable for its owner only.
    """
    from relayproxy.spool.protocol import SpoolError

    if move and file == _DASH:
        raise click.UsageError("--move needs a file, so that it is on disk before anything is deleted")
    if file != _DASH and file.exists():
        fail(f"{file} exists")
    try:
        _, transfer = _open(path)
        with transfer:
            _agree(transfer.counts(), "Move" if move else "Export", yes=yes)
            done = _to_stdout(transfer) if file == _DASH else _to_file(transfer, file, move=move)
    except (SpoolError, OSError) as error:
        fail(error)
    if as_json:
        click.echo(json.dumps(asdict(done)), err=file == _DASH)
        return
    rest = f", {done.left} parts left: in delivery, or not readable" if done.left else ""
    kept = f", {done.moved} parts deleted here" if move else ""
    click.echo(f"exported: {done.messages} messages{kept}{rest}", err=file == _DASH)


def _to_stdout(transfer: "Transfer") -> "Exported":
    from relayproxy.spool.archive import ArchiveWriter

    out = sys.stdout.buffer
    return transfer.take_out(ArchiveWriter(out, transfer.counts()), out.flush, move=False)


def _to_file(transfer: "Transfer", file: Path, *, move: bool) -> "Exported":
    from relayproxy.spool.archive import ArchiveWriter
    from relayproxy.spool.content import sync_folder

    unfinished = file.with_name(f"{file.name}.unfinished")
    number = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(number, "wb") as out:

        def durable() -> None:
            out.flush()
            os.fsync(out.fileno())
            unfinished.rename(file)
            sync_folder(file.absolute().parent)

        try:
            return transfer.take_out(ArchiveWriter(out, transfer.counts()), durable, move=move)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise


@click.command("import")
@CONFIG_OPTION
@click.option("--onto", default="", help="Route for messages whose own isn't there.")
@YES_OPTION
@JSON_OPTION
@_FILE
def import_queue(file: Path, path: Path | None, onto: str, *, yes: bool, as_json: bool) -> None:
    """Put the messages of an archive that `export` wrote (- for standard input) into the queue.

    What has come before is left out, so that it may be repeated. It goes on while relayproxy runs.
    """
    from relayproxy.spool.archive import ArchiveError, ArchiveReader
    from relayproxy.spool.protocol import SpoolError

    if file == _DASH and not yes:
        raise click.UsageError("reading from standard input needs --yes")
    try:
        config, transfer = _open(path)
        routes = {route.label for route in config.table}
        if onto and onto not in routes:
            fail(f"there is no route '{onto}'")
        with transfer, _input(file) as source, ArchiveReader(source) as archive:
            _agree(archive.counts, "Import", yes=yes)
            done = transfer.put_in(archive, _mapping(routes, onto))
    except (SpoolError, ArchiveError, OSError) as error:
        fail(error)
    if as_json:
        click.echo(json.dumps(asdict(done)))
    else:
        click.echo(
            f"imported: {done.added} messages, {done.known} had come before, {done.damaged} are damaged"
        )
    if done.damaged:
        sys.exit(FAILED)


def _input(file: Path) -> IO[bytes]:
    return sys.stdin.buffer if file == _DASH else file.open("rb")


def _mapping(routes: set[str], onto: str) -> Callable[[str], str]:
    from relayproxy.spool.archive import ArchiveError

    def route_of(name: str) -> str:
        if name in routes:
            return name
        if not onto:
            raise ArchiveError(f"there is no route {name!r} here; name another with --onto")
        return onto

    return route_of
