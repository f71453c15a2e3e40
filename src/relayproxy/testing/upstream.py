"""An SMTP or LMTP upstream for tests: it keeps every octet, counts, and fails where and how it is told to.

    async with UpstreamSink() as sink:
        sink.plan.add(Fault(Step.RCPT, answer(450, "4.2.1 later"), nth=1))
        ...send something to sink.port...
        assert sink.messages[0].sender == "a@example.org"

It runs on the caller's event loop and knows nothing of relayproxy's own relaying code, so that the two can
prove each other wrong.
"""

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine, Hashable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from relayproxy.testing.faults import (
    NONSENSE,
    Action,
    Disconnect,
    Fault,
    FaultPlan,
    Reset,
    Say,
    Stall,
    Step,
    Trickle,
    answer,
)
from relayproxy.testing.upstream_record import Capabilities, Peer, Sunk, path_of
from relayproxy.testing.upstream_session import Session
from relayproxy.testing.upstream_wire import GoneError, Wire

__all__ = [
    "NONSENSE",
    "Action",
    "Capabilities",
    "Disconnect",
    "Fault",
    "FaultPlan",
    "Peer",
    "Reset",
    "Say",
    "Stall",
    "Step",
    "Sunk",
    "Trickle",
    "UpstreamSink",
    "answer",
    "path_of",
]


class UpstreamSink:
    """The upstream. Use as an async context manager, or call `start` and `close`.

    `path` makes it listen on that Unix socket, otherwise on a loopback port: `port`, or a free one for 0,
    which it keeps when it is started again. `tls` is a context for TLS from the first octet, `refusals` maps
    recipient addresses to the raw reply they get, `lax` lets DATA end at the line ends that careless receivers
    take. What can be read: `arrived` (every message that came whole, whatever was answered), `complaints`
    (what clients did against the specifications), `sessions` (how many there were), `reached` (how often each
    step was), `listener` (the socket, while it listens).
    """

    def __init__(
        self,
        capabilities: Capabilities | None = None,
        *,
        plan: FaultPlan | None = None,
        lmtp: bool = False,
        lax: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
        path: Path | None = None,
        tls: ssl.SSLContext | None = None,
        refusals: Mapping[str, bytes] | None = None,
        hostname: str = "sink.example",
    ) -> None:
        self.capabilities = capabilities or Capabilities()
        self.plan = plan or FaultPlan()
        self.lmtp = lmtp
        self.lax = lax
        self.host = host
        self.port = port
        self.path = path
        self.refusals: Mapping[str, bytes] = refusals or {}
        self.hostname = hostname
        self.arrived: list[Sunk] = []
        self.complaints: list[str] = []
        self.reached: Counter[Step] = Counter()
        self.sessions = 0
        self._tls = tls
        self._wires: set[Wire] = set()
        self.listener: socket.socket | None = None
        self._arrivals: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._released = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        if self.path:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(self.path))
            listener.listen(100)
        else:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            listener = socket.create_server((self.host, self.port), family=family, backlog=100)
            self.port = listener.getsockname()[1]
        listener.setblocking(False)
        self.listener = listener
        self._keep(self._accept(listener))

    async def close(self) -> None:
        """Stop listening and end every session at once; what was recorded stays."""
        if self.listener is None:
            return
        listener, self.listener = self.listener, None
        tasks = [*self._arrivals, *(wire.task for wire in self._wires if wire.task)]
        for wire in self._wires:
            wire.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        listener.close()
        if self.path:
            self.path.unlink(missing_ok=True)

    def _keep(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._arrivals.add(task)
        task.add_done_callback(self._arrivals.discard)

    async def _accept(self, listener: socket.socket) -> None:
        """Accept for ever. An asyncio server would tell nobody of a handshake that fails, nor let go of one that lasts."""
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            self._keep(self._welcome(sock))

    async def _welcome(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # of a handshake
            await loop.connect_accepted_socket(lambda: Wire(self._serve), sock, ssl=self._tls)

    async def _serve(self, wire: Wire) -> None:
        if self.listener is None:
            wire.transport.abort()
            return
        self._wires.add(wire)
        self.sessions += 1
        self._tell()
        try:
            await Session(self, wire, self.sessions, tls=self._tls is not None).run()
        finally:
            self._wires.discard(wire)
            self._tell()

    @property
    def address(self) -> str:
        """Where it listens, as a configuration of relayproxy writes it."""
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"

    @property
    def open_sessions(self) -> int:
        """How many sessions there are now."""
        return len(self._wires)

    @property
    def messages(self) -> list[Sunk]:
        """The messages that it took responsibility for, for at least one recipient."""
        return [sunk for sunk in self.arrived if sunk.recipients]

    def duplicates(self, key: Callable[[Sunk], Hashable] | None = None) -> dict[Hashable, int]:
        """Return how often each message came that came more than once.

        `key` says what makes two the same: by default sender, recipients and body, as header fields on top
        differ each time that a relay passes a message on.
        """
        counts = Counter(key(s) if key else (s.sender, s.recipients, s.body) for s in self.messages)
        return {what: count for what, count in counts.items() if count > 1}

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait for `condition()`, which is looked at whenever something happens here. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not condition():
                await self._news.wait()

    async def until_reached(self, step: Step, times: int = 1, seconds: float = 10.0) -> None:
        """Wait until sessions have come to `step` as often as `times`. Raises TimeoutError."""
        await self.until(lambda: self.reached[step] >= times, seconds)

    async def until_messages(self, count: int, seconds: float = 10.0) -> None:
        """Wait until `count` messages were taken. Raises TimeoutError."""
        await self.until(lambda: len(self.messages) >= count, seconds)

    def release(self) -> None:
        """Let every stalled session go on."""
        self._released.set()
        self._released = asyncio.Event()

    async def stall(self, wire: Wire) -> None:
        """Stop reading from `wire` until `release`."""
        wire.transport.pause_reading()
        await self._released.wait()
        if wire.transport.is_closing():
            raise GoneError
        wire.transport.resume_reading()

    def reach(self, step: Step) -> None:
        """Count a step (called by sessions)."""
        self.reached[step] += 1
        self._tell()

    def complain(self, peer: Peer, text: str) -> None:
        """Note what a client did wrong (called by sessions)."""
        self.complaints.append(f"session {peer.session}: {text}")
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
