"""The work of `relayproxy torture`: a child proxy is killed again and again, and what it acknowledged is looked for.

Everything lives in a folder of its own on the disk that is tested. Must not know how anything is printed.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from relayproxy.cli.torture_tunnel import MARK, Tunnel
from relayproxy.spool.listing import Filter, Listing
from relayproxy.testing.upstream import UpstreamSink

_SESSIONS = 5
_PATIENCE = 20.0
_SYNCS = 200
_MANY = 1_000_000
_SYNCING = 3.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: `folder` is on the disk, `upstream` None for the built-in one, `kills` how often, `seconds` at most."""

    folder: Path
    upstream: tuple[str, int] | None
    sender: str
    recipient: str
    kills: int
    seconds: float
    seed: int


@dataclass(slots=True)
class Result:
    """What came of it: numbers of messages, and the seconds that a sync took (the middle one, one in 20, the longest)."""

    kills: int = 0
    acknowledged: set[int] = field(default_factory=set)
    lost: tuple[int, ...] = ()
    doubled: int = 0
    left: int = 0
    sync_median: float = 0.0
    sync_p95: float = 0.0
    sync_longest: float = 0.0
    problem: str = ""


def time_syncs(folder: Path) -> tuple[float, float, float]:
    """Append 4 KiB to a file and sync it, often; return the median, the 95th percentile and the longest, in seconds."""
    took: list[float] = []
    began = time.perf_counter()
    with tempfile.NamedTemporaryFile(dir=folder, buffering=0) as file:
        while len(took) < _SYNCS and time.perf_counter() - began < _SYNCING:
            start = time.perf_counter()
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            took.append(time.perf_counter() - start)
    took.sort()
    return took[len(took) // 2], took[len(took) * 95 // 100], took[-1]


async def torture(plan: Plan) -> Result:
    """Do it, in `plan.seconds` and a little. Raises OSError for a folder that can't be used."""
    result = Result()
    with tempfile.TemporaryDirectory(prefix="relayproxy-torture-", dir=plan.folder) as name:
        folder = Path(name)
        result.sync_median, result.sync_p95, result.sync_longest = await asyncio.to_thread(time_syncs, folder)
        async with contextlib.AsyncExitStack() as stack:
            host, port = plan.upstream or ("", 0)
            if plan.upstream is None:
                sink = await stack.enter_async_context(UpstreamSink())
                host, port = "127.0.0.1", sink.port
            tunnel = await stack.enter_async_context(Tunnel(host, port))
            short = stack.enter_context(tempfile.TemporaryDirectory(prefix="rp-"))
            await _Torture(plan, folder, short, tunnel, result).run()
    return result


class _Torture:
    def __init__(self, plan: Plan, folder: Path, short: str, tunnel: Tunnel, result: Result) -> None:
        self._plan = plan
        self._short = short
        self._folder = folder
        self._tunnel = tunnel
        self._result = result
        self._chance = random.Random(plan.seed)  # noqa: S311  (not a secret)
        self._numbers: Iterator[int] = iter(range(1, 10**9))
        self._until = time.monotonic() + plan.seconds
        self._port = _free_port()
        self._database = folder / "spool" / "spool.db"

    async def run(self) -> None:
        result = self._result
        for _ in range(self._plan.kills):
            if time.monotonic() > self._until - _PATIENCE:
                break
            if not await self._one_life():
                return
            result.kills += 1
            self._forget_leases()
        child = await self._start()
        if child is None:
            return
        try:
            await self._wait(lambda: result.acknowledged <= self._tunnel.taken.keys() and not self._queued())
        finally:
            child.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await child.wait()
            _kill(child)
            await child.wait()
        taken, queued = self._tunnel.taken, self._queued()
        result.lost = tuple(sorted(result.acknowledged - taken.keys() - queued))
        result.doubled = sum(count - 1 for count in taken.values())
        result.left = len(queued)
        if self._tunnel.refused:
            result.problem = f"the upstream refused mail: {self._tunnel.refused}"

    def _queued(self) -> set[int]:
        """Return the numbers of the messages that are in the store."""
        with Listing(self._database) as listing:
            heads = [listing.head(row.message) for row in listing.rows(Filter(), _MANY)]
        return {int(head.partition(MARK)[2].partition(b"\r\n")[0]) for head in heads if MARK in head}

    async def _one_life(self) -> bool:
        """Start a child, send, and kill it at some moment; False if it doesn't start."""
        child = await self._start()
        if child is None:
            return False
        before = len(self._result.acknowledged)
        wanted = before + self._chance.randrange(5, 150)
        feeding = [asyncio.create_task(self._feed()) for _ in range(_SESSIONS)]
        try:
            await self._wait(lambda: len(self._result.acknowledged) >= wanted)
        finally:
            _kill(child)
            await child.wait()
            await asyncio.gather(*feeding, return_exceptions=True)
        return True

    async def _wait(self, what: Callable[[], bool]) -> None:
        until = min(time.monotonic() + _PATIENCE, self._until)
        while not what() and time.monotonic() < until:  # noqa: ASYNC110  (it happens in another process)
            await asyncio.sleep(0.01)

    async def _start(self) -> asyncio.subprocess.Process | None:
        config = self._folder / "relayproxy.yaml"
        config.write_text(json.dumps(self._configuration()))
        # The name of a socket must be short, whatever the folder's.
        control = Path(self._short) / "control.sock"
        with (self._folder / "log").open("ab") as log:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "relayproxy", "run", "-C", config, "--socket", control),
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until and child.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return child
        _kill(child)
        await child.wait()
        lines = (self._folder / "log").read_text(errors="replace").splitlines()
        self._result.problem = "the proxy did not start: " + " / ".join(lines[-3:])
        return None

    def _configuration(self) -> dict[str, object]:
        return {
            "version": 1,
            "hostname": "torture.example",
            "workers": 2,
            "listeners": [{"name": "main", "listen": f"127.0.0.1:{self._port}"}],
            "relay": {"networks": ["127.0.0.0/8"]},
            "upstreams": {"up": {"address": f"127.0.0.1:{self._tunnel.port}", "tls": "off"}},
            "routes": [{"upstream": "up", "delivery": "queue", "queue": {"retry": ["1s"]}}],
            "spool": {"url": f"sqlite:///{self._database.absolute()}", "min_free": "10 MB"},
            "metrics": {"listen": "off"},
        }

    def _forget_leases(self) -> None:
        """The dead hold leases for a minute yet; here nobody waits for that."""
        with Listing(self._database) as listing:
            listing.forget_leases()

    async def _feed(self) -> None:
        """Send until the connection breaks, and note what was acknowledged."""
        with contextlib.suppress(OSError, EOFError, ValueError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                await _code(reader)
                writer.write(b"EHLO torture.example\r\n")
                await _code(reader)
                while True:
                    number = next(self._numbers)
                    if await self._send(reader, writer, number) == 250:
                        self._result.acknowledged.add(number)
            finally:
                writer.close()

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> int:
        plan = self._plan
        writer.write(
            f"MAIL FROM:<{plan.sender}>\r\nRCPT TO:<{plan.recipient}>\r\nDATA\r\n".encode("ascii", "strict")
        )
        codes = [await _code(reader) for _ in range(3)]
        if codes != [250, 250, 354]:
            raise EOFError
        # Some are large enough for a file of their own.
        size = 100_000 if number % 10 == 3 else self._chance.randrange(100, 20_000)
        line = b"x" * 70 + b"\r\n"
        head = b"From: <%s>\r\nSubject: torture\r\n%s%d\r\n\r\n" % (plan.sender.encode(), MARK, number)
        writer.write(head + line * (size // len(line)) + b".\r\n")
        return await _code(reader)


async def _code(reader: asyncio.StreamReader) -> int:
    while True:
        line = await reader.readuntil(b"\n")
        if line[3:4] != b"-":
            return int(line[:3])


def _kill(child: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
