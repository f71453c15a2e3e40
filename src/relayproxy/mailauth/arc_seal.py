"""Adding a set to an ARC chain (RFC 8617 section 5.1).

Returns the three fields; the message is not touched. Must not know who may be trusted, where keys are kept, or what
time it is.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from relayproxy.mailauth.arc_chain import RESULTS_FIELD, SEAL_FIELD, SIGNATURE_FIELD, Chain
from relayproxy.mailauth.arc_verify import sealed_fields
from relayproxy.mailauth.canonical import body_digest, relaxed_header
from relayproxy.mailauth.dkim_keys import SigningKey
from relayproxy.mailauth.dkim_sign import HEADERS, IF_PRESENT, check_names
from relayproxy.model.message import Message

_WIDTH = 76
_FOLD = "\r\n "  # dkimpy looks for i= behind a blank, and fails without one
_LONGEST = 900  # octets of a value without a fold: a line may have 998 (RFC 5322 section 2.1.1)
_VERDICTS = ("none", "pass", "fail")


@dataclass(frozen=True, slots=True)
class NewSet:
    """The values of the fields of a set, folded."""

    results: str
    signature: str
    seal: str

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """Name and value of each field, in the order in which they go on top of the message, each above the last."""
        return (RESULTS_FIELD, self.results), (SIGNATURE_FIELD, self.signature), (SEAL_FIELD, self.seal)


def default_names(message: Message) -> tuple[str, ...]:
    """Return what h= should name: what DKIM signs, oversigned in the same way, and each DKIM-Signature."""
    present = [name for name in IF_PRESENT if message.all(name)]
    names = [name for name in (*HEADERS, *present) for _ in range(len(message.all(name)) + 1)]
    return (*names, *["DKIM-Signature"] * len(message.all("DKIM-Signature")))


def seal(
    message: Message,
    chain: Chain,
    key: SigningKey,
    *,
    cv: str,
    results: str,
    domain: str,
    selector: str,
    now: int,
    names: Sequence[str] | None = None,
    body: bytes | None = None,
) -> NewSet | None:
    """Return a new set, or None where none may be added: the chain has ended, or can't be counted on from.

    `chain` is what arc_chain.find_chain finds in the message, `cv` what arc_verify.verify said of it: none, pass or
    fail. `results` is the value of our Authentication-Results field; `now` is t=, in seconds since the epoch; `names`
    are those for h= (default_names, if not given), `body` is the body's digest (canonical.body_digest) where it is
    known already. Raises ValueError for names that can't stand in a tag, a key that isn't RSA, and a `cv` that can't be.
    """
    check_names(domain, selector)
    if key.algorithm != "rsa-sha256":
        raise ValueError("ARC knows only rsa-sha256 (RFC 8617 section 4.1)")
    first = not (chain.sets or chain.fault)
    if cv not in _VERDICTS or (cv == "none") != first or (cv == "pass" and chain.fault):
        raise ValueError(f"cv={cv} can't be said of this chain")
    if chain.ended or (chain.fault and not chain.highest):
        return None
    instance = chain.highest + 1
    names = default_names(message) if names is None else names
    digest = body_digest(message) if body is None else body
    common = {"a": key.algorithm, "d": domain, "i": str(instance), "s": selector, "t": str(now)}
    own_results = f"i={instance}; {results}"
    more = {"bh": _base64(digest), "c": "relaxed/relaxed", "h": ":".join(names)}
    signature = _signed(key, SIGNATURE_FIELD, common | more, b"".join(_covered(message, names)))
    # A broken chain is not vouched for: the seal that says so covers its own set only (section 5.1.2).
    before = b"" if cv == "fail" else b"".join(map(sealed_fields, chain.sets))
    own = _relaxed(RESULTS_FIELD, own_results) + _relaxed(SIGNATURE_FIELD, signature)
    return NewSet(own_results, signature, _signed(key, SEAL_FIELD, common | {"cv": cv}, before + own))


def _signed(key: SigningKey, name: str, tags: Mapping[str, str], covered: bytes) -> str:
    """Return the value of a field whose b= signs `covered` and the field itself."""
    unsigned = _value({**tags, "b": ""})
    b = _base64(key.sign(covered + _relaxed(name, unsigned)[:-2]))
    return _value({**tags, "b": b})


def _value(tags: Mapping[str, str]) -> str:
    """Write tags, folded between them.

    They are in the order of the alphabet with one blank between, which is the form that test vectors are in, and as
    good as any.
    """
    lines = [""]
    for name in sorted(tags):
        tag = f"{name}={tags[name]};"
        if name == "h":
            tag = _fold(tag, ":", _WIDTH)
        elif len(tag) > _LONGEST:
            tag = _FOLD.join(tag[at : at + _LONGEST] for at in range(0, len(tag), _LONGEST))
        room = _WIDTH - len(lines[-1]) - 1
        if lines[-1] and len(tag) <= room:
            lines[-1] += f" {tag}"
        else:
            lines.append(tag)
    return _FOLD.join(lines[1:]).removesuffix(";")


def _fold(text: str, mark: str, width: int) -> str:
    """Break a text behind marks, into lines of at most `width` where it has enough of them."""
    lines = [""]
    for part in text.split(mark):
        if len(lines[-1]) + len(part) < width:
            lines[-1] += part + mark
        else:
            lines.append(part + mark)
    return _FOLD.join(lines).removesuffix(mark)


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _relaxed(name: str, value: str) -> bytes:
    return relaxed_header(f"{name}: {value}".encode())


def _covered(message: Message, names: Sequence[str]) -> Iterator[bytes]:
    """Yield the fields that h= names, in relaxed form, those of a name from the bottom up."""
    left: dict[str, list[bytes]] = {}
    for field in message.fields:
        left.setdefault(field.name.lower(), []).append(field.raw)
    return (relaxed_header(left[name.lower()].pop()) for name in names if left.get(name.lower()))
