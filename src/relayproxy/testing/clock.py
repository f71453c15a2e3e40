"""A clock that stands still until a test moves it.

Satisfies relayproxy.api.Clock. Must not know what is being timed, and never waits in real time.
"""

import asyncio
import heapq
import itertools
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_SETTLE = 50  # turns of the loop after which tasks that don't wait for this clock have come to rest


class FakeClock:
    """Time that only `advance` and `run` move; `now` is where it starts, in seconds since the epoch."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._start = now
        self._passed = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def time(self) -> float:
        """Seconds since the epoch."""
        return self._start + self._passed

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._passed

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass at once and wake all that slept until then. Raises ValueError for a step back."""
        if seconds < 0:
            raise ValueError("a clock does not go back")
        self._passed += seconds
        while self._sleepers and self._sleepers[0][0] <= self._passed:
            sleeper = heapq.heappop(self._sleepers)[2]
            if not sleeper.done():
                sleeper.set_result(None)

    async def sleep(self, seconds: float) -> None:
        """Wait until `seconds` have passed on this clock."""
        if seconds <= 0:
            return
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._passed + seconds, next(self._order), sleeper))
        await sleeper

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work`, moving the clock to the next sleeper whenever all tasks wait, and return its result.

        The time that passed on the clock is then how long the work would have taken. Raises RuntimeError when
        the work waits for something that this clock will never bring.
        """
        task = asyncio.ensure_future(work)
        try:
            while True:
                for _ in range(_SETTLE):
                    if task.done():
                        return task.result()
                    await asyncio.sleep(0)
                if not self._sleepers:
                    raise RuntimeError("the work waits for something other than this clock")
                self.advance(self._sleepers[0][0] - self._passed)
        finally:
            task.cancel()
