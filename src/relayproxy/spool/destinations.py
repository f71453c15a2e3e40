"""How the destinations of one lane stand: how many transactions each has, and which could not be reached.

So that one that is down is not tried for every message, where each domain has a next hop of its own.
"""

from collections import Counter
from dataclasses import dataclass

from relayproxy.spool.lanes import pause_after

_MOST = 10_000


@dataclass(slots=True)
class _Down:
    failures: int
    until: float


class Destinations:
    """Counts and remembers, for one worker."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()
        self._down: dict[str, _Down] = {}

    def running(self, destination: str) -> int:
        """Return how many transactions it has."""
        return self._running[destination]

    def began(self, destination: str) -> None:
        """A transaction has begun."""
        self._running[destination] += 1

    def ended(self, destination: str) -> None:
        """It is over."""
        self._running[destination] -= 1
        if self._running[destination] <= 0:
            del self._running[destination]

    def is_down(self, destination: str, now: float) -> bool:
        """Whether it could not be reached a moment ago, so that trying makes no sense yet."""
        known = self._down.get(destination)
        return known is not None and now < known.until

    def failed(self, destination: str, now: float) -> None:
        """It could not be reached."""
        if len(self._down) >= _MOST:
            self._down = {name: one for name, one in self._down.items() if now < one.until}
        known = self._down.setdefault(destination, _Down(0, 0.0))
        if now >= known.until:
            known.failures += 1
            known.until = now + pause_after(known.failures)

    def reached(self, destination: str) -> None:
        """It is there."""
        self._down.pop(destination, None)
