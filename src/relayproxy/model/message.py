"""The received message: bytes that never change, and an index over them.

`bytes(message)` is what arrived. Header fields are slices of it; nothing is decoded until asked for, nothing is
ever serialised through a MIME library. Must not know how it arrived or where the body's buffer lives.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
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


class Message:
    """The octets of one message.

    `head` is everything up to and including the blank line (or all of it when there is none), `body` the rest
    as bytes or as a view of a mapped file. `dotless` promises that no line begins with a dot, which spares the
    sender's search for them. `reader` yields the octets of the body piece by piece where that is cheaper than
    looking at them through the view.
    """

    def __init__(
        self,
        head: bytes,
        body: Buffer = b"",
        *,
        dotless: bool = False,
        reader: Callable[[], Iterator[bytes]] | None = None,
    ) -> None:
        self.head = head
        self.body = body
        self.dotless = dotless
        self.reader = reader

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

    def __bytes__(self) -> bytes:
        return self.head + bytes(self.body)

    def __len__(self) -> int:
        return len(self.head) + len(self.body)

    @property
    def size(self) -> int:
        """Octets of the whole message."""
        return len(self.head) + len(self.body)

    def chunks(self, size: int = 262_144) -> Iterator[Buffer]:
        """Yield the octets in pieces of at most `size`, without copying a mapped body."""
        if len(self) <= size:
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
