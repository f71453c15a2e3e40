"""The questions that reports put to the history, each a function that returns frozen values.

Periods are `since` <= time < `until`, in seconds since the epoch; days are those of UTC. All functions raise
StoreError when the database fails. Must not change anything, nor know which database it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from relayproxy.history.database import Database

_COLUMNS: Final = ("listener", "route", "direction", "login", "campaign", "sender_domain", "ip")

KEYS: Final = ("day", "hour", *_COLUMNS, "recipient_domain", "rule")
"""What messages can be grouped by. By `recipient_domain` a message counts once for each domain it goes to, by `rule` once
for each rule that matched (and not at all, if none did)."""

_JOINS: Final[Mapping[str, tuple[str, str]]] = {
    "recipient_domain": ("r.domain", "JOIN recipient r ON r.event = e.id"),
    "rule": ("f.props ->> 'id'", "JOIN finding f ON f.event = e.id AND f.method = 'rule'"),
}

_OUTCOMES = ("relayed", "queued", "deferred", "rejected", "discarded", "held", "resent")


@dataclass(frozen=True, slots=True)
class Totals:
    """What came of the messages of one `key`; counts of messages by outcome, and octets of all of them."""

    key: str
    messages: int
    relayed: int
    queued: int
    deferred: int
    rejected: int
    discarded: int
    held: int
    resent: int
    octets: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from the last octet to the answer of the messages of one `key`: percentiles by nearest rank."""

    key: str
    messages: int
    p50: float
    p90: float
    p95: float
    p99: float
    most: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of queued mail of one `key`, in recipients: answers to attempts, and those given up at the end.

    The percentiles (by nearest rank) are of the seconds from acceptance to delivery; 0 without a delivery.
    """

    key: str
    delivered: int
    deferred: int
    refused: int
    expired: int
    p50: float
    p95: float
    p99: float
    most: float


@dataclass(frozen=True, slots=True)
class FindingCount:
    """How many messages had a finding, and the sum of its scores. `key` is a property's value, or ""."""

    method: str
    result: str
    plugin: str
    key: str
    messages: int
    score: float


@dataclass(frozen=True, slots=True)
class FailureCount:
    """How many recipients of a domain were answered so; `kind` is the class of the enhanced status code."""

    domain: str
    outcome: str
    kind: str
    status: str
    recipients: int


@dataclass(frozen=True, slots=True)
class RefusalCount:
    """How many clients were refused at a stage, by class of the enhanced status code and by the code itself."""

    stage: str
    kind: str
    status: str
    count: int


@dataclass(frozen=True, slots=True)
class TlsCount:
    """How many connections to a next hop ended so (a result type of RFC 8460 section 4.3)."""

    domain: str
    host: str
    policy: str
    result: str
    reason: str
    connections: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of a message's story, in the words of the tables; `findings` are (method, result, plugin, score)."""

    at: float
    kind: str
    mail: str
    outcome: str
    route: str
    reply: str
    reason: str
    seconds: float
    recipients: tuple[tuple[str, str, str], ...]
    findings: tuple[tuple[str, str, str, float], ...]
    details: Mapping[str, Any]


def _messages(database: Database, by: str) -> str:
    """Return the table `one` of the messages of a period with their key `k`; takes since and until. Raises KeyError."""
    if by not in KEYS:
        raise KeyError(by)
    key, join = _JOINS.get(by) or (database.keys.get(by, f"e.{by}"), "")
    distinct = "DISTINCT" if join else ""  # two recipients of one domain, a rule that matched for both
    return (
        f"one AS (SELECT {distinct} e.id, {key} AS k, e.outcome, e.size, e.seconds FROM event e {join}"
        " WHERE e.kind = 'message' AND e.at >= ? AND e.at < ?)"
    )


def totals(database: Database, since: float, until: float, by: str) -> tuple[Totals, ...]:
    """Return what came of all messages, grouped by one of KEYS, in the order of the key. Raises KeyError."""
    counts = ", ".join(f"COUNT(*) FILTER (WHERE outcome = '{outcome}')" for outcome in _OUTCOMES)
    rows = database.rows(
        f"WITH {_messages(database, by)}"
        f" SELECT k, COUNT(*), {counts}, CAST(SUM(size) AS BIGINT) FROM one GROUP BY k ORDER BY k",
        (since, until),
    )
    return tuple(Totals(*row) for row in rows)


def latencies(
    database: Database, since: float, until: float, by: str, outcome: str = "relayed"
) -> tuple[Latency, ...]:
    """Return how long messages of one outcome took, grouped by one of KEYS. Raises KeyError."""
    ranks = ", ".join(f"MIN(CASE WHEN n * 100 >= {p} * c THEN seconds END)" for p in (50, 90, 95, 99))
    rows = database.rows(
        f"WITH {_messages(database, by)}, ranked AS (SELECT k, seconds,"
        " ROW_NUMBER() OVER (PARTITION BY k ORDER BY seconds) AS n, COUNT(*) OVER (PARTITION BY k) AS c"
        " FROM one WHERE outcome = ?)"
        f" SELECT k, MAX(c), {ranks}, MAX(seconds) FROM ranked GROUP BY k ORDER BY k",
        (since, until, outcome),
    )
    return tuple(Latency(*row) for row in rows)


DELIVERY_KEYS: Final = (
    "day",
    "hour",
    "route",
    "recipient_domain",
    "listener",
    "login",
    "campaign",
    "sender_domain",
)
"""What deliveries of queued mail can be grouped by; the last four are those of the message."""


def deliveries(database: Database, since: float, until: float, by: str) -> tuple[Delivery, ...]:
    """Return how queued mail fared, by one of DELIVERY_KEYS. Raises KeyError for another key.

    Only attempts that reached a next hop have a recipient's answer; `expired` were given up without a refusal.
    """
    if by not in DELIVERY_KEYS:
        raise KeyError(by)
    key, join = "r.domain", ""
    if by in ("day", "hour", "route"):
        key = database.keys.get(by, f"e.{by}")
    elif by != "recipient_domain":
        key = f"m.{by}"
        join = "JOIN event m ON m.mail = e.mail AND m.kind = 'message'"
    ranks = ", ".join(f"MIN(CASE WHEN o = 'done' AND n * 100 >= {p} * d THEN s END)" for p in (50, 95, 99))
    rows = database.rows(
        f"WITH one AS (SELECT {key} AS k, e.kind AS kind, r.outcome AS o,"
        " CAST(e.details ->> 'seconds_queued' AS DOUBLE PRECISION) AS s"
        f" FROM event e JOIN recipient r ON r.event = e.id {join}"
        " WHERE e.kind IN ('attempt', 'bounce') AND e.at >= ? AND e.at < ?),"
        " ranked AS (SELECT k, kind, o, s, ROW_NUMBER() OVER (PARTITION BY k, o ORDER BY s) AS n,"
        " COUNT(*) FILTER (WHERE o = 'done') OVER (PARTITION BY k) AS d FROM one)"
        " SELECT k, COUNT(*) FILTER (WHERE o = 'done'), COUNT(*) FILTER (WHERE o = 'pending'),"
        " COUNT(*) FILTER (WHERE kind = 'attempt' AND o = 'failed'), COUNT(*) FILTER (WHERE kind = 'bounce'),"
        f" {ranks}, MAX(CASE WHEN o = 'done' THEN s END) FROM ranked GROUP BY k ORDER BY k",
        (since, until),
    )
    return tuple(Delivery(*row[:5], *(seconds or 0.0 for seconds in row[5:])) for row in rows)


def findings(
    database: Database, since: float, until: float, *, method: str = "", prop: str = ""
) -> tuple[FindingCount, ...]:
    """Return how often each result was found, by plugin; of one `method` only, and by the value of a property.

    What rules matched, for example, is `findings(..., method="rule", prop="id")`.
    """
    rows = database.rows(
        "SELECT f.method, f.result, f.plugin, coalesce(p.value, '') AS k, COUNT(DISTINCT e.id), SUM(f.score)"
        " FROM event e JOIN finding f ON f.event = e.id"
        f" LEFT JOIN {database.properties} ON p.key = CAST(? AS TEXT)"
        " WHERE e.kind = 'message' AND e.at >= ? AND e.at < ? AND (CAST(? AS TEXT) = '' OR f.method = ?)"
        " GROUP BY f.method, f.result, f.plugin, k ORDER BY 5 DESC, 1, 2, 3, 4",
        (prop, since, until, method, method),
    )
    return tuple(FindingCount(*row) for row in rows)


def failures(database: Database, since: float, until: float) -> tuple[FailureCount, ...]:
    """Return which recipients were not served and why, by domain: of messages, and of later attempts."""
    rows = database.rows(
        "SELECT r.domain, r.outcome, r.class, r.status, COUNT(*) FROM event e JOIN recipient r ON r.event = e.id"
        " WHERE e.kind IN ('message', 'attempt', 'bounce') AND r.outcome <> 'done' AND e.at >= ? AND e.at < ?"
        " GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC, 1, 2, 3, 4",
        (since, until),
    )
    return tuple(FailureCount(*row) for row in rows)


def refusals(database: Database, since: float, until: float) -> tuple[RefusalCount, ...]:
    """Return how many clients were refused before there was a message, and why."""
    rows = database.rows(
        "SELECT outcome, class, status, COUNT(*) FROM event WHERE kind = 'refused' AND at >= ? AND at < ?"
        " GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3",
        (since, until),
    )
    return tuple(RefusalCount(*row) for row in rows)


def tls_results(database: Database, since: float, until: float) -> tuple[TlsCount, ...]:
    """Return how outgoing connections fared, as reports after RFC 8460 count them."""
    rows = database.rows(
        "SELECT details ->> 'domain', details ->> 'host', details ->> 'policy', outcome, reason, COUNT(*)"
        " FROM event WHERE kind = 'tls' AND at >= ? AND at < ? GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5",
        (since, until),
    )
    return tuple(TlsCount(*row) for row in rows)


def story(database: Database, mail: str) -> tuple[Entry, ...]:
    """Return all that is known of one message or connection by its id, in the order in which it happened."""
    rows = database.rows(
        "SELECT id, at, kind, mail, outcome, route, reply, reason, seconds, CAST(details AS TEXT) FROM event"
        " WHERE mail = ? ORDER BY at, id",
        (mail,),
    )
    return tuple(_entry(database, row) for row in rows)


def _entry(database: Database, row: tuple[Any, ...]) -> Entry:
    number, at, kind, mail, outcome, route, reply, reason, seconds, details = row
    recipients = database.rows(
        "SELECT address, outcome, reply FROM recipient WHERE event = ? ORDER BY rowid", (number,)
    )
    found = database.rows(
        "SELECT method, result, plugin, score FROM finding WHERE event = ? ORDER BY rowid", (number,)
    )
    return Entry(
        at,
        kind,
        mail,
        outcome,
        route,
        reply,
        reason,
        seconds,
        tuple(recipients),
        tuple(found),
        orjson.loads(details),
    )
