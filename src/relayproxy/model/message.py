"""The received message: bytes that never change, and an index over them.

`bytes(message)` is what arrived. Header fields are slices of it; nothing is decoded until asked for, nothing is
ever serialised through a MIME library. Must not know how it arrived or where the body's buffer lives.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import TypeAlias

from relayproxy.model.encoded_words import decode_words

Buffer: TypeAlias = bytes | memoryview

_NAME = re.compile(rb"[!-~]+\Z")
_USUAL_NAME = 64  # octets of the names that are remembered
_COPIED = 65_536
_BLANKS = " \t"


@dataclass(frozen=True, slots=True)
class HeaderField:
    """One header field as received: `raw` holds every octet with its folds and final CRLF.

    `name` is as written, without blanks before the colon; "" for a line that is no field at all.
    """

    name: str
    raw: bytes

    @property
    def value(self) -> str:
        """The body of the field, unfolded, surrounding blanks removed; odd octets as U+FFFD."""
        body = self.raw.partition(b":")[2] if self.name else self.raw
        text = body.replace(b"\r\n", b"").decode("utf-8", "replace")
        return text.strip(_BLANKS)

    @property
    def text(self) -> str:
        """The value with encoded-words (RFC 2047) decoded, for people and for matching words."""
        return decode_words(self.value)


def split_fields(head: bytes) -> tuple[HeaderField, ...]:
    """Cut a header block into fields; joining their `raw` gives the block without its blank line."""
    block = head[:-2] if head.endswith(b"\r\n\r\n") or head == b"\r\n" else head
    fields: list[HeaderField] = []
    start = 0
    end = len(block)
    while start < end:
        stop = start
        while True:
            cut = block.find(b"\r\n", stop)
            stop = end if cut < 0 else cut + 2
            if stop >= end or block[stop] not in b" \t":
                break
        raw = block[start:stop]
        name, colon, _ = raw.partition(b":")
        read = _usual_name if len(name) <= _USUAL_NAME else _field_name
        fields.append(HeaderField(read(name) if colon else "", raw))
        start = stop
    return tuple(fields)


def _field_name(written: bytes) -> str:
    name = written.rstrip(b" \t")
    return name.decode("ascii") if _NAME.match(name) else ""


_usual_name = lru_cache(1000)(_field_name)


class Pieces:
    """A body as it arrived, in pieces, which are joined only for whoever wants it whole."""

    __slots__ = ("_ends", "_joined", "_parts")

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))
        self._joined: memoryview | None = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._parts)

    @property
    def joined(self) -> memoryview:
        """The whole body."""
        if self._joined is None:
            self._joined = memoryview(b"".join(self._parts))
        return self._joined

    def part(self, start: int, stop: int) -> bytes:
        """Return the octets from `start` to `stop`, both within the body."""
        number = bisect_right(self._ends, start)
        begins = self._ends[number] - len(self._parts[number])
        if stop <= self._ends[number]:
            return self._parts[number][start - begins : stop - begins]
        return bytes(self.joined[start:stop])


class Message:
    """The octets of one message.

    `head` is everything up to and including the blank line (or all of it when there is none), `body` the rest
    as bytes or as a view, of a mapped file for instance; `size` counts all octets. `dotless` promises that no line
    begins with a dot, which spares the sender's search for them. `reader` yields the octets of the body piece by
    piece where that is cheaper than looking at them through the view.
    """

    def __init__(
        self,
        head: bytes,
        body: Buffer | Pieces = b"",
        *,
        dotless: bool = False,
        reader: Callable[[], Iterator[bytes]] | None = None,
    ) -> None:
        self.head = head
        self._body = body
        self.dotless = dotless
        self.reader = reader if reader is not None or not isinstance(body, Pieces) else body.__iter__
        self.size = len(head) + len(body)

    @property
    def body(self) -> Buffer:
        """The octets behind the blank line."""
        return self._body.joined if isinstance(self._body, Pieces) else self._body

    @property
    def body_size(self) -> int:
        """Octets behind the blank line, counted without looking at them."""
        return self.size - len(self.head)

    def with_head(self, head: bytes) -> "Message":
        """Return a message of the same body under another header block."""
        return Message(head, self._body, dotless=self.dotless, reader=self.reader)

    def body_part(self, start: int, stop: int) -> bytes:
        """Return the octets of the body from `start` to `stop`, without a copy of all of it."""
        if start >= stop:
            return b""
        body = self._body
        return body.part(start, stop) if isinstance(body, Pieces) else bytes(body[start:stop])

    @classmethod
    def from_bytes(cls, data: bytes, *, dotless: bool = False) -> "Message":
        """Split received octets at the first blank line; a large body is a view of them, not a copy."""
        if data.startswith(b"\r\n"):
            return cls(b"\r\n", data[2:], dotless=dotless)
        cut = data.find(b"\r\n\r\n")
        if cut < 0:
            return cls(data, b"", dotless=dotless)
        body = data[cut + 4 :] if len(data) < _COPIED else memoryview(data)[cut + 4 :]
        return cls(data[: cut + 4], body, dotless=dotless)

    @classmethod
    def from_pieces(cls, pieces: Sequence[bytes], *, dotless: bool = False) -> "Message":
        """As `from_bytes`, of octets that came in pieces; a body that begins in the first of them is not copied."""
        first = pieces[0] if pieces else b""
        cut = 2 if first.startswith(b"\r\n") else first.find(b"\r\n\r\n") + 4
        if len(pieces) < 2 or (cut < 4 and not first.startswith(b"\r\n")):
            return cls.from_bytes(b"".join(pieces), dotless=dotless)
        return cls(first[:cut], Pieces((first[cut:], *pieces[1:])), dotless=dotless)

    def __bytes__(self) -> bytes:
        return self.head + bytes(self.body)

    def __len__(self) -> int:
        return self.size

    def chunks(self, size: int = 262_144) -> Iterator[Buffer]:
        """Yield the octets in pieces of at most `size`, without copying a mapped body."""
        if self.size <= size:
            yield bytes(self)
            return
        if self.reader is not None:
            yield self.head
            yield from self.reader()
            return
        for part in (memoryview(self.head), memoryview(self.body)):
            for start in range(0, len(part), size):
                yield part[start : start + size]

    @cached_property
    def fields(self) -> tuple[HeaderField, ...]:
        """All header fields from top to bottom, odd lines included (their name is empty)."""
        return split_fields(self.head)

    def all(self, name: str) -> tuple[HeaderField, ...]:
        """All fields called `name`, in any case, from top to bottom."""
        wanted = name.lower()
        return tuple(field for field in self.fields if field.name.lower() == wanted)

    def header(self, name: str) -> str | None:
        """The unfolded value of the topmost field called `name`, or None."""
        wanted = name.lower()
        for field in self.fields:
            if field.name.lower() == wanted:
                return field.value
        return None

    @property
    def subject(self) -> str:
        """The subject with encoded-words decoded; "" without one."""
        return decode_words(self.header("Subject") or "")
