"""One attempt to deliver a queued part: what each recipient heard, and what that comes to.

Must not know the store or when the next attempt will be.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from relayproxy.core.ports import WatchedHop
from relayproxy.model.envelope import Recipient
from relayproxy.model.mail import Mail
from relayproxy.model.outcome import State, state_of
from relayproxy.model.queued import Queued
from relayproxy.model.reply import Reply
from relayproxy.smtp.tls_required import tls_optional

_AT_ONCE = 100  # recipients that every server takes in one transaction (RFC 5321 section 4.5.3.1.8)

_NO_REQUIRETLS = Reply(550, "5.7.30", "The next hop does not take REQUIRETLS, which this message needs")
_NO_UTF8 = Reply(550, "5.6.7", "The next hop does not take SMTPUTF8")
UNREACHED = Reply(451, "4.4.1", "The next hop can't be reached")
WAITS = Reply(451, "4.5.0", "Waits: what may go there today has gone, or it has to be left alone for a while")
"""What stands for a recipient for whom nothing was tried, as no way was open."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What one recipient, number `number` of its message, was answered."""

    number: int
    recipient: Recipient
    reply: Reply

    @property
    def state(self) -> State:
        """Done, pending or failed."""
        return state_of(self.reply)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an attempt came to; `unreached` says that the next hop wasn't there, so that nobody heard anything.

    `confirms` says that the next hop offers DSN, so that it will confirm to whoever asked (RFC 3461 section 5.2).
    `waits` are the seconds after which those may be tried who wait (their reply is WAITS).
    """

    heard: tuple[Heard, ...]
    unreached: bool = False
    confirms: bool = False
    waits: float = 0.0

    @property
    def tried(self) -> bool:
        """Whether anything was said to the next hop for any recipient."""
        return any(one.reply is not WAITS for one in self.heard)

    def of(self, state: State) -> tuple[Heard, ...]:
        """Return the recipients of that state."""
        return tuple(one for one in self.heard if one.state is state)


def unreached(queued: Queued) -> Attempt:
    """Return the attempt that was not made because the next hop isn't there."""
    return Attempt(_same(queued, 0, UNREACHED), unreached=True)


def given_up(queued: Queued) -> Attempt:
    """Return the attempt that was not made because an administrator wants it to end."""
    return Attempt(_same(queued, 0, Reply(554, "5.3.0", "Given up by an administrator")))


def _same(queued: Queued, start: int, reply: Reply) -> tuple[Heard, ...]:
    rest = zip(queued.numbers[start:], queued.envelope.recipients[start:], strict=True)
    return tuple(Heard(number, recipient, reply) for number, recipient in rest)


async def attempt(hop: WatchedHop, queued: Queued, at_once: int = 0) -> Attempt:
    """Send a part to its next hop, in several transactions if it has many recipients: at most `at_once` in each (0: 100)."""
    client = replace(queued.client, id=queued.id)
    envelope = queued.envelope
    if tls_optional(queued.message):
        envelope = replace(envelope, tls_optional=True)
    heard: list[Heard] = []
    confirms = False
    waits = 0.0
    start = 0
    while start < len(queued.numbers):
        stop = start + min(at_once or _AT_ONCE, _AT_ONCE)
        recipients = envelope.recipients[start:stop]
        mail = Mail(
            queued.id,
            client,
            envelope.to(recipients),
            queued.message,
            origin=queued.origin,
            direction=queued.direction,
            received_at=queued.received_at,
        )
        transaction = hop.begin(mail, queued.message.size)
        try:
            replies = await transaction.recipients(recipients)
            if transaction.unreached:
                return Attempt((*heard, *_same(queued, start, UNREACHED)), unreached=True)
            if not replies:
                waits = min(waits or transaction.waits, transaction.waits)
                if queued.lease.destination:  # all of one domain: nor may the others
                    heard += _same(queued, start, WAITS)
                    break
                heard.append(Heard(queued.numbers[start], recipients[0], WAITS))
                start += 1
                continue
            recipients = recipients[: len(replies)]
            accepted = [place for place, reply in enumerate(replies) if reply.ok]
            known = transaction.capabilities
            if envelope.requiretls and known is not None and "REQUIRETLS" not in known:
                return Attempt((*heard, *_same(queued, start, _NO_REQUIRETLS)))
            if envelope.smtputf8 and known is not None and "SMTPUTF8" not in known:
                # It won't learn that in a few days (RFC 6531 section 3.2).
                return Attempt((*heard, *_same(queued, start, _NO_UTF8)))
            confirms = known is not None and "DSN" in known
            if accepted:
                finals = await transaction.send(b"", queued.message)
                replies = _merged(replies, accepted, finals)
        finally:
            transaction.abort()
        numbers = queued.numbers[start : start + len(recipients)]
        heard += [
            Heard(number, recipient, _final(reply))
            for number, recipient, reply in zip(numbers, recipients, replies, strict=True)
        ]
        start += len(recipients)
    return Attempt(tuple(heard), confirms=confirms, waits=waits)


def _merged(replies: Sequence[Reply], accepted: Sequence[int], finals: Sequence[Reply]) -> list[Reply]:
    """Put the final reply, or each one's own (LMTP), in the place of the 250 to RCPT."""
    merged = list(replies)
    for number, place in enumerate(accepted):
        merged[place] = finals[number] if len(finals) == len(accepted) else finals[0]
    return merged


def _final(reply: Reply) -> Reply:
    """Some refusals of a recipient don't last: 552 to RCPT means too many of them (RFC 5321 section 4.5.3.1.10)."""
    if reply.code == 552 and reply.status in ("", "5.5.3"):
        return Reply(452, "4.5.3", reply.text)
    return reply
