"""What DKIM writes as lists of tags: the DKIM-Signature field and the key record (RFC 6376 sections 3.5 and 3.6.1).

The one module that imports dkimpy, whose grammar of tag lists is the one in use. Reads and judges the form; must not
know messages, DNS, or the time.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from functools import lru_cache

from dkim.util import InvalidTagValueList, parse_tag_value

from relayproxy.mailauth.canonical import BodyForm
from relayproxy.mailauth.dkim_keys import KeyFault, PublicKey, read_public_key
from relayproxy.model.address import to_a_label

ALGORITHMS = ("rsa-sha256", "ed25519-sha256")

_LONGEST = 16_384  # octets of a field or a record; the largest key and signature need a fifth of it
_SHOWN = 8  # characters of b= that tell signatures apart (RFC 6008)
_LONGEST_NAME = 253

_TAG = re.compile(rb"[A-Za-z][A-Za-z0-9_]*\Z")
_NUMBER = re.compile(rb"[0-9]{1,20}\Z")
_LENGTH = re.compile(rb"[0-9]{1,76}\Z")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_FIELD = re.compile(rb"[!-9;-~]+\Z")
_WORD = re.compile(r"[A-Za-z0-9-]{1,40}\Z")
_BASE64 = re.compile(r"[A-Za-z0-9+/=]+\Z")
_B_VALUE = re.compile(rb"((?:\A|;)[ \t\r\n]*b[ \t\r\n]*=)[^;]*")
_BLANKS = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a signature says of itself, fit to be repeated: d=, s=, a=, and the beginning of b=; "" if unreadable."""

    domain: str = ""
    selector: str = ""
    algorithm: str = ""
    b: str = ""


class SignatureFault(Exception):  # noqa: N818  (it is what is wrong with the signature)
    """The field can't be used: `reason` says why, `claim` what could be read of it all the same."""

    def __init__(self, reason: str, claim: Claim) -> None:
        super().__init__(reason)
        self.reason = reason
        self.claim = claim


@dataclass(frozen=True, slots=True)
class Signature:
    """A well-formed DKIM-Signature. `raw` is the field as received.

    `identity` is i= as written or "", `subdomain` whether it lies below d=; `names` are those of h= in lower case;
    `form` is how the body was hashed into `digest`; `signed_at` and `expires` are in seconds since the epoch.
    """

    raw: bytes
    claim: Claim
    identity: str
    subdomain: bool
    relaxed: bool
    form: BodyForm
    names: tuple[str, ...]
    digest: bytes
    octets: bytes
    signed_at: int | None
    expires: int | None

    @property
    def key_name(self) -> str:
        """Where the key record is."""
        return f"{self.claim.selector}._domainkey.{self.claim.domain}"

    def without_b(self) -> bytes:
        """Return the field with the value of b= taken out, as it was when it was signed (section 3.7)."""
        name, colon, value = self.raw.partition(b":")
        return name + colon + _B_VALUE.sub(rb"\1", value, count=1)


class _Flaw(Exception):  # noqa: N818  (the word for it)
    """A rule that is broken."""


def read_signature(raw: bytes) -> Signature:
    """Read a DKIM-Signature field, `raw` as received with its name. Raises SignatureFault."""
    claim = Claim()
    try:
        tags = _tags(raw.partition(b":")[2])
        claim = _claim(tags)
        return _signature(raw, tags, claim)
    except _Flaw as flaw:
        raise SignatureFault(str(flaw), claim) from None


def _tags(text: bytes) -> dict[bytes, bytes]:
    if len(text) > _LONGEST:
        raise _Flaw("it is too long")
    try:
        tags: dict[bytes, bytes] = parse_tag_value(text.replace(b"\r\n", b""))
    except InvalidTagValueList:
        raise _Flaw("it is no list of tags, or a tag occurs twice") from None
    if not all(map(_TAG.match, tags)):
        raise _Flaw("it is no list of tags")
    return tags


def _claim(tags: dict[bytes, bytes]) -> Claim:
    algorithm = tags.get(b"a", b"").decode("ascii", "replace").lower()
    b = tags.get(b"b", b"").translate(None, _BLANKS)[:_SHOWN].decode("ascii", "replace")
    return Claim(
        _name(tags.get(b"d", b"")),
        _name(tags.get(b"s", b"")),
        algorithm if _WORD.match(algorithm) else "",
        b if _BASE64.match(b) else "",
    )


def _name(value: bytes) -> str:
    """Return a domain or selector in A-labels (RFC 8616), "" if it isn't one: letters, digits, hyphens, underscores."""
    if len(value) > 4 * _LONGEST_NAME:
        return ""
    try:
        name = to_a_label(value.decode())
    except UnicodeDecodeError:
        return ""
    good = len(name) <= _LONGEST_NAME and all(map(_LABEL.match, name.split(".")))
    return name if good else ""


def _signature(raw: bytes, tags: dict[bytes, bytes], claim: Claim) -> Signature:
    missing = [name for name in (b"v", b"a", b"b", b"bh", b"d", b"h", b"s") if name not in tags]
    if missing:
        raise _Flaw(f"{missing[0].decode()}= is missing")
    if tags[b"v"] != b"1":
        raise _Flaw("v= is not 1")
    if claim.algorithm == "rsa-sha1":
        raise _Flaw("rsa-sha1 is no longer a signature (RFC 8301)")
    if claim.algorithm not in ALGORITHMS:
        raise _Flaw("a= is not an algorithm that is known here")
    if (
        not claim.domain
        or not claim.selector
        or len(f"{claim.selector}._domainkey.{claim.domain}") > _LONGEST_NAME
    ):
        raise _Flaw("d= or s= is not a name")
    if b"dns/txt" not in _list(tags.get(b"q", b"dns/txt").lower()):
        raise _Flaw("q= names no way to get the key")
    header, body = _algorithms(tags.get(b"c", b"simple/simple"))
    identity, subdomain = _identity(tags.get(b"i"), claim.domain)
    signed_at, expires = _number(tags, b"t"), _number(tags, b"x")
    if signed_at is not None and expires is not None and expires < signed_at:
        raise _Flaw("x= is before t=")
    return Signature(
        raw,
        claim,
        identity,
        subdomain,
        header,
        BodyForm(body, _limit(tags.get(b"l"))),
        _names(tags[b"h"]),
        _base64(tags[b"bh"], "bh="),
        _base64(tags[b"b"], "b="),
        signed_at,
        expires,
    )


def _list(value: bytes) -> list[bytes]:
    return [item.strip(_BLANKS) for item in value.split(b":")]


def _algorithms(value: bytes) -> tuple[bool, bool]:
    """Return whether header and body are relaxed."""
    header, _, body = value.lower().partition(b"/")
    known = {b"simple": False, b"relaxed": True, b"": False}
    if header not in known or body not in known or not header:
        raise _Flaw("c= is not an algorithm that is known here")
    return known[header], known[body]


def _identity(value: bytes | None, domain: str) -> tuple[str, bool]:
    if value is None:
        return "", False
    local, at, host = value.decode("utf-8", "replace").rpartition("@")
    inside = _name(host.encode())
    if not at or not f".{inside}".endswith(f".{domain}"):
        raise _Flaw("i= is not within d=")
    return f"{local}@{inside}", inside != domain


def _number(tags: dict[bytes, bytes], name: bytes) -> int | None:
    value = tags.get(name)
    if value is None:
        return None
    if not _NUMBER.match(value):
        raise _Flaw(f"{name.decode()}= is not a time")
    return int(value)


def _limit(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not _LENGTH.match(value):
        raise _Flaw("l= is not a length")
    return int(value)


def _names(value: bytes) -> tuple[str, ...]:
    names = _list(value)
    if not all(map(_FIELD.match, names)):
        raise _Flaw("h= is not a list of header fields")
    lowered = tuple(name.decode("ascii").lower() for name in names)
    if "from" not in lowered:
        raise _Flaw("h= does not name From")
    return lowered


def _base64(value: bytes, what: str) -> bytes:
    try:
        octets = base64.b64decode(value.translate(None, _BLANKS), validate=True)
    except binascii.Error:
        octets = b""
    if not octets:
        raise _Flaw(f"{what} is not base64")
    return octets


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key record. With a `fault` it is none, and the rest means nothing; without a `key` it is revoked.

    `hashes` are the hash algorithms that h= allows (None: all), `email` whether s= allows mail, `testing` and
    `strict` the flags y and s of t=.
    """

    key: PublicKey | None = None
    hashes: frozenset[bytes] | None = None
    email: bool = True
    testing: bool = False
    strict: bool = False
    fault: str = ""


@lru_cache(500)
def _read_record(text: bytes) -> KeyRecord:
    try:
        tags = _tags(text)
        if tags.get(b"v", b"DKIM1") != b"DKIM1":
            raise _Flaw("its v= is not DKIM1")  # noqa: TRY301  (one way to refuse a record)
        if b"p" not in tags:
            raise _Flaw("it has no p=")  # noqa: TRY301  (as above)
        kind = tags.get(b"k", b"rsa").lower()
        if kind not in (b"rsa", b"ed25519"):
            raise _Flaw("its k= is no kind of key that is known here")  # noqa: TRY301  (as above)
        published = tags[b"p"].translate(None, _BLANKS)
        key = read_public_key(kind.decode(), _base64(published, "p=")) if published else None
    except (_Flaw, KeyFault) as fault:
        return KeyRecord(fault=str(fault))
    flags = _list(tags.get(b"t", b""))
    services = _list(tags.get(b"s", b"*").lower())
    return KeyRecord(
        key,
        frozenset(_list(tags[b"h"].lower())) if b"h" in tags else None,
        b"*" in services or b"email" in services,
        b"y" in flags,
        b"s" in flags,
    )


def read_record(text: bytes) -> KeyRecord:
    """Read a key record, the strings of the TXT record joined. Never raises; the same few come again and again."""
    return _read_record(text) if len(text) <= _LONGEST else KeyRecord(fault="it is too long")
