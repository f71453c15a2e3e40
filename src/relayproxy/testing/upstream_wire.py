"""One connection of the test upstream, as octets: reading lines and contents, writing well and badly.

Knows nothing of SMTP's commands; `relayproxy.testing.upstream_session` does.
"""

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import cast

_STRICT_END = re.compile(rb"(\r\n)\.\r\n")
_LAX_END = re.compile(rb"(\r\n|\n|\r)\.(?:\r\n|\n|\r(?=[^\n]))")
_LAX_DOT = re.compile(rb"(\r\n|\n|\r)\.")
_END_OCTETS = 5


class GoneError(Exception):
    """The connection has ended, by either side."""


class Wire(asyncio.Protocol):
    """Runs `serve(self)` as a task for the connection's life; `serve` may raise GoneError at any await."""

    def __init__(self, serve: Callable[["Wire"], Coroutine[None, None, None]]) -> None:
        self._serve = serve
        self._news = asyncio.Event()
        self._gone = False
        self._held: bytes | None = None
        self.buffer = bytearray()
        self.transport: asyncio.Transport
        self.task: asyncio.Task[None] | None = None

    @property
    def peer(self) -> str:
        """The address of the other end, "" for a Unix socket."""
        name = self.transport.get_extra_info("peername")
        return str(name[0]) if isinstance(name, tuple) else ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve."""
        self.transport = cast(asyncio.Transport, transport)
        self.task = asyncio.create_task(self._serve(self))

    def data_received(self, data: bytes) -> None:
        """Keep what came."""
        self.buffer += data
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake the session up: there will be no more."""
        del exc
        self._gone = True
        self._news.set()

    async def _more(self) -> None:
        if self._gone:
            raise GoneError
        self._news.clear()
        await self._news.wait()

    async def line(self, limit: int = 12_288) -> bytes:
        """Return the next line with its line end. Raises GoneError, also for a line beyond `limit` octets."""
        while (end := self.buffer.find(b"\n")) < 0:
            if len(self.buffer) > limit:
                raise GoneError
            await self._more()
        return self._cut(end + 1)

    async def exactly(self, size: int, pause_at: int | None, pause: Callable[[], Awaitable[None]]) -> bytes:
        """Return the next `size` octets, after awaiting `pause` once when `pause_at` of them are there."""
        while len(self.buffer) < size:
            if pause_at is not None and len(self.buffer) >= pause_at:
                pause_at = None
                await pause()
            else:
                await self._more()
        if pause_at is not None and size >= pause_at:
            await pause()
        return self._cut(size)

    async def until_dot(
        self, pause_at: int | None, pause: Callable[[], Awaitable[None]], *, lax: bool
    ) -> bytes:
        """Return the content of a DATA command, dots unstuffed.

        Its end is CRLF.CRLF, or with `lax` anything that careless receivers have taken for it. `pause` is
        awaited once when `pause_at` octets are there.
        """
        pattern = _LAX_END if lax else _STRICT_END
        # A CRLF in front lets a dot on the first line be seen like any other.
        self.buffer[:0] = b"\r\n"
        searched = 0
        while (end := pattern.search(self.buffer, searched)) is None:
            searched = max(0, len(self.buffer) - _END_OCTETS)
            if pause_at is not None and len(self.buffer) >= pause_at + 2:
                pause_at = None
                await pause()
            else:
                await self._more()
        if pause_at is not None:
            await pause()
        content = self._cut(end.end())[: end.end(1)]
        content = _LAX_DOT.sub(rb"\1", content) if lax else content.replace(b"\r\n.", b"\r\n")
        return content[2:]

    def _cut(self, size: int) -> bytes:
        head = bytes(self.buffer[:size])
        del self.buffer[:size]
        return head

    def write(self, data: bytes) -> None:
        """Send octets."""
        if self._held is None:
            self.transport.write(data)
        else:
            self._held += data

    @contextmanager
    def together(self) -> Iterator[None]:
        """Send all that is written meanwhile in one piece."""
        self._held = b""
        try:
            yield
        finally:
            data, self._held = self._held, None
            self.transport.write(data)

    async def trickle(self, data: bytes) -> None:
        """Send octets one by one, giving others their turn in between."""
        for octet in data:
            if self._gone:
                raise GoneError
            self.transport.write(bytes((octet,)))
            await asyncio.sleep(0)

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Do the server's part of a handshake. Raises GoneError when it fails."""
        try:
            transport = await asyncio.get_running_loop().start_tls(
                self.transport, self, context, server_side=True
            )
        except OSError as error:
            self.transport.abort()
            raise GoneError from error
        if transport is None:
            raise GoneError
        self.transport = transport

    def close(self) -> None:
        """Close properly."""
        self.transport.close()

    def reset(self) -> None:
        """Close with a TCP reset (on a Unix socket: at once)."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
