"""What aggregate reports are made of: the rows of each policy domain in a period, read from the history.

Also remembers which reports went where, so that none goes twice. Must not know XML or mail.
"""

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby

import orjson

from relayproxy.mailauth.dmarc_report import Published, Row, count_rows
from relayproxy.mailauth.dmarc_rows import row_of
from relayproxy.model.finding import Finding

_KIND = "dmarc"
_ABANDONED = 3600.0  # seconds after which a report that was being sent counts as not sent

_METHODS = ("dmarc", "spf", "dkim")


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of one policy domain: the last policy of the period, and the rows with their counts."""

    published: Published
    rows: tuple[tuple[Row, int], ...]


def collect(
    connection: sqlite3.Connection,
    since: float,
    until: float,
    *,
    domain: str = "",
    ignored: Collection[str] = (),
) -> tuple[Seen, ...]:
    """Return what was seen of each policy domain (of one, if named) in since <= time < until, in order of the names.

    Messages that went to none but `ignored` addresses (lower case) are left out: where reports of others arrive, a
    report about them would only bring about the next one. Raises sqlite3.Error.
    """
    policies: dict[str, Published] = {}
    counts: dict[str, Counter[Row]] = {}
    for number, ip, sender_domain, outcome, findings in _messages(connection, since, until):
        found = row_of(ip, sender_domain, outcome, findings)
        if found is None or (domain and found[0].domain != domain):
            continue
        if ignored and _only(connection, number, ignored):
            continue
        published, row = found
        policies[published.domain] = published
        counts.setdefault(published.domain, Counter())[row] += 1
    return tuple(Seen(policies[name], count_rows(counts[name])) for name in sorted(policies))


def _messages(
    connection: sqlite3.Connection, since: float, until: float
) -> Iterator[tuple[int, str, str, str, list[Finding]]]:
    """Yield the messages of a period with their findings, in the order in which they came."""
    rows = connection.execute(
        "SELECT e.id, e.ip, e.sender_domain, e.outcome, f.method, f.result, f.props, f.reason"
        " FROM event e JOIN finding f ON f.event = e.id"
        " WHERE e.kind = 'message' AND e.at >= ? AND e.at < ? AND f.method IN (?, ?, ?)"
        " ORDER BY e.at, e.id, f.rowid",
        (since, until, *_METHODS),
    )
    for (number, ip, sender_domain, outcome), found in groupby(rows, key=lambda row: row[:4]):
        findings = [
            Finding(method, result, 0.0, orjson.loads(props), why) for *_, method, result, props, why in found
        ]
        yield number, ip, _mail_from(findings, sender_domain), outcome, findings


def _mail_from(findings: list[Finding], sender_domain: str) -> str:
    """The domain that SPF checked: the envelope may have been rewritten since."""
    for finding in reversed(findings):
        if finding.method == "spf" and "smtp.mailfrom" in finding.props:
            return finding.props.get("domain") or sender_domain
        if finding.method == "spf" and "smtp.helo" in finding.props and not sender_domain:
            return ""
    return sender_domain


def _only(connection: sqlite3.Connection, number: int, ignored: Collection[str]) -> bool:
    rows = connection.execute("SELECT address FROM recipient WHERE event = ?", (number,)).fetchall()
    return bool(rows) and all(row[0].lower() in ignored for row in rows)


def claim(
    connection: sqlite3.Connection,
    domain: str,
    period: tuple[int, int],
    destination: str,
    *,
    report: str,
    now: float,
) -> bool:
    """Say that the report of a domain and a period is about to be sent; False if it was, or somebody else is at it.

    Call `settle` afterwards. A claim that was never settled is void after an hour. Raises sqlite3.Error.
    """
    key = (_KIND, domain, *period, destination)
    connection.execute("BEGIN IMMEDIATE")
    try:
        row = connection.execute(
            "SELECT state, at FROM sent_report"
            " WHERE kind = ? AND domain = ? AND begin = ? AND until = ? AND destination = ?",
            key,
        ).fetchone()
        free = row is None or (row[0] == "sending" and row[1] < now - _ABANDONED)
        if free:
            connection.execute(
                "INSERT OR REPLACE INTO sent_report VALUES (?, ?, ?, ?, ?, ?, 'sending', ?)",
                (*key, report, now),
            )
        connection.execute("COMMIT")
    except sqlite3.Error:
        connection.execute("ROLLBACK")
        raise
    return free


def settle(
    connection: sqlite3.Connection, domain: str, period: tuple[int, int], destination: str, *, sent: bool
) -> None:
    """Say whether a claimed report was taken; if not, it may be tried again. Raises sqlite3.Error."""
    key = (_KIND, domain, *period, destination)
    where = " WHERE kind = ? AND domain = ? AND begin = ? AND until = ? AND destination = ?"
    statement = "UPDATE sent_report SET state = 'sent'" if sent else "DELETE FROM sent_report"
    connection.execute(statement + where, key)


def was_sent(connection: sqlite3.Connection, domain: str, period: tuple[int, int], destination: str) -> bool:
    """Whether the report of a domain and a period went to this destination. Raises sqlite3.Error."""
    row = connection.execute(
        "SELECT 1 FROM sent_report WHERE kind = ? AND domain = ? AND begin = ? AND until = ?"
        " AND destination = ? AND state = 'sent'",
        (_KIND, domain, *period, destination),
    ).fetchone()
    return row is not None
