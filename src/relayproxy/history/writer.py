"""One thread that writes events in batches, behind a queue that is bounded and never waits.

`record` costs an append. When the database is slow, full or gone, events are dropped and counted; mail goes on. Must not
know what an event means, nor which database it is.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from relayproxy.core.metrics import Metrics
from relayproxy.history.database import StoreError
from relayproxy.model.event import Event

_BATCH = 500
_GATHER = 0.2  # seconds in which events gather before they are written together
_RETRY = 2.0
_SWEEP = 60.0
_SWEEP_BATCH = 500


class Store(Protocol):
    """Where one process writes events. Every method raises StoreError when the database fails."""

    def write(self, events: Sequence[Event], refuse: Callable[[Exception], None]) -> int:
        """Write events in their order, all or none of them; return how many.

        One that can't be written, ever, is handed to `refuse` with the reason, and the others are written.
        """
        ...

    def forget(self, before: float, most: int) -> int:
        """Delete at most `most` events older than `before` (seconds since the epoch); return how many."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class Writer:
    """The History of one worker (core.ports). `start` it in the process that records, `close` it at the end.

    `open_store` opens the store, and raises StoreError; `retention` is in seconds, `limit` the number of events that may wait, `complain(text)` is called from the
    thread when writing begins to fail and when it works again.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        *,
        metrics: Metrics,
        retention: float,
        limit: int = 10_000,
        complain: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._open = open_store
        self._retention = retention
        self._limit = limit
        self._complain = complain
        self._now = now
        # Each number is changed by one thread only: `dropped` by the caller's, the others by the writer.
        self._dropped = metrics.cell("history_events_total", "dropped")
        self._written = metrics.cell("history_events_total", "written")
        self._refused = metrics.cell("history_events_total", "refused")
        self._failures = metrics.cell("history_failures_total")
        self._queue: deque[Event] = deque()
        self._news = threading.Event()
        self._ending = threading.Event()
        self._store: Store | None = None
        self._failing = False
        self._swept = 0.0
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def record(self, event: Event) -> None:
        """Take one event; dropped and counted when too many wait."""
        if len(self._queue) >= self._limit:
            self._dropped.inc()
            return
        self._queue.append(event)
        if not self._news.is_set():
            self._news.set()

    def close(self, patience: float = 5.0) -> None:
        """Write what waits and end; waits at most `patience` seconds. Call it off the event loop."""
        self._ending.set()
        self._news.set()
        self._thread.join(patience)

    # -- in the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ending.is_set():
            self._news.wait(_SWEEP)
            self._ending.wait(_GATHER)
            self._news.clear()
            worked = self._drain()
            if worked and self._now() - self._swept >= _SWEEP:
                worked = self._sweep()
            if not worked:
                self._ending.wait(_RETRY)
                self._news.set()
        self._drain()
        if self._store is not None:
            self._store.close()

    def _drain(self) -> bool:
        """Write all that waits; False when it can't be written now (it stays)."""
        while self._queue:
            try:
                count = self._write()
            except StoreError as error:
                self._failed(error)
                return False
            for _ in range(count):
                self._queue.popleft()
            if self._failing:
                self._failing = False
                self._complain("the history can be written again")
        return True

    def _write(self) -> int:
        """Write the oldest events in one transaction; return how many are dealt with."""
        if self._store is None:
            self._store = self._open()
        batch = [self._queue[place] for place in range(min(_BATCH, len(self._queue)))]
        self._written.inc(self._store.write(batch, self._refuse))
        return len(batch)

    def _refuse(self, error: Exception) -> None:
        """Take note of an event that can't be written, ever: it must not keep the others waiting."""
        self._refused.inc()
        self._complain(f"an event was left out: {type(error).__name__}: {error}")

    def _sweep(self) -> bool:
        """Forget what is too old, a little at a time, so that other processes get their turns."""
        try:
            if self._store is None:
                self._store = self._open()
            while not self._ending.is_set():
                if self._store.forget(self._now() - self._retention, _SWEEP_BATCH) < _SWEEP_BATCH:
                    self._swept = self._now()
                    return True
                if self._queue and not self._drain():
                    return False
        except StoreError as error:
            self._failed(error)
            return False
        return True

    def _failed(self, error: Exception) -> None:
        self._failures.inc()
        if self._store is not None:
            # A file that was replaced, or came back with its disk, is found by opening it anew; so is a server.
            self._store.close()
            self._store = None
        if not self._failing:
            self._failing = True
            self._complain(f"the history can't be written: {error}")
