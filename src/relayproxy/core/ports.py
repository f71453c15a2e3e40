"""What the core needs from the floors above it, as protocols: the next hop, the password check, the ledger.

The core calls these and never asks what is behind them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from relayproxy.model.client import Client, Credentials
from relayproxy.model.envelope import Recipient
from relayproxy.model.event import Event
from relayproxy.model.mail import Mail
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a next hop can take: its EHLO keywords in upper case, and its SIZE limit (0: none stated)."""

    extensions: frozenset[str] = frozenset()
    size: int = 0

    def __contains__(self, extension: str) -> bool:
        return extension in self.extensions


class Transaction(Protocol):
    """One mail transaction with a next hop. No method raises for what the next hop does: it is in the reply."""

    per_recipient: bool
    """Whether `send` returns a reply for each recipient (LMTP) rather than one for all."""

    @property
    def queued(self) -> bool:
        """Whether 250 to the content means that it is stored, and will be delivered later."""
        ...

    async def recipients(self, recipients: Sequence[Recipient]) -> list[Reply]:
        """Offer recipients (MAIL goes first, with the first of them); return the next hop's reply to each."""
        ...

    async def send(self, lead: bytes, message: Message) -> list[Reply]:
        """Send `lead` and the message; return the final reply, or one for each accepted recipient."""
        ...

    def abort(self) -> None:
        """End the transaction without a message. Safe to call at any time, also twice."""
        ...


class NextHop(Protocol):
    """An upstream as the core sees it."""

    name: str
    per_recipient: bool

    @property
    def capabilities(self) -> Capabilities | None:
        """What it said it can take when last asked; None as long as nobody knows."""
        ...

    def begin(self, mail: Mail, size: int) -> Transaction:
        """Start a transaction for a mail's envelope as it is now (no I/O yet).

        `size` is the expected size in octets or 0. What is found out about the mail until `send` is in `mail.findings`.
        """
        ...


class WatchedTransaction(Transaction, Protocol):
    """A transaction that tells whether the next hop has heard of it at all.

    `recipients` may reply for the first of them only: as many as may be sent to now. It has no reply at all where the first
    has to wait, for `waits` seconds; the transaction is then over.
    """

    waits: float
    """Seconds to wait where nothing may be sent now, else 0.0."""

    @property
    def unreached(self) -> bool:
        """Whether no connection came about, so that nothing of the content was sent."""
        ...

    @property
    def capabilities(self) -> Capabilities | None:
        """What the other end of this transaction's connection can take; None before there is one."""
        ...


class WatchedHop(Protocol):
    """A next hop for the queue, which has to tell one that refuses from one that isn't there."""

    name: str
    per_recipient: bool

    @property
    def capabilities(self) -> Capabilities | None:
        """See NextHop."""
        ...

    def begin(self, mail: Mail, size: int) -> WatchedTransaction:
        """See NextHop."""
        ...


class Quarantine(Protocol):
    """Keeps messages until a human decides."""

    async def hold(self, mail: Mail, lead: bytes, message: Message, reason: str) -> Reply:
        """Store `lead` and the message as it arrived; return the client's reply: 250, or 4yz if it isn't stored."""
        ...


class Authenticator(Protocol):
    """Checks credentials that no plugin vouched for."""

    async def check(self, client: Client, credentials: Credentials) -> bool | None:
        """True: right. False: wrong. None: can't be told now (the client hears 454)."""
        ...


class Ledger(Protocol):
    """Remembers hand-overs whose answer may not have reached the client; `key` is `ledger.quick_key`."""

    def find(self, key: int, message: Message) -> tuple[str, int] | None:
        """Return the answer that an identical message got and perhaps never saw, and its token; or None."""
        ...

    def enter(self, key: int, message: Message, answer: str) -> int | None:
        """Note that the next hop has taken this message; return a token, or None if it can't be told again."""
        ...

    def settle(self, token: int) -> None:
        """The client has shown that it knows: forget the entry."""
        ...


class History(Protocol):
    """Remembers what happened. Never waits and never raises: what it can't keep it counts."""

    def record(self, event: Event) -> None:
        """Take one event, or drop and count it."""
        ...
