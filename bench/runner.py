"""Run the cells: per cell start its relays afresh, then let them take turns, round by round."""

import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field

from bench.cells import Cell
from bench.lab import Lab, Place, Running, Sample
from bench.peers import RELAYS
from bench.programs import BenchError


@dataclass
class Outcome:
    """A cell's samples by relay, one per round, and why a relay has none."""

    cell: Cell
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def say(text: str) -> None:
    """Progress, apart from the report on stdout."""
    print(text, file=sys.stderr, flush=True)


def turns(names: list[str], round_: int) -> list[str]:
    """The order of a round: everyone moves up one place, so that nobody always follows the same peer."""
    shift = round_ % len(names)
    return names[shift:] + names[:shift]


def run_cell(lab: Lab, cell: Cell, names: Iterable[str], rounds: int) -> Outcome:
    """All rounds of one cell. A relay that fails is left out of the rest of the cell."""
    outcome = Outcome(cell)
    with ExitStack() as stack:
        place = Place(lab, cell, stack)
        running: dict[str, Running] = {}
        for name in names:
            try:
                running[name] = RELAYS[name].start(place)
                if running[name].port:
                    lab.warm_up(cell, running[name])
                    lab.prove(RELAYS[name].proof)
            except BenchError as failure:
                running.pop(name, None)
                outcome.failures[name] = str(failure)
                say(f"  {name}: {failure}")
        for round_ in range(min(rounds, cell.rounds or rounds)):
            for name in turns(list(running), round_) if running else ():
                sample = RELAYS[name].measure(place, running[name])
                outcome.samples.setdefault(name, []).append(sample)
    return outcome


def run(lab: Lab, cells: Iterable[Cell], wanted: Callable[[str], bool], rounds: int) -> list[Outcome]:
    """All cells, for the relays that are wanted."""
    outcomes = []
    for cell in cells:
        names = [name for name in cell.relays if wanted(name)]
        if names:
            say(f"{cell.name}: {', '.join(names)}")
            outcomes.append(run_cell(lab, cell, names, rounds))
    return outcomes
