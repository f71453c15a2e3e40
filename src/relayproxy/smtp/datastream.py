"""Reading message content off the wire: DATA (RFC 5321 section 4.5.2) and BDAT (RFC 3030).

Lines end in CRLF and nothing else; DATA ends at CRLF.CRLF and nothing else. Bare CR, bare LF and NUL are noticed
in the same pass, so that what is called one message here can't be two further on. Must not know where the
content is kept: it goes to a `Store`.
"""

import re
from collections.abc import Iterator
from typing import Protocol

from relayproxy.model.message import Buffer, Message

_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


class Store(Protocol):
    """Where content goes. `write` may refuse by raising; `dots` says that a line began with a dot."""

    def write(self, data: bytes) -> None:
        """Append `data`."""
        ...


class ContentCheck:
    """What the content turned out to hold, gathered while it passes."""

    __slots__ = ("bare", "dots", "normalise", "nul", "octets")

    def __init__(self, *, normalise: bool = False) -> None:
        self.normalise = normalise
        self.bare = False
        self.nul = False
        self.dots = False
        self.octets = 0

    def passing(self, data: bytes) -> bytes:
        """Look at `data`, which holds whole CRLF pairs only, and return what is to be kept of it."""
        self.octets += len(data)
        lines = data.count(b"\r\n")
        if lines != data.count(b"\n") or lines != data.count(b"\r"):
            if self.normalise:
                data = _BARE.sub(b"\r\n", data)
                self.dots = True
            else:
                self.bare = True
        if b"\0" in data:
            self.nul = True
        return data


class DataReader:
    """The octets after 354. `feed` returns None until the final dot, then what follows it."""

    __slots__ = ("_carry", "_skip", "_untouched", "check", "store")

    def __init__(self, store: Store, check: ContentCheck) -> None:
        self.store = store
        self.check = check
        # The content is read as if a CRLF stood before it, so that a dot in front of all is seen like any other.
        self._carry = b"\r\n"
        self._skip = 2
        self._untouched = True

    def feed(self, data: bytes) -> bytes | None:
        """Take the next octets. Returns what came after the end of the data, or None if that is not reached."""
        if (
            self._untouched
            and data.endswith(b"\r\n.\r\n")
            and data[0] != 0x2E
            and data.find(b"\r\n.") == len(data) - 5
        ):
            # The whole of a small message in one piece, no dots in it: the usual case.
            self.store.write(self.check.passing(data[:-3]))
            return b""
        self._untouched = False
        buffer = self._carry + data
        start = self._skip
        position = 0
        pieces: list[bytes] = []
        while True:
            position = buffer.find(b"\r\n.", position)
            if position < 0 or len(buffer) - position < 5:
                # "\r\n." and one more octet can't tell; two more can, and so can one that is no CR.
                if position < 0 or len(buffer) - position < 4 or buffer[position + 3] == 0x0D:
                    break
            elif buffer[position + 3 : position + 5] == b"\r\n":
                pieces.append(buffer[start : position + 2])
                self._emit(pieces)
                return buffer[position + 5 :]
            pieces.append(buffer[start : position + 2])
            start = position + 3
            self.check.dots = True
            position = start
        end = position if position >= 0 else len(buffer) - _open_end(buffer)
        if end > start:
            pieces.append(buffer[start:end])
            self._carry = buffer[end:]
            self._skip = 0
        else:
            self._carry = buffer[min(start, end) :]
            self._skip = start - min(start, end)
        self._emit(pieces)
        return None

    def _emit(self, pieces: list[bytes]) -> None:
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if data:
            self.store.write(self.check.passing(data))


def _open_end(buffer: bytes) -> int:
    """How many octets at the end may be the beginning of CRLF or CRLF-dot."""
    if buffer.endswith(b"\r\n"):
        return 2
    return 1 if buffer.endswith(b"\r") else 0


class ChunkReader:
    """The octets of one BDAT command: exactly `size` of them, no dot-stuffing."""

    __slots__ = ("_carry", "_left", "check", "store")

    def __init__(self, store: Store, check: ContentCheck) -> None:
        self.store = store
        self.check = check
        self._carry = b""
        self._left = 0

    def begin(self, size: int) -> None:
        """Expect the next chunk."""
        self._left = size

    def feed(self, data: bytes) -> bytes | None:
        """Take octets. Returns what came after the chunk, or None if more of it is to come."""
        taken, rest = data[: self._left], data[self._left :]
        self._left -= len(taken)
        content = self._carry + taken
        if content.endswith(b"\r"):
            # A CRLF may be cut by the chunk's end; whether this CR is bare shows with the next octet.
            content, self._carry = content[:-1], b"\r"
        else:
            self._carry = b""
        if content:
            self.check.dots = True
            self.store.write(self.check.passing(content))
        return rest if self._left == 0 else None

    def finish(self) -> None:
        """The last chunk has ended: a CR still held back was a bare one."""
        if self._carry:
            self.store.write(self.check.passing(self._carry))
            self._carry = b""


def wire_chunks(message: Message) -> Iterator[Buffer]:
    """Yield a message as DATA wants it, dot-stuffed, in pieces; the final dot is the caller's.

    What stands in front of it on the wire ends with CRLF. A message without a final CRLF gets one.
    """
    tail = b"\r\n"
    for chunk in message.chunks():
        if message.dotless:
            yield chunk
            tail = bytes(chunk[-2:])
        else:
            # Two octets of context show every CRLF-dot that a cut between pieces would hide.
            joined = tail[-2:] + bytes(chunk)
            tail = joined[-2:]
            yield joined.replace(b"\r\n.", b"\r\n..")[2:]
    if tail[-2:] != b"\r\n":
        yield b"\r\n"
