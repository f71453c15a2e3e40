"""One attempt to deliver a queued part: what each recipient heard, and what that comes to.

Must not know the store or when the next attempt will be.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from relayproxy.core.ports import WatchedHop
from relayproxy.model.envelope import Recipient
from relayproxy.model.outcome import State, state_of
from relayproxy.model.queued import Queued
from relayproxy.model.reply import Reply
from relayproxy.smtp.tls_required import tls_optional

_AT_ONCE = 100  # recipients that every server takes in one transaction (RFC 5321 section 4.5.3.1.8)

_NO_REQUIRETLS = Reply(550, "5.7.30", "The next hop does not take REQUIRETLS, which this message needs")
_NO_UTF8 = Reply(550, "5.6.7", "The next hop does not take SMTPUTF8")
UNREACHED = Reply(451, "4.4.1", "The next hop can't be reached")


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
    """

    heard: tuple[Heard, ...]
    unreached: bool = False
    confirms: bool = False

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


async def attempt(hop: WatchedHop, queued: Queued) -> Attempt:
    """Send a part to its next hop, in several transactions if it has many recipients."""
    client = replace(queued.client, id=queued.id)
    envelope = queued.envelope
    if tls_optional(queued.message):
        envelope = replace(envelope, tls_optional=True)
    heard: list[Heard] = []
    confirms = False
    for start in range(0, len(queued.numbers), _AT_ONCE):
        numbers = queued.numbers[start : start + _AT_ONCE]
        recipients = envelope.recipients[start : start + _AT_ONCE]
        transaction = hop.begin(client, envelope.to(recipients), queued.message.size)
        try:
            replies = await transaction.recipients(recipients)
            if transaction.unreached:
                return Attempt((*heard, *_same(queued, start, UNREACHED)), unreached=True)
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
        heard += [
            Heard(number, recipient, _final(reply))
            for number, recipient, reply in zip(numbers, recipients, replies, strict=True)
        ]
    return Attempt(tuple(heard), confirms=confirms)


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
