"""The upstream of `relayproxy demo`: takes everything, and misbehaves for recipients that ask it to.

What stands behind "+" in the local part says how: `4xx` and `5xx` refuse the recipient, `slow` lets the final reply
wait, `drop` closes the connection in its place.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from relayproxy.testing.upstream import Capabilities, UpstreamSink
from relayproxy.testing.upstream_record import Sunk, path_of
from relayproxy.testing.upstream_session import Session
from relayproxy.testing.upstream_wire import GoneError, Wire

_REFUSALS = {
    "4xx": b"450 4.2.1 This mailbox is busy, try again later\r\n",
    "5xx": b"550 5.1.1 There is no such mailbox\r\n",
}


def wish(address: str) -> str:
    """Return what a recipient asks for: the text between "+" and "@", or ""."""
    return address.rpartition("@")[0].partition("+")[2].lower()


class _Refusals(Mapping[str, bytes]):
    """Replies by what a recipient asks for, rather than by its whole address."""

    def __getitem__(self, address: str) -> bytes:
        return _REFUSALS[wish(address)]

    def __iter__(self) -> Iterator[str]:
        return iter(_REFUSALS)

    def __len__(self) -> int:
        return len(_REFUSALS)


class DemoUpstream(UpstreamSink):
    """Listens on the Unix socket `path` and hands each message that it takes to `taken`."""

    def __init__(self, path: Path, taken: Callable[[Sunk], None], *, slow: float = 5.0) -> None:
        super().__init__(
            Capabilities(dsn=True, chunking=True),
            path=path,
            refusals=_Refusals(),
            hostname="upstream.demo.example",
        )
        self._taken = taken
        self.slow = slow

    async def _serve(self, wire: Wire) -> None:
        try:
            await _DemoSession(self, wire, 0, tls=False).run()
        finally:
            self._wires.discard(wire)

    def took(self) -> None:
        """A message has been answered: hand it on, and keep nothing of it but that it was there."""
        self._taken(self.arrived[-1])
        self.arrived[-1] = replace(self.arrived[-1], content=b"")


class _DemoSession(Session):
    """A session that looks at the recipients before its final reply."""

    book: DemoUpstream

    async def _finish(self, content: bytes, *, chunked: bool) -> None:
        wishes = {wish(path_of(line)) for line in self.rcpts}
        if "drop" in wishes:
            self.wire.close()
            raise GoneError
        if "slow" in wishes:
            await asyncio.sleep(self.book.slow)
        await super()._finish(content, chunked=chunked)
        self.book.took()
