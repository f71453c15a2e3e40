"""What ARC writes into a message (RFC 8617 section 4): the three fields of each set, and how they make a chain.

Reads and judges the form, which costs no DNS. Must not know keys, the body, or the time.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from relayproxy.mailauth.canonical import BodyForm
from relayproxy.mailauth.dkim_tags import (
    Claim,
    Flaw,
    body_length,
    canonical_forms,
    check_claim,
    claim_of,
    items,
    moment,
    octets_of,
    parse_tags,
    require,
)
from relayproxy.model.message import HeaderField, Message

RESULTS_FIELD = "ARC-Authentication-Results"
SIGNATURE_FIELD = "ARC-Message-Signature"
SEAL_FIELD = "ARC-Seal"
MOST_SETS = 50  # RFC 8617 section 4.2.1

_INSTANCE = re.compile(rb"0?[1-9]\Z|[1-9][0-9]\Z")
_LEADING_INSTANCE = re.compile(rb"[ \t\r\n]*i[ \t\r\n]*=[ \t\r\n]*([0-9]+)[ \t\r\n]*;")
_VERDICTS = frozenset({b"none", b"fail", b"pass"})

Tags: TypeAlias = Mapping[bytes, bytes]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ArcSignature:
    """A well-formed ARC-Message-Signature, `raw` as received. The tags mean what they mean to DKIM."""

    raw: bytes
    claim: Claim
    relaxed: bool
    form: BodyForm
    names: tuple[str, ...]
    digest: bytes
    octets: bytes
    expires: int | None


@dataclass(frozen=True, slots=True)
class ArcSeal:
    """A well-formed ARC-Seal, `raw` as received; `cv` is what its maker thought of the chain: none, pass or fail."""

    raw: bytes
    claim: Claim
    cv: str
    octets: bytes


@dataclass(frozen=True, slots=True)
class ArcSet:
    """What one relay added: what it found (the field as received), its signature of the message, its seal."""

    results: bytes
    signature: ArcSignature
    seal: ArcSeal


@dataclass(frozen=True, slots=True)
class Chain:
    """The sets of a message, the first set first.

    With a `fault` the chain is broken, whatever the keys say, and `sets` is empty. `highest` is the highest instance
    that any field names; `ended` says that nobody may add a set, because there are too many or the last seal says fail.
    """

    sets: tuple[ArcSet, ...] = ()
    highest: int = 0
    fault: str = ""
    ended: bool = False


def find_chain(message: Message) -> Chain:
    """Return the chain of a message; never raises for what is in it. More than fifty sets are not read."""
    fields = [message.all(name) for name in (RESULTS_FIELD, SIGNATURE_FIELD, SEAL_FIELD)]
    if not any(fields):
        return Chain()
    if max(map(len, fields)) > MOST_SETS:
        return Chain(fault=f"there are more than {MOST_SETS} sets", ended=True)
    reader = _Reader()
    results = reader.read(fields[0], _leading_instance, _whole)
    signatures = reader.read(fields[1], _tagged_instance, _signature)
    seals = reader.read(fields[2], _tagged_instance, _seal)
    highest = max(reader.instances, default=0)
    last = seals.get(highest)
    ended = highest >= MOST_SETS or (last is not None and last.cv == "fail")
    fault = reader.fault or _gap(highest, results, signatures, seals) or _bad_verdict(seals)
    if fault:
        return Chain((), highest, fault, ended)
    sets = (ArcSet(results[n], signatures[n], seals[n]) for n in range(1, highest + 1))
    return Chain(tuple(sets), highest, "", ended)


class _Reader:
    """Reads fields one by one, and remembers the first fault and every instance."""

    def __init__(self) -> None:
        self.fault = ""
        self.instances: set[int] = set()

    def read(
        self,
        fields: Collection[HeaderField],
        identify: Callable[[bytes], tuple[int, Tags]],
        make: Callable[[bytes, Tags], T],
    ) -> dict[int, T]:
        found: dict[int, T] = {}
        for field in fields:
            try:
                instance, tags = identify(field.raw)
                self.instances.add(instance)
                made = make(field.raw, tags)
            except Flaw as flaw:
                self.fault = self.fault or f"{field.name}: {flaw}"
                continue
            if instance in found:
                self.fault = self.fault or f"{field.name} {instance} occurs twice"
            found[instance] = made
        return found


def _gap(highest: int, *parts: Mapping[int, object]) -> str:
    for instance in range(1, highest + 1):
        if not all(instance in part for part in parts):
            return f"set {instance} is not complete"
    return ""


def _bad_verdict(seals: Mapping[int, ArcSeal]) -> str:
    """Say what is wrong with cv=: none in the first seal, pass in all others (section 5.2, step 3)."""
    for instance, seal in sorted(seals.items(), reverse=True):
        if seal.cv == "fail":
            return f"seal {instance} says that the chain had failed"
        if (seal.cv == "none") != (instance == 1):
            return f"seal {instance} says cv={seal.cv}"
    return ""


def _instance(value: bytes) -> int:
    if not _INSTANCE.match(value) or int(value) > MOST_SETS:
        raise Flaw("i= is not an instance")
    return int(value)


def _leading_instance(raw: bytes) -> tuple[int, Tags]:
    """Return the instance of a field that isn't all tags, only begins with one (section 4.1.1)."""
    found = _LEADING_INSTANCE.match(raw.partition(b":")[2])
    if not found:
        raise Flaw("it does not begin with i=")
    return _instance(found[1]), {}


def _tagged_instance(raw: bytes) -> tuple[int, Tags]:
    tags = parse_tags(raw.partition(b":")[2])
    require(tags, b"i")
    return _instance(tags[b"i"]), tags


def _whole(raw: bytes, _: Tags) -> bytes:
    return raw


def _signature(raw: bytes, tags: Tags) -> ArcSignature:
    require(tags, b"a", b"b", b"bh", b"d", b"h", b"s")
    claim = claim_of(tags)
    check_claim(claim)
    # RFC 8617 never says what holds without c=; every implementation signs and expects relaxed/relaxed.
    header, body = canonical_forms(tags.get(b"c", b"relaxed/relaxed"))
    names = tuple(name.decode("latin-1").lower() for name in items(tags[b"h"]))
    if SEAL_FIELD.lower() in names:
        raise Flaw("h= names ARC-Seal")
    moment(tags, b"t")
    return ArcSignature(
        raw,
        claim,
        header,
        BodyForm(body, body_length(tags)),
        names,
        octets_of(tags, b"bh"),
        octets_of(tags, b"b"),
        moment(tags, b"x"),
    )


def _seal(raw: bytes, tags: Tags) -> ArcSeal:
    require(tags, b"a", b"b", b"cv", b"d", b"s")
    if b"h" in tags:
        raise Flaw("it has h=")
    claim = claim_of(tags)
    check_claim(claim)
    if tags[b"cv"] not in _VERDICTS:
        raise Flaw("cv= is neither none, pass nor fail")
    moment(tags, b"t")
    return ArcSeal(raw, claim, tags[b"cv"].decode(), octets_of(tags, b"b"))
