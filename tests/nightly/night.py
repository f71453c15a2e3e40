"""How much of a night there is: NIGHTLY_MINUTES, as `make nightly` sets it; below half an hour these tests are small."""

import os
import resource
from pathlib import Path

MINUTES = float(os.environ.get("NIGHTLY_MINUTES") or 0)
NIGHT = MINUTES >= 30


def raise_descriptors(wanted: int) -> int:
    """Have this process, and those that it starts, open so many files if they may; return how many they may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


def anonymous(pids: set[int]) -> int:
    """Octets of memory that no file stands behind: what can't be had back by writing it to its file."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                total += int(line.split()[1]) * 1024
    return total


def descriptors(pids: set[int]) -> int:
    """How many files they have open."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
