"""Messages as the history kept them, found by what is known of them: for lists, and to ask rules about them again.

All functions raise StoreError when the database fails. Must not change anything, nor know which database it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import orjson

from relayproxy.history.database import Database, Row
from relayproxy.model.finding import Finding

_COLUMNS = (
    "id, at, mail, outcome, listener, route, direction, ip, helo, login, tls, sender, campaign, message_id, size,"
    " code, reply, reason, score, seconds"
)
_PATTERNS = ("sender", "login", "ip", "message_id")
_WORDS = ("outcome", "route", "campaign", "direction", "listener")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to find: messages of since <= time < until; an empty field holds for all.

    `ids`, `outcome`, `route`, `campaign`, `direction`, `listener` and `rule` (the id of one that matched) are compared as they
    are; the others are patterns with `*` and `?`, without upper or lower case.
    """

    since: float
    until: float
    ids: tuple[str, ...] = ()
    sender: str = ""
    recipient: str = ""
    login: str = ""
    ip: str = ""
    message_id: str = ""
    outcome: str = ""
    route: str = ""
    campaign: str = ""
    direction: str = ""
    listener: str = ""
    rule: str = ""

    def where(self) -> tuple[str, list[Any]]:
        """Return the condition over `event e`, and its values."""
        terms, values = ["e.kind = 'message' AND e.at >= ? AND e.at < ?"], list[Any]((self.since, self.until))
        if self.ids:
            terms.append(f"e.mail IN ({', '.join('?' * len(self.ids))})")
            values += self.ids
        for name in _PATTERNS:
            if pattern := getattr(self, name):
                terms.append(f"lower(e.{name}) LIKE ? ESCAPE '\\'")
                values.append(_like(pattern))
        for name in _WORDS:
            if word := getattr(self, name):
                terms.append(f"e.{name} = ?")
                values.append(word)
        if self.recipient:
            terms.append(
                "EXISTS (SELECT 1 FROM recipient r WHERE r.event = e.id AND lower(r.address) LIKE ? ESCAPE '\\')"
            )
            values.append(_like(self.recipient))
        if self.rule:
            terms.append(
                "EXISTS (SELECT 1 FROM finding f WHERE f.event = e.id AND f.method = 'rule' AND f.props ->> 'id' = ?)"
            )
            values.append(self.rule)
        return " AND ".join(terms), values


def _like(pattern: str) -> str:
    """Write a pattern with `*` and `?` for LIKE, whose escape is a backslash."""
    for character in "\\%_":
        pattern = pattern.replace(character, f"\\{character}")
    return pattern.replace("*", "%").replace("?", "_").lower()


@dataclass(frozen=True, slots=True)
class Kept:
    """One message: what was known of it and what came of it, in the words of MessageEvent.

    `recipients` are (address, outcome, reply), as the client gave them; `findings` are those of all plugins.
    """

    at: float
    id: str
    outcome: str
    listener: str
    route: str
    direction: str
    ip: str
    helo: str
    login: str
    tls: str
    sender: str
    campaign: str
    message_id: str
    size: int
    code: int
    reply: str
    reason: str
    score: float
    seconds: float
    recipients: tuple[tuple[str, str, str], ...] = ()
    findings: tuple[Finding, ...] = ()


def count(database: Database, wanted: Wanted) -> int:
    """Return how many messages there are."""
    where, values = wanted.where()
    return int(database.rows(f"SELECT COUNT(*) FROM event e WHERE {where}", values)[0][0])


def messages(database: Database, wanted: Wanted, limit: int) -> Iterator[Kept]:
    """Yield messages, the newest first, at most `limit`."""
    where, values = wanted.where()
    statement = f"SELECT {_COLUMNS} FROM event e WHERE {where} ORDER BY e.at DESC, e.id DESC LIMIT ?"
    for row in database.each(statement, [*values, limit]):
        yield _kept(database, row)


def _kept(database: Database, row: Row) -> Kept:
    number, *facts = row
    recipients = database.rows(
        "SELECT address, outcome, reply FROM recipient WHERE event = ? ORDER BY rowid", (number,)
    )
    found = database.rows(
        "SELECT method, result, score, CAST(props AS TEXT), reason, plugin FROM finding WHERE event = ? ORDER BY rowid",
        (number,),
    )
    findings = tuple(
        Finding(method, result, score, orjson.loads(props), reason, by)
        for method, result, score, props, reason, by in found
    )
    return replace(Kept(*facts), recipients=tuple(recipients), findings=findings)
