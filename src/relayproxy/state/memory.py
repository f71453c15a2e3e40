"""Shared state in the memory of one process: for tests, the demo, and a proxy without `state` in its configuration.

Must not outlive the process, nor grow without a bound.
"""

import heapq
from collections.abc import AsyncIterator, Callable
from typing import Any

from relayproxy.model.shared import Operation
from relayproxy.state.listing import Store
from relayproxy.state.rows import Row, perform

_MOST = 100_000


class MemoryState(Store):
    """`now` tells the time in seconds since the epoch; above `most` keys those that end soonest are dropped."""

    def __init__(self, now: Callable[[], float], *, most: int = _MOST) -> None:
        self._now = now
        self._most = most
        self._rows: dict[str, Row] = {}

    @property
    def size(self) -> int:
        """How many keys are kept."""
        return len(self._rows)

    async def do(self, *operations: Operation) -> list[Any]:
        """Carry out operations; nothing else runs in between, as nothing is waited for."""
        now = self._now()
        answers = [perform(operation, self._rows.get, self._write, now) for operation in operations]
        if len(self._rows) > self._most:
            self._shrink(now)
        return answers

    async def entries(self, prefix: str = "") -> AsyncIterator[tuple[str, Row]]:
        """Yield what is kept under keys that begin with `prefix`."""
        now = self._now()
        for key, row in list(self._rows.items()):
            if key.startswith(prefix) and row.ends > now:
                yield key, row

    def _write(self, key: str, row: Row | None) -> None:
        if row is None:
            self._rows.pop(key, None)
        else:
            self._rows[key] = row

    def _shrink(self, now: float) -> None:
        """Make room: what is over goes, then a tenth of the rest. Rare, as there is room for as much again."""
        self._rows = {key: row for key, row in self._rows.items() if row.ends > now}
        if len(self._rows) > self._most * 9 // 10:
            count = len(self._rows) - self._most * 9 // 10
            for key in heapq.nsmallest(count, self._rows, key=lambda key: self._rows[key].ends):
                del self._rows[key]
