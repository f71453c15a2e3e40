"""Verifying DKIM signatures (RFC 6376 section 6, RFC 8301, RFC 8463, RFC 8616), each with a result of its own.

In three steps, so that the caller decides how DNS is asked and where a large body is hashed: `find_signatures`, then
`questions` and `body_forms`, then `verify` with the answers and digests. Must not know DNS, the clock, or what follows
from a result.

How a result is chosen, in the words of RFC 8601 section 2.7.1: what is broken in the signature or its key record is
"permerror", what DNS didn't answer "temperror", a body or header that was changed "fail". A signature that is right
may still prove less than it seems to, which is "policy". Nothing else is "pass".
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from relayproxy.mailauth.canonical import BodyDigest, BodyForm, relaxed_header
from relayproxy.mailauth.dkim_header import (
    KeyRecord,
    Signature,
    SignatureFault,
    read_record,
    read_signature,
)
from relayproxy.mailauth.dkim_keys import LEAST_BITS
from relayproxy.mailauth.dkim_tags import Claim, without_b
from relayproxy.mailauth.lookup import Answer, Question
from relayproxy.model.message import Message

DISPLAYED = (
    "from",
    "sender",
    "reply-to",
    "to",
    "cc",
    "subject",
    "date",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "list-unsubscribe",
    "list-unsubscribe-post",
)
"""The fields by which a reader judges a message, or a program shows it or acts on it."""

MOST_SIGNATURES = 5
_MOST_RECORDS = 5
_SKEW = 300  # seconds by which clocks may differ


@dataclass(frozen=True, slots=True)
class DkimResult:
    """What became of one signature. `bits` is the size of its key, 0 if there is none.

    `uncovered` are the fields of DISPLAYED that the message has and the signature doesn't cover, or not all of;
    `testing` says that the owner of the domain is only trying (t=y).
    """

    result: str
    reason: str
    claim: Claim
    identity: str = ""
    bits: int = 0
    uncovered: tuple[str, ...] = ()
    testing: bool = False


Found: TypeAlias = Signature | DkimResult
"""A signature that is to be verified, or the result of a field that can't be."""


def find_signatures(message: Message, most: int = MOST_SIGNATURES) -> tuple[Found, ...]:
    """Return the first `most` signatures of a message, from the top."""
    return tuple(_read(field.raw) for field in message.all("DKIM-Signature")[:most])


def _read(raw: bytes) -> Found:
    try:
        return read_signature(raw)
    except SignatureFault as fault:
        return DkimResult("permerror", fault.reason, fault.claim)


def questions(found: Iterable[Found]) -> tuple[Question, ...]:
    """Return what has to be asked for."""
    names = (signature.claim.key_name for signature in found if isinstance(signature, Signature))
    return tuple((name, "TXT") for name in dict.fromkeys(names))


def body_forms(found: Iterable[Found]) -> frozenset[BodyForm]:
    """Return the forms in which the body has to be hashed."""
    return frozenset(signature.form for signature in found if isinstance(signature, Signature))


def verify(
    message: Message,
    found: Sequence[Found],
    answers: Mapping[Question, Answer],
    digests: Mapping[BodyForm, BodyDigest],
    *,
    now: float,
) -> tuple[DkimResult, ...]:
    """Return the result of each signature, in their order.

    `answers` are those to `questions`, `digests` those of `body_forms` (canonical.body_digests), `now` is in
    seconds since the epoch. Raises KeyError for an answer or a digest that is missing.
    """
    fields: dict[str, list[bytes]] = {}
    for field in message.fields:
        fields.setdefault(field.name.lower(), []).append(field.raw)
    return tuple(
        _Verification(one, fields, digests[one.form], now).run(answers[one.claim.key_name, "TXT"])
        if isinstance(one, Signature)
        else one
        for one in found
    )


class _Verification:
    """One signature, and what it is held against."""

    def __init__(
        self, signature: Signature, fields: Mapping[str, Sequence[bytes]], body: BodyDigest, now: float
    ) -> None:
        self._signature = signature
        self._fields = fields
        self._body = body
        self._now = now
        self._block = b""
        self._uncovered = tuple(
            name for name in DISPLAYED if name in fields and len(fields[name]) > signature.names.count(name)
        )

    def run(self, answer: Answer) -> DkimResult:
        """Return the best result that a record at the key's name leads to."""
        if answer.failed:
            return self._result("temperror", f"DNS gave no answer for the key ({answer.status.value})")
        if not answer.records:
            return self._result("permerror", "there is no key")
        results = [self._with(read_record(text)) for text in answer.records[:_MOST_RECORDS]]
        if len(results) == 1:
            return results[0]
        return min(results, key=lambda result: _ORDER.index(result.result))

    def _result(self, result: str, reason: str) -> DkimResult:
        return DkimResult(result, reason, self._signature.claim, self._signature.identity)

    def _with(self, record: KeyRecord) -> DkimResult:
        """Return the result with one key record."""
        if fault := self._unfit(record):
            return self._result("permerror", fault)
        signature, key = self._signature, record.key
        assert key is not None
        result, reason = "pass", ""
        limit = signature.form.limit
        if limit is not None and limit > self._body.octets:
            result, reason = "permerror", "l= is longer than the body"
        elif signature.digest != self._body.digest:
            result, reason = "fail", "the body was changed"
        elif not key.verifies(signature.octets, self._signed()):
            result, reason = "fail", "the header was changed, or the key is another"
        elif weaknesses := "; ".join(self._weaknesses(key.bits)):
            result, reason = "policy", weaknesses
        if result == "fail" and record.testing:
            # RFC 6376 section 3.6.1: as if it was not signed
            result, reason = "neutral", f"{reason}; the domain is only testing"
        return DkimResult(
            result,
            reason,
            signature.claim,
            signature.identity,
            key.bits,
            self._uncovered,
            record.testing,
        )

    def _unfit(self, record: KeyRecord) -> str:
        """Say why the record isn't for this signature (section 6.1.2), or "" if it is."""
        if record.fault:
            return f"the key record is unusable: {record.fault}"
        if record.key is None:
            return "the key is revoked"
        if not self._signature.claim.algorithm.startswith(record.key.kind):
            return f"the key is for {record.key.kind}"
        if record.hashes is not None and b"sha256" not in record.hashes:
            return "the key is not for sha256"
        if not record.email:
            return "the key is not for mail"
        if record.strict and self._signature.subdomain:
            return "the key is not for subdomains, and i= is in one"
        return ""

    def _signed(self) -> bytes:
        """Return the octets that were signed: fields by name from the bottom up, then this one (section 3.7)."""
        if not self._block:
            names, fields = self._signature.names, self._fields
            left = {name: list(fields[name]) for name in set(names) if name in fields}
            parts = [left[name].pop() for name in names if left.get(name)]
            own = without_b(self._signature.raw)
            if self._signature.relaxed:
                self._block = b"".join(map(relaxed_header, parts)) + relaxed_header(own)[:-2]
            else:
                self._block = b"".join(parts) + own.removesuffix(b"\r\n")
        return self._block

    def _weaknesses(self, bits: int) -> Iterator[str]:
        """Say why a signature that is right proves less than it seems to."""
        signature, limit = self._signature, self._signature.form.limit
        if signature.claim.algorithm == "rsa-sha256" and bits < LEAST_BITS:
            yield f"the key has {bits} bits, RFC 8301 wants {LEAST_BITS}"
        if signature.expires is not None and signature.expires < self._now - _SKEW:
            yield "it has expired"
        if signature.signed_at is not None and signature.signed_at > self._now + _SKEW:
            yield "it was made in the future"
        if limit is not None and limit < self._body.octets:
            yield f"l= leaves {self._body.octets - limit} octets of the body unsigned"
        if "from" in self._uncovered:
            yield "a From is unsigned"


_ORDER = ("pass", "policy", "neutral", "fail", "temperror", "permerror")
