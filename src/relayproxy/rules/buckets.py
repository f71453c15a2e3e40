"""Token buckets in memory, for one process: what `rate_limit` counts in where no shared state is set up.

The generic cell rate algorithm: one number for each key, the time at which its bucket is full again. Must not know
what is counted.
"""

from collections.abc import Callable
from typing import Protocol

_MOST = 100_000


class TakesTokens(Protocol):
    """Shared buckets, as `rate_limit` needs them."""

    async def take(self, key: str, rate: float, burst: float, cost: float = 1.0) -> float:
        """Take `cost` tokens of a bucket that gains `rate` a second; return 0.0, or the seconds to wait."""
        ...


class Buckets:
    """Buckets of this process alone; the oldest are forgotten beyond a hundred thousand."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._full: dict[str, float] = {}

    async def take(self, key: str, rate: float, burst: float, cost: float = 1.0) -> float:
        """See TakesTokens."""
        now = self._now()
        full = max(self._full.pop(key, now), now)
        late = full + cost / rate - now - burst / rate
        if late > 1e-9:
            self._full[key] = full
            return late
        self._full[key] = full + cost / rate
        if len(self._full) > _MOST:
            del self._full[next(iter(self._full))]
        return 0.0
