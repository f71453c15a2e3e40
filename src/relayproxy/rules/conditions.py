"""What stands under `match:`, compiled to one closure; and what can be said of it before the message is there.

A condition has two forms: `holds` gives the answer when all facts are known, `early` answers True, False or None
(not known yet) at RCPT. Must not know what a rule does when it matches.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from zoneinfo import ZoneInfoNotFoundError

from relayproxy.rules.fact_table import FACTS, FAMILIES, WEEKDAYS, clock, fact_named, zone_of
from relayproxy.rules.facts import CHECKS, Fact, Facts, Kind, Phase
from relayproxy.rules.lists import ListSpec
from relayproxy.rules.operators import MEANT, OPERATORS, Key, Test, text_of
from relayproxy.rules.problems import Flaw, FlawError, Path, fail, guess, shown
from relayproxy.rules.quantities import parse_time

Holds: TypeAlias = Callable[[Facts], bool]
Early: TypeAlias = Callable[[Facts], bool | None]
Keys: TypeAlias = tuple[tuple[str, Key], ...]

GROUPS = ("all", "any", "not")
_DEEPEST = 12
_MODIFIERS = ("in_list", "not", "every")
_LIST_KINDS = {
    "text": frozenset({Kind.TEXT, Kind.DOMAIN, Kind.ADDRESS, Kind.WORD}),
    "domain": frozenset({Kind.DOMAIN, Kind.TEXT}),
    "address": frozenset({Kind.ADDRESS, Kind.TEXT}),
    "cidr": frozenset({Kind.IP}),
    "glob": frozenset({Kind.TEXT, Kind.DOMAIN, Kind.ADDRESS}),
    "regex": frozenset({Kind.TEXT, Kind.DOMAIN, Kind.ADDRESS}),
    "dns": frozenset({Kind.IP, Kind.DOMAIN}),
}


class Pending(Exception):  # noqa: N818  (no error: the evaluation goes on when the answer is there)
    """An answer is needed that must be waited for; `question` names it in Facts.answers."""

    def __init__(self, question: tuple[str, ...], value: Any) -> None:
        super().__init__(question)
        self.question = question
        self.value = value


@dataclass(slots=True)
class Scope:
    """What a compilation knows and gathers.

    Known are lists and listeners by name, the plugins that an accept can skip, and what the program is able to do
    (`hold`, `route`, `require_tls`, `skip`); gathered are the facts and lists in use, and flaws.
    """

    lists: Mapping[str, ListSpec] = field(default_factory=dict)
    listeners: tuple[str, ...] = ()
    skippable: tuple[str, ...] = ()
    abilities: frozenset[str] = frozenset()
    table: dict[str, Fact] = field(default_factory=dict)
    used_lists: set[str] = field(default_factory=set)
    flaws: list[Flaw] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled condition. `keys`: at least one of them holds whenever the condition does; None: unknown.

    `facts` are those it asks about, `leaves` its tests of the recipient, `written` is its form for comparing
    conditions with each other.
    """

    holds: Holds
    early: Early
    keys: Keys | None
    facts: frozenset[str]
    phase: Phase
    leaves: tuple[Holds, ...]
    written: Any

    @property
    def constant(self) -> bool:
        """Whether it holds for all mail."""
        return not self.facts

    @property
    def rcpt(self) -> bool:
        """Whether the answer may differ between recipients."""
        return bool(self.leaves)


def always() -> Condition:
    """Return the condition of a rule without `match`."""
    return Condition(_yes, _yes, None, frozenset(), Phase.RCPT, (), ())


def _yes(facts: Facts) -> bool:  # noqa: ARG001  (the shape of a condition)
    return True


def _unknown(facts: Facts) -> None:  # noqa: ARG001  (the shape of a condition)
    return None


def compile_match(value: Any, at: Path, scope: Scope, depth: int = 0) -> Condition:
    """Compile a mapping of facts and groups, all of which must hold. Flaws go to the scope."""
    if not isinstance(value, Mapping):
        raise fail("RP110", at, "a mapping of facts is wanted", "write {sender.domain: example.org}")
    if depth > _DEEPEST:
        raise fail("RP107", at, f"conditions are nested deeper than {_DEEPEST} levels", "split the rule")
    parts = []
    for name, given in value.items():
        where = (*at, name)
        try:
            if name in GROUPS:
                parts.append(_group(name, given, where, scope, depth))
            else:
                parts.append(compile_fact(str(name), given, where, scope))
        except FlawError as error:
            scope.flaws.append(error.flaw)
    return _all(parts)


def _group(name: str, given: Any, at: Path, scope: Scope, depth: int) -> Condition:
    if name == "not":
        return negated(_several(given, at, scope, depth, _all))
    if not isinstance(given, (list, tuple, Mapping)):
        raise fail(
            "RP110", at, f"a list of conditions is wanted under {name}", f"write {name}: [{{...}}, {{...}}]"
        )
    return _several(given, at, scope, depth, _all if name == "all" else _any)


def _several(
    given: Any, at: Path, scope: Scope, depth: int, join: Callable[[list[Condition]], Condition]
) -> Condition:
    if isinstance(given, (list, tuple)):
        if not given:
            raise fail("RP110", at, "there is nothing in this list", "name at least one condition")
        return join(
            [compile_match(item, (*at, number), scope, depth + 1) for number, item in enumerate(given)]
        )
    if isinstance(given, Mapping) and join is _any:
        return join([compile_match({key: item}, at, scope, depth + 1) for key, item in given.items()])
    return compile_match(given, at, scope, depth + 1)


def _joined(parts: list[Condition], sign: str) -> dict[str, Any]:
    return {
        "facts": frozenset[str]().union(*(part.facts for part in parts)),
        "phase": max((part.phase for part in parts), default=Phase.RCPT),
        "leaves": tuple(leaf for part in parts for leaf in part.leaves),
        "written": (sign, frozenset(part.written for part in parts)),
    }


def _all(parts: list[Condition]) -> Condition:
    if not parts:
        return always()
    if len(parts) == 1:
        return parts[0]
    tests = tuple(part.holds for part in parts)
    earlies = tuple(part.early for part in parts)

    def holds(facts: Facts) -> bool:
        for test in tests:  # noqa: SIM110  (a generator costs more than the tests)
            if not test(facts):
                return False
        return True

    def early(facts: Facts) -> bool | None:
        answer: bool | None = True
        for test in earlies:
            found = test(facts)
            if found is False:
                return False
            if found is None:
                answer = None
        return answer

    keys = min((part.keys for part in parts if part.keys is not None), key=_weakness, default=None)
    return Condition(holds, early, keys, **_joined(parts, "all"))


def _any(parts: list[Condition]) -> Condition:
    if len(parts) == 1:
        return parts[0]
    tests = tuple(part.holds for part in parts)
    earlies = tuple(part.early for part in parts)

    def holds(facts: Facts) -> bool:
        for test in tests:  # noqa: SIM110  (a generator costs more than the tests)
            if test(facts):
                return True
        return False

    def early(facts: Facts) -> bool | None:
        answer: bool | None = False
        for test in earlies:
            found = test(facts)
            if found is True:
                return True
            if found is None:
                answer = None
        return answer

    keys: Keys | None = ()
    for part in parts:
        keys = None if keys is None or part.keys is None else (*keys, *part.keys)
    return Condition(holds, early, keys, **_joined(parts, "any"))


def negated(part: Condition) -> Condition:
    """Return the opposite of a condition."""
    test, before = part.holds, part.early

    def early(facts: Facts) -> bool | None:
        found = before(facts)
        return None if found is None else not found

    return Condition(
        lambda facts: not test(facts), early, None, part.facts, part.phase, part.leaves, ("not", part.written)
    )


_STRENGTH = {"is": 0, "pattern": 2, "under": 1, "network": 1, "above": 4, "below": 5}


_DEAR = (("attachment", 3), ("part", 3), ("from", 2), ("header", 1), ("first_header", 1), ("subject", 1))


def _weakness(keys: Keys) -> tuple[int, int, int]:
    """Order keys by how much they are likely to let through, then by what their facts cost: the least is the best."""
    worst = max(_STRENGTH[key.kind] for _, key in keys)
    if any(isinstance(value, bool) for _, key in keys for value in key.values) or any(
        FACTS.get(name) is not None and FACTS[name].kind is Kind.WORD for name, _ in keys
    ):
        worst = 3
    cost = max((price for name, _ in keys for word, price in _DEAR if name.startswith(word)), default=0)
    return worst, cost, sum(len(key.values) for _, key in keys)


# -- one fact ---------------------------------------------------------------------------------------------------


def find_fact(name: str, at: Path, scope: Scope) -> Fact:
    """Return the fact of that name, and remember that it is used. Raises FlawError with a guess."""
    fact = scope.table.get(name) or fact_named(name)
    if fact is None:
        known = [*FACTS, *CHECKS]
        hint = guess(name, known) or guess(name.partition(".")[0], known)
        shapes = ", ".join(family.shape for family in FAMILIES)
        raise fail(
            "RP801",
            at,
            f"there is no fact {shown(name)}",
            hint or f"beside the fixed ones there are {shapes}",
            on_key=True,
        )
    if fact.name == "listener" and scope.listeners and not fact.words:
        fact = Fact(
            fact.name,
            fact.kind,
            fact.phase,
            fact.doc,
            fact.get,
            words=tuple(name.lower() for name in scope.listeners),
        )
    scope.table[fact.name] = fact
    return fact


def compile_fact(name: str, given: Any, at: Path, scope: Scope) -> Condition:
    """Compile the condition of one fact: a value, a list of values, or a mapping of operators."""
    fact = find_fact(name, at, scope)
    if fact.kind is Kind.TIME or fact.name == "weekday":
        return _timed(fact, given, at)
    if not isinstance(given, Mapping):
        return _condition(fact, [_tested(fact, "is", given, at)], given)
    if not given:
        raise fail(
            "RP110", at, "there is no operator here", f"write {{is: ...}}, or one of {', '.join(OPERATORS)}"
        )
    tests: list[tuple[Test, Key | None]] = []
    more: list[Condition] = []
    for word, argument in given.items():
        where = (*at, word)
        if word == "not":
            more.append(negated(compile_fact(fact.name, argument, where, scope)))
        elif word == "every":
            more.append(_every(fact, argument, where, scope))
        elif word == "in_list":
            more.append(_listed(fact, argument, where, scope))
        else:
            tests.append(_tested(fact, word, argument, where))
    if tests:
        more.insert(0, _condition(fact, tests, given))
    return _all(more)


def _tested(fact: Fact, word: Any, argument: Any, at: Path) -> tuple[Test, Key | None]:
    operator = OPERATORS.get(word)
    if operator is None:
        fitting = [row.name for row in OPERATORS.values() if fact.kind in row.kinds]
        meant = MEANT.get(str(word).lower())
        hint = f"did you mean '{meant}'?" if meant else guess(str(word), [*fitting, *_MODIFIERS])
        raise fail(
            "RP802",
            at,
            f"there is no operator {shown(word)}",
            hint or f"one of {', '.join(fitting)}",
            on_key=True,
        )
    if fact.kind not in operator.kinds:
        fitting = [row.name for row in OPERATORS.values() if fact.kind in row.kinds]
        raise fail(
            "RP804",
            at,
            f"'{word}' can't compare {fact.name}, which is of kind {fact.kind.value}",
            f"one of {', '.join(fitting)}",
            on_key=True,
        )
    return operator.compile(fact, argument, at)


def _condition(fact: Fact, tests: list[tuple[Test, Key | None]], given: Any) -> Condition:
    """All tests hold for the value; of many values, for one of them."""
    name = fact.name
    if len(tests) == 1:
        test = tests[0][0]
    else:
        several = tuple(one for one, _ in tests)

        def test(value: Any) -> bool:
            return all(one(value) for one in several)

    if fact.many:

        def holds(facts: Facts) -> bool:
            for value in facts[name]:  # noqa: SIM110  (a generator costs more than the tests)
                if test(value):
                    return True
            return False

    else:

        def holds(facts: Facts) -> bool:
            return test(facts[name])

    found = [((name, key),) for _, key in tests if key is not None]
    keys = min(found, key=_weakness, default=None)
    early: Early = holds if fact.phase is Phase.RCPT else _unknown
    return Condition(
        holds,
        early,
        keys,
        frozenset({name}),
        fact.phase,
        (holds,) if fact.rcpt else (),
        ("fact", name, _frozen(given)),
    )


def _every(fact: Fact, given: Any, at: Path, scope: Scope) -> Condition:
    """There is a value, and the condition holds for all of them."""
    if not fact.many:
        raise fail(
            "RP804",
            at,
            f"{fact.name} has one value: 'every' says nothing more",
            "leave 'every' out",
            on_key=True,
        )
    one = Fact(fact.name, fact.kind, fact.phase, fact.doc, fact.get, rcpt=fact.rcpt, words=fact.words)
    words = given if isinstance(given, Mapping) else {"is": given}
    for word in words:
        if word in (*_MODIFIERS, "every"):
            raise fail(
                "RP804", (*at, word), f"'{word}' can't stand under 'every'", "put it outside", on_key=True
            )
    tests = [_tested(one, word, argument, (*at, word)) for word, argument in words.items()]
    several = tuple(test for test, _ in tests)
    name = fact.name
    scope.table[name] = fact

    def holds(facts: Facts) -> bool:
        values = facts[name]
        return bool(values) and all(test(value) for value in values for test in several)

    early: Early = holds if fact.phase is Phase.RCPT else _unknown
    return Condition(
        holds,
        early,
        None,
        frozenset({name}),
        fact.phase,
        (holds,) if fact.rcpt else (),
        ("every", name, _frozen(given)),
    )


def _listed(fact: Fact, given: Any, at: Path, scope: Scope) -> Condition:
    listed = text_of(given, at)
    spec = scope.lists.get(listed)
    if spec is None:
        raise fail(
            "RP808",
            at,
            f"there is no list {shown(listed)}",
            guess(listed, scope.lists) or "define it under lists:",
        )
    scope.used_lists.add(listed)
    if fact.kind not in _LIST_KINDS[spec.type]:
        fitting = ", ".join(kind for kind, kinds in _LIST_KINDS.items() if fact.kind in kinds)
        raise fail(
            "RP804",
            at,
            f"list '{listed}' is of type {spec.type} and never holds {fact.name}",
            f"make it one of {fitting}" if fitting else "",
        )
    name = fact.name

    def one(facts: Facts, value: Any) -> bool:
        if spec.type != "dns":
            return facts.world.lists[listed].holds(value)
        question = ("dns", listed, str(value))
        if question not in facts.answers:
            raise Pending(question, value)
        return bool(facts.answers[question])

    if fact.many:

        def holds(facts: Facts) -> bool:
            return any(one(facts, value) for value in facts[name])

    else:

        def holds(facts: Facts) -> bool:
            return one(facts, facts[name])

    early: Early = holds if fact.phase is Phase.RCPT else _unknown
    return Condition(
        holds,
        early,
        None,
        frozenset({name}),
        fact.phase,
        (holds,) if fact.rcpt else (),
        ("list", name, listed),
    )


def _timed(fact: Fact, given: Any, at: Path) -> Condition:
    """Time of day and weekday, which depend on a zone."""
    words = given if isinstance(given, Mapping) else {("is" if fact.name == "weekday" else "between"): given}
    zone_name = words.get("zone", "UTC")
    try:
        zone = zone_of(text_of(zone_name, (*at, "zone")))
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise fail(
            "RP210",
            (*at, "zone"),
            f"there is no time zone {shown(zone_name)}",
            "write one such as Europe/Madrid",
        ) from error
    wanted = "is" if fact.name == "weekday" else "between"
    for word in words:
        if word not in (wanted, "zone"):
            raise fail(
                "RP802",
                (*at, word),
                f"there is no operator {shown(word)} for {fact.name}",
                f"(known here: {wanted}, zone)",
                on_key=True,
            )
    if wanted not in words:
        raise fail("RP102", at, f"key '{wanted}' is missing", on_key=True)
    where = (*at, wanted) if isinstance(given, Mapping) else at
    if fact.name == "weekday":
        test, _ = _tested(fact, "is", words["is"], where)

        def holds(facts: Facts) -> bool:
            return test(WEEKDAYS[clock(facts, zone).weekday()])

    else:
        start, end = _span(words["between"], where)

        def holds(facts: Facts) -> bool:
            now = clock(facts, zone)
            minute = now.hour * 60 + now.minute
            return start <= minute < end if start <= end else minute >= start or minute < end

    return Condition(
        holds, holds, None, frozenset({fact.name}), Phase.RCPT, (), ("fact", fact.name, _frozen(given))
    )


def _span(value: Any, at: Path) -> tuple[int, int]:
    ends = value if isinstance(value, (list, tuple)) else str(value).split("-")
    minutes = [parse_time(str(end).strip()) for end in ends]
    if len(minutes) != 2 or minutes[0] is None or minutes[1] is None:
        raise fail(
            "RP210", at, f"{shown(value)} is no span of time", 'write ["22:00", "06:00"]: from, and until'
        )
    return minutes[0], minutes[1]


def _frozen(value: Any) -> Any:
    """Return a value that can be compared and hashed."""
    if isinstance(value, Mapping):
        return tuple(sorted(((str(key), _frozen(item)) for key, item in value.items()), key=str))
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    return value


def fact_is_single(name: str) -> bool:
    """Whether a fact has one value."""
    fact = fact_named(name)
    return fact is not None and not fact.many
