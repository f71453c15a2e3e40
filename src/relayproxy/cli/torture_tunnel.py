"""Between a tortured proxy and its upstream: octets go through, and numbered messages that were taken are counted.

A message counts when the upstream has answered 250 to its end. Must not know why they are counted.
"""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Callable
from typing import Self

MARK = b"X-Torture: "
_NUMBER = re.compile(rb"\r\nX-Torture: (\d+)\r\n")
_KEEP = 64
_PIECE = 65_536


class Tunnel:
    """Listens on a free loopback port.

    `taken` counts the messages that the upstream took, by number; `refused` is its last reply of the kind 5yz.
    """

    def __init__(self, host: str, port: int) -> None:
        self._upstream = host, port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.taken: Counter[int] = Counter()
        self.refused = ""
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        ends = [writer]
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
            ends.append(up_writer)
            talk = _Talk(self)
            onward = asyncio.create_task(_pump(reader, up_writer, talk.sent))
            back = asyncio.create_task(_pump(up_reader, writer, talk.heard))
            await asyncio.wait({onward, back}, return_when=asyncio.FIRST_COMPLETED)
            for pump in (onward, back):
                pump.cancel()
            await asyncio.gather(onward, back, return_exceptions=True)
        except OSError:
            return  # the proxy sees a closed connection, as it would without us
        finally:
            for end in ends:
                end.close()


class _Talk:
    """What was said on one connection. BDAT is not offered, so a message ends with the reply after 354."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._said = b"\r\n"
        self._answered = b""
        self._numbers: list[int] = []
        self._in_content = False

    def sent(self, octets: bytes) -> bytes:
        self._said += octets
        end = 0
        for found in _NUMBER.finditer(self._said):
            self._numbers.append(int(found[1]))
            end = found.end() - 2
        self._said = self._said[max(end, len(self._said) - _KEEP) :]
        return octets

    def heard(self, octets: bytes) -> bytes:
        octets = octets.replace(b"CHUNKING", b"XNOCHUNK")
        *lines, self._answered = (self._answered + octets).split(b"\r\n")
        for line in lines:
            if line[3:4] == b"-":
                continue
            if line.startswith(b"5"):
                self._tunnel.refused = line.decode("ascii", "replace")
            if line.startswith(b"354"):
                self._in_content = True
            elif self._in_content:
                self._in_content = False
                if line.startswith(b"250"):
                    self._tunnel.taken.update(self._numbers)
                self._numbers.clear()
        return octets


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, look: Callable[[bytes], bytes]
) -> None:
    with contextlib.suppress(OSError):
        while octets := await reader.read(_PIECE):
            writer.write(look(octets))
            await writer.drain()
