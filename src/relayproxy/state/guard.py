"""What stands between plugins and a store: a time limit, a circuit breaker, counters, and one log line an outage.

Must not know which store it is.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from relayproxy.api import SharedState, Unavailable
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.model.shared import Operation

RESULTS = ("ok", "error", "timeout", "refused")


class GuardedState(SharedState):
    """`inner` with a limit of `timeout` seconds for each call.

    After `failures` failed calls in a row it is left alone for `retry` seconds, and calls fail at once; then one
    call tries again. `name` is what the log calls the store.
    """

    def __init__(
        self,
        inner: SharedState,
        *,
        name: str,
        log: Log,
        metrics: Metrics,
        monotonic: Callable[[], float],
        timeout: float = 2.0,
        failures: int = 3,
        retry: float = 5.0,
    ) -> None:
        self._inner = inner
        self._name = name
        self._log = log
        self._monotonic = monotonic
        self._timeout = timeout
        self._failures = failures
        self._retry = retry
        self._failed = 0
        self._since = 0.0
        self._retry_at = 0.0
        self._well_at = 0.0
        self._results = {result: metrics.cell("state_calls_total", result) for result in RESULTS}
        self._timer = metrics.timer("state_duration_seconds")

    async def do(self, *operations: Operation) -> list[Any]:
        """Carry out operations, or raise Unavailable in time."""
        start = self._monotonic()
        if self._failed >= self._failures:
            if start < self._retry_at:
                self._results["refused"].inc()
                raise Unavailable("the state does not answer and is left alone for a while")
            self._retry_at = start + self._retry
        try:
            async with asyncio.timeout(self._timeout):
                answers = await self._inner.do(*operations)
        except TimeoutError:
            fault = Unavailable(f"no answer within {self._timeout:g} s")
            self._failing("timeout", str(fault), start)
            raise fault from None
        except Unavailable as fault:
            self._failing("error", str(fault), start)
            raise
        self._well_at = self._monotonic()
        self._timer.observe(self._well_at - start)
        self._results["ok"].inc()
        if self._failed:
            self._log.info("state_available", url=self._name, seconds=round(start - self._since, 3))
            self._failed = 0
        return answers

    def _failing(self, result: str, error: str, start: float) -> None:
        self._results[result].inc()
        if start < self._well_at:
            # It began in an outage that is over: others have had answers since.
            return
        now = self._monotonic()
        if not self._failed:
            self._since = now
            self._log.error("state_unavailable", url=self._name, error=error)
        self._failed += 1
        self._retry_at = now + self._retry

    async def close(self) -> None:
        """Close the store."""
        await self._inner.close()
