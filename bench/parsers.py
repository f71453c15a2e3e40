"""`python -m bench.parsers`: the CPU time of every parser for a megabyte of everything that is made to cost time.

Prints, for each parser, its worst inputs: milliseconds for 1 MB (or less, where less takes longer, because 1 MB is
refused; for a header or a command line: as much as the core lets through), and how many times as long that took as 100 kB (10 is linear). The goal is 100 ms for anything,
or a refusal. Needs nothing but this repository.
"""

import argparse
import gc
import logging
import sys
import time

from tests.fuzz.hostile import HOSTILE, Hostile
from tests.fuzz.targets import TARGETS, Target

SMALL, LARGE = 100_000, 1_000_000
BOUNDS = (8_000, 16_000, 65_000)  # just below what some parsers refuse: there is no growth to see, but a time
GOAL = 0.1
LINEAR = 30  # ten, and much for the noise of short times
HOPELESS = 0.7  # seconds for 100 kB, after which 1 MB is not waited for


def seconds(target: Target, hostile: Hostile, size: int) -> float:
    """Return the CPU time for the worst of the inputs, each the best of two runs."""
    worst = 0.0
    for data in target.inputs(hostile, size):
        times = []
        for _ in range(2):
            gc.collect()
            start = time.process_time()
            target.run(data)
            times.append(time.process_time() - start)
            if times[0] > HOPELESS or times[0] < GOAL / 5:
                break
        worst = max(worst, min(times))
    return worst


def measured(target: Target, hostile: Hostile) -> tuple[float, float]:
    """Return the seconds for 1 MB or less (infinite where it is hopeless), and the growth."""
    small = seconds(target, hostile, SMALL)
    if small > HOPELESS:
        return float("inf"), float("inf")
    large = seconds(target, hostile, LARGE)
    bounded = max(seconds(target, hostile, size) for size in BOUNDS)
    return max(large, bounded), large / max(small, 0.0005)


def main() -> int:
    """Measure and print; 1 if a goal is missed and `--strict` was given."""
    arguments = argparse.ArgumentParser(prog="python -m bench.parsers", description=__doc__)
    arguments.add_argument("names", nargs="*", help="parsers (default: all)")
    arguments.add_argument("--worst", type=int, default=2, help="inputs that are shown for each (default 2)")
    arguments.add_argument("--strict", action="store_true", help="exit 1 when a goal is missed")
    chosen = arguments.parse_args()
    logging.disable()  # aiosmtpd has a word to say about each PROXY header
    missed = 0
    print("| parser | input | 1 MB, ms | by 100 kB | |")
    print("|---|---|---:|---:|---|")
    for target in TARGETS:
        if chosen.names and target.name not in chosen.names:
            continue
        rows = [(*measured(target, hostile), hostile.name) for hostile in HOSTILE]
        rows.sort(reverse=True)
        bad = [row for row in rows if row[0] > GOAL or (row[0] > GOAL / 10 and row[1] > LINEAR)]
        missed += len(bad)
        for row in bad or rows[: chosen.worst]:
            took, growth, name = row
            print(
                f"| {target.name} | {name} | {took * 1000:.1f} | {growth:.1f} | {'missed' if row in bad else ''} |",
                flush=True,
            )
    print(f"\n{missed} of {len(HOSTILE) * len(TARGETS)} missed the goal of {GOAL * 1000:.0f} ms for 1 MB")
    return 1 if missed and chosen.strict else 0


if __name__ == "__main__":
    sys.exit(main())
