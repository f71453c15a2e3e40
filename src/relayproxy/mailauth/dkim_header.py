"""The DKIM-Signature field and the key record: their form, and what they say (RFC 6376 sections 3.5 and 3.6.1).

Must not know messages, DNS, or the time.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from relayproxy.mailauth.canonical import BodyForm
from relayproxy.mailauth.dkim_keys import KeyFault, PublicKey, read_public_key
from relayproxy.mailauth.dkim_tags import (
    Claim,
    Flaw,
    body_length,
    canonical_forms,
    check_claim,
    claim_of,
    host_name,
    items,
    moment,
    octets_of,
    parse_tags,
    require,
)

_REMEMBERED = 4096  # octets of the records that are remembered; those of all real keys are
_USUAL_LIST = 1024  # octets of the lists of field names that are remembered
_FIELD = re.compile(rb"[!-9;-~]+\Z")


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
    `form` is how the body was hashed into `digest`; `octets` are the signature; `signed_at` and `expires` are in
    seconds since the epoch.
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


def read_signature(raw: bytes) -> Signature:
    """Read a DKIM-Signature field, `raw` as received with its name. Raises SignatureFault."""
    claim = Claim()
    try:
        tags = parse_tags(raw.partition(b":")[2])
        claim = claim_of(tags)
        return _signature(raw, tags, claim)
    except Flaw as flaw:
        raise SignatureFault(str(flaw), claim) from None


def _signature(raw: bytes, tags: dict[bytes, bytes], claim: Claim) -> Signature:
    require(tags, b"v", b"a", b"b", b"bh", b"d", b"h", b"s")
    if tags[b"v"] != b"1":
        raise Flaw("v= is not 1")
    check_claim(claim)
    if b"dns/txt" not in items(tags.get(b"q", b"dns/txt").lower()):
        raise Flaw("q= names no way to get the key")
    header, body = canonical_forms(tags.get(b"c", b"simple/simple"))
    identity, subdomain = _identity(tags.get(b"i"), claim.domain)
    signed_at, expires = moment(tags, b"t"), moment(tags, b"x")
    if signed_at is not None and expires is not None and expires < signed_at:
        raise Flaw("x= is before t=")
    return Signature(
        raw,
        claim,
        identity,
        subdomain,
        header,
        BodyForm(body, body_length(tags)),
        _names(tags[b"h"]) if len(tags[b"h"]) <= _USUAL_LIST else _read_names(tags[b"h"]),
        octets_of(tags, b"bh"),
        octets_of(tags, b"b"),
        signed_at,
        expires,
    )


def _identity(value: bytes | None, domain: str) -> tuple[str, bool]:
    if value is None:
        return "", False
    local, at, host = value.decode("utf-8", "replace").rpartition("@")
    inside = host_name(host.encode())
    if not at or not f".{inside}".endswith(f".{domain}"):
        raise Flaw("i= is not within d=")
    return f"{local}@{inside}", inside != domain


def _read_names(value: bytes) -> tuple[str, ...]:
    names = items(value)
    if not all(map(_FIELD.match, names)):
        raise Flaw("h= is not a list of header fields")
    lowered = tuple(name.decode("ascii").lower() for name in names)
    if "from" not in lowered:
        raise Flaw("h= does not name From")
    return lowered


_names = lru_cache(500)(_read_names)


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


def read_record(text: bytes) -> KeyRecord:
    """Read a key record, the strings of the TXT record joined. Never raises; the same few come again and again."""
    return _remembered(text) if len(text) <= _REMEMBERED else _record(text)


def _record(text: bytes) -> KeyRecord:
    try:
        tags = parse_tags(text)
        key = _public_key(tags)
    except (Flaw, KeyFault) as fault:
        return KeyRecord(fault=str(fault))
    flags = items(tags.get(b"t", b""))
    services = items(tags.get(b"s", b"*").lower())
    return KeyRecord(
        key,
        frozenset(items(tags[b"h"].lower())) if b"h" in tags else None,
        b"*" in services or b"email" in services,
        b"y" in flags,
        b"s" in flags,
    )


def _public_key(tags: dict[bytes, bytes]) -> PublicKey | None:
    if tags.get(b"v", b"DKIM1") != b"DKIM1":
        raise Flaw("its v= is not DKIM1")
    if b"p" not in tags:
        raise Flaw("it has no p=")
    kind = tags.get(b"k", b"rsa").lower()
    if kind not in (b"rsa", b"ed25519"):
        raise Flaw("its k= is no kind of key that is known here")
    return read_public_key(kind.decode(), octets_of(tags, b"p")) if tags[b"p"] else None


_remembered = lru_cache(500)(_record)
