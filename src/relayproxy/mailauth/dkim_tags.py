"""Lists of tags, as DKIM and ARC write them (RFC 6376 section 3.2), and the values that both put into them.

The one module that imports dkimpy, whose grammar of tag lists is the one in use. Must not know which tags a field has
to have.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from dkim.util import InvalidTagValueList, parse_tag_value

from relayproxy.model.address import to_a_label

ALGORITHMS = ("rsa-sha256", "ed25519-sha256")

_LONGEST = 16_384  # octets of a field or a record; the largest key and signature need a fifth of it
_LONGEST_NAME = 253
_SHOWN = 8  # characters of b= that tell signatures apart (RFC 6008)

_USUAL = frozenset(
    {b"v", b"a", b"b", b"bh", b"c", b"d", b"h", b"i", b"k", b"l", b"p", b"q", b"s", b"t", b"x", b"z"}
)
_TAG = re.compile(rb"[A-Za-z][A-Za-z0-9_]*\Z")
_NUMBER = re.compile(rb"[0-9]{1,20}\Z")
_LENGTH = re.compile(rb"[0-9]{1,76}\Z")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_WORD = re.compile(r"[A-Za-z0-9-]{1,40}\Z")
_BASE64 = re.compile(r"[A-Za-z0-9+/=]+\Z")
_B_FIRST = re.compile(rb"[ \t\r\n]*b[ \t\r\n]*=")
_B_LATER = re.compile(rb";[ \t\r\n]*b[ \t\r\n]*=")
_BLANKS = b" \t\r\n"


class Flaw(Exception):  # noqa: N818  (the word for it)
    """A rule that is broken."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a signature says of itself, fit to be repeated: d=, s=, a=, and the beginning of b=; "" if unreadable."""

    domain: str = ""
    selector: str = ""
    algorithm: str = ""
    b: str = ""

    @property
    def key_name(self) -> str:
        """Where the key record is."""
        return f"{self.selector}._domainkey.{self.domain}"


def parse_tags(text: bytes) -> dict[bytes, bytes]:
    """Read a list of tags, its folds still in it. Raises Flaw."""
    if len(text) > _LONGEST:
        raise Flaw("it is too long")
    try:
        tags: dict[bytes, bytes] = parse_tag_value(text.replace(b"\r\n", b""))
    except InvalidTagValueList:
        raise Flaw("it is no list of tags, or a tag occurs twice") from None
    if not (tags.keys() <= _USUAL or all(map(_TAG.match, tags))):
        raise Flaw("it is no list of tags")
    return tags


def without_b(raw: bytes) -> bytes:
    """Return a field with the value of b= taken out, as it was when it was signed (section 3.7)."""
    start = raw.find(b":") + 1 or len(raw)
    found = _B_FIRST.match(raw, start) or _B_LATER.search(raw, start)
    if found is None:
        return raw
    end = raw.find(b";", found.end())
    return raw[: found.end()] + (raw[end:] if end >= 0 else b"")


def claim_of(tags: Mapping[bytes, bytes]) -> Claim:
    """Return what can be read of d=, s=, a= and b=."""
    algorithm = tags.get(b"a", b"").decode("ascii", "replace").lower()
    b = tags.get(b"b", b"").translate(None, _BLANKS)[:_SHOWN].decode("ascii", "replace")
    return Claim(
        host_name(tags.get(b"d", b"")),
        host_name(tags.get(b"s", b"")),
        algorithm if _WORD.match(algorithm) else "",
        b if _BASE64.match(b) else "",
    )


def check_claim(claim: Claim) -> None:
    """Raise Flaw for a claim that can't be verified, whatever its key."""
    if claim.algorithm == "rsa-sha1":
        raise Flaw("rsa-sha1 is no longer a signature (RFC 8301)")
    if claim.algorithm not in ALGORITHMS:
        raise Flaw("a= is not an algorithm that is known here")
    if not claim.domain or not claim.selector or len(claim.key_name) > _LONGEST_NAME:
        raise Flaw("d= or s= is not a name")


def host_name(value: bytes) -> str:
    """Return a domain or selector in A-labels (RFC 8616), "" if it isn't one: letters, digits, hyphens, underscores."""
    return _host_name(value) if len(value) <= 4 * _LONGEST_NAME else ""


@lru_cache(1000)
def _host_name(value: bytes) -> str:
    try:
        name = to_a_label(value.decode())
    except UnicodeDecodeError:
        return ""
    good = len(name) <= _LONGEST_NAME and all(map(_LABEL.match, name.split(".")))
    return name if good else ""


def require(tags: Mapping[bytes, bytes], *names: bytes) -> None:
    """Raise Flaw if one of the tags is missing."""
    missing = [name for name in names if name not in tags]
    if missing:
        raise Flaw(f"{missing[0].decode()}= is missing")


def items(value: bytes) -> list[bytes]:
    """Return the items of a list with colons."""
    return [item.strip(_BLANKS) for item in value.split(b":")]


def canonical_forms(value: bytes) -> tuple[bool, bool]:
    """Return whether header and body are relaxed, by the value of c=. Raises Flaw."""
    header, _, body = value.lower().partition(b"/")
    known = {b"simple": False, b"relaxed": True, b"": False}
    if header not in known or body not in known or not header:
        raise Flaw("c= is not an algorithm that is known here")
    return known[header], known[body]


def moment(tags: Mapping[bytes, bytes], name: bytes) -> int | None:
    """Return the seconds since the epoch that a tag holds, None without it. Raises Flaw."""
    value = tags.get(name)
    if value is None:
        return None
    if not _NUMBER.match(value):
        raise Flaw(f"{name.decode()}= is not a time")
    return int(value)


def body_length(tags: Mapping[bytes, bytes]) -> int | None:
    """Return the octets that l= counts, None without it. Raises Flaw."""
    value = tags.get(b"l")
    if value is None:
        return None
    if not _LENGTH.match(value):
        raise Flaw("l= is not a length")
    return int(value)


def octets_of(tags: Mapping[bytes, bytes], name: bytes) -> bytes:
    """Return what a tag holds in base64. Raises Flaw."""
    try:
        octets = base64.b64decode(tags[name].translate(None, _BLANKS), validate=True)
    except binascii.Error:
        octets = b""
    if not octets:
        raise Flaw(f"{name.decode()}= is not base64")
    return octets
