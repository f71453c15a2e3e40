"""The parts of a message, as far as reports need them: those of relayproxy.model.mime, read only as far as reports reach.

Multiparts are entered, attached messages are not: what a returned message holds is not what the report says. Must not
know what a part means.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from relayproxy.model.message import HeaderField, Message
from relayproxy.model.mime import read_tree
from relayproxy.model.mime_content import decoded_octets

MOST_OCTETS = 262_144
"""Octets of a body that are looked at: reports come before the message that they return."""

_MOST_PARTS = 60
_LONGEST_VALUE = 2000
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_LINE_ENDS = re.compile(rb"\r?\n")


@dataclass(frozen=True, slots=True)
class Part:
    """One part that holds no others: its type in lower case ("text/plain"), its octets decoded."""

    kind: str
    body: bytes

    @property
    def text(self) -> str:
        """The body as text with LF line ends; odd octets as U+FFFD."""
        return self.body.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")


def parts_of(message: Message) -> Iterator[Part]:
    """Yield the parts of a message in their order, at most 60.

    A message that is no multipart is its only part.
    """
    if message.body_size > MOST_OCTETS:
        message = Message(message.head, message.body_part(0, MOST_OCTETS))
    waiting = [read_tree(message).root]
    count = 0
    while waiting and count < _MOST_PARTS:
        part = waiting.pop()
        if part.children and part.type.startswith("multipart/"):
            waiting.extend(reversed(part.children))
        else:
            count += 1
            yield Part(part.type, decoded_octets(message, part))


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
