"""The protocol on a connection to a next hop, once it is greeted: write commands, wait for replies.

One reply for every command, in order; anything else makes the connection unusable. A connection on which a command
was left without an answer is closed, never used again.
"""

import asyncio
from typing import cast

from relayproxy.model.reply import Reply
from relayproxy.smtp.replies import NonsenseError, ReplyReader


class WireError(Exception):
    """The connection is of no more use; the text says why. `replies` had come before that."""

    def __init__(self, text: str, replies: tuple[Reply, ...] = ()) -> None:
        super().__init__(text)
        self.replies = replies


class Wire(asyncio.Protocol):
    """Octets out, replies in, with a deadline that costs no timer per command."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._reader = ReplyReader()
        self._replies: list[Reply] = []
        self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None
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
        try:
            self._replies += self._reader.feed(data)
        except NonsenseError as error:
            self.fail(str(error))
            return
        if len(self._replies) > self._wanted:
            extra = self._replies[self._wanted]
            del self._replies[self._wanted :]
            self.fail(f"a reply that nothing asked for: {extra}")
        elif len(self._replies) == self._wanted and self._waiter is not None:
            self._wake(None)

    def _wake(self, error: Exception | None) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

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
        self._wake(WireError(why, tuple(self._replies)))
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._transport is not None:
            self._transport.abort()

    def write(self, data: bytes | memoryview) -> None:
        """Send octets."""
        if self._transport is not None and not self.broken:
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

    async def replies(self, count: int, seconds: float) -> list[Reply]:
        """Wait for `count` replies. Raises WireError, with those that had come."""
        self._wanted = count
        if self.broken:
            raise WireError(self.broken, tuple(self._replies))
        if len(self._replies) < count:
            self._waiter = self._loop.create_future()
            self._arm(seconds)
            await self._waiter
            self._deadline = 0.0
        answer = self._replies[:count]
        extra = self._replies[count:]
        self._replies = []
        self._wanted = 0
        if extra:
            self.fail(f"a reply that nothing asked for: {extra[0]}")
        return answer

    @property
    def busy(self) -> bool:
        """Whether a command is still without its reply."""
        return self._wanted > 0

    def expect(self, count: int) -> None:
        """Say how many replies are to come, before writing what asks for them."""
        self._wanted = count

    def _arm(self, seconds: float) -> None:
        """Set the deadline; a running timer is left alone and looks again when it fires."""
        self._deadline = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._deadline:
            return
        if self._loop.time() < self._deadline - 0.001:
            self._timer = self._loop.call_at(self._deadline, self._tick)
        else:
            self.fail("no answer in time")

    def close(self) -> None:
        """Close at once; nothing is waited for."""
        self.broken = self.broken or "closed by us"
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.close()

    def quit(self) -> None:
        """Say QUIT and close; nothing is waited for."""
        if not self.broken and self._reader.idle:
            self.write(b"QUIT\r\n")
        self.close()
