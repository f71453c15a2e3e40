"""Who wrote this message: the one domain in From, or the reasons why there isn't one (RFC 5322 section 3.6.2).

Reads octets, with a grammar of its own: parsers that forgive choose differently what to forgive, and every
difference is a way to show the reader another author than the one that was checked. Must not know DMARC, and
never guesses.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from relayproxy.model.address import to_a_label
from relayproxy.model.message import HeaderField, Message

_LONGEST = 8192  # octets of the field
_REMEMBERED = 512  # octets of the values that are remembered: who writes, writes again

ANOMALIES = {
    "missing": "there is no From",
    "several-fields": "there is more than one From",
    "blank-before-colon": "there is a blank between From and its colon",
    "disguised-field": "a line looks like From to some readers and like nothing to others",
    "too-long": "From is longer than 8192 octets",
    "control-character": "From holds a control character",
    "empty": "From names nobody",
    "several-mailboxes": "From names more than one mailbox",
    "group": "From holds a group, or a colon or semicolon outside of quotes",
    "source-route": "the address in From has a source route",
    "unquoted-special": "From holds a special character outside of quotes",
    "unbalanced": "a quote, comment or bracket in From does not end",
    "text-after-address": "text follows the address in From",
    "no-address": "From has no address with a domain",
    "bad-local-part": "the local part in From is malformed",
    "bad-domain": "the domain in From is malformed",
    "address-literal": "the domain in From is an address literal",
    "encoded-address": "the address in From is an encoded word",
    "malformed": "the address in From is malformed",
}
"""What can be wrong with From, by name."""

_ATEXT = rb"A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-"
_TOKEN = re.compile(
    rb"(?P<blank>[ \t]+)"
    # An encoded word must not hold these specials (RFC 2047 section 5), but many do, and without "@" and
    # brackets in it nobody can read an address there.
    rb"|(?P<encoded>=\?[^?\s()<>@\"\\]+\?[BbQq]\?[^?\s()<>@\"\\]*\?=)"
    rb'|(?P<quoted>"(?:[^"\\]|\\.)*")'
    rb"|(?P<atom>[" + _ATEXT + rb".]+)"
    rb"|(?P<special>[()<>\[\]:;@\\,\"])",
    re.DOTALL,
)
_COMMENT_PART = re.compile(rb"\\.|[()]", re.DOTALL)
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_DOT_ATOM = re.compile(rb"[" + _ATEXT + rb"]+(?:\.[" + _ATEXT + rb"]+)*\Z")
_QUOTED = re.compile(rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~])*"\Z')
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\Z")
_NOT_A_LETTER = re.compile(rb"[^A-Za-z]+")


@dataclass(frozen=True, slots=True)
class Author:
    """What From says. `domain` is in A-labels, and "" if From can't be trusted to name one.

    `anomalies` are keys of ANOMALIES; without any, there is exactly one field, one mailbox and one domain.
    """

    domain: str = ""
    local: str = ""
    anomalies: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """The anomalies in words."""
        return "; ".join(ANOMALIES[name] for name in self.anomalies)


class Anomaly(Exception):  # noqa: N818  (it names what was found)
    """The value is not one mailbox; the argument is the name of the reason."""


def read_author(message: Message) -> Author:
    """Return the author that the header block names. Never raises; linear in the length of the block.

    With one field that is well-formed but for its place (another line is disguised as From, or a blank stands
    before the colon), `domain` is still given along with the anomaly, for those who tolerate it.
    """
    fields = []
    anomalies = []
    for field in message.fields:
        if field.name.lower() == "from":
            fields.append(field)
            if field.raw[4:5] != b":":
                anomalies.append("blank-before-colon")
        elif not field.name and _looks_like_from(field):
            anomalies.append("disguised-field")
    if len(fields) != 1:
        return Author(anomalies=(*dict.fromkeys(anomalies), "several-fields" if fields else "missing"))
    found = tuple(dict.fromkeys(anomalies))
    try:
        value = fields[0].raw.partition(b":")[2]
        local, domain = (_remembered if len(value) <= _REMEMBERED else parse_mailbox)(value)
    except Anomaly as anomaly:
        return Author(anomalies=(*found, str(anomaly)))
    return Author(domain, local, found)


def _looks_like_from(field: HeaderField) -> bool:
    name, colon, _ = field.raw[:200].partition(b":")
    return bool(colon) and _NOT_A_LETTER.sub(b"", name).lower() == b"from"


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: bytes

    def is_(self, specials: bytes) -> bool:
        return self.kind == "special" and self.text in specials


def parse_mailbox(value: bytes) -> tuple[str, str]:
    """Return local part (quotes kept) and domain (A-labels) of a value that is exactly one mailbox.

    Folds, comments and a display name are allowed; the name may hold dots, square brackets and any 8-bit octets,
    as is common, because none of them can be taken for an address. Raises Anomaly for anything else.
    """
    if len(value) > _LONGEST:
        raise Anomaly("too-long")
    value = value.removesuffix(b"\r\n")
    unfolded = re.sub(rb"\r\n(?=[ \t])", b"", value)
    if _CONTROL.search(unfolded):
        raise Anomaly("control-character")
    tokens = _trimmed(_tokens(unfolded), "blank", "comment")
    if not tokens:
        raise Anomaly("empty")
    opening = next((n for n, token in enumerate(tokens) if token.is_(b"<")), None)
    if opening is None:
        return _addr_spec(tokens)
    _check_name(tokens[:opening])
    closing = next((n for n, token in enumerate(tokens) if token.is_(b">")), None)
    if closing is None:
        raise Anomaly("unbalanced")
    _check_rest(tokens[closing + 1 :])
    inner = _trimmed(tokens[opening + 1 : closing], "blank")
    if inner and inner[0].is_(b"@"):
        raise Anomaly("source-route")
    return _addr_spec(inner)


def _tokens(value: bytes) -> list[_Token]:
    tokens = []
    position = 0
    while position < len(value):
        if value[position : position + 1] == b"(":
            position = _after_comment(value, position)
            tokens.append(_Token("comment", b""))
            continue
        found = _TOKEN.match(value, position)
        if found is None or found[0] == b'"':
            raise Anomaly("unbalanced")
        tokens.append(_Token(found.lastgroup or "", found[0]))
        position = found.end()
    return tokens


def _after_comment(value: bytes, position: int) -> int:
    depth = 0
    for part in _COMMENT_PART.finditer(value, position):
        if part[0] == b"(":
            depth += 1
        elif part[0] == b")":
            depth -= 1
            if not depth:
                return part.end()
    raise Anomaly("unbalanced")


def _trimmed(tokens: list[_Token], *kinds: str) -> list[_Token]:
    start, end = 0, len(tokens)
    while start < end and tokens[start].kind in kinds:
        start += 1
    while start < end and tokens[end - 1].kind in kinds:
        end -= 1
    return tokens[start:end]


def _check_name(tokens: list[_Token]) -> None:
    """Let pass what can stand before "<"."""
    for token in tokens:
        if token.kind == "special" and not token.is_(b"[]"):
            raise Anomaly(_meaning(token))


def _check_rest(tokens: list[_Token]) -> None:
    """Let pass what can stand behind ">": comments."""
    rest = _trimmed(tokens, "blank", "comment")
    if any(token.is_(b",<") for token in rest):
        raise Anomaly("several-mailboxes")
    if rest:
        raise Anomaly("text-after-address")


def _meaning(special: _Token) -> str:
    if special.is_(b","):
        return "several-mailboxes"
    if special.is_(b":;"):
        return "group"
    return "unbalanced" if special.is_(b")>") else "unquoted-special"


def _addr_spec(tokens: list[_Token]) -> tuple[str, str]:
    match tokens:
        case [local, at, domain] if at.is_(b"@") and domain.kind == "atom":
            return _local_part(local), _domain(domain.text)
        case [_, at, bracket, *_] if at.is_(b"@") and bracket.is_(b"["):
            raise Anomaly("address-literal")
    if any(token.kind == "encoded" for token in tokens):
        raise Anomaly("encoded-address")
    for token in tokens:
        if token.is_(b",:;)>"):
            raise Anomaly(_meaning(token))
    raise Anomaly("malformed" if any(token.is_(b"@") for token in tokens) else "no-address")


def _local_part(token: _Token) -> str:
    if token.kind == "encoded" or b"=?" in token.text:
        raise Anomaly("encoded-address")
    grammar = _QUOTED if token.kind == "quoted" else _DOT_ATOM
    try:
        if grammar.match(token.text):
            return token.text.decode()
    except UnicodeDecodeError:
        pass
    raise Anomaly("bad-local-part")


def _domain(text: bytes) -> str:
    """Return the domain in A-labels; U-labels are UTF-8 (RFC 6532)."""
    try:
        domain = to_a_label(text[:1024].decode())
    except UnicodeDecodeError:
        domain = ""
    labels = domain.split(".")
    if len(domain) > 253 or not all(len(label) < 64 and _LABEL.match(label) for label in labels):
        raise Anomaly("bad-domain")
    return domain


_remembered = lru_cache(1000)(parse_mailbox)
