"""Warm-up: how many recipients a new source may have on each day, for each group of destinations.

What has been used is counted where all workers and machines share it; without that, each worker keeps to a part of its
own. Counts may be lost, mail is not. Must not know who asks, or how a source is chosen.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from relayproxy.api import SharedState, Unavailable, shared_key
from relayproxy.model.shared import Add

DAY = 86_400.0
_KEPT = 2 * DAY
_FULL = 30.0  # seconds for which a used-up budget is not asked about again


@dataclass(frozen=True, slots=True)
class Warmup:
    """`days` are recipients per group, from the day that begins at `start` on (seconds since the epoch, UTC midnight).

    `name` is what it is counted under. Before `start` nothing is sent, after the last day there is no limit.
    """

    name: str
    start: float
    days: tuple[int, ...]

    def budget(self, now: float) -> float:
        """Return how many recipients a group may have on the day of `now`; infinity when it is over."""
        day = math.floor((now - self.start) / DAY)
        if day < 0:
            return 0
        return self.days[day] if day < len(self.days) else math.inf

    def key(self, group: str, now: float) -> str:
        """Return what the recipients of a group are counted under on that day."""
        return shared_key("warmup", self.name, group, str(int(now // DAY)))


def until_tomorrow(now: float) -> float:
    """Return the seconds until days change (UTC)."""
    return DAY - now % DAY


class Budgets:
    """What is left of the budgets, for one of `workers`, number `slot`. Without a `state` each has its part.

    A worker that has to do without the state counts on from what it last heard of the others.
    """

    def __init__(
        self, state: SharedState | None, now: Callable[[], float], *, workers: int = 1, slot: int = 0
    ) -> None:
        self._state = state
        self._now = now
        self._workers = workers
        self._slot = slot
        self._day = 0
        self._own: Counter[str] = Counter()
        self._heard: dict[str, float] = {}
        self._full: dict[str, float] = {}

    async def take(self, warmups: tuple[Warmup, ...], wanted: Mapping[str, int]) -> dict[str, int]:
        """Take from all of `warmups` as many recipients of each group as are left; return how many that are."""
        now = self._today()
        limits = {group: min((one.budget(now) for one in warmups), default=math.inf) for group in wanted}
        if all(limit == math.inf for limit in limits.values()):
            return dict(wanted)
        used_up = {
            group for group in wanted for one in warmups if now < self._full.get(one.key(group, now), 0.0)
        }
        asked = {
            group: 0 if group in used_up else int(min(count, limits[group]))
            for group, count in wanted.items()
        }
        rows = [
            (one, one.key(group, now), group, asked[group])
            for group in wanted
            for one in warmups
            if one.budget(now) != math.inf and asked[group]
        ]
        if not rows:
            return asked
        try:
            totals = await self._add([(key, count) for _, key, _, count in rows])
        except Unavailable:
            return self._take_own(rows, asked, now)
        given = dict(asked)
        for (warmup, key, group, count), total in zip(rows, totals, strict=True):
            self._heard[key] = total
            left = count - math.ceil(max(0, total - warmup.budget(now)))
            given[group] = min(given[group], max(0, left))
            if left <= 0:
                self._full[key] = now + _FULL
        too_much = [(key, given[group] - count) for _, key, group, count in rows if given[group] < count]
        await self._give(too_much)
        return given

    async def give(self, warmups: tuple[Warmup, ...], unused: Mapping[str, int]) -> None:
        """Return what was taken today and not used."""
        now = self._today()
        for group in unused:
            for one in warmups:
                self._full.pop(one.key(group, now), None)
        await self._give(
            [
                (one.key(group, now), -count)
                for group, count in unused.items()
                for one in warmups
                if count and one.budget(now) != math.inf
            ]
        )

    async def _give(self, changes: Sequence[tuple[str, float]]) -> None:
        if not changes:
            return
        try:
            for (key, _), total in zip(changes, await self._add(changes), strict=True):
                self._heard[key] = total
        except Unavailable:
            for key, change in changes:
                self._own[key] = max(0, self._own[key] + int(change))

    async def _add(self, changes: Sequence[tuple[str, float]]) -> list[float]:
        if self._state is None:
            raise Unavailable("nothing is shared")
        # What was used while nothing was shared is told first, so that the others know of it.
        told = dict(self._own)
        own = [Add(key, count, _KEPT) for key, count in told.items() if count]
        answers = await self._state.do(*own, *(Add(key, change, _KEPT) for key, change in changes))
        self._own.subtract(told)
        return [float(total) for total in answers[len(own) :]]

    def _take_own(
        self, rows: list[tuple[Warmup, str, str, int]], asked: Mapping[str, int], now: float
    ) -> dict[str, int]:
        """Take from the part of the budget that is this worker's own while nothing is shared."""
        given = dict(asked)
        for warmup, key, group, _ in rows:
            rest = max(0, int(warmup.budget(now) - self._heard.get(key, 0)))
            share = (rest + self._workers - 1 - self._slot) // self._workers
            given[group] = min(given[group], max(0, share - self._own[key]))
        for _, key, group, _ in rows:
            self._own[key] += given[group]
        return given

    def _today(self) -> float:
        now = self._now()
        if now // DAY != self._day:
            self._day = int(now // DAY)
            for kept in (self._own, self._heard, self._full):
                kept.clear()
        return now
