"""The MIME tree of a message as places in its octets (RFC 2046 section 5.1), read only and within limits.

One pass over the lines that begin with two hyphens, whatever the nesting, so the work is linear in the size of the
message; a mapped body is never copied whole. Broken structure is read the way that shows most parts, and named. Must
not know what anybody concludes from a part, and writes nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from relayproxy.model.message import Message
from relayproxy.model.mime_fields import EMBEDDED, PLAIN, Described, describe

DEEPEST = 20
"""Containers within containers; deeper ones are leaves."""
MOST_PARTS = 1000
MOST_LINES = 50_000
"""Lines beginning with two hyphens that are looked at."""
LONGEST_HEADER = 65_536
"""Octets of one part's header."""
ALL_HEADERS = 262_144
"""Octets of the headers of all parts together."""
_LONGEST_BOUNDARY = 200  # RFC 2046 allows 70
_MOST_BOUNDARIES = 8  # of one container; a line is compared with all that are open
_LINE = re.compile(rb"\r\n--([^\r\n]{0,300})")
_NO_FIELD = re.compile(rb"\r\n(?![ \t]|[!-9;-~]{1,1000}[ \t]*:|\r\n|\Z)")
_BLANKS = b" \t"
_KNOWN_ENCODINGS = frozenset({"7bit", "8bit", "binary", "base64", "quoted-printable"})
_MESSAGES = ("message/rfc822", "message/global")
_PLAIN_ENCODINGS = frozenset({"7bit", "8bit", "binary"})


class Oddity(StrEnum):
    """What is wrong with the structure of a message."""

    REPEATED_FIELD = "repeated-field"
    NO_BOUNDARY = "no-boundary"
    BAD_BOUNDARY = "bad-boundary"
    BOUNDARY_CONFLICT = "boundary-conflict"
    SAME_BOUNDARY = "same-boundary"
    PREFIX_BOUNDARY = "prefix-boundary"
    NO_PARTS = "no-parts"
    UNTERMINATED = "unterminated"
    UNKNOWN_ENCODING = "unknown-encoding"
    ENCODED_MULTIPART = "encoded-multipart"
    ENCODED_MESSAGE = "encoded-message"
    HEADER_UNENDED = "part-header-unended"
    NO_FIELD = "part-no-field"
    TOO_DEEP = "too-deep"
    TOO_MANY_PARTS = "too-many-parts"
    TOO_MUCH_HEADER = "too-much-header"
    TOO_MANY_LINES = "too-many-lines"


UNSEEN = frozenset(
    {Oddity.TOO_DEEP, Oddity.TOO_MANY_PARTS, Oddity.TOO_MUCH_HEADER, Oddity.TOO_MANY_LINES}
    | {Oddity.NO_BOUNDARY, Oddity.BAD_BOUNDARY, Oddity.ENCODED_MESSAGE}
)
"""Those that leave something unread."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part, the message itself included; offsets count from the beginning of the message's body.

    `start` is where its header begins (and 0 for the message itself), `body` where its content does, `stop` where it
    ends, before the CRLF that belongs to the delimiter. `children` are those of a multipart, or the message within a
    message. `depth` is 0 for the message itself.
    """

    described: Described
    start: int
    body: int
    stop: int
    depth: int
    children: tuple["Part", ...] = ()

    @property
    def type(self) -> str:
        """The media type in lower case."""
        return self.described.type

    @property
    def size(self) -> int:
        """Octets of the content as it is encoded."""
        return self.stop - self.body

    def walk(self) -> Iterator["Part"]:
        """Yield the part and all below it, in their order."""
        waiting = [self]
        while waiting:
            part = waiting.pop()
            yield part
            waiting.extend(reversed(part.children))

    def leaves(self) -> Iterator["Part"]:
        """Yield the parts that hold no others."""
        return (part for part in self.walk() if not part.children)


@dataclass(frozen=True, slots=True)
class Tree:
    """A message's parts, and what is odd about their structure."""

    root: Part
    oddities: frozenset[Oddity]

    @property
    def unseen(self) -> bool:
        """Whether there may be more in the message than was read."""
        return bool(self.oddities & UNSEEN)


def read_tree(message: Message) -> Tree:
    """Return the parts of a message. Never raises, whatever the octets."""
    return _Reader(message).read()


class _Draft:
    """A part whose end is not known yet."""

    __slots__ = ("body", "children", "depth", "described", "start", "stop")

    def __init__(self, described: Described, start: int, body: int, stop: int, depth: int) -> None:
        self.described = described
        self.start, self.body, self.stop = start, body, stop
        self.depth = depth
        self.children: list[_Draft] = []

    def part(self) -> Part:
        """Return the part with all below it, of which there are DEEPEST levels at most."""
        children = tuple(child.part() for child in self.children)
        return Part(self.described, self.start, self.body, self.stop, self.depth, children)


class _Open:
    """A container that is not closed yet; a message within a message has no `boundaries`.

    Of several each one counts: readers disagree which it is, and so all parts are seen that any of them sees.
    """

    __slots__ = ("begun", "boundaries", "part")

    def __init__(self, part: _Draft, boundaries: tuple[bytes, ...]) -> None:
        self.part, self.boundaries = part, boundaries
        self.begun = False


class _Reader:
    def __init__(self, message: Message) -> None:
        self._message = message
        self._end = len(message.body)
        self._open: list[_Open] = []
        self._leaf: _Draft | None = None
        self._odd: set[Oddity] = set()
        self._count = 0
        self._headers = 0

    def read(self) -> Tree:
        described = describe(self._message.head[:ALL_HEADERS])
        root = _Draft(described, 0, 0, self._end, 0)
        self._enter(root)
        if self._open:
            for place, text in self._lines():
                if not self._line(place, text):
                    break
            self._close(0, self._end)
        return Tree(root.part(), frozenset(self._odd))

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield where a line that begins with two hyphens begins, and the rest of it."""
        body = self._message.body
        if bytes(body[:2]) == b"--":
            first = bytes(body[2:302])
            yield 0, first.partition(b"\r\n")[0]
        for count, match in enumerate(_LINE.finditer(body)):
            if count >= MOST_LINES:
                self._odd.add(Oddity.TOO_MANY_LINES)
                return
            yield match.start() + 2, match[1]

    def _line(self, place: int, text: bytes) -> bool:
        """Take a line for the delimiter that it may be; say whether to go on."""
        text = text.rstrip(_BLANKS)
        for level in range(len(self._open) - 1, -1, -1):
            for boundary in self._open[level].boundaries:
                if not text.startswith(boundary):
                    continue
                if text == boundary:
                    self._close(level + 1, max(place - 2, 0))
                    return self._next(self._open[level], place)
                if text == boundary + b"--":
                    self._close(level + 1, max(place - 2, 0))
                    self._ended(level)
                    return True
        return True

    def _next(self, container: _Open, place: int) -> bool:
        """Begin the next part of a container behind its delimiter line."""
        container.begun = True
        if self._count >= MOST_PARTS:
            self._odd.add(Oddity.TOO_MANY_PARTS)
            return False
        line = self._message.body_part(place, min(self._end, place + 400))
        cut = line.find(b"\r\n")
        start = self._end if cut < 0 else place + cut + 2
        default = EMBEDDED if container.part.described.type == "multipart/digest" else PLAIN
        part = self._part(start, container.part.depth + 1, default)
        container.part.children.append(part)
        self._enter(part)
        return True

    def _part(self, start: int, depth: int, default: Described = PLAIN) -> _Draft:
        """Read the header that begins at `start`, of a part that is of the type of `default` if it says nothing."""
        self._count += 1
        room = min(LONGEST_HEADER, ALL_HEADERS - self._headers)
        if room <= 0:
            self._odd.add(Oddity.TOO_MUCH_HEADER)
            return _Draft(default, start, start, self._end, depth)
        data = self._message.body_part(start, min(self._end, start + room))
        if data.startswith(b"\r\n"):
            return _Draft(default, start, start + 2, self._end, depth)
        cut = data.find(b"\r\n\r\n")
        head = data if cut < 0 else data[: cut + 2]
        delimiter = self._delimiter_in(head)
        if delimiter >= 0:
            head, body = head[:delimiter], start + max(delimiter - 2, 0)
            self._odd.add(Oddity.HEADER_UNENDED)
        elif cut < 0:
            body = start + len(data)
            self._odd.add(Oddity.TOO_MUCH_HEADER if body < self._end else Oddity.HEADER_UNENDED)
        else:
            body = start + cut + 4
        self._headers += len(head)
        if _NO_FIELD.search(b"\r\n" + head):
            self._odd.add(Oddity.NO_FIELD)
        return _Draft(describe(head, default), start, body, self._end, depth)

    def _delimiter_in(self, head: bytes) -> int:
        """Return where a delimiter line of an open container ends a header that has no blank line, or -1."""
        for match in _LINE.finditer(b"\r\n" + head):
            text = match[1].rstrip(_BLANKS)
            for one in self._open:
                if any(text in (boundary, boundary + b"--") for boundary in one.boundaries):
                    return match.start()
        return -1

    def _enter(self, part: _Draft) -> None:
        """Make `part` what the lines to come belong to, with the messages that begin within it."""
        while True:
            said = part.described
            self._judge(part)
            self._leaf = None
            holds_message = said.type in _MESSAGES
            boundaries = self._boundaries(said) if said.type.startswith("multipart/") else ()
            if not boundaries and not holds_message:
                self._leaf = part
                return
            if part.depth >= DEEPEST or self._count >= MOST_PARTS:
                self._odd.add(Oddity.TOO_DEEP if part.depth >= DEEPEST else Oddity.TOO_MANY_PARTS)
                self._leaf = part
                return
            if boundaries:
                self._open.append(_Open(part, boundaries))
                return
            if said.encoding not in _PLAIN_ENCODINGS or part.body >= self._end:
                self._leaf = part
                return
            self._open.append(_Open(part, ()))
            within = self._part(part.body, part.depth + 1)
            part.children.append(within)
            part = within

    def _judge(self, part: _Draft) -> None:
        said = part.described
        if said.repeated:
            self._odd.add(Oddity.REPEATED_FIELD)
        if said.encoding not in _KNOWN_ENCODINGS:
            self._odd.add(Oddity.UNKNOWN_ENCODING)
        if said.encoding in _PLAIN_ENCODINGS:
            return
        if said.type.startswith("multipart/"):
            self._odd.add(Oddity.ENCODED_MULTIPART)
        elif said.type in _MESSAGES:
            self._odd.add(Oddity.ENCODED_MESSAGE)

    def _boundaries(self, said: Described) -> tuple[bytes, ...]:
        if not said.boundaries:
            self._odd.add(Oddity.NO_BOUNDARY)
            return ()
        if len(said.boundaries) > 1:
            self._odd.add(Oddity.BOUNDARY_CONFLICT)
        found = tuple(one.encode("utf-8", "replace") for one in said.boundaries[:_MOST_BOUNDARIES])
        if any(len(one) > 70 or not one.isascii() for one in found):
            self._odd.add(Oddity.BAD_BOUNDARY)
        usable = tuple(one for one in found if len(one) <= _LONGEST_BOUNDARY)
        for boundary in usable:
            for outer in (outer for one in self._open for outer in one.boundaries):
                if outer == boundary:
                    self._odd.add(Oddity.SAME_BOUNDARY)
                elif boundary == outer + b"--":
                    self._odd.add(Oddity.PREFIX_BOUNDARY)
        return usable

    def _close(self, level: int, stop: int) -> None:
        """End the open leaf and the containers from `level` on at `stop`, which nobody closed."""
        if self._leaf is not None:
            self._end_part(self._leaf, stop)
            self._leaf = None
        while len(self._open) > level:
            one = self._open.pop()
            self._end_part(one.part, stop)
            if one.boundaries:
                self._odd.add(Oddity.UNTERMINATED if one.begun else Oddity.NO_PARTS)

    def _ended(self, level: int) -> None:
        """Close a container at its last delimiter; what follows is its epilogue, up to the next outer one."""
        one = self._open[level]
        if not one.begun:
            self._odd.add(Oddity.NO_PARTS)
        self._leaf = one.part
        del self._open[level:]

    @staticmethod
    def _end_part(part: _Draft, stop: int) -> None:
        part.stop = max(part.body, min(stop, part.stop))
