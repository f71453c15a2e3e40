"""`relayproxy queue` and `relayproxy quarantine`: look at what is stored, and change it.

Every change is counted first and asked about, unless --yes. Must not know tables.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
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
    load_config,
    said_which,
)
from relayproxy.cli.periods import ago
from relayproxy.cli.queue_budget import queue_budget
from relayproxy.cli.queue_tls import tls_seen
from relayproxy.cli.queue_transfer import export_queue, import_queue
from relayproxy.model.legible import legible

if TYPE_CHECKING:
    from relayproxy.model.queued import Row
    from relayproxy.spool.listing import Filter, Listing

_STANDINGS = ("queued", "held", "broken")
_MANY = 100_000


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def queue() -> None:
    """Look at queued messages, and hold, retry, fail or drop them."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def quarantine() -> None:
    """Look at held messages, and release or delete them."""


def _filters(*, standing: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options that say which messages are meant."""
    options: list[Any] = [
        CONFIG_OPTION,
        click.option("--from", "sender", default="", help="Sender, with * and ?."),
        click.option("--to", "recipient", default="", help="Recipient, with * and ?."),
        click.option("--route", default="", help="Name of the route."),
        click.option("--older", default="", callback=ago, help="Received longer ago than this, such as 2h."),
        JSON_OPTION,
        click.argument("ids", nargs=-1),
    ]
    if standing:
        options.insert(
            4,
            click.option(
                "--standing", type=click.Choice(_STANDINGS), multiple=True, help="queued, held or broken."
            ),
        )

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _filter(given: dict[str, Any], standing: tuple[str, ...] = ()) -> "Filter":
    from relayproxy.model.queued import Standing
    from relayproxy.spool.listing import Filter

    chosen = standing or given.get("standing", ())
    return Filter(
        tuple(given["ids"]),
        given["sender"],
        given["recipient"],
        given["route"],
        tuple(Standing(word) for word in chosen),
        given["older"],
    )


def _open(path: Path | None) -> "Listing":
    from relayproxy.spool.protocol import SpoolError
    from relayproxy.stores import listing_of

    config = load_config(path)
    if config.spool is None:
        fail("the configuration has no spool")
    try:
        return listing_of(config.spool)
    except SpoolError as error:
        fail(error)


def _list(given: dict[str, Any], limit: int, standing: tuple[str, ...] = ()) -> None:
    from relayproxy.spool.protocol import SpoolError

    wanted = _filter(given, standing)
    try:
        with _open(given["path"]) as listing:
            rows, count = listing.rows(wanted, limit), listing.count(wanted)
    except SpoolError as error:
        fail(error)
    if given["as_json"]:
        click.echo(json.dumps({"count": count, "messages": [asdict(row) for row in rows]}, indent=2))
        return
    for row in rows:
        click.echo(_line(row))
    click.echo(f"{count} found" + (f", {len(rows)} shown" if count > len(rows) else ""), err=True)


def _line(row: "Row") -> str:

    now = time.time()
    first = legible(row.recipients[0][0]) if row.recipients else "nobody"
    more = f" and {len(row.recipients) - 1} more" if len(row.recipients) > 1 else ""
    reply = row.recipients[0][1] if row.recipients else ""
    when: str = row.standing
    if when == "queued":
        when = "in delivery" if row.owner else f"due in {_span(row.due - now)}"
    head = (
        f"{row.id}  {_span(now - row.received_at)} old  {row.size} octets  {when}  {row.attempts} attempts"
        f"  {row.route}\n    <{legible(row.sender)}> to <{first}>{more}"
    )
    return head + "".join(f"\n    {legible(text, 1000)}" for text in (row.reason, reply) if text)


def _span(seconds: float) -> str:
    seconds = max(0, int(seconds))
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _show(given: dict[str, Any], standing: tuple[str, ...], *, content: bool) -> None:
    from relayproxy.spool.protocol import SpoolError

    try:
        with _open(given["path"]) as listing:
            rows = listing.rows(_filter(given, standing), _MANY)
            octets = listing.content(rows[0].message) if rows else b""
    except SpoolError as error:
        fail(error)
    if not rows:
        fail("there is no such message")
    if content:
        sys.stdout.buffer.write(octets)
        return
    head = octets.partition(b"\r\n\r\n")[0].decode("utf-8", "replace").replace("\r\n", "\n")
    if given["as_json"]:
        click.echo(json.dumps({"parts": [asdict(row) for row in rows], "header": head}, indent=2))
        return
    for row in rows:
        click.echo(_line(row))
        for address, reply in row.recipients:
            click.echo(f"      <{legible(address)}>  {legible(reply, 1000) or 'not tried yet'}")
    click.echo("\n" + "\n".join(legible(line, 1000) for line in head.split("\n")))


def _change(
    given: dict[str, Any],
    verb: str,
    change: "Callable[[Listing, Filter], int]",
    standing: tuple[str, ...] = (),
) -> None:
    from relayproxy.spool.protocol import SpoolError

    said_which(given, "ids", "sender", "recipient", "route", "older", "standing")
    wanted = _filter(given, standing)
    try:
        with _open(given["path"]) as listing:
            count = listing.count(wanted)
            confirmed(count, f"{verb.capitalize()} them?", yes=given["yes"])
            changed = change(listing, wanted)
    except SpoolError as error:
        fail(error)
    if given["as_json"]:
        click.echo(json.dumps({"found": count, "changed": changed}))
        return
    rest = (
        f", {count - changed} left alone: in delivery, or not such that it can be" if changed < count else ""
    )
    click.echo(f"{verb}: {changed}{rest}")


# -- queue ------------------------------------------------------------------------------------------------------


@queue.command("list")
@_filters(standing=True)
@LIMIT_OPTION
def queue_list(limit: int, **given: Any) -> None:
    """What is stored, the oldest first: all, or IDS, or what the options say."""
    _list(given, limit)


@queue.command("show")
@CONFIG_OPTION
@JSON_OPTION
@click.option("--content", is_flag=True, help="Print the message itself.")
@click.argument("id_", metavar="ID")
def queue_show(path: Path | None, id_: str, *, as_json: bool, content: bool) -> None:
    """One message: its recipients, what was last heard of them, and its header."""
    _show(_only(path, id_, as_json), (), content=content)


def _only(path: Path | None, id_: str, as_json: bool) -> dict[str, Any]:
    return {
        "path": path,
        "ids": (id_,),
        "sender": "",
        "recipient": "",
        "route": "",
        "older": 0.0,
        "as_json": as_json,
    }


@queue.command("summary")
@CONFIG_OPTION
@JSON_OPTION
def queue_summary(path: Path | None, *, as_json: bool) -> None:
    """How much there is, for each route."""
    from relayproxy.spool.protocol import SpoolError

    try:
        with _open(path) as listing:
            found = listing.summary()
    except SpoolError as error:
        fail(error)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    now = time.time()
    for row in found:
        click.echo(
            f"{row['route']:<20} {row['standing']:<8} {row['count']:>8}  {row['due']:>8} due"
            f"  oldest {_span(now - row['oldest'])}  {row['octets']} octets"
        )
    click.echo(f"{sum(row['count'] for row in found)} in all", err=True)


@queue.command("hold")
@_filters(standing=True)
@click.option("--reason", default="", help="Why, for whoever sees it.")
@bulk
def queue_hold(reason: str, **given: Any) -> None:
    """Keep messages from being tried, until `unhold`."""
    _change(given, "held", lambda listing, wanted: listing.hold(wanted, reason))


@queue.command("unhold")
@_filters(standing=False)
@bulk
def queue_unhold(**given: Any) -> None:
    """Let held (or broken and mended) messages go on."""
    _change(given, "let go", lambda listing, wanted: listing.unhold(wanted), ("held", "broken"))


@queue.command("retry")
@_filters(standing=False)
@bulk
def queue_retry(**given: Any) -> None:
    """Try messages now, whenever they are due."""
    _change(given, "due now", lambda listing, wanted: listing.retry(wanted), ("queued",))


@queue.command("reroute")
@_filters(standing=False)
@click.option("--onto", required=True, help="Name of the route that is to deliver them.")
@bulk
def queue_reroute(onto: str, **given: Any) -> None:
    """Deliver messages over another route, from now on."""
    config = load_config(given["path"])
    if onto not in {route.label for route in config.table}:
        fail(f"there is no route '{onto}'")
    _change(given, "rerouted", lambda listing, wanted: listing.reroute(wanted, onto), ("queued",))


@queue.command("fail")
@_filters(standing=True)
@bulk
def queuefail(**given: Any) -> None:
    """Give messages up, and tell their senders."""
    _change(given, "given up", lambda listing, wanted: listing.fail(wanted))


@queue.command("drop")
@_filters(standing=True)
@bulk
def queue_drop(**given: Any) -> None:
    """Delete messages, and tell nobody."""
    _change(given, "deleted", lambda listing, wanted: listing.drop(wanted))


queue.add_command(queue_budget)
queue.add_command(export_queue)
queue.add_command(tls_seen)
queue.add_command(import_queue)


# -- quarantine -------------------------------------------------------------------------------------------------

_HELD = ("held",)


@quarantine.command("list")
@_filters(standing=False)
@LIMIT_OPTION
def quarantine_list(limit: int, **given: Any) -> None:
    """Held messages, the oldest first: all, or IDS, or what the options say."""
    _list(given, limit, _HELD)


@quarantine.command("show")
@CONFIG_OPTION
@JSON_OPTION
@click.option("--content", is_flag=True, help="Print the message itself.")
@click.argument("id_", metavar="ID")
def quarantine_show(path: Path | None, id_: str, *, as_json: bool, content: bool) -> None:
    """One held message."""
    _show(_only(path, id_, as_json), _HELD, content=content)


@quarantine.command("digest")
@_filters(standing=False)
@click.option("--limit", default=20, show_default=True, help="How many to show of each recipient's.")
def quarantine_digest(limit: int, **given: Any) -> None:
    """What is held for each recipient, the newest first."""
    from relayproxy.spool.digest import digests
    from relayproxy.spool.protocol import SpoolError

    wanted = _filter(given, _HELD)
    try:
        with _open(given["path"]) as listing:
            found = digests(listing.rows(wanted, _MANY), listing.head, max(0, limit))
    except SpoolError as error:
        fail(error)
    if given["as_json"]:
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
        return
    now = time.time()
    for one in found:
        click.echo(f"{one.recipient}: {one.count} held")
        for mail in one.messages:
            click.echo(
                f"  {mail.id}  {_span(now - mail.received_at)} old  {mail.size} octets  <{mail.sender}>"
            )
            click.echo(f"    From: {mail.author}\n    Subject: {mail.subject}\n    {mail.reason}")
        if one.count > len(one.messages):
            click.echo(f"  and {one.count - len(one.messages)} more")


@quarantine.command("release")
@_filters(standing=False)
@bulk
def quarantine_release(**given: Any) -> None:
    """Deliver held messages: they pass the rewriting plugins and are signed first."""
    _change(given, "released", lambda listing, wanted: listing.unhold(wanted), _HELD)


@quarantine.command("delete")
@_filters(standing=False)
@bulk
def quarantine_delete(**given: Any) -> None:
    """Delete held messages, and tell nobody."""
    _change(given, "deleted", lambda listing, wanted: listing.drop(wanted), _HELD)
