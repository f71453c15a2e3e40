"""A lane: how the queued mail of one route is delivered, and how it stands with its next hop.

Plain values and arithmetic; must not know a store or a loop.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from relayproxy.core.ports import WatchedHop
from relayproxy.core.shaping import Shapes
from relayproxy.spool.verifying import Verification

_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_JITTER = 0.2
_SHARE = 4  # one destination among many may have a quarter of a lane


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a message is tried again: seconds after each failed attempt (the last repeats), and when it ends.

    `warn` is after how many seconds the sender is told of the delay; 0 for never. `concurrency` is the number of
    transactions with the next hop at the same time, in one worker, `per_destination` that with each domain (0: a quarter
    where domains have next hops of their own), and `rate` how many may begin in a second with each (0: any number).
    What has more octets than `low_above` is of low priority (0: no size is).
    """

    retry: tuple[float, ...] = (60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0)
    expire: float = 5 * 86400.0
    warn: float = 4 * 3600.0
    concurrency: int = 20
    per_destination: int = 0
    rate: float = 0.0
    low_above: int = 0

    def after(self, attempts: int, choose: Callable[[], float] = random.random) -> float:
        """Return the seconds to wait after failed attempt number `attempts` (from 1), a fifth more or less."""
        return spread(self.retry[min(max(attempts, 1), len(self.retry)) - 1], choose)


@dataclass(frozen=True, slots=True)
class Lane:
    """The queued mail of a route: its label, its next hop, its schedule, and whose recipients are verified first.

    `by_domain` says that each domain of recipients has a next hop of its own (MX), of which some may be down. Then
    `shapes` say which domains are treated alike, and how.
    """

    route: str
    hop: WatchedHop
    schedule: Schedule
    by_domain: bool = False
    shapes: Shapes | None = None
    verification: Verification = field(default_factory=Verification)

    def group(self, destination: str) -> str:
        """Return what a destination's transactions are counted under."""
        return self.shapes.group(destination) if self.shapes is not None else destination

    def schedule_of(self, destination: str) -> Schedule:
        """Return when mail for a destination is tried again."""
        shape = self.shapes.shape(destination) if self.shapes is not None else None
        return (
            replace(self.schedule, retry=shape.retry) if shape is not None and shape.retry else self.schedule
        )

    @property
    def limits(self) -> dict[str, int]:
        """Return how many transactions those that are counted under a rule's group may have at the same time."""
        shapes = self.shapes.shapes if self.shapes is not None else ()
        most = self.schedule.concurrency
        return {shape.group: min(most, shape.concurrency) for shape in shapes if shape.concurrency}

    @property
    def share(self) -> int:
        """How many transactions one destination may have at the same time."""
        most = self.schedule.concurrency
        usual = max(1, most // _SHARE) if self.by_domain else most
        return min(most, self.schedule.per_destination or usual)


def pause_after(failures: int, choose: Callable[[], float] = random.random) -> float:
    """Return the seconds for which a next hop is left alone that could not be reached `failures` times in a row."""
    return spread(_PAUSES[min(max(failures, 1), len(_PAUSES)) - 1], choose)


def spread(seconds: float, choose: Callable[[], float] = random.random) -> float:
    """Return a time a fifth longer or shorter, so that what waits doesn't come back all at once."""
    return seconds * (1 - _JITTER + 2 * _JITTER * choose())
