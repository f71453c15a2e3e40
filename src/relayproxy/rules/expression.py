"""What stands under `when:`, read before CEL sees it: which facts it names, and whether its cost has a bound.

Facts have dots and dashes in their names, so each becomes a variable of the same length, which keeps columns. What could
make an expression dear (macros within macros, texts put together again and again, large patterns) is refused. Must not know
how an expression is evaluated.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from relayproxy.model.refused import quoted
from relayproxy.rules.condition import Scope
from relayproxy.rules.conditions import find_fact
from relayproxy.rules.fact_table import FACTS
from relayproxy.rules.facts import CHECKS, Fact, Kind
from relayproxy.rules.patterns import PatternError, check
from relayproxy.rules.problems import FlawError, Path, fail, guess

LONGEST = 1000
"""Characters of an expression."""
MATCHES = "fits_re"
"""What `matches` is called in the source: the library's own compiles a pattern each time, and has other letters."""
_DEEPEST = 12
_MOST_REPEATED = 4  # patterns, and as many +, within macros, which are asked about every value
_MACROS = ("all", "exists", "exists_one", "filter")  # map can make values far larger than what it is given
_METHODS = (*_MACROS, "contains", "endsWith", "matches", "size", "startsWith")
_FUNCTIONS = ("double", "int", "size", "string")
_KNOWN = f"functions: {', '.join(_METHODS)}"
_WORDS = frozenset({"true", "false", "null", "in"})
_MEANT = {"&": "write && for and", "|": "write || for or", "=": "write == for equal"}
_MEANT |= dict.fromkeys("'\"", "a text ends with the quote that it begins with")
_INDEXED = ("header", "first_header", "header_count", "finding", *CHECKS)
_KINDS = {Kind.BOOL: "true or false", Kind.NUMBER: "number", Kind.SIZE: "number"}
_TOKEN = re.compile(
    r"""(?P<blank>\s+|//[^\n]*)
    |(?P<text>[rR]"[^"\n]*"|[rR]'[^'\n]*'|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)
    |(?P<number>\d[\w.]*)
    |(?P<sign>&&|\|\||[=!<>]=|[-+*/%<>!?:.,()[\]])""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression over variables: `facts` by the name of the variable; `texts` are the literals in it."""

    source: str
    facts: dict[str, Fact]
    texts: tuple[str, ...]


def read_expression(source: str, at: Path, scope: Scope) -> Expression:
    """Read an expression. Raises FlawError for what is no fact, no function, or has no bound."""
    if len(source) > LONGEST:
        raise fail("RP827", at, f"it is longer than {LONGEST} characters", "write several rules")
    return _Reading(source, at, scope).read()


class _Reading:
    """One pass over an expression."""

    def __init__(self, source: str, at: Path, scope: Scope) -> None:
        self._source, self._at, self._scope = source, at, scope
        self._facts: dict[str, Fact] = {}
        self._bound: set[str] = set()
        self._texts: list[str] = []
        self._swaps: list[tuple[int, int, str]] = []
        self._open: list[str] = []
        self._opens = ""
        self._repeated = self._added = 0
        self._starts: dict[int, Fact] = {}
        self._ends: dict[int, Fact] = {}

    def read(self) -> Expression:
        tokens = list(self._tokens())
        place = 0
        while place < len(tokens):
            token = tokens[place]
            used = 1
            if token.kind == "name":
                used = self._name(tokens, place)
            elif token.kind == "text":
                self._texts.append(literal(token.text))
            elif token.kind == "sign":
                self._sign(token, tokens[place - 1] if place else None)
            place += used
        for left, sign, right in zip(tokens, tokens[1:], tokens[2:], strict=False):
            if sign.text in ("==", "!="):
                self._same_kind(self._ends.get(left.at + len(left.text)), right)
                self._same_kind(self._starts.get(right.at), left)
        source = self._source
        for start, end, text in sorted(self._swaps, reverse=True):
            source = source[:start] + text + source[end:]
        return Expression(source, self._facts, tuple(self._texts))

    def _same_kind(self, fact: Fact | None, other: _Token) -> None:
        """Refuse what CEL takes for never equal: a fact and a literal of another kind."""
        if fact is None or not (other.kind in ("text", "number") or other.text in ("true", "false")):
            return
        kind = "text" if other.kind == "text" else "number" if other.kind == "number" else "true or false"
        own = "list" if fact.many else _KINDS.get(fact.kind, "text")
        if own != kind:
            raise self._wrong(
                other.at,
                f"{fact.name} is {'' if own == 'true or false' else 'a '}{own}, and never equal to {quoted(other.text)}",
            )

    def _tokens(self) -> Iterator[_Token]:
        place = 0
        while place < len(self._source):
            found = _TOKEN.match(self._source, place)
            if found is None:
                sign = self._source[place]
                raise self._wrong(place, f"{quoted(sign)} has no meaning here", _MEANT.get(sign, ""))
            if found.lastgroup != "blank":
                yield _Token(str(found.lastgroup), found[0], place)
            place = found.end()

    def _wrong(self, place: int, message: str, hint: str = "", code: str = "RP826") -> FlawError:
        return fail(code, self._at, f"{message} (at character {place + 1})", hint)

    def _sign(self, token: _Token, before: _Token | None) -> None:
        if token.text in ("(", "["):
            is_list = token.text == "[" and (before is None or before.kind == "sign" or before.text == "in")
            self._open.append("list" if is_list else self._opens)
            self._opens = ""
            if len(self._open) > _DEEPEST:
                raise self._wrong(token.at, f"it is nested deeper than {_DEEPEST} levels", code="RP827")
        elif token.text in (")", "]") and self._open:
            self._open.pop()
        elif token.text == "+" and "macro" in self._open:
            self._added += 1
            if self._added > _MOST_REPEATED:
                raise self._wrong(
                    token.at,
                    f"there are more than {_MOST_REPEATED} + in macros",
                    "make several rules",
                    "RP827",
                )

    def _name(self, tokens: Sequence[_Token], place: int) -> int:
        """Read a name, with what belongs to it; return how many tokens these are."""
        token = tokens[place]
        before = tokens[place - 1].text if place else ""
        after = tokens[place + 1].text if place + 1 < len(tokens) else ""
        names, method = token.text.split("."), ""
        if {"macro", "list"} <= set(self._open):
            hint = "write a list of texts or numbers"
            raise self._wrong(token.at, "a list within a macro is made again for each value", hint, "RP827")
        if after == "(" and (len(names) > 1 or before == "."):
            method = names.pop()
            self._method(method, tokens, place)
            if before == ".":
                return 1
        elif after == "(":
            if names[0] not in _FUNCTIONS:
                raise self._wrong(
                    token.at, f"there is no function {quoted(names[0])}", guess(names[0], _FUNCTIONS)
                )
            return 1
        elif before == ".":
            raise self._wrong(token.at, f"{quoted(token.text)} is no function", _KNOWN)
        if names[0] in _WORDS or names[0] in self._bound:
            if len(names) > 1:
                raise self._wrong(token.at, f"{quoted(names[0])} has no parts")
            return 1
        if names[0] in _INDEXED and len(names) == 1 and after == "[":
            return self._indexed(tokens, place)
        if names[0] in _INDEXED and (names[0] not in CHECKS or len(names) > 1):
            rest = _REST.match(self._source, token.at + len(names[0]))
            hint = f'write {names[0]}["{rest[1] if rest and not method else ".".join(names[1:]) or "NAME"}"]'
            raise self._wrong(token.at, f"{quoted('.'.join(names))} is not how it is written", hint)
        self._variable(".".join(names), token.at, token.at + len(".".join(names)))
        return 1

    def _method(self, method: str, tokens: Sequence[_Token], place: int) -> None:
        token = tokens[place]
        argument = tokens[place + 2] if place + 2 < len(tokens) else None
        if method not in _METHODS:
            raise self._wrong(
                token.at, f"there is no function {quoted(method)}", guess(method, _METHODS) or _KNOWN
            )
        if method == "matches":
            if argument is None or argument.kind != "text":
                raise self._wrong(
                    token.at,
                    "the pattern of matches is no text in quotes",
                    "write the pattern itself",
                    "RP827",
                )
            self._pattern(literal(argument.text), argument.at)
            end = token.at + len(token.text)
            self._swaps.append((end - len(method), end, MATCHES))
        if method in _MACROS:
            if "macro" in self._open:
                raise self._wrong(
                    token.at, f"{method} stands within another macro", "make two rules of it", "RP827"
                )
            if argument is not None and argument.kind == "name":
                if argument.text in FACTS or argument.text in _INDEXED or "." in argument.text:
                    raise self._wrong(
                        argument.at,
                        f"{quoted(argument.text)} is a fact, and no name for each value",
                        "write x",
                    )
                self._bound.add(argument.text)
            self._opens = "macro"

    def _pattern(self, pattern: str, place: int) -> None:
        try:
            check(pattern)
        except PatternError as error:
            raise self._wrong(place, f"{quoted(pattern)} is no pattern: {error}", code="RP805") from error
        self._repeated += "macro" in self._open
        if self._repeated > _MOST_REPEATED:
            raise self._wrong(
                place, f"there are more than {_MOST_REPEATED} patterns in macros", "join them by |", "RP827"
            )

    def _indexed(self, tokens: Sequence[_Token], place: int) -> int:
        """Read NAME["rest"] as one fact."""
        token, inside = tokens[place], tokens[place + 1 : place + 4]
        if len(inside) < 3 or inside[1].kind != "text" or inside[2].text != "]":
            raise self._wrong(
                token.at, f"behind {token.text} a name in quotes is wanted", f'write {token.text}["NAME"]'
            )
        self._variable(f"{token.text}.{literal(inside[1].text)}", token.at, inside[2].at + 1)
        return 4

    def _variable(self, name: str, start: int, end: int) -> None:
        """Put a variable in the place of a fact, as long as what was written unless that is taken."""
        try:
            fact = find_fact(name, self._at, self._scope)
        except FlawError as error:
            hint = guess(name, [*FACTS, *CHECKS]) or error.flaw.hint
            raise self._wrong(start, f"there is no fact {quoted(name)}", hint, "RP801") from error
        variable = re.sub(r"\W", "_", self._source[start:end], flags=re.ASCII)
        while self._facts.setdefault(variable, fact).name != fact.name:
            variable += "_"
        self._swaps.append((start, end, variable))
        self._starts[start] = self._ends[end] = fact


_REST = re.compile(r"\.([\w.-]+)")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def literal(text: str) -> str:
    """Return what a text in quotes stands for; escapes by numbers stay as they are."""
    if text[0] in "rR":
        return text[2:-1]
    return _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), text[1:-1])
