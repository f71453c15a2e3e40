"""The queue as a next hop: it answers RCPT itself, and 250 to the content means that one durable write is done.

Recipients of several routes are accepted in one transaction and stored as parts of one message. Must not know when or
how they are delivered.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from relayproxy.api import Clock
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.policy import Route, route_for
from relayproxy.core.ports import Capabilities, WatchedHop, WatchedTransaction
from relayproxy.model.address import Address
from relayproxy.model.client import Client
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.mail import Direction
from relayproxy.model.message import Message
from relayproxy.model.queued import LOW, NORMAL, QUEUE, Deposit, Lease, Part, Queued, share_key
from relayproxy.model.reply import Reply
from relayproxy.spool.lanes import Lane
from relayproxy.spool.protocol import Spool, SpoolError, SpoolFullError

NAME = QUEUE

KINDS = ("full", "error")
_ALWAYS = frozenset({"8BITMIME", "SMTPUTF8", "DSN"})
_FULL = Reply(452, "4.3.1", "Not enough room to queue it, try again later")
_FAULT = Reply(451, "4.3.0", "Can't queue it now, try again later")
_QUEUED = Reply(250, "2.0.0", "Ok: queued")
_TOGETHER = 500  # recipients of a part
_AT_HAND = 262_144  # a larger message is read back when its turn comes, so that waiting costs no memory
_ID = re.compile(rb" id ([0-9a-z.]+);")
_FIELD_END = re.compile(rb"\r\n(?![ \t])")
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"|\((?:[^()\\]|\\.)*\)', re.DOTALL)
_PASS = re.compile(rb"\s*(?:spf|dkim|dmarc)\s*=\s*pass(?![\w-])", re.IGNORECASE)


class Place(NamedTuple):
    """Where a recipient is queued: the fields of a part."""

    route: str
    destination: str
    tenant: str
    priority: int


class Courier(Protocol):
    """What delivers, as far as the hop needs it: a message just stored may go out at once."""

    owner: str
    lease: float

    def reserve(self, route: str) -> bool:
        """Promise a place for one part of `route`; True if there is one."""
        ...

    def cancel(self, route: str) -> None:
        """Give a reserved place back."""
        ...

    def offer(self, queued: Queued) -> None:
        """Use a reserved place."""
        ...

    def wake(self, route: str) -> None:
        """Something of `route` is due."""
        ...


class QueueHop:
    """Implements ports.NextHop over a store. `routes` is the whole table, `lanes` what is queued, by label."""

    name = NAME
    per_recipient = False

    def __init__(
        self,
        spool: Spool,
        courier: Courier,
        routes: tuple[Route, ...],
        lanes: dict[str, Lane],
        *,
        clock: Clock,
        log: Log,
        metrics: Metrics,
        priorities: Mapping[Route, int] | None = None,
    ) -> None:
        self.spool = spool
        self.courier = courier
        self.lanes = lanes
        self.clock = clock
        self.log = log
        self.stored = metrics.cell("queue_stored_total")
        self.errors = {kind: metrics.cell("queue_store_errors_total", kind) for kind in KINDS}
        self._routes = routes
        self._priorities = priorities or {}
        self._full = False

    def has_room(self) -> bool:
        """Whether a message may be stored; counts those that may not, and says in the log when that changes."""
        room = self.spool.room()
        if not room:
            self.errors["full"].inc()
        if room is self._full:
            self._full = not room
            if room:
                self.log.info("queue_has_room")
            else:
                self.log.error(
                    "queue_full", problem="less is free than spool.min_free or spool.min_free_inodes say"
                )
        return room

    @property
    def capabilities(self) -> Capabilities:
        """What all next hops behind the queue can take, as far as is known; DSN is our own affair (RFC 3461)."""
        extensions, size = _ALWAYS, 0
        for lane in self.lanes.values():
            known = lane.hop.capabilities
            if known is not None:
                extensions &= known.extensions | {"DSN"}
                size = min(size, known.size) if size and known.size else size or known.size
        return Capabilities(extensions, size)

    def place(self, client: Client, envelope: Envelope, recipient: Address) -> Place | None:
        """Return where a recipient is queued, or None without a route."""
        route = route_for(self._routes, client, envelope, recipient)
        lane = self.lanes.get(route.name) if route is not None else None
        if lane is None or route is None:
            return None
        destination = recipient.ascii_domain if lane.by_domain else ""
        return Place(
            lane.route,
            destination,
            share_key(envelope.tenant or client.identity or envelope.sender.ascii_domain, envelope.campaign),
            self._priorities.get(route, NORMAL),
        )

    def parts(
        self, client: Client, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> tuple[Part, ...] | None:
        """Return recipients as parts of a message, or None if one of them has no route."""
        found: dict[Place, list[Recipient]] = {}
        for recipient in recipients:
            place = self.place(client, envelope, recipient.address)
            if place is None:
                return None
            found.setdefault(place, []).append(recipient)
        return as_parts(found)

    def begin(self, client: Client, envelope: Envelope, size: int) -> "QueueTransaction":
        """Start a transaction; nothing is stored before its content is there."""
        return QueueTransaction(self, client, envelope, size)


class QueueTransaction:
    """Implements ports.Transaction. With `later` the first attempt waits, as the next hop was down just now."""

    per_recipient = False

    def __init__(
        self, hop: QueueHop, client: Client, envelope: Envelope, size: int, *, later: bool = False
    ) -> None:
        self._hop = hop
        self._client = client
        self._envelope = envelope
        self._size = size
        self._later = later
        self._parts: dict[Place, list[Recipient]] = {}
        self._ended = False

    async def recipients(self, recipients: Sequence[Recipient]) -> list[Reply]:
        """Answer for recipients: those that have a route are welcome while there is room."""
        if not self._hop.has_room():
            return [_FULL] * len(recipients)
        return [self._take(recipient) for recipient in recipients]

    def _take(self, recipient: Recipient) -> Reply:
        place = self._hop.place(self._client, self._envelope, recipient.address)
        if place is None:
            return Reply(550, "5.1.2", "No route for this recipient")
        self._parts.setdefault(place, []).append(recipient)
        return Reply(250, "2.1.5", "Ok")

    async def send(self, lead: bytes, message: Message) -> list[Reply]:
        """Store it; 250 when that is durable."""
        if self._ended or not self._parts:
            return [Reply(451, "4.3.0", "The transaction has ended, try again later")]
        self._ended = True
        hop = self._hop
        parts = tuple(self._sized(part, len(lead) + message.size) for part in as_parts(self._parts))
        deposit = self._deposit(lead, message, parts)
        reserved = bool(deposit.owner)
        try:
            leases = await stored(hop, deposit)
        except BaseException as error:
            if reserved:
                hop.courier.cancel(parts[0].route)
            if isinstance(error, SpoolError):
                return [_reply(error)]
            raise
        if reserved:
            hop.courier.offer(_as_queued(deposit, leases[0]))
        elif not self._later:
            for part in parts:
                hop.courier.wake(part.route)
        return [_QUEUED]

    def _sized(self, part: Part, size: int) -> Part:
        """What is large is of low priority, where the route says so."""
        above = self._hop.lanes[part.route].schedule.low_above
        return replace(part, priority=LOW) if above and size > above else part

    def _deposit(self, lead: bytes, message: Message, parts: tuple[Part, ...]) -> Deposit:
        hop, client = self._hop, self._client
        now = hop.clock.time()
        due, owner = now, ""
        if self._later:
            due = now + max(hop.lanes[part.route].schedule.after(1) for part in parts)
        elif len(parts) == 1 and message.size <= _AT_HAND and hop.courier.reserve(parts[0].route):
            due, owner = now + hop.courier.lease, hop.courier.owner
        recipients = tuple(recipient for part in parts for recipient in part.recipients)
        # Our own trace fields are what the core tells about the mail: its id, and what the checks found.
        found = _ID.search(lead)
        return Deposit(
            found[1].decode("ascii") if found else client.id,
            client,
            self._envelope.to(recipients),
            lead,
            message,
            parts,
            now,
            due,
            direction=Direction.OUTBOUND if client.trusted else Direction.INBOUND,
            vouched=vouched(client, lead),
            owner=owner,
        )

    def abort(self) -> None:
        """End without a message; nothing was stored."""
        self._ended = True


def as_parts(found: Mapping[Place, Sequence[Recipient]]) -> tuple[Part, ...]:
    """Return recipients that were sorted by place as parts.

    A part is leased, tried and written down as a whole, so a long list becomes several: others have their turn in between,
    and a crash repeats few transactions.
    """
    return tuple(
        Part(place.route, tuple(some[at : at + _TOGETHER]), place.destination, place.tenant, place.priority)
        for place, some in found.items()
        for at in range(0, len(some), _TOGETHER)
    )


async def stored(hop: QueueHop, deposit: Deposit) -> tuple[Lease, ...]:
    """Store a message and count it. Raises SpoolError, which is logged and counted too."""
    try:
        leases = await hop.spool.store(deposit)
    except SpoolError as error:
        hop.errors["full" if isinstance(error, SpoolFullError) else "error"].inc()
        hop.log.error("queue_store_failed", id=deposit.id, problem=str(error))
        raise
    hop.stored.inc()
    return leases


async def refusal(hop: QueueHop, deposit: Deposit) -> Reply | None:
    """Store a message that nothing is to be done with now; return the 4yz reply if it could not be, else None."""
    try:
        await stored(hop, deposit)
    except SpoolError as error:
        return _reply(error)
    return None


def _reply(error: SpoolError) -> Reply:
    return _FULL if isinstance(error, SpoolFullError) else _FAULT


def vouched(client: Client, lead: bytes) -> bool:
    """Whether the sender is known well enough to be sent a bounce: authenticated, trusted, or verified.

    `lead` are our trace fields; what others claim has been removed from the message below them.
    """
    ours = client.trusted and not client.forwarded
    return ours or bool(client.identity) or _verified(lead)


def _verified(lead: bytes) -> bool:
    """Whether our own results (RFC 8601) have a pass; words of the sender's may stand in quotes and comments."""
    if not lead.lower().startswith(b"authentication-results:"):
        return False
    field = _FIELD_END.split(lead, 1)[0]
    return any(_PASS.match(result) for result in _QUOTED.sub(b"", field).split(b";")[1:])


def _as_queued(deposit: Deposit, lease: Lease) -> Queued:
    """Return what `load` would: the octets at hand are those that were stored."""
    message = deposit.message
    count = len(deposit.envelope.recipients)
    return Queued(
        lease,
        deposit.id,
        deposit.client,
        deposit.envelope,
        tuple(range(count)),
        Message(
            deposit.lead + message.head, message.body, dotless=message.dotless and b"\n." not in deposit.lead
        ),
        deposit.received_at,
        deposit.origin,
        deposit.direction,
        deposit.vouched,
        deposit.raw,
        ("",) * count,
    )


class WhenDownHop:
    """Implements ports.NextHop: the upstream itself, and the queue in its place when it can't be reached."""

    def __init__(self, hop: WatchedHop, queue: QueueHop) -> None:
        self.name = f"{hop.name}{NAME}"
        self.per_recipient = hop.per_recipient
        self._hop = hop
        self._queue = queue

    @property
    def capabilities(self) -> Capabilities | None:
        """What the upstream last said it can take."""
        return self._hop.capabilities

    def begin(self, client: Client, envelope: Envelope, size: int) -> "WhenDownTransaction":
        """Start a transaction with the upstream."""
        return WhenDownTransaction(
            self._hop.begin(client, envelope, size),
            lambda: QueueTransaction(self._queue, client, envelope, size, later=True),
            client,
        )


class WhenDownTransaction:
    """Implements ports.Transaction. The queue takes over before anything was said to the upstream, or never.

    Not for mail of unverified strangers: the upstream could not say whether it wants their recipients, and a bounce
    would go to somebody who never wrote. They keep it, and try again.
    """

    def __init__(
        self, upstream: WatchedTransaction, queue: Callable[[], QueueTransaction], client: Client
    ) -> None:
        self.per_recipient = upstream.per_recipient
        self._upstream = upstream
        self._open_queue = queue
        self._client = client
        self._queue: QueueTransaction | None = None
        self._accepted = 0

    async def recipients(self, recipients: Sequence[Recipient]) -> list[Reply]:
        """Offer recipients to whoever takes this transaction."""
        if self._queue is None:
            replies = await self._upstream.recipients(recipients)
            if not self._upstream.unreached:
                self._accepted += sum(reply.ok for reply in replies)
                return replies
            self._upstream.abort()
            self._queue = self._open_queue()
        replies = await self._queue.recipients(recipients)
        self._accepted += sum(reply.ok for reply in replies)
        return replies

    async def send(self, lead: bytes, message: Message) -> list[Reply]:
        """Send the content, or store it."""
        if self._queue is None:
            return await self._upstream.send(lead, message)
        if vouched(self._client, lead):
            replies = await self._queue.send(lead, message)
        else:
            self._queue.abort()
            replies = [Reply(451, "4.4.1", "The next hop can't be reached now, try again later")]
        return replies * (self._accepted if self.per_recipient else 1)

    def abort(self) -> None:
        """End without a message."""
        self._upstream.abort()
        if self._queue is not None:
            self._queue.abort()
