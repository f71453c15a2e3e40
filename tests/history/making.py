"""Events in one line, and a history that has them."""

from functools import partial

from relayproxy.core.metrics import Metrics
from relayproxy.history.postgres import PostgresDatabase, PostgresStore
from relayproxy.history.store import SqliteDatabase, SqliteStore
from relayproxy.history.writer import Writer
from relayproxy.model.address import Address
from relayproxy.model.envelope import Recipient
from relayproxy.model.event import MessageEvent
from relayproxy.model.reply import Reply
from relayproxy.postgres import Server
from relayproxy.testing.mail import make_address, make_client

DAY = 86_400
NOON = 20_000 * DAY + DAY // 2
OK = Reply(250, "2.0.0", "Ok")
LATER = Reply(450, "4.2.1", "Later")
NO = Reply(550, "5.7.1", "No")


def message(number=1, *, at=NOON, outcome="relayed", replies=(OK,), to=("b@example.net",), **facts):
    client = make_client(**{key: facts.pop(key) for key in ("ip", "identity") if key in facts})
    values = {
        "direction": "inbound",
        "sender": make_address(facts.pop("sender", "a@example.org")),
        "recipients": tuple(Recipient(make_address(one)) for one in to),
        "size": 1000,
        "route": "mailstore",
        **facts,
    }
    return MessageEvent(at, f"m{number}", outcome, client, replies=tuple(replies), **values)


def recipient(text):
    local, _, domain = text.rpartition("@")
    return Recipient(Address(local, domain))


def opening(place):
    """What opens a store: `place` is a file, or a PostgreSQL server."""
    return partial(PostgresStore if isinstance(place, Server) else SqliteStore, place)


def database(place, **options):
    """A way to ask what is kept at a place."""
    return (PostgresDatabase if isinstance(place, Server) else SqliteDatabase)(place, **options)


def kept(place, *events, retention=10 * 365 * DAY, **options):
    """Write events and close; returns the metrics' values by label."""
    metrics = Metrics()
    writer = Writer(opening(place), metrics=metrics, retention=retention, **options)
    writer.start()
    for event in events:
        writer.record(event)
    writer.close()
    return counts(metrics)


def counts(metrics):
    return {
        **{
            result: metrics.cell("history_events_total", result).value
            for result in ("written", "dropped", "refused")
        },
        "failures": metrics.cell("history_failures_total").value,
    }
