"""The upstream of every relay: an SMTP server that takes everything, keeps nothing and counts by number.

Run as `python -m bench.sink`; talks JSON lines on stdin and stdout. `{"listen": true}` opens a port and
answers it; `{"count": RUN, "size": OCTETS}` answers what has arrived of a run (and forgets it); `{"head": true}`
answers the top of the last message.
It finds the dot without looking at lines and unstuffs nothing: it must never be the bottleneck.
"""

import asyncio
import json
import re
import sys
from collections import Counter
from typing import Any

import uvloop

NUMBER = re.compile(rb"^X-Bench-Number: (\d+)\.(\d+)", re.MULTILINE | re.IGNORECASE)
_EHLO = (
    b"250-sink.bench.example\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n250-8BITMIME\r\n"
    b"250 ENHANCEDSTATUSCODES\r\n"
)
_REPLIES = {
    b"EHLO": _EHLO,
    b"HELO": b"250 sink.bench.example\r\n",
    b"MAIL": b"250 2.1.0 Ok\r\n",
    b"RCPT": b"250 2.1.5 Ok\r\n",
    b"RSET": b"250 2.0.0 Ok\r\n",
    b"NOOP": b"250 2.0.0 Ok\r\n",
    b"QUIT": b"221 2.0.0 Bye\r\n",
}
_UNKNOWN = b"500 5.5.1 Unknown command\r\n"
_END = b"\r\n.\r\n"
_HEAD = 65536  # how far the number may stand from the top of a message


class Tally:
    """What has arrived, by run: how often each number, and in how many octets at least."""

    def __init__(self) -> None:
        self._numbers: dict[int, Counter[int]] = {}
        self._shortest: dict[int, int] = {}
        self._unnumbered = 0
        self.last: bytes | bytearray = b""

    def note(self, head: bytes | bytearray, octets: int) -> None:
        self.last = head
        if not (found := NUMBER.search(head)):
            self._unnumbered += 1
            return
        run, number = int(found[1]), int(found[2])
        self._numbers.setdefault(run, Counter())[number] += 1
        self._shortest[run] = min(octets, self._shortest.get(run, octets))

    def arrived(self, run: int) -> int:
        return len(self._numbers.get(run, ()))

    def take(self, run: int) -> dict[str, Any]:
        """`numbers` that came, those that came more than once, the `shortest` message in octets."""
        numbers = self._numbers.pop(run, Counter())
        unnumbered, self._unnumbered = self._unnumbered, 0
        return {
            "numbers": sorted(numbers),
            "doubled": sorted(number for number, times in numbers.items() if times > 1),
            "shortest": self._shortest.pop(run, 0),
            "unnumbered": unnumbered,
        }


class Sink(asyncio.Protocol):
    """One connection."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._commands = b""
        self._head: bytearray | None = None  # the top of a message while inside one
        self._tail = b""
        self._octets = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(b"220 sink.bench.example ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            data = self._body(data)
            if self._head is not None:
                return
        if self._commands:
            data = self._commands + data
        out = []
        while True:
            line, newline, rest = data.partition(b"\r\n")
            if not newline:
                break
            data = rest
            verb = line[:4].upper()
            if verb == b"DATA":
                out.append(b"354 Go ahead\r\n")
                self._head, self._tail, self._octets = bytearray(), b"\r\n", 0
                self._commands = b""
                if data:
                    self._transport.write(b"".join(out))
                    self.data_received(data)
                    return
                break
            out.append(_REPLIES.get(verb, _UNKNOWN))
            if verb == b"QUIT":
                self._transport.write(b"".join(out))
                self._transport.close()
                return
        self._commands = data
        if out:
            self._transport.write(b"".join(out))

    def _body(self, data: bytes) -> bytes:
        """Take what belongs to the message; return what follows it. The octets count without the dot."""
        assert self._head is not None
        seam = self._tail + data[:4]
        if 0 <= (at := seam.find(_END)) < len(self._tail):
            end = at + len(_END) - len(self._tail)
        elif (at := data.find(_END)) >= 0:
            end = at + len(_END)
        else:
            if len(self._head) < _HEAD:
                self._head += data
            self._octets += len(data)
            self._tail = (self._tail + data)[-4:] if len(data) < 4 else data[-4:]
            return b""
        if len(self._head) < _HEAD:
            self._head += data[:end]
        self._tally.note(self._head, self._octets + end - 3)
        self._head = None
        self._transport.write(b"250 2.0.0 Ok\r\n")
        return data[end:]


async def serve() -> None:
    loop = asyncio.get_running_loop()
    tally = Tally()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order = json.loads(line)
        if "listen" in order:
            server = await loop.create_server(lambda: Sink(tally), "127.0.0.1", 0, backlog=4096)
            answer: Any = server.sockets[0].getsockname()[1]
        elif "arrived" in order:
            answer = tally.arrived(order["arrived"])
        elif "head" in order:
            answer = tally.last.partition(b"\r\n\r\n")[0].decode("latin-1")
        else:
            answer = tally.take(order["count"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    uvloop.run(serve())
