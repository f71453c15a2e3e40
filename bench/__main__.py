"""`python -m bench`: run the cells, print the tables, write the figures to bench/results/."""

import argparse
import datetime as dt
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import goals, report, runner
from bench.cells import CELLS, Cell
from bench.lab import Lab
from bench.peers import RELAYS
from bench.programs import ROOT, BenchError, adopt_orphans


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: does it work, roughly")
    parser.add_argument("--rounds", type=int, help="rounds per cell (default 5, with --quick 1)")
    parser.add_argument("--seconds", type=float, help="length of one run (default 1.5, with --quick 0.6)")
    parser.add_argument("--cells", default="", metavar="A,B", help="only these cells (see --list)")
    parser.add_argument("--relays", default="", metavar="A,B", help="only these relays (with their variants)")
    parser.add_argument("--list", action="store_true", help="show cells and relays and stop")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is not reached")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="work in DIR and leave logs and configurations"
    )
    return parser.parse_args()


def _cells(names: str) -> list[Cell]:
    known = {cell.name: cell for cell in CELLS}
    if not names:
        return [cell for cell in CELLS if not cell.extra]
    if unknown := set(names.split(",")) - set(known):
        raise BenchError(f"no such cell: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return [known[name] for name in names.split(",")]


def _wanted(names: str, cells: list[Cell]) -> tuple[Callable[[str], bool], dict[str, str]]:
    """Which relays to run, and why others that were asked for can't."""
    chosen = set(names.split(",")) if names else set()
    if unknown := chosen - set(RELAYS):
        raise BenchError(f"no such relay: {', '.join(sorted(unknown))}; there are {', '.join(RELAYS)}")
    needed = {name for cell in cells for name in cell.relays}
    asked = {n for n in needed if not chosen or n in chosen or RELAYS[n].family in chosen}
    missing = {name: why for name in sorted(asked) if (why := RELAYS[name].missing())}
    return (lambda name: name in asked and name not in missing), missing


def _conditions(facts: dict) -> str:
    return (
        f"{facts['rounds']} rounds of {facts['seconds']} s, {facts['cores']} cores ({facts['cpu']}), Python"
        f" {facts['python']}, kernel {facts['kernel']}; took {facts['took']:.0f} s. Medians of rounds;"
        " CPU of the whole process tree; spread: half the range of the rounds; ratio: relayproxy's CPU by this one's"
    )


def _ran(name: str, facts: dict) -> str:
    known = facts["versions"].get(name)
    return f"- **{name}**: {RELAYS[name].about}" + (f" ({known})" if known else "")


def _markdown(outcomes: list[runner.Outcome], facts: dict, missing: dict[str, str]) -> str:
    results = report.Results(outcomes)
    ran = sorted({name for outcome in outcomes for name in outcome.samples}, key=list(RELAYS).index)
    parts = [
        f"## relayproxy bench, {facts['when']}",
        _conditions(facts),
        "\n".join(_ran(name, facts) for name in ran),
        "\n".join(f"- **{name}** was left out: {why}" for name, why in missing.items()),
        *(report.cell_report(results, outcome) for outcome in outcomes),
        report.growth_report(results),
        goals.goals_report(goals.goals(results), partial=facts["partial"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _save(text: str, outcomes: list[runner.Outcome], facts: dict, missing: dict[str, str]) -> Path:
    folder = ROOT / "bench" / "results"
    folder.mkdir(exist_ok=True)
    stem = folder / facts["when"].replace(":", "").replace(" ", "-")
    found = goals.goals(report.Results(outcomes))
    value = {
        **facts,
        "missing": missing,
        "cells": {
            outcome.cell.name: {
                "title": outcome.cell.title,
                "samples": {n: [s.as_dict() for s in samples] for n, samples in outcome.samples.items()},
                "failures": outcome.failures,
            }
            for outcome in outcomes
        },
        "goals": [
            {"goal": g.what, "limit": g.limit, "measured": g.measured, "from": g.detail, "verdict": g.verdict}
            for g in found
        ],
    }
    stem.with_suffix(".md").write_text(text)
    stem.with_suffix(".json").write_text(json.dumps(value, indent=1))
    return stem.with_suffix(".json")


def _bench(options: argparse.Namespace) -> int:
    cells = _cells(options.cells)
    wanted, missing = _wanted(options.relays, cells)
    for name, why in missing.items():
        runner.say(f"{name} is left out: {why}")
    rounds = options.rounds or (1 if options.quick else 5)
    seconds = options.seconds or (0.6 if options.quick else 1.5)
    facts = {
        "when": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "rounds": rounds,
        "partial": bool(options.cells or options.relays),
        "seconds": seconds,
        **report.machine(),
        "versions": {name: RELAYS[name].version() for name in RELAYS if wanted(name)},
    }
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="relayproxy-bench-") as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # Postfix's processes drop root and must reach their queue
        with Lab(folder.resolve(), seconds) as lab:
            outcomes = runner.run(lab, cells, wanted, rounds)
    facts["took"] = time.monotonic() - begun
    text = _markdown(outcomes, facts, missing)
    print(text)
    runner.say(f"figures: {_save(text, outcomes, facts, missing)}")
    reached = [goal.verdict for goal in goals.goals(report.Results(outcomes))]
    broken = any(outcome.failures for outcome in outcomes)
    return 1 if broken or (options.strict and "NO" in reached) else 0


def _interrupted(number: int, _frame: object) -> None:
    """Leave through every `finally`, and let nothing interrupt those."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def main() -> int:
    options = _arguments()
    if options.list:
        for cell in CELLS:
            print(f"{cell.name:13} {cell.title}{' (only when named)' if cell.extra else ''}")
        for relay in RELAYS.values():
            print(f"{relay.name:16} {relay.about}")
        return 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    adopt_orphans()
    try:
        return _bench(options)
    except BenchError as error:
        runner.say(f"bench: {error}")
        return 1
    except KeyboardInterrupt as interrupt:
        runner.say("bench: interrupted; everything it started has been ended")
        return 128 + int(interrupt.args[0])


sys.exit(main())
