"""The host names in the links of a message, for URI lists.

Reads a bounded part of the body, undoing base64 and quoted-printable of text parts. It finds what a reader could
click, not all that a MIME parser would see, and changes nothing. Must not look anything up.
"""

import binascii
import quopri
import re
from collections.abc import Iterator
from urllib.parse import unquote

from relayproxy.api import Message, to_a_label

_OCTETS = 262_144
_PARTS = 50
_BOUNDARY = re.compile(rb'boundary\s*=\s*(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_ENCODING = re.compile(rb"^content-transfer-encoding:\s*([a-z0-9-]+)", re.IGNORECASE | re.MULTILINE)
_TYPE = re.compile(rb"^content-type:\s*([a-z]+)/", re.IGNORECASE | re.MULTILINE)
_LINK = re.compile(
    r"(?:https?:(?:/|\\|&#x2f;|&#47;){2}|\bwww(?=\.))([^\s\"'<>()\[\]{}\\/?#|^`]{1,300}|\[[0-9a-f:.]{2,45}\])",
    re.IGNORECASE,
)


def hosts_of(message: Message, most: int) -> list[str]:
    """Return up to `most` distinct hosts (A-labels or addresses) in the order in which they occur."""
    found: dict[str, None] = {}
    for text in _texts(message):
        for link in _LINK.finditer(text):
            host = _host(link)
            if host:
                found[host] = None
                if len(found) >= most:
                    return list(found)
    return list(found)


def _host(link: re.Match[str]) -> str:
    """Return the host that a browser would go to: without login, port and escapes."""
    text = link[1] if ":" in link[0][:6] else f"www{link[1]}"
    text = unquote(text.rpartition("@")[2]).strip(".").lower()
    if text.startswith("["):
        return text[1:-1]
    name = text.partition(":")[0].rstrip(".,;:!")
    return to_a_label(name) if "." in name else ""


def _texts(message: Message) -> Iterator[str]:
    """Yield the text parts that lie in the first octets of the body, decoded."""
    body = message.body_part(0, min(_OCTETS, message.body_size))
    boundaries = {(quoted or bare) for quoted, bare in _BOUNDARY.findall(message.head + body)[:_PARTS]}
    yield _decoded(message.head, b"" if boundaries else body)
    if not boundaries:
        return
    # Parts of parts begin with a boundary of their own, so one cut finds them all.
    cut = re.compile(
        rb"^--(?:" + b"|".join(map(re.escape, boundaries)) + rb")(?:--)?[ \t]*\r\n", re.MULTILINE
    )
    for part in cut.split(body, maxsplit=_PARTS):
        head, blank, content = (b"\r\n" + part).partition(b"\r\n\r\n")
        yield _decoded(head, content if blank else part)


def _decoded(head: bytes, content: bytes) -> str:
    kind = _TYPE.search(head)
    if kind and kind[1].lower() not in (b"text", b"message"):
        return ""
    encoding = _ENCODING.search(head)
    match encoding[1].lower() if encoding else b"":
        case b"base64":
            content = _from_base64(content)
        case b"quoted-printable":
            content = quopri.decodestring(content)
    return content.decode("utf-8", "replace")


def _from_base64(content: bytes) -> bytes:
    """Decode as much as there is: the end may be cut off, and stray octets don't count (RFC 2045 section 6.8)."""
    kept = re.sub(rb"[^A-Za-z0-9+/]", b"", content)
    kept = kept[: len(kept) // 4 * 4]
    try:
        return binascii.a2b_base64(kept)
    except binascii.Error:
        return b""
