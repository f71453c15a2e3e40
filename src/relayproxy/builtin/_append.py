"""Text put at the end of a text part, in the part's own character set and transfer encoding, as a splice.

Must not know which parts get a text, or why.
"""

import binascii
import html
import re
import unicodedata
from dataclasses import dataclass

from relayproxy.api import Message
from relayproxy.model.encoded_words import codec_of
from relayproxy.model.mime import Part
from relayproxy.model.mime_content import encoded_octets

_LINE = 76  # characters of base64 on a line (RFC 2045 section 6.8)
_WIDE = re.compile(r"utf_?(?:7|16|32)|u(?:tf)?(?:7|16|32)|ucs|iso_?2022|hz|unicode", re.IGNORECASE)
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}\Z")
_NEWLINE = re.compile(rb"\r?\n")
_SOFT = b"(?:=[ \t]*\r\n)?"


def _closing(name: bytes) -> re.Pattern[bytes]:
    """Match a closing tag, soft line breaks of quoted-printable within it allowed."""
    letters = _SOFT.join(re.escape(bytes([octet])) for octet in b"</" + name)
    return re.compile(letters, re.IGNORECASE)


_ENDS = (_closing(b"body"), _closing(b"html"))


@dataclass(frozen=True, slots=True)
class Splice:
    """`octets` in place of those of the message's body from `start` to `stop`."""

    start: int
    stop: int
    octets: bytes


def appended(message: Message, part: Part, text: str) -> Splice | None:
    """Return the splice that puts `text` (LF between its lines) at the end of a text/plain or text/html part.

    In HTML that is before `</body>`. What the part's character set can't say is written as near as it can: as a
    character reference in HTML, without accents in plain text. None for a character set in which ASCII isn't ASCII,
    an encoding that isn't known, and base64 that is malformed.
    """
    said = part.described
    charset = codec_of(said.charset or "us-ascii")
    if not charset or _WIDE.match(charset):
        return None
    is_html = said.type == "text/html"
    narrow = "ascii" if said.encoding == "7bit" else charset
    octets = _octets(text, narrow, is_html=is_html)
    match said.encoding:
        case "7bit" | "8bit" | "binary":
            return _inserted(message, part, octets, is_html=is_html)
        case "quoted-printable":
            coded = _NEWLINE.sub(b"\r\n", binascii.b2a_qp(octets, istext=True))
            return _inserted(message, part, coded, is_html=is_html, soft=True)
        case "base64":
            return _recoded(message, part, octets, is_html=is_html)
        case _:
            return None


def _octets(text: str, charset: str, *, is_html: bool) -> bytes:
    lines = text.replace("\n", "\r\n")
    if is_html:
        return lines.encode(charset, "xmlcharrefreplace")
    try:
        return lines.encode(charset)
    except UnicodeEncodeError:
        plain = unicodedata.normalize("NFKD", lines)
        return "".join(c for c in plain if not unicodedata.combining(c)).encode(charset, "replace")


def _inserted(message: Message, part: Part, octets: bytes, *, is_html: bool, soft: bool = False) -> Splice:
    data = encoded_octets(message, part)
    if soft and data.endswith(b"=\r\n"):
        data = data[:-3]  # a soft line break at the very end joins nothing
    place, octets = _placed(data, octets, is_html=is_html)
    start = part.body + place
    return Splice(start, start, octets)


def _recoded(message: Message, part: Part, octets: bytes, *, is_html: bool) -> Splice | None:
    """Write a base64 part anew, as there is no place between octets in it."""
    data = encoded_octets(message, part)
    letters = data.translate(None, b"\r\n \t")
    if not _BASE64.match(letters) or len(letters) % 4:
        return None  # readers differ about what it holds, so nothing can be written in its place
    content = binascii.a2b_base64(letters)
    place, octets = _placed(content, octets, is_html=is_html)
    letters = binascii.b2a_base64(content[:place] + octets + content[place:], newline=False)
    lines = b"\r\n".join(letters[n : n + _LINE] for n in range(0, len(letters), _LINE))
    return Splice(part.body, part.stop, lines + (b"\r\n" if data.endswith(b"\r\n") else b""))


def _placed(data: bytes, octets: bytes, *, is_html: bool) -> tuple[int, bytes]:
    """Return where the text goes, and the text with the line ends that it needs there."""
    if is_html:
        for end in _ENDS:
            places = [match.start() for match in end.finditer(data)]
            if places:
                return places[-1], octets
    ended = data.endswith(b"\r\n") or not data
    return len(data), (b"\r\n" if ended else b"\r\n\r\n") + octets + (b"\r\n" if ended else b"")


def escaped(text: str) -> str:
    """Return plain text as HTML."""
    return html.escape(text).replace("\n", "<br>\n")
