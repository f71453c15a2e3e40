"""What is held, for each recipient, as a list that people can read: nothing a stranger wrote can act on their terminal.

Must not know tables, nor who gets to see it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from relayproxy.model.legible import legible
from relayproxy.model.message import Message
from relayproxy.model.queued import Row


@dataclass(frozen=True, slots=True)
class HeldMail:
    """A held message as its recipient may be shown it. All texts are fit for a terminal."""

    id: str
    received_at: float
    sender: str
    author: str
    subject: str
    reason: str
    size: int


@dataclass(frozen=True, slots=True)
class Digest:
    """What is held for one recipient, the newest first; `count` says how many there are, of which some are shown."""

    recipient: str
    count: int
    messages: tuple[HeldMail, ...]


def digests(rows: Iterable[Row], head: Callable[[int], bytes], most: int) -> tuple[Digest, ...]:
    """Sort held parts by recipient (upper and lower case are one), and show at most `most` of each.

    `head` returns the header of a message by its key. It is read only for what is shown.
    """
    held: dict[str, list[Row]] = {}
    for row in rows:
        for address in dict.fromkeys(address.lower() for address, _ in row.recipients):
            held.setdefault(address, []).append(row)
    known: dict[int, HeldMail] = {}
    found = []
    for address in sorted(held):
        newest = sorted(held[address], key=lambda row: row.received_at, reverse=True)[:most]
        for row in newest:
            if row.message not in known:
                known[row.message] = _held_mail(row, head(row.message))
        mails = tuple(known[row.message] for row in newest)
        found.append(Digest(legible(address), len(held[address]), mails))
    return tuple(found)


def _held_mail(row: Row, head: bytes) -> HeldMail:
    message = Message(head)
    author = message.all("from")
    return HeldMail(
        row.id,
        row.received_at,
        legible(row.sender),
        legible(author[0].text if author else ""),
        legible(message.subject),
        legible(row.reason),
        row.size,
    )
