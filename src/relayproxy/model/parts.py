"""The MIME parts of a message, read only: names, types and sizes, within limits of depth, number and octets.

A walk over the received octets (RFC 2046 section 5.1); nothing is decoded but names, nothing is ever written back.
What mail readers make of a broken structure differs, so this one errs towards seeing a part. Must not know what
anybody concludes from a part.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from relayproxy.model.encoded_words import decode_words
from relayproxy.model.message import Message
from relayproxy.model.mime_fields import joined

DEEPEST = 20
MOST_PARTS = 500
_LONGEST_HEADER = 65_536
_LONGEST_NAME = 1000
_PARAMETER = re.compile(r';\s*([^\s=;"]{1,80})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))')
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Part:
    """One leaf of the MIME tree: `type` such as "application/pdf", `name` as decoded or "", octets as encoded.

    `disposition` is "attachment", "inline" or "". `depth` is 0 for a message that has one part.
    """

    type: str
    name: str
    disposition: str
    size: int
    depth: int

    @property
    def is_attachment(self) -> bool:
        """Whether a reader shows it as a file: it has a name, or says so, or is neither text nor a container."""
        return bool(self.name) or self.disposition == "attachment" or not self.type.startswith("text/")

    @property
    def extension(self) -> str:
        """What follows the last dot of the name, in lower case; "" without one."""
        stem, dot, extension = self.name.rstrip(" .").rpartition(".")
        return extension.lower() if dot and stem else ""


def parts_of(message: Message) -> tuple[Part, ...]:
    """Return the leaves in their order: at most MOST_PARTS, none deeper than DEEPEST containers.

    A container beyond a limit counts as one leaf of its own type. Linear in the size of the message for each
    level of nesting.
    """
    return tuple(_Walk().leaves(message.head, bytes(message.body), 0))


class _Walk:
    """One walk and its account: containers count too, so that many empty ones end it as well."""

    def __init__(self) -> None:
        self._count = 0

    def leaves(self, head: bytes, body: bytes, depth: int) -> Iterator[Part]:
        """Yield the leaves below one part."""
        self._count += 1
        kind, disposition, parameters = _described(head)
        room = depth < DEEPEST and self._count < MOST_PARTS
        boundary = parameters.get("boundary", "").encode("utf-8", "replace").rstrip(b" ")
        if kind.startswith("multipart/") and boundary and room:
            for piece in _pieces(body, boundary):
                if self._count >= MOST_PARTS:
                    return
                yield from self.leaves(*_split(piece), depth + 1)
            return
        if kind == "message/rfc822" and room and body:
            yield from self.leaves(*_split(body), depth + 1)
            return
        name = parameters.get("filename") or parameters.get("name") or ""
        yield Part(kind, name, disposition, len(body), depth)


def _split(data: bytes) -> tuple[bytes, bytes]:
    if data.startswith(b"\r\n"):
        return b"", data[2:]
    head, _, body = data.partition(b"\r\n\r\n")
    return head + b"\r\n", body


def _pieces(body: bytes, boundary: bytes) -> Iterator[bytes]:
    """Yield what stands between the delimiter lines; a missing last one ends with the body."""
    mark = b"--" + boundary
    start = -1
    place = 0 if body.startswith(mark) else _next(body, mark, 0)
    while place >= 0:
        line = place + len(mark)
        end = body.find(b"\r\n", line)
        rest = body[line : end if end >= 0 else len(body)]
        if rest.startswith(b"--") or not rest.strip(b" \t"):
            if start >= 0:
                yield body[start : max(start, place - 2)]
            start = -1 if end < 0 or rest.startswith(b"--") else end + 2
            if start < 0:
                return
        place = _next(body, mark, line)
    if start >= 0:
        yield body[start:]


def _next(body: bytes, mark: bytes, place: int) -> int:
    found = body.find(b"\r\n" + mark, place)
    return found + 2 if found >= 0 else -1


def _described(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Return type, disposition and parameters of a header block."""
    kind, disposition = "text/plain", ""
    parameters: dict[str, str] = {}
    head = head[:_LONGEST_HEADER]
    value = _value(head, b"content-type")
    if value:
        word, _, rest = value.partition(";")
        kind = word.strip().lower() or kind
        parameters = _parameters(";" + rest) if rest else {}
    value = _value(head, b"content-disposition")
    if value:
        word, _, rest = value.partition(";")
        disposition = word.strip().lower()
        parameters |= _parameters(";" + rest) if rest else {}
    return kind, disposition, parameters


def _value(head: bytes, name: bytes) -> str:
    """Return the last field of a name, unfolded, or ""; without a list of all fields, of which most are others."""
    lowered = head.lower()
    place = len(head)
    while (place := lowered.rfind(name, 0, place)) >= 0:
        if place and head[place - 1 : place] != b"\n":
            continue
        end = head.find(b"\r\n", place)
        while end >= 0 and head[end + 2 : end + 3] in (b" ", b"\t"):
            end = head.find(b"\r\n", end + 2)
        field, colon, body = head[place : end if end >= 0 else len(head)].partition(b":")
        if colon and field.lower().rstrip(b" \t") == name:
            return body.replace(b"\r\n", b"").decode("utf-8", "replace").strip()
    return ""


def _parameters(text: str) -> dict[str, str]:
    """Read parameters, continued and encoded ones too (RFC 2231), and encoded-words that many senders use."""
    found: dict[str, str] = {}
    pieces: dict[str, dict[int, tuple[str, bool]]] = {}
    for match in _PARAMETER.finditer(text[:_LONGEST_HEADER]):
        key = match[1].lower()
        value = _ESCAPED.sub(r"\1", match[2]) if match[2] is not None else match[3]
        name, *more = key.split("*")
        if not more:
            found.setdefault(name, decode_words(value))
            continue
        encoded = more[-1] == ""
        number = int(more[0]) if more[0].isdigit() and len(more[0]) < 4 else 0
        pieces.setdefault(name, {}).setdefault(number, (value, encoded))
    for name, numbered in pieces.items():
        found[name] = joined([numbered[number] for number in sorted(numbered)])
    return {key: value[:_LONGEST_NAME] for key, value in found.items()}
