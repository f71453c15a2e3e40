"""How one lane stands in this worker: what runs, what waits at hand, whether its next hop is left alone.

Must not know the store, nor do anything of its own accord.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from relayproxy.core.metrics import Cell
from relayproxy.model.queued import Queued
from relayproxy.spool.destinations import Destinations
from relayproxy.spool.lanes import Lane

_AT_HAND = 5  # times what may run: leased and not begun


@dataclass(slots=True, eq=False)
class LaneState:
    """How a lane stands in this worker. `waiting` are leased and not begun; `reserved` are promised to the hop."""

    lane: Lane
    running_cell: Cell
    paused_cell: Cell
    waiting_cell: Cell
    running: int = 0
    reserved: int = 0
    failures: int = 0
    paused_until: float = 0.0
    swept_at: float = 0.0
    waiting: deque[Queued] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    destinations: Destinations | None = None

    def next(self) -> Queued | None:
        """Take the first that waits and may begin."""
        if self.destinations is None:
            return self.waiting.popleft() if self.waiting else None
        for place, queued in enumerate(self.waiting):
            if self.destinations.has_room(queued.lease.destination):
                del self.waiting[place]
                return queued
        return None

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
