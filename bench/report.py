"""From samples to figures: medians, spreads, Markdown tables and the JSON file."""

import math
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.cells import SESSION_GROWTH, SIZE_GROWTH
from bench.lab import Sample
from bench.runner import Outcome

Figure = Callable[[Sample], float]


def cpu(sample: Sample) -> float:
    return sample.cpu_per_1000


def rate(sample: Sample) -> float:
    return sample.rate


def latency(quantile: str) -> Figure:
    return lambda sample: sample.latency.get(quantile, math.nan)


def hold(sample: Sample) -> float:
    return sample.hold


def peak(sample: Sample) -> float:
    return sample.peak_mib


class Results:
    """Looks figures up by cell and relay."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes = {outcome.cell.name: outcome for outcome in outcomes}

    def samples(self, cell: str, relay: str) -> list[Sample]:
        return self.outcomes[cell].samples.get(relay, []) if cell in self.outcomes else []

    def middle(self, cell: str, relay: str, figure: Figure) -> float | None:
        """The median of the rounds, or None when there is none."""
        values = [value for s in self.samples(cell, relay) if not math.isnan(value := figure(s))]
        return median(values) if values else None

    def ratio(self, cell: str, relay: str, other: str, figure: Figure) -> float | None:
        ours, theirs = self.middle(cell, relay, figure), self.middle(cell, other, figure)
        return ours / theirs if ours is not None and theirs else None


def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it can be read in a terminal; all but the first column to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)),
        ]
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *(line(row) for row in rows)])


def _spread(samples: Sequence[Sample], figure: Figure) -> str:
    """Half the distance from the lowest to the highest round, in per cent of the median."""
    values = [figure(sample) for sample in samples]
    middle = median(values)
    return f"±{(max(values) - min(values)) / 2 / middle:.0%}" if middle and len(values) > 1 else "-"


def _load_row(results: Results, cell: str, relay: str, samples: Sequence[Sample]) -> list[str]:
    has_cpu = any(sample.cpu for sample in samples)
    ours = results.middle(cell, "relayproxy", cpu)
    theirs = results.middle(cell, relay, cpu) if has_cpu else None
    return [
        relay,
        number(results.middle(cell, relay, rate), 0),
        number(theirs, 3),
        _spread(samples, cpu) if has_cpu else "-",
        number(ours / theirs) if ours and theirs else "-",
        *(number(results.middle(cell, relay, latency(q))) for q in ("p50", "p95", "p99")),
        number(max(sample.peak_mib for sample in samples) or None, 1),
        str(sum(sample.lost for sample in samples)),
        str(sum(sample.doubled for sample in samples)),
        f"{sum(s.resumed for s in samples) / max(1, sum(s.connections for s in samples)):.0%}",
    ]


_LOAD_HEAD = [
    "relay",
    "msg/s",
    "CPU s/1000",
    "spread",
    "ratio",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "peak MiB",
    "lost",
    "doubled",
    "resumed",
]


def cell_report(results: Results, outcome: Outcome) -> str:
    """The section of one cell."""
    cell = outcome.cell
    parts = [f"### {cell.name}: {cell.title}"]
    if cell.kind in ("load", "queue") and outcome.samples:
        rows = [_load_row(results, cell.name, name, s) for name, s in outcome.samples.items()]
        cut = None if cell.tls else -1
        parts.append(table(_LOAD_HEAD[:cut], [row[:cut] for row in rows]))
    elif cell.kind == "body":
        rows = [
            [name, number(results.middle(cell.name, name, cpu), 1), _spread(samples, cpu),
             number(results.middle(cell.name, name, hold), 1)]
            for name, samples in outcome.samples.items()
        ]  # fmt: skip
        parts.append(table(["", "CPU ms each", "spread", "loop held, ms"], rows))
    elif outcome.samples:
        head = [
            "relay",
            "start MiB",
            "peak MiB",
            "above start",
            "anonymous MiB",
            "sessions",
            "lost",
            "doubled",
        ]
        rows = [
            [
                name,
                number(median(s.start_mib for s in samples), 1),
                number(max(s.peak_mib for s in samples), 1),
                number(max(s.peak_mib - s.start_mib for s in samples), 1),
                number(max(s.anonymous_mib for s in samples), 1),
                str(min(s.live for s in samples) if cell.kind == "idle" else cell.sessions),
                str(sum(s.lost for s in samples)),
                str(sum(s.doubled for s in samples)),
            ]
            for name, samples in outcome.samples.items()
        ]
        parts.append(table(head, rows))
    for name, samples in outcome.samples.items():
        if troubles := _troubles(samples):
            parts.append(f"- {name}: {troubles}")
    parts += [f"- {name}: not measured: {_short(why)}" for name, why in outcome.failures.items()]
    return "\n\n".join(parts)


def _short(why: str) -> str:
    """The first and the last line of a reason; what lies between is in the log."""
    lines = why.strip().splitlines()
    return lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1].strip()}"


def _troubles(samples: Sequence[Sample]) -> str:
    """What went wrong besides loss: errors seen by the client, messages that came though refused or cut."""
    errors: dict[str, int] = {}
    for sample in samples:
        for text, times in sample.errors.items():
            errors[text] = errors.get(text, 0) + times
    notes = [f"{times} x {text!r}" for text, times in errors.items()]
    if unasked := sum(sample.unasked for sample in samples):
        notes.append(f"{unasked} delivered though the client was told otherwise")
    if any(sample.short for sample in samples):
        notes.append("messages arrived with octets missing")
    return ", ".join(notes)


def growth_report(results: Results) -> str:
    """How the cost of a message grows with sessions, and of a megabyte with size."""
    sections = []
    for title, cells in (("Sessions, 4 KB", SESSION_GROWTH), ("Size, 10 sessions", SIZE_GROWTH)):
        rows = []
        for cell in cells:
            if not results.samples(cell, "relayproxy"):
                continue
            size = results.outcomes[cell].cell.size / 1048576
            sessions = results.outcomes[cell].cell.sessions
            ours = results.middle(cell, "relayproxy", cpu)
            pace = results.middle(cell, "relayproxy", rate)
            rows.append(
                [
                    f"{sessions:,}" if cells is SESSION_GROWTH else (f"{size:.0f} MB" if size >= 1 else f"{size * 1024:.0f} KB"),
                    number(pace, 0 if pace and pace > 20 else 1),
                    number(pace * size, 1) if pace else "-",
                    number(ours, 3),
                    number(ours / size / 1000, 4) if ours else "-",
                    number(results.middle(cell, "haproxy", cpu), 3),
                    number(results.middle(cell, "relayproxy", latency("p50"))),
                    number(results.middle(cell, "relayproxy", peak), 1),
                ]
            )  # fmt: skip
        if rows:
            head = ["", "msg/s", "MB/s", "CPU s/1000", "CPU s/MB", "haproxy CPU s/1000", "p50 ms", "peak MiB"]
            sections.append(f"**{title}** (relayproxy)\n\n{table(head, rows)}")
    return "### Growth\n\n" + "\n\n".join(sections) if sections else ""


def machine() -> dict[str, Any]:
    """What the run ran on."""
    model = ""
    if (known := Path("/proc/cpuinfo")).exists():
        with known.open() as info:
            model = next(
                (line.partition(":")[2].strip() for line in info if line.startswith("model name")), ""
            )
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model,
    }
