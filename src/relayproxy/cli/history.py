"""`relayproxy history`: what happened to mail, in numbers and message by message.

Must not know which database it is kept in.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relayproxy.cli.common import BAD_CONFIG, CONFIG_OPTION, JSON_OPTION, fail, load
from relayproxy.cli.periods import DAY, moment, shown
from relayproxy.history.queries import DELIVERY_KEYS, KEYS
from relayproxy.model.legible import legible

if TYPE_CHECKING:
    from relayproxy.config.history import History
    from relayproxy.history.database import Database
    from relayproxy.history.messages import Wanted

_WIDEST = 1000
_OUTCOMES = ("relayed", "queued", "deferred", "rejected", "discarded", "held", "resent")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def history() -> None:
    """Ask the history: numbers for a period, and what became of messages."""


def period(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a period, and where the configuration is."""
    for option in (
        click.option("--until", callback=moment, help="The end, not included. Default: now."),
        click.option(
            "--since", callback=moment, help="The beginning: a day or a time, UTC. Default: a day before."
        ),
        CONFIG_OPTION,
    ):
        function = option(function)
    return function


def bounds(since: int | None, until: int | None) -> tuple[float, float]:
    """Return the period that was asked for. Raises UsageError."""
    end = time.time() if until is None else until
    begin = end - DAY if since is None else since
    if end <= begin:
        raise click.UsageError("the period ends before it begins")
    return begin, end


def opened(path: Path | None) -> "closing[Database]":
    """Open the history of a configuration; ends the program where there is none."""
    from relayproxy.history.database import StoreError
    from relayproxy.stores import history_of

    config = load(path, {}).config
    kept: History | None = config.history if config is not None else None
    if kept is None:
        fail("this configuration keeps no history: add history: {url: sqlite:///...}", BAD_CONFIG)
    try:
        return closing(history_of(kept))
    except StoreError as error:
        fail(error)


def _answer(path: Path | None, ask: "Callable[[Database], Sequence[Any]]", *, as_json: bool) -> None:
    """Print what a question brings: a table, or JSON."""
    from relayproxy.history.database import StoreError

    with opened(path) as database:
        try:
            rows = [dataclasses.asdict(row) for row in ask(database)]
        except StoreError as error:
            fail(error)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for line in _table(rows):
        click.echo(line)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["nothing in this period"]
    names = list(rows[0])
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(names))]
    numbers = [isinstance(rows[0][name], int | float) for name in names]
    return [
        "  ".join(
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(line, widths, numbers, strict=True)
        ).rstrip()
        for line in cells
    ]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return legible(str(value), _WIDEST) if value != "" else "-"


@history.command()
@period
@click.option("--by", type=click.Choice(KEYS), default="day", show_default=True, help="What to group by.")
@JSON_OPTION
def totals(path: Path | None, since: int | None, until: int | None, by: str, *, as_json: bool) -> None:
    """Count messages by what came of them."""
    from relayproxy.history.queries import totals as ask

    between = bounds(since, until)
    _answer(path, lambda database: ask(database, *between, by), as_json=as_json)


@history.command()
@period
@click.option("--by", type=click.Choice(KEYS), default="route", show_default=True, help="What to group by.")
@click.option(
    "--outcome", type=click.Choice(_OUTCOMES), default="relayed", show_default=True, help="Of which messages."
)
@JSON_OPTION
def latency(
    path: Path | None, since: int | None, until: int | None, by: str, outcome: str, *, as_json: bool
) -> None:
    """Show how long answers took: percentiles of the seconds from the last octet to the answer."""
    from relayproxy.history.queries import latencies

    between = bounds(since, until)
    _answer(path, lambda database: latencies(database, *between, by, outcome), as_json=as_json)


@history.command()
@period
@click.option(
    "--by", type=click.Choice(DELIVERY_KEYS), default="route", show_default=True, help="What to group by."
)
@JSON_OPTION
def deliveries(path: Path | None, since: int | None, until: int | None, by: str, *, as_json: bool) -> None:
    """Show how queued mail fared, in recipients, with percentiles of the seconds to its delivery."""
    from relayproxy.history.queries import deliveries as ask

    between = bounds(since, until)
    _answer(path, lambda database: ask(database, *between, by), as_json=as_json)


@history.command()
@period
@click.option("--method", default="", help="Only of this method, such as spf or rule.")
@click.option("--property", "prop", default="", help="Tell values of this property apart, such as header.d.")
@JSON_OPTION
def findings(
    path: Path | None, since: int | None, until: int | None, method: str, prop: str, *, as_json: bool
) -> None:
    """Count the messages in which plugins found something."""
    from relayproxy.history.queries import findings as ask

    between = bounds(since, until)
    _answer(path, lambda database: ask(database, *between, method=method, prop=prop), as_json=as_json)


@history.command()
@period
@JSON_OPTION
def failures(path: Path | None, since: int | None, until: int | None, *, as_json: bool) -> None:
    """Count the recipients that were not served, by domain and reason."""
    from relayproxy.history.queries import failures as ask

    between = bounds(since, until)
    _answer(path, lambda database: ask(database, *between), as_json=as_json)


@history.command()
@period
@JSON_OPTION
def refusals(path: Path | None, since: int | None, until: int | None, *, as_json: bool) -> None:
    """Count the clients that were refused before there was a message."""
    from relayproxy.history.queries import refusals as ask

    between = bounds(since, until)
    _answer(path, lambda database: ask(database, *between), as_json=as_json)


@history.command("tls")
@period
@JSON_OPTION
def tls_(path: Path | None, since: int | None, until: int | None, *, as_json: bool) -> None:
    """Count the connections onward by how TLS fared."""
    from relayproxy.history.queries import tls_results

    between = bounds(since, until)
    _answer(path, lambda database: tls_results(database, *between), as_json=as_json)


def filters(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of history.messages.Wanted."""
    for option in reversed(
        (
            click.option("--from", "sender", default="", help="Sender, with * and ?."),
            click.option("--to", "recipient", default="", help="Recipient, with * and ?."),
            click.option("--login", default="", help="Login, with * and ?."),
            click.option("--ip", default="", help="The client's address, with * and ?."),
            click.option("--message-id", default="", help="Message-ID with its brackets, with * and ?."),
            click.option("--outcome", type=click.Choice(_OUTCOMES), help="What came of it."),
            click.option("--route", default="", help="Name of the upstream; +queue for what was queued."),
            click.option("--campaign", default="", help="Name of the campaign."),
            click.option("--direction", type=click.Choice(["inbound", "outbound", "internal"])),
            click.option("--listener", default="", help="Name of the listener."),
            click.option("--rule", default="", help="Id of a rule that matched."),
            click.option("--limit", default=100, show_default=True, help="How many, the newest first."),
        )
    ):
        function = option(function)
    return function


def wanted_of(since: int | None, until: int | None, given: dict[str, Any]) -> "Wanted":
    """Return what the options ask for. Raises UsageError."""
    from relayproxy.history.messages import Wanted

    begin, end = bounds(since, until)
    words: dict[str, Any] = {name: word or "" for name, word in given.items()}
    return Wanted(begin, end, **words)


@history.command("list")
@period
@filters
@JSON_OPTION
def list_(
    path: Path | None, since: int | None, until: int | None, limit: int, *, as_json: bool, **wanted: Any
) -> None:
    """List messages, the newest first."""
    from relayproxy.history.database import StoreError
    from relayproxy.history.messages import messages

    what = wanted_of(since, until, wanted)
    with opened(path) as database:
        try:
            found = list(messages(database, what, limit))
        except StoreError as error:
            fail(error)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
        return
    for one in found:
        to = ", ".join(legible(address) for address, _, _ in one.recipients[:3])
        more = f" and {len(one.recipients) - 3} more" if len(one.recipients) > 3 else ""
        click.echo(
            f"{shown(one.at)}  {one.id}  {one.outcome:<9}  <{legible(one.sender)}> -> {to}{more}  {legible(one.reply, _WIDEST)}"
        )
    click.echo(f"{len(found)} message{'s' * (len(found) != 1)}")


@history.command()
@CONFIG_OPTION
@JSON_OPTION
@click.argument("identity", metavar="ID")
def show(path: Path | None, identity: str, *, as_json: bool) -> None:
    """Tell the story of a message by its id, which is in the reply to the client, the log and Received."""
    from relayproxy.history.database import StoreError
    from relayproxy.history.queries import story

    with opened(path) as database:
        try:
            entries = story(database, identity)
        except StoreError as error:
            fail(error)
    if not entries:
        fail(f"the history knows no {identity}")
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=2))
        return
    for entry in entries:
        route = f"  to {entry.route}" if entry.route else ""
        click.echo(
            f"{shown(entry.at)}  {entry.kind}  {entry.outcome}{route}  {legible(entry.reply, _WIDEST)}".rstrip()
        )
        if entry.reason:
            click.echo(f"  reason: {legible(entry.reason, _WIDEST)}")
        for address, outcome, reply in entry.recipients:
            click.echo(f"  {outcome:<8} {legible(address)}  {legible(reply, _WIDEST)}")
        for method, result, plugin, score in entry.findings:
            points = f"  {score:+g}" if score else ""
            click.echo(f"  {plugin}: {method}={legible(result)}{points}")
        for name, value in entry.details.items():
            click.echo(f"  {name}: {legible(str(value), _WIDEST)}")
