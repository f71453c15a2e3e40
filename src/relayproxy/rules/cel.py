"""Conditions in the Common Expression Language, for `when:` (the one home of the library, which is optional).

Values of facts go in, true or false comes out; anything else is a fault, for which the rule has its `on_error`. Must not know
how an expression names its facts.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, cast

from relayproxy.rules.condition import Condition, Holds, Scope, unknown
from relayproxy.rules.expression import MATCHES, Expression, read_expression
from relayproxy.rules.facts import Fact, Facts, Kind, Phase
from relayproxy.rules.patterns import Patterns
from relayproxy.rules.problems import Flaw, Path, fail

MOST_VALUES = 100
"""Values of one fact that an expression is asked about."""
MOST_TEXT = 16_384
"""Characters of all values of one fact together."""
_TRIALS = 60
_LONGEST_REASON = 160
_NUMBERS = frozenset({Kind.NUMBER, Kind.SIZE})


class CelError(Exception):
    """An expression that can't be answered; the message says why."""


def compile_when(value: Any, at: Path, scope: Scope) -> Condition:
    """Compile what stands under `when:`. Raises FlawError; what only some mail would show goes to the scope, as a warning."""
    if not isinstance(value, str) or not value.strip():
        hint = (
            "a mapping of facts stands under match:" if isinstance(value, Mapping) else "write 'size > 1000'"
        )
        raise fail("RP110", at, "when is an expression in CEL, as text", hint)
    expression = read_expression(value, at, scope)
    ask = _asking(expression, at)
    _tried(ask, expression, at, scope)
    facts = tuple(expression.facts.items())

    def holds(view: Facts) -> bool:
        return ask({variable: _given(fact, view[fact.name]) for variable, fact in facts})

    phase = max((fact.phase for fact in expression.facts.values()), default=Phase.RCPT)
    return Condition(
        holds,
        holds if phase is Phase.RCPT else unknown,
        None,
        frozenset(fact.name for fact in expression.facts.values()),
        phase,
        _leaves(expression.facts.values(), holds, phase),
        ("cel", value),
    )


def _leaves(facts: Iterable[Fact], holds: Holds, phase: Phase) -> tuple[Holds, ...]:
    """Return the tests of the recipient: what is known of them at RCPT can't be told from the rest of an expression."""
    names = tuple(sorted(fact.name for fact in facts if fact.rcpt))
    if not names:
        return ()
    if phase is Phase.RCPT:
        return (holds,)
    return tuple(cast("Holds", lambda view, name=name: view[name]) for name in names)


def _asking(expression: Expression, at: Path) -> Callable[[dict[str, Any]], bool]:
    """Return what evaluates an expression. Raises FlawError where it can't be compiled, or there is no CEL."""
    try:
        import cel  # noqa: PLC0415  (optional, and loaded only where a rule is written in it)
    except ImportError as error:
        raise fail(
            "RP828",
            at,
            "when: is written in CEL, which is not installed",
            "pip install 'relayproxy[cel]'",
            on_key=True,
        ) from error
    try:
        execute = cel.compile(expression.source).execute
    except ValueError as error:
        raise fail("RP826", at, _syntax(str(error))) from error

    def ask(values: dict[str, Any]) -> bool:
        values[MATCHES] = _fits
        try:
            answer = execute(values)
        except Exception as error:
            raise CelError(_reason(error)) from error
        except BaseException as error:
            if type(error).__module__ != "pyo3_runtime":  # a panic in Rust is no Exception
                raise
            raise CelError(_reason(error)) from error
        if not isinstance(answer, bool):
            raise CelError(f"it is {_named(answer)}, not true or false")
        return answer

    return ask


def _fits(text: str, pattern: str) -> bool:
    """Search as `regex` does under `match`: RE2, without regard to case."""
    return bool(_patterns(pattern).found(text))


@lru_cache(maxsize=1000)
def _patterns(pattern: str) -> Patterns:
    return Patterns([pattern])


def _syntax(said: str) -> str:
    """Return what the parser says, without the expression and the drawing below it."""
    said = said.partition("ERROR: <input>:1:")[2] or said
    column, _, text = said.partition(": ")
    if "'<EOF>'" in text:
        return "it ends too soon"
    first = text.partition("\n")[0].partition(" expecting {")[0].removeprefix("Syntax error: ").strip()
    return (
        f"{first} (at character {column})"
        if column.isdecimal()
        else said.partition("\n")[0][:_LONGEST_REASON]
    )


def _reason(error: BaseException) -> str:
    return (
        str(error)
        .partition("\n")[0]
        .partition(". CEL does not")[0]
        .partition(". Check ")[0][:_LONGEST_REASON]
    )


_NAMES = MappingProxyType(
    {str: "text", int: "a number", float: "a number", list: "a list", dict: "a mapping"}
)


def _named(value: Any) -> str:
    return _NAMES.get(type(value), "something else")


def _given(fact: Fact, value: Any) -> Any:
    """Return a value as CEL takes it. Raises CelError for more than an expression is asked about."""
    if fact.many:
        if len(value) > MOST_VALUES:
            raise CelError(f"{fact.name} has more than {MOST_VALUES} values")
        if sum(map(len, value)) > MOST_TEXT:
            raise CelError(f"{fact.name} has more than {MOST_TEXT} characters")
        return list(value)
    if fact.kind is Kind.IP:
        return "" if value is None else str(value)
    if isinstance(value, str) and len(value) > MOST_TEXT:
        raise CelError(f"{fact.name} has more than {MOST_TEXT} characters")
    return float(value) if _is_sum(fact) else value


def _is_sum(fact: Fact) -> bool:
    return fact.name == "score" or fact.name.endswith(".score")


def _tried(ask: Callable[[dict[str, Any]], bool], expression: Expression, at: Path, scope: Scope) -> None:
    """Ask it about values of the right kinds, which shows the types that don't fit (the library has no check of its own)."""
    for values in _samples(expression):
        try:
            ask(values)
        except CelError as error:
            cause = error.__cause__
            if cause is None or isinstance(cause, (TypeError, RuntimeError)):
                raise fail("RP826", at, _unfit(error), _hint(error, expression)) from error
            message = f"of some mail it can't be told: {error}"
            scope.flaws.append(
                Flaw("RP829", at, message, "ask for that first: size(x) > 0 && ...", "warning")
            )
            return
    facts = expression.facts.values()
    shouted = next((text for text in expression.texts if text != text.lower() and "\\" not in text), None)
    if shouted is not None and all(fact.folded or fact.kind in _NUMBERS for fact in facts):
        message = f"facts are in lower case, and '{shouted}' is not: it is never the same"
        scope.flaws.append(Flaw("RP829", at, message, f"write '{shouted.lower()}'", "warning"))


def _unfit(error: CelError) -> str:
    return "it compares or joins values of different kinds" if _is_kinds(error) else str(error)


def _is_kinds(error: CelError) -> bool:
    return isinstance(error.__cause__, TypeError)


def _hint(error: CelError, expression: Expression) -> str:
    if error.__cause__ is None:
        return "compare it with something: ... > 0, ... == 'x'"
    kinds = {fact.name: f"{fact.name} is {_kind(fact)}" for fact in expression.facts.values()}
    told = "; ".join(kinds.values())
    if _is_kinds(error) and any(fact.many for fact in expression.facts.values()):
        told += ": x.exists(v, v == 'a') looks through a list"
    return told


def _kind(fact: Fact) -> str:
    if fact.many:
        return "a list of texts"
    match fact.kind:
        case Kind.BOOL:
            return "true or false"
        case Kind.SIZE:
            return "a number of octets"
        case Kind.NUMBER:
            return "a number with a point, 5.0" if _is_sum(fact) else "a number"
        case _:
            return "text"


def _samples(expression: Expression) -> Iterator[dict[str, Any]]:
    """Yield values for all variables: nothing, everything, and by chance, always the same."""
    choices = {variable: _values(fact, expression.texts) for variable, fact in expression.facts.items()}
    yield {variable: values[0] for variable, values in choices.items()}
    yield {variable: values[-1] for variable, values in choices.items()}
    chance = random.Random(0)  # noqa: S311  (no secret: samples for a trial)
    for _ in range(_TRIALS if choices else 0):
        yield {variable: chance.choice(values) for variable, values in choices.items()}


def _values(fact: Fact, texts: tuple[str, ...]) -> list[Any]:
    if fact.kind is Kind.BOOL:
        return [False, True]
    if _is_sum(fact):
        return [0.0, 5.5, 1000.0]
    if fact.kind in _NUMBERS:
        return [0, 1, 1_000_000_000]
    words = ["", "a", *fact.words[:3], *texts]
    return [[], [word := words[-1]], [word, "a"]] if fact.many else words
