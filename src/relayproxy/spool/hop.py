"""The queue as a next hop: it answers RCPT itself, and 250 to the content means that one durable write is done.

Recipients of several routes are accepted in one transaction and stored as parts of one message. Must not know when or
how they are delivered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from relayproxy.api import Clock
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.policy import Route, route_for
from relayproxy.core.ports import Capabilities
from relayproxy.model.address import Address
from relayproxy.model.client import Client
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.mail import Mail
from relayproxy.model.message import Message
from relayproxy.model.queued import LOW, NORMAL, QUEUE, Deposit, Lease, Part, Queued, share_key
from relayproxy.model.reply import Reply
from relayproxy.spool.lanes import Lane
from relayproxy.spool.protocol import Spool, SpoolError, SpoolFullError
from relayproxy.spool.verifying import Verifier
from relayproxy.spool.vouching import vouched

NAME = QUEUE

KINDS = ("full", "error")
_ALWAYS = frozenset({"8BITMIME", "SMTPUTF8", "DSN"})
_FULL = Reply(452, "4.3.1", "Not enough room to queue it, try again later")
_FAULT = Reply(451, "4.3.0", "Can't queue it now, try again later")
_NO_ROUTE = Reply(550, "5.1.2", "No route for this recipient")
_WELCOME = Reply(250, "2.1.5", "Ok")
_UNSURE = Reply(451, "4.1.1", "Recipients can't be verified now, try again later")
_UNSURE_FOR_GOOD = Reply(550, "5.7.1", "Neither the sender nor the recipients can be verified")
_QUEUED = Reply(250, "2.0.0", "Ok: queued")
_TOGETHER = 500  # recipients of a part
_AT_HAND = 262_144  # a larger message is read back when its turn comes, so that waiting costs no memory


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
        verifier: Verifier | None = None,
    ) -> None:
        self.spool = spool
        self.verifier = verifier
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
        extensions, size = _ALWAYS | {"REQUIRETLS"}, 0
        for lane in self.lanes.values():
            known = lane.hop.capabilities
            if known is None:
                # To keep REQUIRETLS is a promise, so a next hop has to be known for it.
                extensions -= {"REQUIRETLS"}
            else:
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

    def begin(self, mail: Mail, size: int) -> "QueueTransaction":  # noqa: ARG002  (the port's names)
        """Start a transaction; nothing is stored before its content is there."""
        return QueueTransaction(self, mail)


class QueueTransaction:
    """Implements ports.Transaction. With `later` the first attempt waits, as the next hop was down just now."""

    per_recipient = False
    queued = True

    def __init__(self, hop: QueueHop, mail: Mail, *, later: bool = False) -> None:
        self._hop = hop
        self._mail = mail
        self._envelope = mail.envelope
        self._later = later
        self._unsure: Reply | None = None
        self._parts: dict[Place, list[Recipient]] = {}
        self._ended = False

    async def recipients(self, recipients: Sequence[Recipient]) -> list[Reply]:
        """Answer for recipients: those that have a route are welcome while there is room, and unless the next hop objects."""
        hop = self._hop
        if not hop.has_room():
            return [_FULL] * len(recipients)
        replies: list[Reply] = []
        sorted_out: dict[Place, list[int]] = {}
        for number, recipient in enumerate(recipients):
            place = hop.place(self._mail.client, self._envelope, recipient.address)
            replies.append(_NO_ROUTE if place is None else _WELCOME)
            if place is not None:
                sorted_out.setdefault(place, []).append(number)
        for place, numbers in sorted_out.items():
            asked = [recipients[number] for number in numbers]
            for number, reply in zip(numbers, await self._verified(place, asked), strict=True):
                if reply.permanent:
                    replies[number] = reply
                else:
                    self._parts.setdefault(place, []).append(recipients[number])
        return replies

    async def _verified(self, place: Place, recipients: Sequence[Recipient]) -> Sequence[Reply]:
        """What the next hop says of them where it has to be asked first; what it can't tell is noted."""
        hop, lane = self._hop, self._hop.lanes[place.route]
        rule = lane.verification
        if (
            hop.verifier is None
            or self._later
            or rule.whose == "never"
            or (rule.whose == "unverified" and vouched(self._mail))
        ):
            return [_WELCOME] * len(recipients)
        heard = await hop.verifier.ask(place.route, lane.hop, rule, recipients)
        if any(reply.temporary for reply in heard):
            self._unsure = self._unsure or _UNSURE
            if rule.rejects:
                self._unsure = _UNSURE_FOR_GOOD
        return heard

    async def send(self, lead: bytes, message: Message) -> list[Reply]:
        """Store it; 250 when that is durable."""
        if self._ended or not self._parts:
            return [Reply(451, "4.3.0", "The transaction has ended, try again later")]
        self._ended = True
        if self._unsure is not None and self._envelope.sender and not vouched(self._mail):
            # If the next hop refused it, its sender would have to be told, and nobody knows who that is.
            return [self._unsure]
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
        hop, mail = self._hop, self._mail
        now = hop.clock.time()
        due, owner = now, ""
        if self._later:
            due = now + max(hop.lanes[part.route].schedule.after(1) for part in parts)
        elif len(parts) == 1 and message.size <= _AT_HAND and hop.courier.reserve(parts[0].route):
            due, owner = now + hop.courier.lease, hop.courier.owner
        recipients = tuple(recipient for part in parts for recipient in part.recipients)
        return Deposit(
            mail.id,
            mail.client,
            self._envelope.to(recipients),
            lead,
            message,
            parts,
            now,
            due,
            origin=mail.origin,
            direction=mail.direction,
            vouched=vouched(mail),
            owner=owner,
        )

    def abort(self) -> None:
        """End without a message; nothing was stored."""
        self._ended = True


def as_parts(found: Mapping[Place, Sequence[Recipient]]) -> tuple[Part, ...]:
    """Return recipients that were sorted by place as parts.

    A part is leased and told of as a whole, so a long list becomes several: others have their turn in between.
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
