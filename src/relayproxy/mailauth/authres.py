"""The Authentication-Results field (RFC 8601): written, read, and taken out where it is forged.

Everything that we write passes through one quoting function, because most of it was chosen by a stranger. Must
not know how a result came about.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from relayproxy.model.address import to_a_label
from relayproxy.model.edits import DropHeader
from relayproxy.model.finding import Finding
from relayproxy.model.message import HeaderField, Message

METHODS = frozenset({"arc", "auth", "dkim", "dmarc", "dnswl", "iprev", "rrvs", "smime", "spf"})
"""The methods that are published, of those registered (RFC 8601 section 6.2 and its successors)."""

_UNPUBLISHED = frozenset({"hit", "miss"})  # our own words for lists and scanners
_LONGEST = 16_384  # characters of a field that are still looked at; honest ones have a thousand
_LONGEST_ID = 253
_FOREIGN_IDS = 20  # of a message, that are turned into A-labels, which takes a millisecond for a long one
_WIDTH = 76
_VALUE_ROOM = 256
_RESULTS = 50

_TOKEN = re.compile(r"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]+\Z")  # RFC 2045 section 5.1
_ADDRESS = re.compile(
    r"(?:[!#$%&'*+\-./0-9=?A-Z^_`a-z{|}~]+)?@[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\Z"
)
_PROPERTY = re.compile(r"(?:smtp|header|body|policy|dns)\.[A-Za-z0-9][A-Za-z0-9_-]*\Z")
_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)?(?:/[0-9]+)?\Z")
_LEXEME = re.compile(r'[ \t\r\n]*(?:"((?:[^"\\]|\\.)*)"|([;=]|[^\s;="()]+)|\(|\Z)', re.DOTALL)
_COMMENT_PART = re.compile(r"\\.|[()]", re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_INSTANCE = re.compile(r"[ \t]*i[ \t]*=[ \t]*([0-9]{1,3})[ \t]*;")
_RECEIVER = re.compile(r'receiver\s*=\s*"?([^\s;"()]+)', re.IGNORECASE)
_NOT_IN_A_NAME = re.compile(rb"[^A-Za-z-]+")

_OURS_TO_WRITE = (b"authentication", b"received-spf", b"bimi-")
_RESULTS_FIELDS = ("authentication-results", "x-authentication-results")
_INDICATORS = ("bimi-location", "bimi-indicator")  # a receiver's verdict, never a sender's


@dataclass(frozen=True, slots=True)
class MethodResult:
    """One result: `props` by "ptype.property", values with their quotes removed."""

    method: str
    result: str
    reason: str
    props: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AuthenticationResults:
    """What one field says. Method, result and property names are in lower case."""

    authserv_id: str
    results: tuple[MethodResult, ...]


def quote(text: str) -> str:
    """Return `text` as a pvalue (RFC 8601 section 2.2), cut to 256 characters.

    Printable ASCII only: a domain becomes A-labels, whatever else is not printable a question mark.
    """
    return _quoted(text[:_VALUE_ROOM])


@lru_cache(2000)
def _quoted(text: str) -> str:
    if not text.isascii():
        local, at, domain = text.rpartition("@")
        text = local + at + to_a_label(domain)
    if not text.isprintable() or not text.isascii():
        text = "".join(c if " " <= c <= "~" else "?" for c in text)
    if _TOKEN.match(text) or _ADDRESS.match(text):
        return text
    escaped = text.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'


def header_value(authserv_id: str, findings: Iterable[Finding]) -> str:
    """Return the value of our field, folded, or "" if no finding is of a method that is published.

    Of the properties those with a dot in their name are published ("smtp.mailfrom"); others are notes between
    plugins.
    """
    published = [
        finding for finding in findings if finding.method in METHODS and finding.result not in _UNPUBLISHED
    ]
    if not published:
        return ""
    return ";\r\n\t".join([quote(authserv_id), *map(_resinfo, published[:_RESULTS])])


@lru_cache(500)
def _is_published(name: str) -> bool:
    return _PROPERTY.match(name) is not None


def _resinfo(finding: Finding) -> str:
    words = [f"{finding.method}={finding.result}"]
    if finding.reason:
        words.append(f"reason={quote(finding.reason)}")
    words += [f"{name}={quote(value)}" for name, value in finding.props.items() if _is_published(name)]
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) < _WIDTH:
            lines[-1] += f" {word}"
        else:
            lines.append(f" {word}")
    return "\r\n\t".join(lines)


def forged(message: Message, authserv_id: str, *, also: Collection[str] = ()) -> tuple[DropHeader, ...]:
    """Return the edits that take out what claims to be a result of ours (RFC 8601 section 5).

    That is each Authentication-Results field (X-Authentication-Results likewise) with our authserv-id, one of
    `also`, or a domain above ours, in any spelling; one whose id can't be read, because some reader may read it
    differently; Received-SPF that names us as the receiver; and the indicators of BIMI. ARC sets stay: they are
    sealed by those who wrote them.
    """
    head = message.head.lower()
    if not any(name in head for name in _OURS_TO_WRITE):
        return ()
    claims = _Claims({name for one in (authserv_id, *also) for name in _claimable(_same(one))})
    seen: dict[str, int] = {}
    edits = []
    for field in message.fields:
        name = field.name.lower()
        index = seen.get(name, 0)
        seen[name] = index + 1
        if _is_forged(name, field, claims):
            edits.append(DropHeader(field.name, index))
    return tuple(reversed(edits))  # from the bottom, so that no edit moves the index of another


class _Claims:
    """Tells whether a name is one of ours in any spelling; one that takes too long to be told counts as such."""

    def __init__(self, ours: set[str]) -> None:
        self._ours = ours
        self._foreign = 0

    def ours(self, name: str) -> bool:
        if not name.isascii():
            self._foreign += 1
        return len(name) > _LONGEST_ID or self._foreign > _FOREIGN_IDS or _same(name) in self._ours


def _is_forged(name: str, field: HeaderField, claims: _Claims) -> bool:
    if name in _RESULTS_FIELDS:
        try:
            return claims.ours(_read_id(field.value))
        except ValueError:
            return True
    if name == "received-spf":
        found = _RECEIVER.search(field.value[:_LONGEST])
        return bool(found) and claims.ours(found[1] if found else "")
    if name in _INDICATORS:
        return True
    if not name:  # a line that is no field to us may be one to somebody else
        disguised = _NOT_IN_A_NAME.sub(b"", field.raw.partition(b":")[0]).decode("ascii").lower()
        return disguised in _RESULTS_FIELDS
    return False


def _same(authserv_id: str) -> str:
    return to_a_label(authserv_id).rstrip(".")


def _claimable(authserv_id: str) -> Iterable[str]:
    """Our id and the domains above it, in whose name nobody else may speak; top-level domains are nobody's."""
    yield authserv_id
    parent = authserv_id.partition(".")[2]
    while "." in parent:
        yield parent
        parent = parent.partition(".")[2]


def parse(value: str) -> AuthenticationResults:
    """Read the value of an Authentication-Results field. Raises ValueError for what RFC 8601 does not allow.

    Unquoted values may hold more characters than the RFC grants, as base64 digests commonly do.
    """
    groups = _groups(value)
    authserv_id = _id_of(groups[0])
    found = tuple(_parse_resinfo(group) for group in groups[1:] if group and not _is_none(group))
    if len(groups) == 1:
        raise ValueError("there is no result")
    return AuthenticationResults(authserv_id, found)


def parse_arc(value: str) -> tuple[int, AuthenticationResults]:
    """Read the value of an ARC-Authentication-Results field (RFC 8617 section 4.1.1): instance and results."""
    instance = _INSTANCE.match(value)
    if not instance:
        raise ValueError("there is no instance")
    return int(instance[1]), parse(value[instance.end() :])


class _Lexeme(NamedTuple):
    text: str
    quoted: bool
    start: int
    end: int

    def is_(self, char: str) -> bool:
        return self.text == char and not self.quoted


def _lexemes(value: str) -> Iterable[_Lexeme]:
    """Yield words, quoted strings and separators; comments and blanks are dropped. One pass."""
    if len(value) > _LONGEST:
        raise ValueError("the field is too long")
    position = 0
    while position < len(value):
        found = _LEXEME.match(value, position)
        if not found:
            raise ValueError("a quote or a parenthesis is out of place")
        position = found.end()
        if found[2] is not None:
            yield _Lexeme(found[2], False, found.start(2), position)
        elif found[1] is not None:
            yield _Lexeme(_QUOTED_PAIR.sub(r"\1", found[1]), True, found.start(1) - 1, position)
        elif position and value[position - 1] == "(":
            position = _after_comment(value, position - 1)


def _after_comment(value: str, position: int) -> int:
    depth = 0
    for part in _COMMENT_PART.finditer(value, position):
        if part[0] == "(":
            depth += 1
        elif part[0] == ")":
            depth -= 1
            if not depth:
                return part.end()
    raise ValueError("a comment does not end")


def _groups(value: str) -> list[list[_Lexeme]]:
    groups: list[list[_Lexeme]] = [[]]
    for lexeme in _lexemes(value):
        if lexeme.is_(";"):
            groups.append([])
        else:
            groups[-1].append(lexeme)
    return groups


def _read_id(value: str) -> str:
    """Return the authserv-id, whatever follows the first semicolon. Raises ValueError if it can't be read."""
    group: list[_Lexeme] = []
    for lexeme in _lexemes(value):
        if lexeme.is_(";") or len(group) > 2:
            break
        group.append(lexeme)
    return _id_of(group)


def _id_of(group: list[_Lexeme]) -> str:
    match group:
        case [name]:
            pass
        case [name, version] if version.text.isdigit() and version.start > name.end:
            pass
        case _:
            raise ValueError("there is no authserv-id")
    if not (name.quoted or _TOKEN.match(name.text) or (not name.text.isascii() and name.text.isprintable())):
        raise ValueError(f"{name.text!r} is no authserv-id")
    return name.text


def _is_none(group: list[_Lexeme]) -> bool:
    return len(group) == 1 and group[0].text.lower() == "none"


def _parse_resinfo(group: list[_Lexeme]) -> MethodResult:
    pairs = list(_pairs(group))
    method, result = pairs[0]
    reason, props = "", {}
    for name, value in pairs[1:]:
        if name == "reason":
            reason = value
        elif "." in name:
            props[name] = value
        else:
            raise ValueError(f"{name!r} is no property")
    return MethodResult(method.partition("/")[0], result.lower(), reason, props)


def _pairs(group: list[_Lexeme]) -> Iterable[tuple[str, str]]:
    """Yield name and value of each `name = value`; blanks may stand around ".", "/" and "="."""
    position = 0
    while position < len(group):
        start = position
        while position < len(group) and not group[position].is_("="):
            position += 1
        names = group[start:position]
        name = "".join(lexeme.text for lexeme in names)
        joined = all(left.text[-1:] in "./" or right.text[:1] in "./" for left, right in pairwise(names))
        if not joined or any(lexeme.quoted for lexeme in names) or not _NAME.match(name):
            raise ValueError(f"{name[:40]!r} is no name of a method or property")
        position += 1
        if position >= len(group):
            raise ValueError(f"{name!r} has no value")
        start = position
        position += 1
        while position < len(group) and group[position].start == group[position - 1].end:
            position += 1
        yield name.lower(), "".join(lexeme.text for lexeme in group[start:position])
