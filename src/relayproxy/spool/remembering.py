"""What the history is told of a queued message: each attempt by recipient, and who was given up.

Makes the values that a history keeps. Must not know how they are kept, nor what follows from an attempt.
"""

from collections.abc import Iterator, Sequence

from relayproxy.core.ports import History
from relayproxy.model.event import NoteEvent
from relayproxy.model.queued import Deposit, Queued
from relayproxy.model.reply import Reply
from relayproxy.spool.attempt import UNREACHED, WAITS, Attempt, Heard

EXPIRED = Reply(554, "5.4.7", "Delivery time expired")
"""What stands in the history for a recipient that was given up though nobody refused it (RFC 3463 section 3.5)."""


def remember(
    history: History,
    queued: Queued,
    attempt: Attempt,
    *,
    at: float,
    route: str,
    lost: Sequence[Heard],
    end: str,
    told: Deposit | None,
) -> None:
    """Record an attempt, and that recipients were `lost`: `end` is bounced, dropped or held."""
    for event in notes(queued, attempt, at=at, route=route, lost=lost, end=end, told=told):
        history.record(event)


def notes(
    queued: Queued,
    attempt: Attempt,
    *,
    at: float,
    route: str,
    lost: Sequence[Heard],
    end: str,
    told: Deposit | None,
) -> Iterator[NoteEvent]:
    """Yield an attempt's notes: one for each recipient, or only one where the next hop wasn't reached.

    Then one of kind "bounce" for each recipient that is lost. It has a reply only where none of the attempt's ended it.
    """
    usual = {
        "attempt": queued.lease.attempts + 1,
        "seconds_queued": round(at - queued.received_at, 3),
        "origin": str(queued.origin),
    }
    if attempt.unreached:
        count = len(attempt.heard)
        yield NoteEvent(at, "attempt", queued.id, None, UNREACHED, route, {**usual, "recipients": count})
    else:
        for one in attempt.heard:
            if one.reply is WAITS:
                continue  # nobody was asked
            yield NoteEvent(at, "attempt", queued.id, one.recipient.address, one.reply, route, usual)
    notice = told.id if told is not None else ""
    for one in lost:
        details = {**usual, "recipient": str(one.recipient.address), "end": end, "notice": notice}
        reply = None if one.reply.permanent else EXPIRED
        yield NoteEvent(at, "bounce", queued.id, one.recipient.address, reply, route, details)
