"""How many transactions may begin in a time, over all workers and machines that share a state.

While there is none, or it gives no answer, each worker keeps to its part. Must not know destinations or queues.
"""

from collections.abc import Callable

from relayproxy.api import SharedState, Unavailable, shared_key


class Rates:
    """Asks for `workers` workers; `monotonic` is for what this one counts itself."""

    def __init__(
        self, state: SharedState | None, monotonic: Callable[[], float], *, workers: int = 1
    ) -> None:
        self._state = state
        self._now = monotonic
        self._workers = workers
        self._next: dict[str, float] = {}

    async def take(self, group: str, rate: float) -> float:
        """Take one of `rate` a second; return 0.0, or the seconds after which to ask again.

        In the state it is a bucket of one second; alone they keep their distance (GCRA with no tolerance).
        """
        if self._state is not None:
            try:
                return await self._state.take(shared_key("pace", group), rate, max(1.0, rate))
            except Unavailable:
                pass  # logged once for the outage by whoever noticed
        now = self._now()
        at = self._next.get(group, now)
        if at > now:
            return at - now
        self._next[group] = max(at, now - 1 / rate) + self._workers / rate
        return 0.0
