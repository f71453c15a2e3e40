"""One measurement: a relay that runs, a load, and what it cost."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from bench import messages, tree
from bench.cells import Cell
from bench.load import Job
from bench.names import Names, start_names
from bench.programs import BenchError, Helper

_SAMPLE_EVERY = {"load": 0.1, "queue": 0.1, "held": 0.02, "idle": 0.2}
_IDLE_FOR = 1.5
_EMPTYING = 60.0


@dataclass
class Sample:
    """What one run of one cell through one relay came to. Memory (private) in MiB, latency in ms, CPU in seconds.

    `lost`: acknowledged to the client, never seen by the sink. `doubled`: seen more than once. `unasked`: seen,
    though the client was told that it failed. `short`: messages with octets missing. `hold`: for how many ms at most an
    event loop stood still.
    """

    messages: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    latency: dict[str, float] = field(default_factory=dict)
    start_mib: float = 0.0
    peak_mib: float = 0.0
    anonymous_mib: float = 0.0
    lost: int = 0
    doubled: int = 0
    unasked: int = 0
    short: bool = False
    errors: dict[str, int] = field(default_factory=dict)
    connections: int = 0
    resumed: int = 0
    live: int = 0
    hold: float = 0.0

    @property
    def rate(self) -> float:
        return self.messages / self.seconds if self.seconds else 0.0

    @property
    def cpu_per_1000(self) -> float:
        """Seconds for a thousand messages; nan for a run in which more than one of a hundred failed."""
        good = self.messages and sum(self.errors.values()) * 100 <= self.messages
        return self.cpu / self.messages * 1000 if good else float("nan")

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "rate": self.rate, "cpu_per_1000": self.cpu_per_1000}


@dataclass(frozen=True)
class Running:
    """A relay that is up: the port to send to and the root of its process tree (None: nothing to measure).

    With `queues`, it says 250 before it has sent the message on.
    """

    port: int
    pid: int | None
    queues: bool = False


@dataclass(frozen=True)
class Place:
    """Where and for what a relay is started; what it needs ended goes on the stack."""

    lab: "Lab"
    cell: Cell
    stack: ExitStack


class Lab:
    """The sink, the load generator and a folder; everything started is ended with the context."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds
        self._run = 0
        self._stack = ExitStack()
        self._names: Names | None = None

    def __enter__(self) -> Self:
        self._sink = self._helper("bench.sink")
        self._load = self._helper("bench.load")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _helper(self, module: str) -> Helper:
        helper = Helper(module, self.folder / f"{module}.log")
        self._stack.callback(helper.end)
        return helper

    def new_sink_port(self) -> int:
        """A fresh port of the sink: one per relay keeps their TIME_WAIT states apart."""
        return int(self._sink.ask({"listen": True}))

    def names(self) -> Names:
        """The name server, started when it is asked for. Raises BenchError where there can be none."""
        if self._names is None:
            self._names = start_names(self.folder, self._stack)
        return self._names

    def _message(self, cell: Cell) -> Path:
        if cell.signed:
            return messages.write_signed(self.folder, cell.size, self.names().key)
        return messages.write(self.folder, cell.size)

    def warm_up(self, cell: Cell, relay: Running) -> None:
        """Some messages before the first measured run: imports, pools and child processes are there then."""
        if cell.kind not in ("load", "queue"):
            return
        sample = self.measure(cell, relay, seconds=min(0.5, self.seconds), count=100)
        if not sample.messages:
            raise BenchError(f"no message went through: {sample.errors or 'no answer'}")

    def prove(self, words: Sequence[str]) -> None:
        """Raise BenchError if the last message arrived without one of `words` in its header."""
        head = self._sink.ask({"head": True})
        for word in words:
            if word.lower() not in head.lower():
                raise BenchError(f"a message arrived without {word!r} in its header:\n{head}")

    def measure(self, cell: Cell, relay: Running, seconds: float | None = None, count: int = 0) -> Sample:
        """Run the cell's load through the relay once."""
        self._run += 1
        job = Job(
            run=self._run,
            port=relay.port,
            message=str(self._message(cell)),
            sessions=cell.sessions,
            per_connection=cell.per_connection,
            seconds=_IDLE_FOR if cell.kind == "idle" else (seconds or self.seconds),
            count=cell.sessions if cell.kind == "held" else count,
            tls=cell.tls,
            pipeline=cell.pipeline,
            hold=cell.kind == "held",
            idle=cell.kind == "idle",
            patience=30.0,
        )
        start = tree.memory(relay.pid).private if relay.pid else 0.0
        with tree.PeakMemory(relay.pid, _SAMPLE_EVERY[cell.kind]) as memory:
            self._load.ask(asdict(job), 90)
            before = tree.cpu_seconds(relay.pid) if relay.pid else 0.0
            result = self._load.ask("go", job.seconds + 90)
            if cell.kind == "queue":
                result["seconds"] += self._delivered(result["acked"])
            elif relay.queues:
                self._until_arrived(result["acked"], 60)
            after = tree.cpu_seconds(relay.pid) if relay.pid else 0.0
        sample = Sample(
            messages=result["acked"],
            seconds=result["seconds"],
            cpu=after - before,
            latency=result["latency_ms"],
            start_mib=start,
            peak_mib=memory.peak.private,
            anonymous_mib=memory.peak.anonymous,
            errors=result["errors"],
            live=result["live"],
        )
        ended = self._load.ask("close", 30)
        sample.connections, sample.resumed = ended["connections"], ended["resumed"]
        self._reconcile(sample, result, Path(job.message).stat().st_size)
        return sample

    def _delivered(self, count: int) -> float:
        """Wait until the sink has that many messages of this run; return the seconds that took."""
        start = time.monotonic()
        while self._sink.ask({"arrived": self._run}) < count and time.monotonic() < start + _EMPTYING:
            time.sleep(0.02)
        return time.monotonic() - start

    def _reconcile(self, sample: Sample, result: dict[str, Any], size: int) -> None:
        """Hold what the client was told against what the sink saw."""
        self._until_arrived(sample.messages, 2)
        seen = self._sink.ask({"count": self._run})
        failed = set(result["failed"])
        numbers = set(seen["numbers"])
        sample.lost = len(set(range(result["sent"])) - failed - numbers)
        sample.doubled = len(seen["doubled"])
        sample.unasked = len(numbers & failed) + seen["unnumbered"]
        sample.short = bool(numbers) and seen["shortest"] < size

    def _until_arrived(self, count: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._sink.ask({"arrived": self._run}) < count and time.monotonic() < until:
            time.sleep(0.05)
