"""The operators: how a fact is compared, as a table. Each compiles its argument to a test of one folded value.

A test may also give a key: what a value must equal, end with or hold for the test to be true, so that many rules can
be ruled out with one look-up. Must not know which rule asks, nor when.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from relayproxy.model.address import to_a_label
from relayproxy.model.refused import Refused, quoted
from relayproxy.model.sizes import parse_size
from relayproxy.rules.facts import Fact, Kind
from relayproxy.rules.networks import Networks, parse_network
from relayproxy.rules.patterns import PatternError, Patterns, check, exactly, from_glob
from relayproxy.rules.problems import Path, fail, guess

Test: TypeAlias = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Key:
    """What must be so for a test to hold: `kind` is is, under, pattern, network, above or below."""

    kind: str
    values: tuple[Any, ...]


Compiled: TypeAlias = tuple[Test, Key | None]


@dataclass(frozen=True, slots=True)
class Operator:
    """One row: `kinds` of facts that it compares, the JSON Schema of its argument, and its compiler."""

    name: str
    kinds: frozenset[Kind]
    doc: str
    schema: dict[str, Any]
    compile: Callable[[Fact, Any, Path], Compiled]


_TEXTS = frozenset({Kind.TEXT, Kind.DOMAIN, Kind.ADDRESS, Kind.WORD})
_NUMBERS = frozenset({Kind.NUMBER, Kind.SIZE})


def as_list(value: Any) -> list[Any]:
    """Return one value or several as a list."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _places(value: Any, at: Path) -> Iterable[tuple[Any, Path]]:
    if isinstance(value, (list, tuple)):
        if not value:
            raise fail(
                "RP811",
                at,
                "an empty list is never matched",
                "name at least one value, or remove the condition",
            )
        return [(item, (*at, number)) for number, item in enumerate(value)]
    return [(value, at)]


def text_of(value: Any, at: Path) -> str:
    """Return the value if it is text. Raises FlawError, which says what YAML took it for."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        raise fail(
            "RP110",
            at,
            "text is wanted",
            f"YAML reads this as {str(value).lower()}; quote it to make it text",
        )
    if isinstance(value, (int, float)):
        raise fail("RP110", at, "text is wanted", "YAML reads this as a number; quote it to make it text")
    raise fail("RP110", at, "text is wanted")


def number_of(fact: Fact, value: Any, at: Path) -> float:
    """Return the value as a number; a size may have a unit."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if fact.kind is Kind.SIZE and isinstance(value, str):
        try:
            return parse_size(value)
        except Refused as error:
            raise fail("RP204", at, error.message, error.hint) from error
    raise fail("RP110", at, f"{fact.name} is a number; {quoted(value)} is none")


def _is(fact: Fact, value: Any, at: Path) -> Compiled:
    if fact.kind is Kind.BOOL:
        if not isinstance(value, bool):
            hint = "write true or false"
            raise fail(
                "RP105" if isinstance(value, str) else "RP110", at, f"{fact.name} is true or false", hint
            )
        return (lambda v: v is value), Key("is", (value,))
    if fact.kind in _NUMBERS:
        numbers = frozenset(number_of(fact, item, where) for item, where in _places(value, at))
        return numbers.__contains__, Key("is", tuple(numbers))
    if fact.kind is Kind.IP:
        return _networks(value, at)
    words = frozenset(_folded(fact, item, where) for item, where in _places(value, at))
    if len(words) == 1:
        (only,) = words
        return only.__eq__, Key("is", (only,))
    return words.__contains__, Key("is", tuple(words))


def _folded(fact: Fact, value: Any, at: Path) -> str:
    """Return a text as the fact has it; refuse what it can never be."""
    if fact.kind is Kind.TEXT and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    text = text_of(value, at)
    match fact.kind:
        case Kind.DOMAIN:
            if "@" in text:
                raise fail(
                    "RP811",
                    at,
                    f"{fact.name} has no @; {quoted(text)} is an address",
                    f"write {text.rpartition('@')[2]}",
                )
            if text.startswith("."):
                raise fail(
                    "RP811",
                    at,
                    f"{fact.name} never begins with a dot",
                    f"write {{under: {text[1:]}}} for all names below it",
                )
            if "*" in text:
                raise fail(
                    "RP811",
                    at,
                    f"{quoted(text)} is compared as it stands; * has no meaning",
                    f"write {{glob: '{text}'}}",
                )
            return to_a_label(text.rstrip("."))
        case Kind.ADDRESS:
            if text in ("", "<>"):
                return ""
            if "*" in text:
                raise fail(
                    "RP811",
                    at,
                    f"{quoted(text)} is compared as it stands; * has no meaning",
                    f"write {{glob: '{text}'}}",
                )
            local, sign, domain = text.removeprefix("<").removesuffix(">").rpartition("@")
            if not sign:
                raise fail(
                    "RP811", at, f"{quoted(text)} is no address", f"for a domain use {fact.name}.domain"
                )
            return f"{local}@{to_a_label(domain)}".lower()
        case Kind.WORD:
            word = text.lower()
            if fact.words and word not in fact.words:
                hint = guess(word, fact.words) or f"one of {', '.join(fact.words)}"
                raise fail("RP202", at, f"{fact.name} is never {quoted(text)}", hint)
            return word
        case _:
            return text.lower()


def _networks(value: Any, at: Path) -> Compiled:
    networks = []
    for item, where in _places(value, at):
        text = text_of(item, where)
        try:
            networks.append(parse_network(text))
        except ValueError as error:
            message = (
                str(error)
                if "host bits" in str(error)
                else f"{quoted(text)} is neither an address nor a network"
            )
            raise fail("RP206", where, message, "write 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32") from error
    held: Networks[bool] = Networks((network, True) for network in networks)
    return (lambda ip: bool(held.found(ip))), Key("network", tuple(networks))


def _under(fact: Fact, value: Any, at: Path) -> Compiled:  # noqa: ARG001  (one shape for all)
    domains = []
    for item, where in _places(value, at):
        text = text_of(item, where).strip(".")
        if not text or "@" in text or "*" in text:
            raise fail(
                "RP208",
                where,
                f"{quoted(item)} is no domain",
                "write {under: example.org}: it and all names below it",
            )
        domains.append(to_a_label(text))
    whole = frozenset(domains)
    ends = tuple(f".{domain}" for domain in domains)
    return (lambda v: v in whole or v.endswith(ends)), Key("under", tuple(domains))


def _by_pattern(make: Callable[[str, Path], str]) -> Callable[[Fact, Any, Path], Compiled]:
    def compile_one(fact: Fact, value: Any, at: Path) -> Compiled:
        patterns = [make(text_of(item, where), where) for item, where in _places(value, at)]
        if fact.kind not in _TEXTS:
            raise fail("RP804", at, f"{fact.name} is no text")
        try:
            found = Patterns(patterns).found
        except PatternError as error:
            raise fail(
                "RP805", at, f"{quoted(value)} is too much: {error}", "write something shorter"
            ) from error
        return (lambda v: bool(found(v))), Key("pattern", tuple(patterns))

    return compile_one


def _regex(text: str, at: Path) -> str:
    try:
        check(text)
    except PatternError as error:
        raise fail("RP805", at, f"{quoted(text)} is no pattern: {error}", _regex_hint(text)) from error
    return text


def _regex_hint(text: str) -> str:
    if "(?=" in text or "(?!" in text or "(?<=" in text or "(?<!" in text:
        return "look-ahead and look-behind can't be done in linear time: use `not`, or two conditions"
    if any(f"\\{digit}" in text for digit in "123456789"):
        return "backreferences can't be done in linear time"
    return "patterns are those of RE2; in YAML, put them in single quotes"


def _glob(text: str, at: Path) -> str:
    pattern = from_glob(text)
    try:
        check(pattern)
    except PatternError as error:
        raise fail("RP805", at, f"{quoted(text)} is no glob: {error}") from error
    return pattern


def _plain(text: str, at: Path, *, start: bool = False, end: bool = False) -> str:
    if not text:
        raise fail("RP811", at, "every text holds the empty one: this says nothing", "name some characters")
    return exactly([text], start=start, end=end)[0]


def _above(fact: Fact, value: Any, at: Path) -> Compiled:
    wanted = number_of(fact, value, at)
    return (lambda v: v > wanted), Key("above", (wanted,))


def _at_least(fact: Fact, value: Any, at: Path) -> Compiled:
    wanted = number_of(fact, value, at)
    return (lambda v: v >= wanted), Key("above", (wanted,))


def _below(fact: Fact, value: Any, at: Path) -> Compiled:
    wanted = number_of(fact, value, at)
    return (lambda v: v < wanted), Key("below", (wanted,))


def _at_most(fact: Fact, value: Any, at: Path) -> Compiled:
    wanted = number_of(fact, value, at)
    return (lambda v: v <= wanted), Key("below", (wanted,))


def _exists(fact: Fact, value: Any, at: Path) -> Compiled:
    if value is not True:
        raise fail(
            "RP110",
            at,
            "exists: true is all that can be said",
            f"write {{not: {{{fact.name}: {{exists: true}}}}}} around the condition",
        )
    return (lambda v: v is not None and v != ""), None


_TEXT_OR_LIST: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
}
_ANY_OR_LIST: dict[str, Any] = {
    "anyOf": [
        {"type": ["string", "number", "boolean"]},
        {"type": "array", "items": {"type": ["string", "number"]}, "minItems": 1},
    ]
}
_NUMBER: dict[str, Any] = {"type": ["number", "string"]}

OPERATORS = {
    row.name: row
    for row in (
        Operator(
            "is",
            frozenset(Kind) - {Kind.TIME},
            "equal to the value, or to one of a list; for addresses of clients also in a network. A bare value or list means this",
            _ANY_OR_LIST,
            _is,
        ),
        Operator(
            "under",
            frozenset({Kind.DOMAIN}),
            "the domain itself, or any name below it",
            _TEXT_OR_LIST,
            _under,
        ),
        Operator(
            "glob",
            _TEXTS,
            "the whole text fits a pattern with * (any characters), ? (one) and [abc] (one of these)",
            _TEXT_OR_LIST,
            _by_pattern(_glob),
        ),
        Operator(
            "regex",
            _TEXTS,
            "a regular expression (RE2) occurs in the first 64 Ki characters",
            _TEXT_OR_LIST,
            _by_pattern(_regex),
        ),
        Operator("contains", _TEXTS, "the text occurs in it", _TEXT_OR_LIST, _by_pattern(_plain)),
        Operator(
            "starts_with",
            _TEXTS,
            "it begins with the text",
            _TEXT_OR_LIST,
            _by_pattern(lambda text, at: _plain(text, at, start=True)),
        ),
        Operator(
            "ends_with",
            _TEXTS,
            "it ends with the text",
            _TEXT_OR_LIST,
            _by_pattern(lambda text, at: _plain(text, at, end=True)),
        ),
        Operator("above", _NUMBERS, "greater than the number", _NUMBER, _above),
        Operator("at_least", _NUMBERS, "greater than the number, or equal", _NUMBER, _at_least),
        Operator("below", _NUMBERS, "less than the number", _NUMBER, _below),
        Operator("at_most", _NUMBERS, "less than the number, or equal", _NUMBER, _at_most),
        Operator(
            "exists",
            _TEXTS | {Kind.IP},
            "there is a value, and it is not empty; only `exists: true`",
            {"const": True},
            _exists,
        ),
    )
}
"""The operators that look at one value; `in_list`, `not`, `every`, `between` and `zone` are in conditions.py."""

MEANT = {
    "in": "is",
    "equals": "is",
    "eq": "is",
    "==": "is",
    "matches": "regex",
    "match": "regex",
    "re": "regex",
    "like": "glob",
    "gt": "above",
    "more_than": "above",
    "over": "above",
    "ge": "at_least",
    "min": "at_least",
    "lt": "below",
    "less_than": "below",
    "le": "at_most",
    "max": "at_most",
    "cidr": "is",
    "network": "is",
    "domain": "under",
    "suffix": "under",
    "subdomain_of": "under",
    "list": "in_list",
    "prefix": "starts_with",
    "startswith": "starts_with",
    "endswith": "ends_with",
    "includes": "contains",
    "all": "every",
    "none": "not",
}
"""Words of other languages, and the operator that does what they mean."""
