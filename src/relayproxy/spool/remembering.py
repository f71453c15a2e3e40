"""What the history is told of a queued message: each attempt by recipient, and who was given up.

Makes the values that a history keeps. Must not know how they are kept, nor what follows from an attempt.
"""

from collections.abc import Iterator, Sequence

from relayproxy.model.event import NoteEvent
from relayproxy.model.queued import Queued
from relayproxy.model.reply import Reply
from relayproxy.spool.attempt import UNREACHED, WAITS, Heard

EXPIRED = Reply(554, "5.4.7", "Delivery time expired")
"""What stands in the history for a recipient that was given up though nobody refused it (RFC 3463 section 3.5)."""


def attempts(queued: Queued, heard: Sequence[Heard], *, at: float, route: str) -> Iterator[NoteEvent]:
    """Yield a note for each recipient that was asked for, and one for all for whom the next hop wasn't reached."""
    usual = _usual(queued, at)
    for one in heard:
        if one.reply is not WAITS and one.reply is not UNREACHED:
            yield NoteEvent(at, "attempt", queued.id, one.recipient.address, one.reply, route, usual)
    missed = sum(one.reply is UNREACHED for one in heard)
    if missed:
        details = {**usual, "recipients": missed}
        yield NoteEvent(at, "attempt", queued.id, None, UNREACHED, route, details)


def bounces(
    queued: Queued, lost: Sequence[Heard], *, at: float, route: str, end: str, notice: str
) -> Iterator[NoteEvent]:
    """Yield a note for each recipient that is lost: `end` is bounced, dropped or held, `notice` the id of who was told.

    It has a reply only where none of an attempt's ended it.
    """
    usual = _usual(queued, at)
    for one in lost:
        details = {**usual, "recipient": str(one.recipient.address), "end": end, "notice": notice}
        reply = None if one.reply.permanent else EXPIRED
        yield NoteEvent(at, "bounce", queued.id, one.recipient.address, reply, route, details)


def _usual(queued: Queued, at: float) -> dict[str, object]:
    return {
        "attempt": queued.lease.attempts + 1,
        "seconds_queued": round(at - queued.received_at, 3),
        "origin": str(queued.origin),
    }
