"""Verifying an ARC chain (RFC 8617 section 5.2).

In the same three steps as DKIM: `arc_chain.find_chain`, then `questions` and `body_forms`, then `verify` with the
answers and digests. Must not know DNS, the clock, or whom to trust.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from relayproxy.mailauth.arc_chain import ArcSet, ArcSignature, Chain
from relayproxy.mailauth.canonical import BodyDigest, BodyForm, relaxed_header
from relayproxy.mailauth.dkim_header import KeyRecord, read_record
from relayproxy.mailauth.dkim_keys import LEAST_BITS
from relayproxy.mailauth.dkim_tags import Claim, without_b
from relayproxy.mailauth.lookup import Answer, Question
from relayproxy.model.message import Message

_MOST_RECORDS = 5
_SKEW = 300  # seconds by which clocks may differ

Fault: TypeAlias = tuple[str, str]
"""A result and its reason."""


@dataclass(frozen=True, slots=True)
class ArcResult:
    """What became of a chain: "none", "pass" or "fail" (section 4.4), or "temperror" where DNS gave no answer.

    Only of a pass is told who made the seals (`sealers`, the domain of the first set first), since which instance the
    message is unchanged (`oldest_pass`, 0 if since the first; section 5.2, step 5), and whether the last signature
    covers every From (`covers_from`), without which it says nothing about the author.
    """

    result: str
    reason: str = ""
    sealers: tuple[str, ...] = ()
    oldest_pass: int = 0
    covers_from: bool = False


def questions(chain: Chain) -> tuple[Question, ...]:
    """Return what has to be asked for."""
    names = (part.claim.key_name for one in chain.sets for part in (one.signature, one.seal))
    return tuple((name, "TXT") for name in dict.fromkeys(names))


def body_forms(chain: Chain) -> frozenset[BodyForm]:
    """Return the forms in which the body has to be hashed."""
    return frozenset(one.signature.form for one in chain.sets)


def verify(
    message: Message,
    chain: Chain,
    answers: Mapping[Question, Answer],
    digests: Mapping[BodyForm, BodyDigest],
    *,
    now: float,
) -> ArcResult:
    """Return the result of a chain.

    `answers` are those to `questions`, `digests` those of `body_forms` (canonical.body_digests), `now` is in
    seconds since the epoch. Raises KeyError for an answer or a digest that is missing.
    """
    if chain.fault:
        return ArcResult("fail", chain.fault)
    if not chain.sets:
        return ArcResult("none")
    check = _Verification(message, answers, digests, now)
    unknown: Fault | None = None
    for result, reason in check.chain(chain.sets):
        if result == "fail":
            return ArcResult(result, reason)
        unknown = unknown or (result, reason)
    if unknown:
        return ArcResult(*unknown)
    oldest = check.oldest_pass(chain.sets)
    return ArcResult(
        "pass",
        sealers=tuple(one.seal.claim.domain for one in chain.sets),
        oldest_pass=oldest if oldest > 1 else 0,
        covers_from=chain.sets[-1].signature.names.count("from") >= len(message.all("From")),
    )


def sealed_fields(one: ArcSet) -> bytes:
    """Return the fields of a set as later seals cover them: in relaxed form, in the order of section 5.1.1."""
    return relaxed_header(one.results) + relaxed_header(one.signature.raw) + relaxed_header(one.seal.raw)


def seal_input(before: bytes, results: bytes, signature: bytes, seal: bytes) -> bytes:
    """Return what a seal signs: the sets `before` it (sealed_fields of each), and the three fields of its own set."""
    fields = relaxed_header(results) + relaxed_header(signature) + relaxed_header(without_b(seal))
    return before + fields.removesuffix(b"\r\n")


class _Verification:
    """What the signatures and seals of one message are held against."""

    def __init__(
        self,
        message: Message,
        answers: Mapping[Question, Answer],
        digests: Mapping[BodyForm, BodyDigest],
        now: float,
    ) -> None:
        self._message = message
        self._answers = answers
        self._digests = digests
        self._now = now
        self._forms: dict[bool, dict[str, list[bytes]]] = {}

    def chain(self, sets: Sequence[ArcSet]) -> Iterator[Fault]:
        """Yield what is wrong with the last signature, which alone has to hold, and with each seal."""
        if fault := self._signature(sets[-1].signature):
            yield fault[0], f"signature {len(sets)}: {fault[1]}"
        before = b""
        for instance, one in enumerate(sets, 1):
            if fault := self._seal(before, one):
                yield fault[0], f"seal {instance}: {fault[1]}"
            before += sealed_fields(one)

    def oldest_pass(self, sets: Sequence[ArcSet]) -> int:
        """Return the lowest instance from which on all signatures hold; the last one's is known to."""
        oldest = len(sets)
        while oldest > 1 and self._signature(sets[oldest - 2].signature) is None:
            oldest -= 1
        return oldest

    def _signature(self, signature: ArcSignature) -> Fault | None:
        body, limit = self._digests[signature.form], signature.form.limit
        if limit is not None and limit != body.octets:
            return "fail", "l= is not the length of the body"
        if signature.digest != body.digest:
            return "fail", "the body was changed"
        if signature.expires is not None and signature.expires < self._now - _SKEW:
            return "fail", "it has expired"
        own = without_b(signature.raw)
        own = relaxed_header(own)[:-2] if signature.relaxed else own.removesuffix(b"\r\n")
        block = b"".join(self._covered(signature)) + own
        return self._key(signature.claim, signature.octets, block)

    def _covered(self, signature: ArcSignature) -> Iterator[bytes]:
        """Yield the fields that h= names, those of a name from the bottom up (RFC 6376 section 5.4.2)."""
        if not self._forms:
            plain: dict[str, list[bytes]] = {}
            for field in self._message.fields:
                plain.setdefault(field.name.lower(), []).append(field.raw)
            relaxed = {name: list(map(relaxed_header, raws)) for name, raws in plain.items() if name}
            self._forms = {False: plain, True: relaxed}
        form = self._forms[signature.relaxed]
        left = {name: list(form.get(name, ())) for name in set(signature.names) if name}
        return (left[name].pop() for name in signature.names if left.get(name))

    def _seal(self, before: bytes, one: ArcSet) -> Fault | None:
        block = seal_input(before, one.results, one.signature.raw, one.seal.raw)
        return self._key(one.seal.claim, one.seal.octets, block)

    def _key(self, claim: Claim, octets: bytes, block: bytes) -> Fault | None:
        """Return None if one of the records at the key's name has a key that made `octets` of `block`."""
        answer = self._answers[claim.key_name, "TXT"]
        if answer.failed:
            return "temperror", f"DNS gave no answer for the key ({answer.status.value})"
        fault = "there is no key"
        for text in answer.records[:_MOST_RECORDS]:
            record = read_record(text)
            fault = _unfit(record, claim)
            if not fault and record.key is not None:
                if record.key.verifies(octets, block):
                    return None
                fault = "a field was changed, or the key is another"
        return "fail", fault


def _unfit(record: KeyRecord, claim: Claim) -> str:
    """Say why a record isn't for this signature (RFC 6376 section 6.1.2), or "" if it is."""
    if record.fault:
        return f"the key record is unusable: {record.fault}"
    if record.key is None:
        return "the key is revoked"
    if not claim.algorithm.startswith(record.key.kind):
        return f"the key is for {record.key.kind}"
    if record.hashes is not None and b"sha256" not in record.hashes:
        return "the key is not for sha256"
    if not record.email:
        return "the key is not for mail"
    if record.key.kind == "rsa" and record.key.bits < LEAST_BITS:
        return f"the key has {record.key.bits} bits, RFC 8301 wants {LEAST_BITS}"
    return ""
