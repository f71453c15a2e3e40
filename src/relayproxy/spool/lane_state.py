"""How one lane stands in this worker: what runs, what waits at hand, whose turn it is, how fast it may go.

Must not know the store, nor do anything of its own accord.
"""

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field

from relayproxy.core.metrics import Cell
from relayproxy.model.queued import Lease, Queued, tenant_of
from relayproxy.spool.backlog import Backlogs
from relayproxy.spool.destinations import Destinations
from relayproxy.spool.lanes import Lane
from relayproxy.spool.pace import Paces

_AT_HAND = 5  # times what may run: leased and not begun
_COMPARED = 20
_OLDEST_EVERY = 8


@dataclass(slots=True, eq=False)
class LaneState:
    """How a lane stands in this worker. `waiting` are leased and not begun; `reserved` are promised to the hop.

    `backlog` says that the store has mail of earlier clients, which new mail must not overtake for ever.
    """

    lane: Lane
    running_cell: Cell
    paused_cell: Cell
    waiting_cell: Cell
    running: int = 0
    reserved: int = 0
    failures: int = 0
    paused_until: float = 0.0
    swept_at: float = 0.0
    backlog: bool = False
    waiting: deque[Queued] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    destinations: Destinations = field(init=False)
    paces: Paces = field(init=False)
    backlogs: Backlogs = field(default_factory=Backlogs)
    tenants: Counter[str] = field(default_factory=Counter)
    campaigns: Counter[str] = field(default_factory=Counter)
    groups: dict[tuple[int, int], str] = field(default_factory=dict)
    turns: int = 0

    def __post_init__(self) -> None:
        self.destinations = Destinations()
        self.paces = Paces(self.lane.share, self.lane.schedule.rate, self.lane.limits)

    def next(self, now: float) -> Queued | None:
        """Take the one that waits whose turn it is.

        That is one of the highest priority, of the tenant with the least in delivery, of its campaign with the least. Every
        eighth is the first that waits, so that nothing waits for ever.
        """
        self.turns += 1
        in_order = self.turns % _OLDEST_EVERY == 0
        best: tuple[tuple[int, int, int], int] | None = None
        compared = 0
        for place, queued in enumerate(self.waiting):
            lease = queued.lease
            group = self.lane.group(lease.destination)
            if not self.paces.may_begin(group, self.destinations.running(group), now):
                continue
            running = self.tenants[tenant_of(lease.tenant)], self.campaigns[lease.tenant]
            rank = (lease.priority, *running), place
            if best is None or rank[0] < best[0]:
                best = rank
            compared += 1
            if in_order or compared == _COMPARED:
                break
        if best is None:
            return None
        chosen = self.waiting[best[1]]
        del self.waiting[best[1]]
        return chosen

    def began(self, lease: Lease, now: float) -> None:
        """A delivery has begun."""
        self.running += 1
        self.tenants[tenant_of(lease.tenant)] += 1
        self.campaigns[lease.tenant] += 1
        # Which group a domain belongs to may change while it runs.
        group = self.groups[lease.message, lease.part] = self.lane.group(lease.destination)
        self.destinations.began(group)
        self.paces.began(group, now)
        self.backlogs.began(group, now)

    def ended(self, lease: Lease, now: float) -> None:
        """It is over."""
        self.running -= 1
        for counts, key in ((self.tenants, tenant_of(lease.tenant)), (self.campaigns, lease.tenant)):
            counts[key] -= 1
            if counts[key] <= 0:
                del counts[key]
        # A part whose lease was lost may have been begun twice.
        group = self.groups.pop((lease.message, lease.part), None) or self.lane.group(lease.destination)
        self.destinations.ended(group)
        self.backlogs.ended(group, now)

    def put_back(self, queued: Queued, until: float) -> None:
        """Something that was begun has to wait after all, and with it all others of its group."""
        self.paces.hold(self.lane.group(queued.lease.destination), until)
        self.waiting.appendleft(queued)

    def busy(self, now: float) -> dict[str, list[Queued]]:
        """Take what can't begin as its destination is busy, but for a few for whoever is done next; sorted by group."""
        kept: deque[Queued] = deque()
        taken: dict[str, list[Queued]] = {}
        few: Counter[str] = Counter()
        for queued in self.waiting:
            group = self.lane.group(queued.lease.destination)
            if self.paces.may_begin(group, self.destinations.running(group), now):
                kept.append(queued)
            elif few.total() < self.limit and few[group] < self.paces.limit(group):
                few[group] += 1
                kept.append(queued)
            else:
                taken.setdefault(group, []).append(queued)
        self.waiting = kept
        return taken

    def rests_until(self, now: float) -> float | None:
        """Return when something that waits may begin, if its destination's pace is what it waits for."""
        return self.paces.next_at((self.lane.group(queued.lease.destination) for queued in self.waiting), now)

    @property
    def limit(self) -> int:
        """How many may run: one, to try, as long as the next hop could not be reached."""
        return 1 if self.failures else self.lane.schedule.concurrency

    @property
    def room(self) -> int:
        """How many more may be leased: some wait at hand, so that whoever is done finds the next at once."""
        most = 1 if self.failures else _AT_HAND * self.lane.schedule.concurrency
        return most - self.running - len(self.waiting) - self.reserved

    def take_all(self) -> list[Queued]:
        """Take all that waits."""
        waiting = list(self.waiting)
        self.waiting.clear()
        return waiting
