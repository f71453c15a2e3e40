"""DKIM key records (RFC 6376 section 3.6.1) as their owner should see them, and beside the private keys.

Must not know where private keys are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from relayproxy.mailauth.audit.report import Line, Record
from relayproxy.mailauth.dkim_header import KeyRecord, read_record
from relayproxy.mailauth.dkim_keys import SigningKey
from relayproxy.mailauth.lookup import Answer, Fetch

SHORT_RSA = 2048
"""Bits: fewer are still verified, and should be replaced."""

_LEAST_BITS = 1024
_HINT = "t=y says that it is a test: remove it when all is well"


@dataclass(frozen=True, slots=True)
class Published:
    """What DNS says of a private key: `state` is ok, missing, revoked, differs, unusable or unknown."""

    state: str
    reason: str = ""


def compare(key: SigningKey, answer: Answer) -> Published:
    """Compare a private key with the answer for the TXT records of its name."""
    record = _only(answer)
    if isinstance(record, Published):
        return record
    if record.key is None:
        return Published("revoked", "its p= is empty")
    if record.key.octets != key.public.octets:
        return Published("differs", "another key is published")
    return _usable(record) or Published("ok", f"but {_HINT}" if record.testing else "")


def _only(answer: Answer) -> KeyRecord | Published:
    if answer.failed:
        return Published("unknown", f"DNS gave no answer ({answer.status.value})")
    if not answer.records:
        return Published("missing")
    if len(answer.records) > 1:
        return Published("unusable", f"there are {len(answer.records)} records, and receivers choose any")
    record = read_record(answer.records[0])
    return Published("unusable", record.fault) if record.fault else record


def _usable(record: KeyRecord) -> Published | None:
    if not record.email or (record.hashes is not None and b"sha256" not in record.hashes):
        return Published("unusable", "its s= or h= keeps it from mail")
    return None


_WORDS = {
    "missing": "there is no record for this key: what it signs fails",
    "revoked": "the key is revoked (p= is empty), but signs",
    "differs": "another key is published than the one that signs",
}


async def audit_keys(keys: Sequence[tuple[str, SigningKey]], fetch: Fetch) -> list[Line]:
    """Judge what is published for private keys; each comes with the name of its record."""
    answers = await fetch([(name, "TXT") for name, _ in keys]) if keys else ()
    return [_key_line(name, key, answer) for (name, key), answer in zip(keys, answers, strict=True)]


def _key_line(name: str, key: SigningKey, answer: Answer) -> Line:
    found = compare(key, answer)
    if found.state == "unknown":
        return Line("dkim", name, "error", found.reason)
    if found.state != "ok":
        text = _WORDS.get(found.state, found.reason)
        return Line("dkim", name, "error", text, (Record(name, key.record()),))
    size = f"{key.public.kind}, {key.bits} bits"
    if key.public.kind == "rsa" and key.bits < SHORT_RSA:
        return Line("dkim", name, "warning", f"{size} are short: rotate to {SHORT_RSA}")
    if found.reason:
        return Line("dkim", name, "warning", _HINT, (Record(name, key.record()),))
    return Line("dkim", name, "ok", f"{size}, and it is the key that signs")


async def audit_selectors(domain: str, selectors: Sequence[str], fetch: Fetch) -> list[Line]:
    """Judge key records whose private keys are elsewhere."""
    names = [f"{selector}._domainkey.{domain}" for selector in selectors]
    answers = await fetch([(name, "TXT") for name in names]) if names else ()
    return [_selector_line(name, answer) for name, answer in zip(names, answers, strict=True)]


def _selector_line(name: str, answer: Answer) -> Line:
    record = _only(answer)
    if isinstance(record, Published):
        return Line("dkim", name, "error", record.reason or "there is no record")
    if record.key is None:
        return Line(
            "dkim", name, "warning", "the key is revoked (p= is empty): nothing signed with it passes"
        )
    unusable = _usable(record)
    if unusable is not None:
        return Line("dkim", name, "error", unusable.reason)
    size = f"{record.key.kind}, {record.key.bits} bits"
    if record.key.kind == "rsa" and record.key.bits < _LEAST_BITS:
        return Line(
            "dkim", name, "error", f"{size}: receivers take no RSA key below {_LEAST_BITS} (RFC 8301)"
        )
    if record.key.kind == "rsa" and record.key.bits < SHORT_RSA:
        return Line("dkim", name, "warning", f"{size} are short: rotate to {SHORT_RSA}")
    if record.testing:
        return Line("dkim", name, "warning", _HINT)
    return Line("dkim", name, "ok", size)
