"""`relayproxy webhooks`: events that nobody has taken yet; to look at, to try again, to drop.

Works on the file, whether or not the proxy runs: a running one looks there every second. Must not know HTTP.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relayproxy.cli.common import (
    CONFIG_OPTION,
    JSON_OPTION,
    LIMIT_OPTION,
    bulk,
    confirmed,
    fail,
    load,
    said_which,
)
from relayproxy.cli.periods import ago
from relayproxy.model.legible import legible

if TYPE_CHECKING:
    from relayproxy.builtin._outbox import Filter, Outbox

_FILE = click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path),
    help="The outbox; without it, that of the configuration.",
)


def _filters(function: Callable[..., None]) -> Callable[..., None]:
    """The options that say which events are meant."""
    options: list[Any] = [
        CONFIG_OPTION,
        _FILE,
        click.option("--event", default="", help="Name of the event, such as delivered."),
        click.option("--to", "recipient", default="", help="Recipient, with * and ?."),
        click.option("--older", default="", callback=ago, help="Kept longer ago than this, such as 2h."),
        JSON_OPTION,
        click.argument("ids", nargs=-1),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _filter(given: dict[str, Any]) -> "Filter":
    from relayproxy.builtin._outbox import Filter

    before = time.time() - given["older"] if given["older"] else None
    return Filter(tuple(given["ids"]), given["event"], given["recipient"], before)


@contextmanager
def _opened(path: Path | None, file: Path | None) -> "Iterator[Outbox]":
    """Open the outbox that is named, or that the configuration names; exits 1 where it can't be used."""
    from relayproxy.builtin._outbox import Outbox

    place = file or _configured(path)
    if not place.exists():
        fail(f"{place} is not there; it is made at the first start")
    try:
        outbox = Outbox(place)
    except (sqlite3.Error, OSError) as error:
        fail(f"{place}: {error}")
    try:
        yield outbox
    except sqlite3.Error as error:
        fail(f"{place}: {error}")
    finally:
        outbox.close()


def _configured(path: Path | None) -> Path:
    from relayproxy.builtin.suppression import store_path
    from relayproxy.builtin.webhooks import WebhooksSettings

    loaded = load(path, {})
    for *_, options in loaded.choices:
        if isinstance(options, WebhooksSettings):
            return store_path(loaded.folder, options.file)
    return fail("webhooks is not in the pipeline: name the outbox with --file")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def webhooks() -> None:
    """Events that wait for a receiver: list, show, retry, drop."""


@webhooks.command("list")
@_filters
@LIMIT_OPTION
def list_(limit: int, **given: Any) -> None:
    """What waits, the oldest first, and how sending goes: all, or IDS, or what the options say."""
    wanted = _filter(given)
    with _opened(given["path"], given["file"]) as outbox:
        rows, count, sending = outbox.rows(wanted, max(0, limit)), outbox.waiting(wanted), outbox.sending()
    events = [(at, json.loads(body)) for at, body in rows]
    if given["as_json"]:
        state = {"failures": sending.failures, "due": sending.due, "problem": sending.problem}
        told = [{"kept": at, **event} for at, event in events]
        click.echo(json.dumps({"count": count, "sending": state, "events": told}, indent=2))
        return
    for at, event in events:
        age = max(0, int(time.time() - at))
        click.echo(f"{event['id']}  {age:>7} s  {event['event']:<12} <{legible(event['recipient'], 500)}>")
    if sending.problem:
        wait = max(0, int(sending.due - time.time()))
        click.echo(
            f"{sending.failures} tries failed, the next is due in {wait} s: {legible(sending.problem, 500)}",
            err=True,
        )
    click.echo(f"{count} found" + (f", {len(rows)} shown" if count > len(rows) else ""), err=True)


@webhooks.command()
@CONFIG_OPTION
@_FILE
@click.argument("id_", metavar="ID")
def show(path: Path | None, file: Path | None, id_: str) -> None:
    """One event, as it will be sent."""
    from relayproxy.builtin._outbox import Filter

    with _opened(path, file) as outbox:
        rows = outbox.rows(Filter((id_,)), 1)
    if not rows:
        fail("there is no such event")
    click.echo(json.dumps(json.loads(rows[0][1]), indent=2))


@webhooks.command()
@CONFIG_OPTION
@_FILE
@JSON_OPTION
def retry(path: Path | None, file: Path | None, *, as_json: bool) -> None:
    """Try now, whenever the next try is due. All of them, as they are sent in order."""
    with _opened(path, file) as outbox:
        outbox.retry()
        count = outbox.waiting()
    click.echo(json.dumps({"waiting": count}) if as_json else f"due now: {count}")


@webhooks.command()
@_filters
@bulk
def drop(**given: Any) -> None:
    """Delete events: IDS, or what the options say, or all. Nobody will hear of them."""
    said_which(given, "ids", "event", "recipient", "older")
    wanted = _filter(given)
    with _opened(given["path"], given["file"]) as outbox:
        count = outbox.waiting(wanted)
        confirmed(count, "Delete them?", yes=given["yes"])
        dropped = outbox.drop(wanted)
    text = json.dumps({"found": count, "dropped": dropped}) if given["as_json"] else f"deleted: {dropped}"
    click.echo(text)
