"""CPU time and private memory of a process and everything below it, from /proc (Linux).

A child that has ended and been waited for is part of its parent's cutime and cstime, so the sum of all four
times over the living tree counts every process that ever belonged to it.
"""

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TICK = os.sysconf("SC_CLK_TCK")
_MIB = 1024  # /proc speaks kB


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on (the name before them may hold blanks)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def started(pid: int) -> int | None:
    """When the process started, in ticks since boot: with the number it names a process for good."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def members(root: int) -> list[int]:
    """`root` and all its living descendants, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of the tree so far, ended children included.

    A process that ends between two reads would be counted twice or not at all, so the tree is read until it
    has the same members before and after.
    """
    while True:
        before = members(root)
        ticks = 0
        for pid in before:
            if fields := _stat(pid):
                ticks += sum(int(value) for value in fields[11:15])
        if members(root) == before:
            return ticks / _TICK


def in_session(session: int) -> list[int]:
    """The processes of a session: also those whose parent has ended before them."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if (fields := _stat(pid)) and int(fields[3]) == session]


@dataclass(frozen=True)
class Memory:
    """`private`: what only these processes have (Private_Clean + Private_Dirty), in MiB.

    It counts pages of a mapped file as well; `anonymous` is what no file stands behind.
    """

    private: float = 0.0
    anonymous: float = 0.0

    def highest(self, other: "Memory") -> "Memory":
        return Memory(max(self.private, other.private), max(self.anonymous, other.anonymous))


def memory(root: int) -> Memory:
    """The memory of the tree, each process for itself, so that pages they share are not private."""
    private = anonymous = 0
    for pid in members(root):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        for line in text.splitlines():
            if line.startswith("Private_"):
                private += int(line.split()[1])
            elif line.startswith("Anonymous:"):
                anonymous += int(line.split()[1])
    return Memory(private / _MIB, anonymous / _MIB)


class PeakMemory:
    """Samples the memory of a tree in a thread. Use as a context manager."""

    def __init__(self, root: int | None, interval: float) -> None:
        self.root = root
        self.peak = Memory()
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        assert self.root is not None
        while True:
            self.peak = self.peak.highest(memory(self.root))
            if self._stop.wait(self._interval):
                return

    def __enter__(self) -> Self:
        if self.root is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self.root is not None:
            self._thread.join()
