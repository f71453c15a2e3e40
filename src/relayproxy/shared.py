"""Memory that the supervisor and all workers share: metrics, heartbeats, connection counts, the ledger.

Made before the fork. A worker writes its own regions only, so nothing is locked, and what a killed worker had
written is still there for the others.
"""

import mmap
from typing import TypeAlias

from relayproxy.core.ledger import REGION
from relayproxy.core.metrics import SLAB, Array
from relayproxy.server.quota import CELLS

Counts: TypeAlias = "memoryview[int]"
_GENERATIONS = 2  # a new generation starts while the old one still finishes


class LedgerMemory:
    """The ledger's regions, in memory that outlives a worker."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        whole = memoryview(mmap.mmap(-1, REGION * workers * _GENERATIONS))
        self.regions = [whole[n * REGION : (n + 1) * REGION] for n in range(workers * _GENERATIONS)]

    def slot(self, worker: int, generation: int) -> int:
        """Return the region of a worker of a generation."""
        return worker + self.workers * (generation % _GENERATIONS)


class GenerationMemory:
    """What one generation of workers shares among itself."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._metrics = mmap.mmap(-1, workers * SLAB * 8)
        self._beats = mmap.mmap(-1, max(workers * 8, 8))
        self._counts = mmap.mmap(-1, workers * CELLS * 4)
        numbers = memoryview(self._metrics).cast("d")
        self.arrays: list[Array] = [numbers[n * SLAB : (n + 1) * SLAB] for n in range(workers)]
        self.beats: Array = memoryview(self._beats).cast("d")
        counts = memoryview(self._counts).cast("I")
        self.counts: list[Counts] = [counts[n * CELLS : (n + 1) * CELLS] for n in range(workers)]
