"""How many connections there are, in all and from one client, counted across workers.

Each worker writes its own region of shared memory and reads all. Clients are counted in two hashed rows; the
smaller of both counts is right unless two pairs of clients collide at once, and errs on the high side.
"""

from collections.abc import Sequence
from typing import TypeAlias
from zlib import crc32

Counts: TypeAlias = "memoryview[int]"

_ROW = 8192
CELLS = 2 * _ROW + 1
"""Unsigned 32-bit cells of one worker's region: two rows, and the total."""


class Quota:
    """Counts of one worker among all."""

    def __init__(self, regions: Sequence[Counts], slot: int) -> None:
        self._regions = regions
        self._mine = regions[slot]
        for place in range(CELLS):
            # A predecessor in this slot may have died with connections open; they died with it.
            if self._mine[place]:
                self._mine[place] = 0

    @staticmethod
    def _places(ip: str) -> tuple[int, int]:
        name = ip.encode()
        return crc32(name) % _ROW, _ROW + crc32(name, 0x5EED) % _ROW

    def enter(self, ip: str, per_client: int, total: int) -> str:
        """Count a connection from `ip`; returns "" or which limit ("client", "total") refuses it."""
        if sum(region[CELLS - 1] for region in self._regions) >= total:
            return "total"
        first, second = self._places(ip)
        count = min(
            sum(region[first] for region in self._regions),
            sum(region[second] for region in self._regions),
        )
        if ip and count >= per_client:
            return "client"
        self._mine[first] += 1
        self._mine[second] += 1
        self._mine[CELLS - 1] += 1
        return ""

    def leave(self, ip: str) -> None:
        """The connection has ended."""
        first, second = self._places(ip)
        self._mine[first] -= 1
        self._mine[second] -= 1
        self._mine[CELLS - 1] -= 1
