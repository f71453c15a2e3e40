"""The parts of a message, as far as reports need them (RFC 2045, 2046): read-only, and bounded in every way.

Multiparts are entered, attached messages are not: what a returned message holds is not what the report says. Must not
know what a part means.
"""

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass

from relayproxy.model.message import HeaderField, Message

MOST_OCTETS = 262_144
"""Octets of a body that are looked at: reports come before the message that they return."""

_DEEPEST = 6
_MOST_PARTS = 60
_LONGEST_VALUE = 2000
_KIND = re.compile(r"\s*([a-z0-9!#$&^_.+-]{1,80})\s*/\s*([a-z0-9!#$&^_.+-]{1,80})", re.IGNORECASE)
_BOUNDARY = re.compile(r";\s*boundary\s*=\s*(?:\"([^\"]{1,200})\"|([^\s;\"]{1,200}))", re.IGNORECASE)
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_LINE_ENDS = re.compile(rb"\r?\n")


@dataclass(frozen=True, slots=True)
class Part:
    """One part that holds no others: its type in lower case ("text/plain"), its fields, its octets decoded."""

    kind: str
    fields: tuple[HeaderField, ...]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text with LF line ends; odd octets as U+FFFD."""
        return self.body.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")


def parts_of(message: Message) -> Iterator[Part]:
    """Yield the parts of a message in their order, at most 60 and at most six deep.

    A message that is no multipart is its only part. What can't be decoded is yielded as it stands.
    """
    room = [_MOST_PARTS]
    yield from _parts(message.fields, message.body_part(0, min(MOST_OCTETS, message.body_size)), 0, room)


def value_of(fields: tuple[HeaderField, ...], name: str) -> str:
    """Return the value of the topmost field called `name`, cut at 2000 characters; "" without one."""
    wanted = name.lower()
    return next((one.value[:_LONGEST_VALUE] for one in fields if one.name.lower() == wanted), "")


def split(octets: bytes) -> tuple[tuple[HeaderField, ...], bytes]:
    """Cut octets with CRLF or LF line ends into header fields and body."""
    if octets.startswith((b"\r\n", b"\n")):
        return (), octets.lstrip(b"\r\n")
    found = _BLANK_LINE.search(octets)
    head = octets[: found.start()] if found else octets
    block = _LINE_ENDS.sub(b"\r\n", head) + b"\r\n\r\n"
    return Message(block).fields, octets[found.end() :] if found else b""


def _parts(fields: tuple[HeaderField, ...], body: bytes, depth: int, room: list[int]) -> Iterator[Part]:
    declared = value_of(fields, "Content-Type")
    found = _KIND.match(declared)
    kind = f"{found[1]}/{found[2]}".lower() if found else "text/plain"
    boundary = _BOUNDARY.search(declared)
    if kind.startswith("multipart/") and boundary and depth < _DEEPEST:
        for piece in _pieces(body, boundary[1] or boundary[2]):
            if room[0] <= 0:
                return
            yield from _parts(*split(piece), depth + 1, room)
        return
    if room[0] > 0:
        room[0] -= 1
        yield Part(kind, fields, _decoded(value_of(fields, "Content-Transfer-Encoding"), body))


def _pieces(body: bytes, boundary: str) -> Iterator[bytes]:
    """Yield what stands between the delimiter lines (RFC 2046 section 5.1.1); a missing last one is the end."""
    line = re.compile(
        rb"(?:\A|\r?\n)--" + re.escape(boundary.encode("utf-8", "replace")) + rb"(--)?[ \t]*(?:\r?\n|\Z)"
    )
    start = -1
    at = 0
    for _ in range(_MOST_PARTS + 1):
        found = line.search(body, at)
        if found is None:
            break
        if start >= 0:
            yield body[start : found.start()]
        if found[1]:
            return
        start = found.end()
        # The line end behind a delimiter may be the one in front of the next.
        at = start - (2 if body[start - 2 : start] == b"\r\n" else 1 if start else 0)
        at = max(at, found.start() + 2)
    if start >= 0:
        yield body[start:]


def _decoded(encoding: str, body: bytes) -> bytes:
    match encoding.strip().lower():
        case "quoted-printable":
            return binascii.a2b_qp(body)
        case "base64":
            try:
                return binascii.a2b_base64(body)
            except binascii.Error:
                return body
        case _:
            return body
