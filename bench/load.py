"""The load generator: parallel sessions that send numbered messages and time each of them.

Run as `python -m bench.load`; talks JSON lines on stdin and stdout. A job is answered in three steps, so that
the bench can read the relay's CPU time just outside the work: `ready` (connections of long sessions stand),
then on `go` the messages and `done` with the result, then on `close` the end of all connections and `closed`.
"""

import asyncio
import json
import ssl
import statistics
import sys
import time
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from bench.client import Dialogue, Reply, Session, Step

_SETTLE = 0.5  # how long messages held before their dot stay there


@dataclass
class Job:
    """What to send, to whom, and how. `per_connection` 0: as many as there is time for.

    Ends after `seconds` or `count` messages, whichever comes first; what is on its way is finished.
    `hold`: each session sends one message up to its dot and waits until all have. `idle`: none at all.
    """

    run: int
    port: int
    message: str
    sessions: int
    per_connection: int
    seconds: float
    count: int
    tls: str
    pipeline: bool
    hold: bool
    idle: bool
    patience: float


class Load:
    """One job in progress."""

    def __init__(self, job: Job, contexts: "Contexts") -> None:
        self.job = job
        self._contexts = contexts
        self._content = Path(job.message).read_bytes()
        self._loop = asyncio.get_running_loop()
        self._live: set[Session] = set()
        self._parked: list[Session] = []
        self._change = asyncio.Event()
        self._going = False
        self._ending = False
        self._taken = 0
        self.acked = 0
        self.failed: list[int] = []
        self.errors: Counter[str] = Counter()
        self.times: list[float] = []
        self.connections = self.resumed = 0

    # The sessions' side

    def lost(self, session: Session) -> None:
        self._live.discard(session)
        self.resumed += session.resumed
        if self._more() and self._going and not self.job.hold:
            self._loop.create_task(self._connect())
        self._change.set()

    def keep(self, resumable: ssl.SSLSession) -> None:
        self._contexts.tickets[self.job.port, self.job.tls] = resumable

    def _more(self) -> bool:
        return not (
            self._ending
            or self.job.idle
            or (self.job.count and self._taken >= self.job.count)
            or len(self.failed) > 100
            or (self._going and time.perf_counter() - self._begun >= self.job.seconds)
        )

    def _dialogue(self, holder: list[Session]) -> Dialogue:
        """The conversation of one connection."""
        started = time.perf_counter()
        number: int | None = None
        try:
            reply = yield b"", 1
            if reply[0] != 220:
                self.errors[reply[1].decode("latin-1").strip()] += 1
                return
            yield b"EHLO client.bench.example\r\n", 1
            if self.job.tls:
                reply = yield b"STARTTLS\r\n", 1
                if reply[0] != 220:
                    self.errors[reply[1].decode("latin-1").strip()] += 1
                    return
                yield None
                yield b"EHLO client.bench.example\r\n", 1
            long = self.job.per_connection != 1
            if long and not self._going:
                yield self._park(holder[0])
            sent = 0
            while self._more() and not (self.job.per_connection and sent >= self.job.per_connection):
                number, self._taken, sent = self._taken, self._taken + 1, sent + 1
                if long:
                    started = time.perf_counter()
                reply = yield from self._message(number, holder[0])
                if reply[0] == 250:
                    self.acked += 1
                    self.times.append(time.perf_counter() - started)
                    number = None
                    continue
                self.failed.append(number)
                self.errors[reply[1].decode("latin-1").strip()] += 1
                number = None
                if reply[0] in (0, 421):
                    return
                yield b"RSET\r\n", 1
            if long:
                yield self._park(holder[0])
            yield b"QUIT\r\n", 1
        except GeneratorExit:
            if number is not None:
                self.failed.append(number)
                self.errors["the connection was lost"] += 1
            raise

    def _message(self, number: int, session: Session) -> Generator[Step, Reply, Reply]:
        """One transaction; returns its last reply, or the first that was not as hoped."""
        mail = b"MAIL FROM:<sender@bench.example>\r\n"
        rcpt = b"RCPT TO:<recipient@bench.example>\r\n"
        if self.job.pipeline:
            reply = yield mail + rcpt + b"DATA\r\n", 3
        else:
            reply = yield mail, 1
            if reply[0] != 250:
                return reply
            reply = yield rcpt, 1
            if reply[0] != 250:
                return reply
            reply = yield b"DATA\r\n", 1
        if reply[0] != 354:
            return reply
        line = b"X-Bench-Number: %d.%d\r\n" % (self.job.run, number)
        if self.job.hold:
            yield self._park(session, (line, self._content))
            return (yield b".\r\n", 1)
        return (yield (line, self._content, b".\r\n"), 1)

    def _park(self, session: Session, octets: bytes | tuple[bytes, ...] = b"") -> Step:
        """The step that sends `octets` and then stands still until the job releases all parked sessions."""
        self._parked.append(session)
        self._change.set()
        return octets, 0

    # The job's side

    async def _connect(self) -> None:
        holder: list[Session] = []
        context = self._contexts.get(self.job.tls) if self.job.tls else None
        ticket = self._contexts.tickets.get((self.job.port, self.job.tls))
        session = Session(self, self._dialogue(holder), context, ticket)
        holder.append(session)
        try:
            await self._loop.create_connection(lambda: session, "127.0.0.1", self.job.port)
        except OSError as error:
            self.errors[type(error).__name__] += 1
            self.failed.append(-1)
            self._change.set()
            return
        self.connections += 1
        self._live.add(session)

    async def _until(self, condition: Any, seconds: float) -> bool:
        """Wait for a condition that changes with parked or lost sessions; False when time runs out."""
        until = self._loop.time() + seconds
        while not condition():
            self._change.clear()
            try:
                await asyncio.wait_for(self._change.wait(), max(0.0, until - self._loop.time()))
            except TimeoutError:
                return False
        return True

    def _release(self) -> None:
        parked, self._parked = self._parked, []
        for session in parked:
            session.resume()

    async def ready(self) -> None:
        """Open the connections of long sessions; those of short ones belong to the work."""
        if self.job.per_connection == 1:
            return
        for start in range(0, self.job.sessions, 100):
            await asyncio.gather(
                *(self._connect() for _ in range(start, min(start + 100, self.job.sessions)))
            )
            await self._until(lambda: len(self._parked) >= len(self._live), self.job.patience)

    async def go(self) -> None:
        """Send, until time or count is up and nothing is on its way any more."""
        self._begun = time.perf_counter()
        self._going = True
        if self.job.idle:
            await asyncio.sleep(self.job.seconds)
            self.took = self.job.seconds
            return
        if self.job.per_connection == 1:
            await asyncio.gather(*(self._connect() for _ in range(self.job.sessions)))
        else:
            self._release()
        if self.job.hold:
            await self._until(lambda: len(self._parked) >= len(self._live), self.job.patience)
            await self._sent()
            await asyncio.sleep(_SETTLE)
            self._release()
        if not await self._until(self._finished, self.job.seconds + self.job.patience):
            self.errors["not finished in time"] += 1
        self._ending = True
        self.took = time.perf_counter() - self._begun

    async def _sent(self) -> None:
        """Wait until the kernel has taken all octets; transports tell nobody, so they are asked."""
        until = self._loop.time() + self.job.patience
        while self._loop.time() < until and any(session.unsent for session in self._live):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)

    def _finished(self) -> bool:
        return len(self._parked) >= len(self._live) and not self._more()

    async def close(self) -> None:
        self._ending = True
        self._going = False
        self._release()
        if not await self._until(lambda: not self._live, 5):
            for session in tuple(self._live):
                session.close()
            await self._until(lambda: not self._live, 5)

    def result(self) -> dict[str, Any]:
        """Counts, seconds from the first command to the last reply, and latency quantiles in ms."""
        times = sorted(self.times)
        cuts = statistics.quantiles(times, n=100, method="inclusive") if len(times) > 1 else times * 99
        return {
            "sent": self._taken,
            "acked": self.acked,
            "failed": self.failed,
            "errors": dict(self.errors.most_common(5)),
            "seconds": self.took,
            "latency_ms": {f"p{q}": round(cuts[q - 1] * 1000, 4) for q in (50, 95, 99)} if cuts else {},
            "connections": self.connections,
            "live": len(self._live),
            "resumed": self.resumed,
        }


class Contexts:
    """TLS contexts by version, and the newest ticket of each server: a ticket belongs to its context."""

    def __init__(self) -> None:
        self._made: dict[str, ssl.SSLContext] = {}
        self.tickets: dict[tuple[int, str], ssl.SSLSession] = {}

    def get(self, version: str) -> ssl.SSLContext:
        if version not in self._made:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            exact = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
            context.minimum_version = context.maximum_version = exact
            self._made[version] = context
        return self._made[version]


async def serve() -> None:
    contexts = Contexts()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        load = Load(Job(**json.loads(line)), contexts)
        await load.ready()
        print('"ready"', flush=True)
        await reader.readline()
        await load.go()
        print(json.dumps(load.result()), flush=True)
        await reader.readline()
        await load.close()
        print(json.dumps({"resumed": load.resumed, "connections": load.connections}), flush=True)


if __name__ == "__main__":
    uvloop.run(serve())
