"""Several ways on as one next hop: by weights, within budgets, and round those that are refused for their reputation.

A transaction goes to another way only as long as none has accepted a recipient. Must not know how a way connects.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from relayproxy.bounces.rules import Rule
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.ports import Capabilities, WatchedTransaction
from relayproxy.core.shaping import Shape, Shapes
from relayproxy.delivery.reputation import Rests, is_block, reply_in
from relayproxy.delivery.warmup import Budgets, until_tomorrow
from relayproxy.delivery.ways import Way, bind_problem, in_turn
from relayproxy.model.envelope import Recipient
from relayproxy.model.mail import Mail
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply

OTHER = "other"
"""The group, in warm-up, of all domains that no shaping rule names."""

REASONS = ("rests", "unusable", "budget", "unreached", "refused")
"""Why a way is passed over."""

_LONGEST_WAIT = 3600.0
_DOWN_WAIT = 60.0
_ENOUGH = Reply(451, "4.3.2", "No more can be sent there now, try again later")
_MORE_LATER = Reply(452, "4.5.3", "No more recipients now, send to the others later")
_UNREACHED = Reply(451, "4.4.1", "The next hop can't be reached now")
_UNUSABLE = 60.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What the pools of a worker share. `time` is in seconds since the epoch, `rules` are those of refusals."""

    shapes: Shapes
    budgets: Budgets
    rests: Rests
    rules: Sequence[Rule]
    log: Log
    metrics: Metrics
    time: Callable[[], float]


class PoolHop:
    """Implements ports.WatchedHop and ports.NextHop over several ways.

    With `queued` a transaction answers for as many of the first recipients as it may take, and says how long the others
    have to wait; all transactions of a message choose alike. Without, every recipient has a reply.
    """

    def __init__(
        self, name: str, ways: Sequence[Way], terms: Terms, *, queued: bool, per_recipient: bool = False
    ) -> None:
        self.name = name
        self.ways = tuple(ways)
        self.terms = terms
        self.queued = queued
        self.per_recipient = per_recipient
        self._numbers = itertools.count()
        self._unusable: dict[str, float] = {}
        self.detours = {
            way.name: {
                reason: terms.metrics.cell("way_detours_total", way.name, reason) for reason in REASONS
            }
            for way in ways
        }

    @property
    def capabilities(self) -> Capabilities | None:
        """What all ways can take that have been asked."""
        known = [one for way in self.ways if (one := way.hop(None).capabilities) is not None]
        if not known:
            return None
        sizes = [one.size for one in known if one.size]
        return Capabilities(frozenset.intersection(*(one.extensions for one in known)), min(sizes, default=0))

    def begin(self, mail: Mail, size: int) -> "PoolTransaction":
        """Start a transaction; which way it takes is chosen with the first recipient."""
        key = mail.client.id if self.queued else f"{mail.client.id}.{next(self._numbers)}"
        return PoolTransaction(self, key, mail, size)

    def usable(self, way: Way) -> bool:
        """Whether the local address of a way is there, as far as is known."""
        return self.terms.time() >= self._unusable.get(way.name, 0.0)

    async def unreached(self, way: Way, group: str, problem: str) -> None:
        """No connection came about; say so where that is for our own address, or for its reputation."""
        terms = self.terms
        if way.source and (reason := bind_problem(way.source)):
            self._unusable[way.name] = terms.time() + _UNUSABLE
            terms.log.error("source_unusable", way=way.name, source=way.source, problem=reason)
            return
        refusal = reply_in(problem)
        if refusal is not None:
            await self.judge(way, group, refusal)

    async def judge(self, way: Way, group: str, reply: Reply) -> bool:
        """Leave a way alone that is refused for its reputation; return whether it is."""
        terms = self.terms
        if reply.ok:
            return False
        if not is_block(terms.rules, reply):
            return False
        seconds = await terms.rests.begin(way.name, group, terms.time())
        if seconds:
            terms.log.warning(
                "source_rested", way=way.name, destination=group, seconds=seconds, reply=str(reply)
            )
        return True


class PoolTransaction:
    """Implements ports.WatchedTransaction: one way has it as soon as it has accepted a recipient.

    `waits` are the seconds after which more may be sent to the first recipient that `recipients` gave no reply for.
    """

    queued = False

    def __init__(self, pool: PoolHop, key: str, mail: Mail, size: int) -> None:
        self.per_recipient = pool.per_recipient
        self._pool = pool
        self._key = key
        self._mail = mail
        self._size = size
        self._current: WatchedTransaction | None = None
        self._way: Way | None = None
        self._group = ""
        self._refusal: Reply | None = None
        self.unreached = False
        self.waits = 0.0

    @property
    def capabilities(self) -> Capabilities | None:
        """What the other end of the way that has it can take."""
        return self._current.capabilities if self._current is not None else None

    async def recipients(self, recipients: Sequence[Recipient]) -> list[Reply]:
        """Offer recipients to the way that has it, or to one after the other."""
        if self._refusal is not None:
            return [self._refusal] * len(recipients)
        shapes = self._pool.terms.shapes
        found = {one.address.ascii_domain for one in recipients}
        shape_of = {domain: await shapes.learn(domain) for domain in found}
        groups = [_group(shape_of[one.address.ascii_domain]) for one in recipients]
        if self._current is not None and self._way is not None:
            replies = await self._offer(self._way, self._current, recipients, groups)
        else:
            first = recipients[0].address.ascii_domain
            self._group = shapes.group(first)
            replies = await self._choose(recipients, groups, shape_of[first])
        if self._pool.queued or len(replies) == len(recipients):
            return replies
        if self._current is None:
            self.unreached = True  # nothing was said to anybody, so that a queue may take it
        rest = _MORE_LATER if self._current is not None else self._refused(_ENOUGH)
        return replies + [rest] * (len(recipients) - len(replies))

    async def _choose(
        self, recipients: Sequence[Recipient], groups: Sequence[str], shape: Shape | None
    ) -> list[Reply]:
        pool = self._pool
        terms = pool.terms
        now = terms.time()
        waits: list[float] = []
        blocked: list[Reply] = []
        down = False
        for way in in_turn(pool.ways, self._key):
            rests = await terms.rests.until(way.name, self._group, now)
            detours = pool.detours[way.name]
            if rests:
                waits.append(rests - now)
                detours["rests"].inc()
                continue
            if not pool.usable(way):
                down = True
                detours["unusable"].inc()
                continue
            tried = way.hop(shape).begin(self._mail, self._size)
            replies = await self._offer(way, tried, recipients, groups)
            if not replies:
                waits.append(until_tomorrow(now))
                detours["budget"].inc()
            elif tried.unreached:
                down = True
                detours["unreached"].inc()
                await pool.unreached(way, self._group, getattr(tried, "problem", ""))
            elif await self._is_refused(way, replies):
                blocked = replies
                detours["refused"].inc()
            else:
                self._way, self._current = way, tried
                return replies
            tried.abort()
        if blocked:
            self._refused(blocked[0])
            return blocked
        if waits:
            self.waits = min(*waits, _DOWN_WAIT if down else _LONGEST_WAIT)
            return []
        self.unreached = True
        return [self._refused(_UNREACHED)] * len(recipients)

    async def _offer(
        self, way: Way, to: WatchedTransaction, recipients: Sequence[Recipient], groups: Sequence[str]
    ) -> list[Reply]:
        """Offer as many of the first recipients as the budgets of a way allow; return the replies to them."""
        budgets = self._pool.terms.budgets
        if not way.warmups:
            return await to.recipients(recipients)
        given = await budgets.take(way.warmups, Counter(groups))
        count = _fitting(groups, given)
        kept: Counter[str] = Counter()
        replies: list[Reply] = []
        try:
            if count:
                replies = await to.recipients(recipients[:count])
                if not to.unreached:
                    kept.update(group for group, reply in zip(groups, replies, strict=False) if reply.ok)
        finally:
            unused = {group: taken - kept[group] for group, taken in given.items() if taken > kept[group]}
            if unused:
                await budgets.give(way.warmups, unused)
        return replies

    async def _is_refused(self, way: Way, replies: Sequence[Reply]) -> bool:
        """Whether a way was refused for its reputation and nobody was accepted."""
        blocked = [await self._pool.judge(way, self._group, reply) for reply in replies]
        return any(blocked) and not any(reply.ok for reply in replies)

    def _refused(self, reply: Reply) -> Reply:
        self._refusal = reply
        return reply

    async def send(self, lead: bytes, message: Message) -> list[Reply]:
        """Send the content; from here on nothing is tried elsewhere."""
        if self._current is None or self._way is None:
            return [self._refusal or _UNREACHED]
        replies = await self._current.send(lead, message)
        for reply in replies:
            await self._pool.judge(self._way, self._group, reply)
        if all(reply.ok for reply in replies):
            await self._pool.terms.rests.end(self._way.name, self._group)
        return replies

    def abort(self) -> None:
        """End without a message."""
        if self._current is not None:
            self._current.abort()


def _group(shape: Shape | None) -> str:
    return shape.group if shape is not None else OTHER


def _fitting(groups: Sequence[str], given: dict[str, int]) -> int:
    """Return how many of the first recipients have a place."""
    left = Counter(given)
    for count, group in enumerate(groups):
        if not left[group]:
            return count
        left[group] -= 1
    return len(groups)
