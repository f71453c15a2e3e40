"""A next hop for conversations without a socket: it says what it is told to and records what it gets.

Satisfies core.ports.NextHop. Must not know who asks it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from relayproxy.api import Envelope, Mail, Message, Recipient, Reply
from relayproxy.core.ports import Capabilities

OK = Reply(250, "2.1.5", "Ok")
TAKEN = Reply(250, "2.0.0", "Ok: queued as TEST")
_EVERYTHING = Capabilities(
    frozenset({"PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"})
)


@dataclass(frozen=True, slots=True)
class Sent:
    """One message that went upstream: its envelope and its octets, of which `lead` are the trace fields on top."""

    envelope: Envelope
    recipients: tuple[Recipient, ...]
    data: bytes
    lead: bytes = b""


@dataclass(slots=True)
class Standin:
    """A next hop that says what it is told to and records what it gets (ports.NextHop).

    `answers` maps a recipient ("b@example.net") to its reply at RCPT. `final` is the answer to the content;
    with `per_recipient` (LMTP) `finals` may hold others for single recipients. `queued` says that it stores. What can be read: `begun` (the
    envelope and the expected size of each transaction), `asked` (each RCPT), `sent`, and `aborted` (how many
    transactions ended without a message).
    """

    name: str = "upstream"
    per_recipient: bool = False
    capabilities: Capabilities | None = _EVERYTHING
    answers: dict[str, Reply] = field(default_factory=dict)
    final: Reply = TAKEN
    sent: list[Sent] = field(default_factory=list)
    aborted: int = 0
    finals: dict[str, Reply] = field(default_factory=dict)
    begun: list[tuple[Envelope, int]] = field(default_factory=list)
    asked: list[Recipient] = field(default_factory=list)
    queued: bool = False

    def begin(self, mail: Mail, size: int) -> "StandinTransaction":
        """Start a transaction."""
        self.begun.append((mail.envelope, size))
        return StandinTransaction(self, mail.envelope)


class StandinTransaction:
    """Implements ports.Transaction."""

    def __init__(self, hop: Standin, envelope: Envelope) -> None:
        self.per_recipient = hop.per_recipient
        self.queued = hop.queued
        self._hop = hop
        self._envelope = envelope
        self._accepted: list[Recipient] = []
        self._over = False

    async def recipients(self, recipients: Sequence[Recipient]) -> list[Reply]:
        """Answer each recipient."""
        hop = self._hop
        hop.asked += recipients
        replies = [hop.answers.get(str(recipient.address), OK) for recipient in recipients]
        self._accepted += [one for one, reply in zip(recipients, replies, strict=True) if reply.ok]
        return replies

    async def send(self, lead: bytes, message: Message) -> list[Reply]:
        """Record the message for those who get it."""
        self._over = True
        hop, final = self._hop, self._hop.final
        replies = [
            hop.finals.get(str(one.address), final) if hop.per_recipient else final for one in self._accepted
        ]
        got = tuple(one for one, reply in zip(self._accepted, replies, strict=True) if reply.ok)
        if got:
            hop.sent.append(Sent(self._envelope, got, lead + bytes(message), lead))
        return replies if hop.per_recipient else replies[:1]

    def abort(self) -> None:
        """Count an end without a message."""
        if not self._over:
            self._over = True
            self._hop.aborted += 1
