"""The octets of one client connection: in to a buffer or to a reader of content, out through the outbox, and the time.

Must not know commands, what content is for, or when to hang up: those above say so.
"""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any

from aiosmtpd.smtp import SMTP

from relayproxy.core.outbox import Outbox
from relayproxy.core.services import ListenerServices
from relayproxy.model.reply import Reply
from relayproxy.server.quota import Quota
from relayproxy.smtp.datastream import ChunkReader, DataReader

_FLOOD = 262_144  # octets of commands that may wait; more, and reading pauses
_SLOWEST = 500  # octets a second; whoever sends less falls behind, and may by as much as the time limit
SHUTTING_DOWN = Reply(421, "4.3.2", "Shutting down, try again soon")
_TIMEOUT = Reply(421, "4.4.2", "Timeout")


@dataclass(slots=True)
class Shared:
    """What the connections of one listener share."""

    at: ListenerServices
    loop: asyncio.AbstractEventLoop
    quota: Quota
    next_id: Any
    outbox: Outbox
    tls: ssl.SSLContext | None = None
    folder: str | None = None


class Stream(SMTP):
    """The part of a connection that is a protocol of asyncio."""

    # The base constructor is not called: it inspects the handler for each connection (0.3 ms) and makes a stream
    # reader that is not used here. What the inherited SASL methods need is set below and nothing else of it is.
    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._at = shared.at
        self._services = shared.at.services
        self._limits = shared.at.policy.limits
        self.loop = shared.loop
        self.transport: Any = None
        self.session = None
        self.envelope = None
        self._task: asyncio.Task[None] | None = None
        self._buffer = b""
        self._waiter: asyncio.Future[None] | None = None
        self._content: DataReader | ChunkReader | None = None
        self._since = 0.0
        self._octets = 0
        self._eof = False
        self.lost = False
        self._out: list[bytes] = []
        self._drained: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._heard = self._news = False
        self._paused_reading = False
        self._ended = False
        # Whether the command loop waits for a command line, the content that a command taken at once has begun,
        # and whether it has arrived.
        self._listening = False
        self._begun: DataReader | None = None
        self._arrived = False

    def __del__(self) -> None:
        """The base class looks here at parts that this one doesn't have."""

    # -- in -------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Content goes to its reader at once, commands wait for the command loop unless it is idle."""
        self._heard = self._news = True
        if self._content is not None:
            rest = self._content.feed(data)
            if rest is None:
                self._octets += len(data)
                slowest = self._since + self._octets / _SLOWEST
                self._deadline = min(self.loop.time(), slowest) + self._limits.data_timeout
                return
            self._content = None
            self._arrived = self._begun is not None
            data = rest
        elif self._listening and not self._buffer and self._at_once(data):
            return
        self._buffer = self._buffer + data if self._buffer else data
        if self._waiter is not None:
            self._wake()
        elif len(self._buffer) > _FLOOD and not self._paused_reading:
            self._paused_reading = True
            self.transport.pause_reading()

    def _expect(self, reader: DataReader | ChunkReader) -> None:
        """From now on what comes is content."""
        self._content = reader
        self._since, self._octets = self.loop.time(), 0

    def _at_once(self, data: bytes) -> bool:
        """Carry out what waits for nothing; False where it has to be waited for, and nothing has been done."""
        raise NotImplementedError

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- out ------------------------------------------------------------------------------------------------

    def _say(self, reply: Reply) -> None:
        self._out.append(bytes(reply))

    def _answer(self, verb: str, reply: Reply) -> None:
        self._out.append(bytes(reply))
        self._at.commands[verb][reply.code // 100 - 2].inc()

    def _flush(self) -> None:
        if self._out and not self.lost:
            out = self._out
            self._shared.outbox.send(self.transport, out[0] if len(out) == 1 else b"".join(out))
            out.clear()

    def pause_writing(self) -> None:
        """The client doesn't read: stop answering."""
        if self._drained is None:
            self._drained = self.loop.create_future()

    def resume_writing(self) -> None:
        """The client reads again."""
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def _end(self, reply: Reply) -> None:
        """Say a last word and close, from outside the command loop; content in progress is dropped."""
        self._ended = True
        self._content = None
        if not self.lost:
            self._out.append(bytes(reply))
            self._flush()
            self._shared.outbox.close(self.transport)
        self._eof = True
        self._wake()

    # -- time -----------------------------------------------------------------------------------------------

    async def _wait(self, seconds: float) -> bool:
        """Send what is to be said and wait for octets; False when there will be none."""
        self._flush()
        if self._drained is not None:
            self._news = False
            self._arm(seconds)
            await self._drained
            if self._news:
                # Octets came meanwhile, perhaps the last: what is waited for is here.
                self._deadline = 0.0
                return not self.lost
        if self._eof:
            return False
        if self._paused_reading:
            self._paused_reading = False
            self.transport.resume_reading()
        self._waiter = self.loop.create_future()
        self._arm(seconds)
        await self._waiter
        self._deadline = 0.0
        return not self.lost

    def _arm(self, seconds: float) -> None:
        """Set the deadline; a running timer is left alone and looks again when it fires."""
        self._deadline = self.loop.time() + seconds
        if self._timer is None or self._timer.when() > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_at(self._deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._deadline or self.lost:
            return
        if self.loop.time() < self._deadline - 0.001:
            self._timer = self.loop.call_at(self._deadline, self._tick)
            return
        self._at.results["timeout"].inc()
        if self._drained is not None or self.done:
            # The client doesn't read, so it would not hear a last word either.
            self.transport.abort()
            return
        retiring = self._services.retiring or self._services.draining
        self._end(SHUTTING_DOWN if retiring else _TIMEOUT)

    @property
    def done(self) -> bool:
        """Whether nothing of this connection runs any more."""
        return self._task is None or self._task.done()

    @property
    def task(self) -> "asyncio.Task[None] | None":
        """The command loop."""
        return self._task
