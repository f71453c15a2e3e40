"""Which reports went where, so that none goes twice, whoever sends them and on which machine.

Must not know what a report says or how it is sent.
"""

from dataclasses import dataclass
from typing import Literal

from relayproxy.history.database import Database

_ABANDONED = 3600.0  # seconds after which a report that was being sent counts as not sent
_IS = "kind = ? AND domain = ? AND begin = ? AND until = ? AND destination = ?"


@dataclass(frozen=True, slots=True)
class Errand:
    """A report of one kind about a domain and a period (seconds since the epoch), to one destination."""

    kind: Literal["dmarc", "tls"]
    domain: str
    begin: int
    until: int
    destination: str

    @property
    def key(self) -> tuple[str, str, int, int, str]:
        """What it is known by."""
        return self.kind, self.domain, self.begin, self.until, self.destination


def claim(database: Database, errand: Errand, *, report: str, now: float) -> bool:
    """Say that a report is about to be sent; False if it was, or somebody else is at it.

    Call `settle` afterwards. A claim that was never settled is void after an hour. Raises StoreError.
    """
    rows = database.rows(
        "INSERT INTO sent_report (kind, domain, begin, until, destination, report, state, at)"
        " VALUES (?, ?, ?, ?, ?, ?, 'sending', ?)"
        " ON CONFLICT (kind, domain, begin, until, destination) DO UPDATE"
        " SET report = excluded.report, at = excluded.at"
        " WHERE sent_report.state = 'sending' AND sent_report.at < ? RETURNING 1",
        (*errand.key, report, now, now - _ABANDONED),
    )
    return bool(rows)


def settle(database: Database, errand: Errand, *, sent: bool) -> None:
    """Say whether a claimed report was taken; if not, it may be tried again. Raises StoreError."""
    if sent:
        database.rows(f"UPDATE sent_report SET state = 'sent' WHERE {_IS}", errand.key)
    else:
        database.rows(f"DELETE FROM sent_report WHERE {_IS}", errand.key)


def was_sent(database: Database, errand: Errand) -> bool:
    """Whether a report went to its destination. Raises StoreError."""
    return bool(database.rows(f"SELECT 1 FROM sent_report WHERE {_IS} AND state = 'sent'", errand.key))
