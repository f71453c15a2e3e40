"""DANE for SMTP (RFC 7672): which certificates DNS says a next hop has, and whether the one it shows is among them.

Answers count only where a validating resolver vouches for them (AD). Must not know TLS, nor the clock.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from relayproxy.mailauth.lookup import Answer, Fetch

_DANE_TA, _DANE_EE = 2, 3
_LENGTHS = {1: 32, 2: 64}
_MOST_ALIASES = 8
_MOST_RECORDS = 100
_MOST_CERTIFICATES = 10


@dataclass(frozen=True, slots=True)
class Tlsa:
    """A TLSA record (RFC 6698 section 2.1)."""

    usage: int
    selector: int
    mtype: int
    data: bytes

    @property
    def usable(self) -> bool:
        """Whether SMTP can use it (RFC 7672 section 3.1): usage 2 or 3, a selector and a digest that are known, whole data."""
        return (
            self.usage in (_DANE_TA, _DANE_EE)
            and self.selector in (0, 1)
            and (self.mtype == 0 or _LENGTHS.get(self.mtype) == len(self.data))
            and bool(self.data)
        )

    def matches(self, certificate: x509.Certificate) -> bool:
        """Whether it describes this certificate, or its key."""
        if self.selector == 0:
            octets = certificate.public_bytes(Encoding.DER)
        else:
            octets = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        match self.mtype:
            case 0:
                return octets == self.data
            case 1:
                return hashlib.sha256(octets).digest() == self.data
            case _:
                return hashlib.sha512(octets).digest() == self.data


class Standing(StrEnum):
    """What DNS says about DANE for a host.

    usable: there are records to go by. unusable: there are, and none can be used. none: it is known that there are
    none. insecure: nobody vouches for the answers. unknown: there was no answer, so nothing may be sent.
    """

    USABLE = "usable"
    UNUSABLE = "unusable"
    NONE = "none"
    INSECURE = "insecure"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Dane:
    """What was found for a host: its usable records, the names its certificate may have, and a reason in words.

    `base` is the name below which the records stand, which is the one to ask the server for (RFC 7672 section 8.1).
    """

    standing: Standing
    records: tuple[Tlsa, ...] = ()
    names: tuple[str, ...] = ()
    reason: str = ""
    base: str = ""

    @property
    def asks_for_a_name(self) -> bool:
        """Whether the name in a certificate matters: it does with usage 2 (RFC 7672 section 3.1.2)."""
        return any(record.usage == _DANE_TA for record in self.records)


def _secure(answer: Answer) -> bool:
    return bool(getattr(answer, "secure", False))


async def find(host: str, port: int, fetch: Fetch) -> Dane:
    """Look up the TLSA records of a host (A-labels) whose name is trusted itself, as a configured or secure MX name is.

    The address comes first (section 2.2.2): a zone that isn't signed is not asked for TLSA, as some of their servers
    would not answer. An alias that is vouched for all the way is tried before the name it stands for (section 2.2.3).
    """
    answers = await fetch([(host, "A"), (host, "AAAA")])
    alias = await alias_of(host, fetch)
    if not alias and not any(map(_secure, answers)):
        if alias is None or any(answer.failed for answer in answers):
            return Dane(Standing.UNKNOWN, reason=f"DNS gave no answer for the address of {host}")
        return Dane(Standing.INSECURE, reason=f"the address of {host} is not secured by DNSSEC")
    bases = [alias, host] if alias else [host]
    found = Dane(Standing.NONE, reason=f"there are no TLSA records at _{port}._tcp.{host}")
    for base in bases:
        found = await _records(base, port, tuple(reversed(bases)), fetch)
        if found.standing not in (Standing.NONE, Standing.INSECURE):
            break
    return found


async def alias_of(host: str, fetch: Fetch) -> str | None:
    """Return the last name of a chain of secure aliases, "" without one, None if it can't be known."""
    name = host
    for _ in range(_MOST_ALIASES):
        (answer,) = await fetch([(name, "CNAME")])
        if answer.failed:
            return None
        if not answer.records or not _secure(answer):
            # One that nobody vouches for ends it: the name in front of it is the last that can be trusted.
            break
        name = str(answer.records[0]).lower().rstrip(".")
    return "" if name == host else name


async def _records(base: str, port: int, names: tuple[str, ...], fetch: Fetch) -> Dane:
    place = f"_{port}._tcp.{base}"
    (answer,) = await fetch([(place, "TLSA")])
    if answer.failed:
        return Dane(Standing.UNKNOWN, reason=f"DNS gave no answer for {place} ({answer.status.value})")
    if not _secure(answer):
        return Dane(Standing.INSECURE, reason=f"{place} is not secured by DNSSEC")
    records = tuple(
        Tlsa(usage, selector, mtype, bytes(data))
        for usage, selector, mtype, data in answer.records[:_MOST_RECORDS]
    )
    if not records:
        return Dane(Standing.NONE, reason=f"there are no TLSA records at {place}")
    usable = tuple(record for record in records if record.usable)
    if not usable:
        return Dane(Standing.UNUSABLE, reason=f"none of the TLSA records at {place} can be used")
    return Dane(Standing.USABLE, usable, names, base=base)


def mismatch(dane: Dane, chain: Sequence[bytes], now: float) -> str:
    """Return why the certificates that a server shows (DER, its own first) won't do, "" if they will.

    With usage 3 the server's own certificate is all that counts, neither its names nor its dates (section 3.1.1). With
    usage 2 it has to be issued, for one of the names and for `now`, by a certificate that a record describes (3.1.2).
    """
    if not chain:
        return "the server shows no certificate"
    try:
        certificates = [x509.load_der_x509_certificate(der) for der in chain[:_MOST_CERTIFICATES]]
        if any(record.usage == _DANE_EE and record.matches(certificates[0]) for record in dane.records):
            return ""
        anchors = _anchors(dane.records, certificates)
    except (ValueError, TypeError) as error:
        return f"a certificate can't be read: {error}"
    problem = "no TLSA record describes the certificate"
    for anchor in anchors:
        for name in dane.names:
            problem = _issued(anchor, certificates, name, now)
            if not problem:
                return ""
    return problem


def _anchors(records: Sequence[Tlsa], certificates: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Return the issuers that records of usage 2 describe: those that are shown, and those that a record holds whole."""
    wanted = [record for record in records if record.usage == _DANE_TA]
    whole = []
    for record in wanted:
        if (record.selector, record.mtype) == (0, 0):
            # What is no certificate describes none, and takes nothing from the records beside it.
            with suppress(ValueError):
                whole.append(x509.load_der_x509_certificate(record.data))
    return [one for one in certificates[1:] if any(record.matches(one) for record in wanted)] + whole


def _issued(anchor: x509.Certificate, shown: Sequence[x509.Certificate], name: str, now: float) -> str:
    builder = (
        PolicyBuilder().store(Store([anchor])).time(datetime.fromtimestamp(now, UTC).replace(tzinfo=None))
    )
    try:
        builder.build_server_verifier(x509.DNSName(name)).verify(shown[0], list(shown[1:]))
    except (VerificationError, ValueError) as error:
        return f"the certificate is not issued for {name} by one that a TLSA record describes: {error}"
    return ""
