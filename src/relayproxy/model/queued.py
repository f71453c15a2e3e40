"""A message in the queue as values: what is put in, what is lent out, what a delivery came to.

A message is stored once. Its recipients are grouped into parts, one for each route and destination; a part is what
is leased, tried and put off. Must not know where any of it is kept.
"""

from dataclasses import dataclass
from enum import StrEnum

from relayproxy.model.client import Client
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.finding import Finding
from relayproxy.model.mail import Direction, Mail, Origin
from relayproxy.model.message import Message


class Standing(StrEnum):
    """Where a part stands: waiting for its time, kept until a human decides, or unreadable and set aside."""

    QUEUED = "queued"
    HELD = "held"
    BROKEN = "broken"


GIVEN_UP = "given up by an administrator"
"""The reason of a part that is to be reported as failed at its next turn."""


QUEUE = "+queue"
"""How the queue is called where upstreams are; no upstream can have this name."""

_BETWEEN = "\x1f"


def share_key(tenant: str, campaign: str) -> str:
    """Return what a part's turns are shared out by: first between tenants, then between the campaigns of each."""
    tenant, campaign = (
        "".join(letter for letter in text if letter.isprintable()) for text in (tenant, campaign)
    )
    return f"{tenant}{_BETWEEN}{campaign}" if campaign else tenant


def tenant_of(key: str) -> str:
    """Return the tenant of such a key."""
    return key.partition(_BETWEEN)[0]


def campaign_of(key: str) -> str:
    """Return the campaign of such a key, or ""."""
    return key.partition(_BETWEEN)[2]


def last_key_of(tenant: str) -> str:
    """Return what all keys of a tenant come before, and all others' keys behind it come after (by code points)."""
    return f"{tenant}{_BETWEEN}\U0010ffff"


HIGH, NORMAL, LOW = 0, 1, 2
"""Priorities of parts."""


@dataclass(frozen=True, slots=True)
class Part:
    """The recipients of a message that take `route`; `destination` is their domain under MX delivery, else "".

    Tenants share a route evenly, and campaigns the share of their tenant: `tenant` is what `share_key` makes of both. Of several that wait, those of the
    smallest `priority` come first: 0 is high, 1 normal, 2 low.
    """

    route: str
    recipients: tuple[Recipient, ...]
    destination: str = ""
    tenant: str = ""
    priority: int = NORMAL


@dataclass(frozen=True, slots=True)
class Deposit:
    """A message to be stored, whole, in one transaction.

    The stored octets are `lead` and the message behind it. `vouched` says that the sender was authenticated or
    verified, so that it may be told of a failure. `raw` says that the rewriting hooks have not run. `due` is when it
    may be tried first (seconds since the epoch); with an `owner` it is that worker's until then. `findings` are what the
    rewriting hooks will want to know of a raw message.
    """

    id: str
    client: Client
    envelope: Envelope
    lead: bytes
    message: Message
    parts: tuple[Part, ...]
    received_at: float
    due: float
    origin: Origin = Origin.SMTP
    direction: Direction = Direction.INBOUND
    standing: Standing = Standing.QUEUED
    reason: str = ""
    vouched: bool = False
    raw: bool = False
    owner: str = ""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a part until its time is up; whoever takes it over raises `epoch`, which ends it.

    `given_up` says that an administrator wants it reported as failed, without another attempt.
    """

    message: int
    part: int
    epoch: int
    route: str
    destination: str = ""
    attempts: int = 0
    warned: bool = False
    given_up: bool = False
    tenant: str = ""
    priority: int = NORMAL


@dataclass(frozen=True, slots=True)
class Queued:
    """A leased part with all that its delivery needs.

    `numbers` are the recipients' own, in their order, and `replies` what was last heard of them ("": nothing yet).
    Who has a 2yz or 5yz is not tried any more, and is only to be told of.
    """

    lease: Lease
    id: str
    client: Client
    envelope: Envelope
    numbers: tuple[int, ...]
    message: Message
    received_at: float
    origin: Origin = Origin.SMTP
    direction: Direction = Direction.INBOUND
    vouched: bool = False
    raw: bool = False
    replies: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    def mail(
        self,
        *,
        client: Client | None = None,
        envelope: Envelope | None = None,
        origin: Origin | None = None,
        findings: tuple[Finding, ...] = (),
    ) -> Mail:
        """Return it as hooks and next hops take it, with these in place of its own."""
        return Mail(
            self.id,
            client or self.client,
            envelope or self.envelope,
            self.message,
            origin=origin or self.origin,
            direction=self.direction,
            received_at=self.received_at,
            findings=findings,
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """What a transaction of a leased part came to, while the rest of the part has yet to be tried.

    `finished` are the numbers of recipients that nothing more is to be done for. Of the others `replies` holds what was
    heard last: 2yz for who has it and is to be told of in the end, 5yz for who is refused for good and is to be
    reported, 4yz for who is tried again.
    """

    finished: tuple[int, ...] = ()
    replies: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a lease came to, written in one transaction.

    `finished` are the numbers of recipients that are done with, delivered or reported. If others are left, the part
    is tried again at `due`, with `replies` noted for them, or is kept as `held` says why. `deposits` are new messages
    that take the place of what is finished.
    """

    finished: tuple[int, ...]
    replies: tuple[tuple[int, str], ...] = ()
    due: float = 0.0
    deposits: tuple[Deposit, ...] = ()
    attempted: bool = True
    warned: bool = False
    held: str = ""


@dataclass(frozen=True, slots=True)
class Expired:
    """A held part that was deleted because nobody had decided about it in time."""

    id: str
    route: str
    reason: str
    sender: str
    recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One part as lists show it. Times in seconds since the epoch; `recipients` are (address, last reply)."""

    id: str
    message: int
    part: int
    sender: str
    recipients: tuple[tuple[str, str], ...]
    route: str
    destination: str
    standing: Standing
    reason: str
    size: int
    received_at: float
    due: float
    attempts: int
    owner: str
    origin: str
