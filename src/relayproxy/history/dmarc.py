"""What aggregate reports are made of: the rows of each policy domain in a period, read from the history.

Must not know XML or mail.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby

import orjson

from relayproxy.history.database import Database
from relayproxy.mailauth.dmarc_report import Published, Row, count_rows
from relayproxy.mailauth.dmarc_rows import row_of
from relayproxy.model.finding import Finding

_METHODS = ("dmarc", "spf", "dkim")


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of one policy domain: the last policy of the period, and the rows with their counts."""

    published: Published
    rows: tuple[tuple[Row, int], ...]


def collect(
    database: Database,
    since: float,
    until: float,
    *,
    domain: str = "",
    ignored: Collection[str] = (),
) -> tuple[Seen, ...]:
    """Return what was seen of each policy domain (of one, if named) in since <= time < until, in order of the names.

    Messages that went to none but `ignored` addresses (lower case) are left out: where reports of others arrive, a
    report about them would only bring about the next one. Raises StoreError.
    """
    policies: dict[str, Published] = {}
    counts: dict[str, Counter[Row]] = {}
    for number, ip, sender_domain, outcome, findings in _messages(database, since, until):
        found = row_of(ip, sender_domain, outcome, findings)
        if found is None or (domain and found[0].domain != domain):
            continue
        if ignored and _only(database, number, ignored):
            continue
        published, row = found
        policies[published.domain] = published
        counts.setdefault(published.domain, Counter())[row] += 1
    return tuple(Seen(policies[name], count_rows(counts[name])) for name in sorted(policies))


def _messages(
    database: Database, since: float, until: float
) -> Iterator[tuple[int, str, str, str, list[Finding]]]:
    """Yield the messages of a period with their findings, in the order in which they came."""
    rows = database.each(
        "SELECT e.id, e.ip, e.sender_domain, e.outcome, f.method, f.result, CAST(f.props AS TEXT), f.reason"
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


def _only(database: Database, number: int, ignored: Collection[str]) -> bool:
    rows = database.rows("SELECT address FROM recipient WHERE event = ?", (number,))
    return bool(rows) and all(row[0].lower() in ignored for row in rows)
