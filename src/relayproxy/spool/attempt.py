"""One attempt to deliver a queued part: what each recipient heard, and what that comes to.

What a transaction came to is handed over before the next one begins. Must not know the store or when the next attempt
will be.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from relayproxy.core.ports import WatchedHop
from relayproxy.model.envelope import Recipient
from relayproxy.model.outcome import State, state_of
from relayproxy.model.queued import Queued
from relayproxy.model.reply import Reply, read_reply
from relayproxy.smtp.tls_required import tls_optional

_AT_ONCE = 100  # recipients that every server takes in one transaction (RFC 5321 section 4.5.3.1.8)

_NO_REQUIRETLS = Reply(550, "5.7.30", "The next hop does not take REQUIRETLS, which this message needs")
_NO_UTF8 = Reply(550, "5.6.7", "The next hop does not take SMTPUTF8")
UNREACHED = Reply(451, "4.4.1", "The next hop can't be reached")
WAITS = Reply(451, "4.5.0", "Waits: what may go there today has gone, or it has to be left alone for a while")
"""What stands for a recipient for whom nothing was tried, as no way was open."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What one recipient, number `number` of its message, was answered.

    `confirms` says that the next hop offers DSN, so that it will confirm to whoever asked (RFC 3461 section 5.2).
    """

    number: int
    recipient: Recipient
    reply: Reply
    confirms: bool = False

    @property
    def state(self) -> State:
        """Done, pending or failed."""
        return state_of(self.reply)


Note: TypeAlias = Callable[[Sequence[Heard]], Awaitable[None]]
"""Is handed what was heard since it was last called; the next transaction begins when it returns."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an attempt came to; `unreached` says that the next hop wasn't there, so that nobody heard anything.

    `waits` are the seconds after which those may be tried who wait (their reply is WAITS). The first `noted` of `heard`
    have been handed over. `earlier` are recipients that had their last answer before, and are only to be told of.
    """

    heard: tuple[Heard, ...]
    unreached: bool = False
    waits: float = 0.0
    noted: int = 0
    earlier: tuple[Heard, ...] = ()

    @property
    def tried(self) -> bool:
        """Whether anything was said to the next hop for any recipient."""
        return any(one.reply is not WAITS for one in self.heard)

    @property
    def fresh(self) -> tuple[Heard, ...]:
        """What has not been handed over."""
        return self.heard[self.noted :]

    def of(self, state: State) -> tuple[Heard, ...]:
        """Return the recipients of that state, whenever they came to it."""
        return tuple(one for one in (*self.earlier, *self.heard) if one.state is state)


def answered(queued: Queued) -> tuple[Heard, ...]:
    """Return who had the last answer in a transaction before: who has it, and who is refused for good."""
    return tuple(one for one in _known(queued) if one.state is not State.PENDING)


def unanswered(queued: Queued) -> tuple[Heard, ...]:
    """Return who is to be tried, with what they heard last, or WAITS."""
    return tuple(one for one in _known(queued) if one.state is State.PENDING)


def _known(queued: Queued) -> Iterator[Heard]:
    rows = zip(queued.numbers, queued.envelope.recipients, queued.replies, strict=True)
    for number, recipient, reply in rows:
        yield Heard(number, recipient, _last(reply))


def _last(text: str) -> Reply:
    """Return what somebody heard last; a text that is no reply, as an import may bring it, says nothing."""
    try:
        return read_reply(text) if text else WAITS
    except ValueError:
        return WAITS


def unreached(queued: Queued) -> Attempt:
    """Return the attempt that was not made because the next hop isn't there."""
    return Attempt(_all(unanswered(queued), UNREACHED), unreached=True, earlier=answered(queued))


def given_up(queued: Queued) -> Attempt:
    """Return the attempt that was not made because an administrator wants it to end."""
    reply = Reply(554, "5.3.0", "Given up by an administrator")
    return Attempt(_all(unanswered(queued), reply), earlier=answered(queued))


def _all(those: Sequence[Heard], reply: Reply) -> tuple[Heard, ...]:
    return tuple(replace(one, reply=reply) for one in those)


async def attempt(hop: WatchedHop, queued: Queued, note: Note, at_once: int = 0) -> Attempt:
    """Send a part to its next hop, in several transactions if it has many recipients: at most `at_once` in each (0: 100).

    `note` is called between two transactions; what it raises ends the attempt.
    """
    client = replace(queued.client, id=queued.id)
    envelope = queued.envelope
    if tls_optional(queued.message):
        envelope = replace(envelope, tls_optional=True)
    left = unanswered(queued)
    made = Attempt((), earlier=answered(queued))
    while left:
        if any(one.reply is not WAITS for one in made.fresh):
            await note(made.fresh)
            made = replace(made, noted=len(made.heard))
        some = left[: min(at_once or _AT_ONCE, _AT_ONCE)]
        recipients = tuple(one.recipient for one in some)
        mail = queued.mail(client=client, envelope=envelope.to(recipients))
        transaction = hop.begin(mail, queued.message.size)
        try:
            replies = await transaction.recipients(recipients)
            if transaction.unreached:
                return _ended(made, left, UNREACHED, unreached=True)
            if not replies:
                made = replace(made, waits=min(made.waits or transaction.waits, transaction.waits))
                if queued.lease.destination:  # all of one domain: nor may the others
                    return _ended(made, left, WAITS)
                made, left = _ended(made, left[:1], WAITS), left[1:]
                continue
            some = some[: len(replies)]
            accepted = [place for place, reply in enumerate(replies) if reply.ok]
            known = transaction.capabilities
            if envelope.requiretls and known is not None and "REQUIRETLS" not in known:
                return _ended(made, left, _NO_REQUIRETLS)
            if envelope.smtputf8 and known is not None and "SMTPUTF8" not in known:
                # It won't learn that in a few days (RFC 6531 section 3.2).
                return _ended(made, left, _NO_UTF8)
            confirms = known is not None and "DSN" in known
            if accepted:
                finals = await transaction.send(b"", queued.message)
                replies = _merged(replies, accepted, finals)
        finally:
            transaction.abort()
        heard = tuple(
            replace(one, reply=_final(reply), confirms=confirms)
            for one, reply in zip(some, replies, strict=True)
        )
        made, left = replace(made, heard=(*made.heard, *heard)), left[len(some) :]
    return made


def _ended(made: Attempt, those: Sequence[Heard], reply: Reply, *, unreached: bool = False) -> Attempt:
    """Return an attempt in which `those` heard the same, as there is nobody to ask for each."""
    return replace(made, heard=(*made.heard, *_all(those, reply)), unreached=unreached)


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
