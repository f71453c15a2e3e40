"""The protocol on a connection to a next hop, once it is greeted: write commands, wait for replies.

One reply for every command, in order; anything else makes the connection unusable. A connection on which a command
was left without an answer is closed, never used again.
"""

import asyncio
from typing import cast

from relayproxy.core.outbox import Outbox
from relayproxy.model.reply import Reply
from relayproxy.smtp.replies import NonsenseError, ReplyReader

_LOOK = 5.0  # seconds between two looks at the clock while a reply is awaited


class WireError(Exception):
    """The connection is of no more use; the text says why. `replies` had come before that."""

    def __init__(self, text: str, replies: tuple[Reply, ...] = ()) -> None:
        super().__init__(text)
        self.replies = replies


class Wire(asyncio.Protocol):
    """Octets out, replies in, with a deadline that costs no timer per command."""

    def __init__(self, loop: asyncio.AbstractEventLoop, outbox: Outbox | None = None) -> None:
        self._loop = loop
        self._outbox = outbox or Outbox(loop.call_soon)
        self._transport: asyncio.Transport | None = None
        self._reader = ReplyReader()
        self._replies: list[Reply] = []
        self._wanted = 0
        self._waiter: asyncio.Future[list[Reply]] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._paused = False
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.broken = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport over."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read replies; one that nobody waits for is nonsense (or a farewell) and ends the connection's use."""
        if self.broken:
            return
        nonsense = ""
        try:
            heard = self._reader.feed(data)
        except NonsenseError as error:
            heard, nonsense = error.replies, str(error)
        replies = self._replies = self._replies + heard if self._replies else heard
        if len(replies) > self._wanted:
            nonsense = nonsense or f"a reply that nothing asked for: {replies[self._wanted]}"
            del replies[self._wanted :]
        if len(replies) == self._wanted and self._waiter is not None:
            # What was waited for has come, whatever else came with it.
            waiter, self._waiter = self._waiter, None
            self._replies, self._wanted, self._deadline = [], 0, 0.0
            if not waiter.done():
                waiter.set_result(replies)
        if not self._wanted and not self._reader.idle:
            nonsense = nonsense or "a part of a reply that nothing asked for"
        if nonsense:
            self.fail(nonsense)

    def eof_received(self) -> bool:
        """The next hop has hung up; what it said before that counts."""
        self.fail("the connection was closed")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See `eof_received`."""
        self.fail(f"the connection was lost: {exc}" if exc else "the connection was closed")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self._paused = True

    def resume_writing(self) -> None:
        """The socket takes octets again."""
        self._paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def fail(self, why: str) -> None:
        """The connection is of no more use."""
        if self.broken:
            return
        self.broken = why
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(WireError(why, tuple(self._replies)))
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._transport is not None:
            self._transport.abort()

    def ask(self, data: bytes, count: int, seconds: float) -> "asyncio.Future[list[Reply]]":
        """Write commands and return a future of their `count` replies; its error is a WireError."""
        self._wanted = count
        waiter: asyncio.Future[list[Reply]] = self._loop.create_future()
        if self.broken or self._transport is None:
            waiter.set_exception(WireError(self.broken))
            return waiter
        self._waiter = waiter
        self._arm(seconds)
        self._outbox.send(self._transport, data)
        return waiter

    def replies(self, seconds: float) -> "asyncio.Future[list[Reply]]":
        """Return a future of the replies that `expect` announced; its error is a WireError."""
        waiter: asyncio.Future[list[Reply]] = self._loop.create_future()
        if len(self._replies) == self._wanted:
            waiter.set_result(self._replies)
            self._replies, self._wanted = [], 0
        elif self.broken:
            waiter.set_exception(WireError(self.broken, tuple(self._replies)))
        else:
            self._waiter = waiter
            self._arm(seconds)
        return waiter

    def expect(self, count: int) -> None:
        """Say how many replies are to come, before writing piece by piece what asks for them."""
        self._wanted = count

    def write(self, data: bytes | memoryview) -> None:
        """Send octets at once."""
        if self._transport is not None and not self.broken:
            self._outbox.flush()
            self._transport.write(data)

    async def drain(self, seconds: float) -> None:
        """Wait until the socket takes octets again. Raises WireError."""
        if self._paused and not self.broken:
            self._drained = self._loop.create_future()
            self._arm(seconds)
            await self._drained
            self._drained = None
            self._deadline = 0.0
        if self.broken:
            raise WireError(self.broken, tuple(self._replies))

    @property
    def busy(self) -> bool:
        """Whether a command is still without its reply."""
        return self._wanted > 0

    def _arm(self, seconds: float) -> None:
        """Set the deadline; a timer that runs already looks at it when it fires, and again."""
        now = self._loop.time()
        self._deadline = deadline = now + seconds
        if self._timer is None:
            self._timer = self._loop.call_at(min(deadline, now + _LOOK), self._tick)
        elif seconds < _LOOK and self._timer.when() > deadline:
            self._timer.cancel()
            self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._deadline:
            return
        now = self._loop.time()
        if now < self._deadline - 0.001:
            self._timer = self._loop.call_at(min(self._deadline, now + _LOOK), self._tick)
        else:
            self.fail("no answer in time")

    def close(self) -> None:
        """Close at once; nothing is waited for."""
        self.broken = self.broken or "closed by us"
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(WireError(self.broken, tuple(self._replies)))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._outbox.close(self._transport)

    def quit(self) -> None:
        """Say QUIT and close; nothing is waited for."""
        if not self.broken and self._reader.idle and self._transport is not None:
            self._outbox.send(self._transport, b"QUIT\r\n")
        self.close()
