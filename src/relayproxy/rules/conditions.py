"""What stands under `match:`, compiled: groups, and for each fact a value, a list of them, or operators.

Must not know what a rule does when it matches.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

from relayproxy.model.refused import quoted
from relayproxy.rules.condition import (
    Condition,
    Early,
    Holds,
    Keys,
    Pending,
    Scope,
    all_of,
    any_of,
    negated,
    unknown,
    weakness,
)
from relayproxy.rules.fact_table import FACTS, FAMILIES, WEEKDAYS, clock, fact_named, zone_of
from relayproxy.rules.facts import CHECKS, Fact, Facts, Kind, Phase
from relayproxy.rules.operators import MEANT, OPERATORS, Key, Test, text_of
from relayproxy.rules.problems import FlawError, Path, fail, guess

GROUPS = ("all", "any", "not")
_DEEPEST = 12
_TIME = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])\Z")
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
    return all_of(parts)


def _group(name: str, given: Any, at: Path, scope: Scope, depth: int) -> Condition:
    if name == "not":
        return negated(_several(given, at, scope, depth, all_of))
    if not isinstance(given, (list, tuple, Mapping)):
        raise fail(
            "RP110", at, f"a list of conditions is wanted under {name}", f"write {name}: [{{...}}, {{...}}]"
        )
    return _several(given, at, scope, depth, all_of if name == "all" else any_of)


def _several(
    given: Any, at: Path, scope: Scope, depth: int, join: Callable[[list[Condition]], Condition]
) -> Condition:
    if isinstance(given, (list, tuple)):
        if not given:
            raise fail("RP110", at, "there is nothing in this list", "name at least one condition")
        return join(
            [compile_match(item, (*at, number), scope, depth + 1) for number, item in enumerate(given)]
        )
    if isinstance(given, Mapping) and join is any_of:
        return join([compile_match({key: item}, at, scope, depth + 1) for key, item in given.items()])
    return compile_match(given, at, scope, depth + 1)


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
            f"there is no fact {quoted(name)}",
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
    return all_of(more)


def _tested(fact: Fact, word: Any, argument: Any, at: Path) -> tuple[Test, Key | None]:
    operator = OPERATORS.get(word)
    if operator is None:
        fitting = [row.name for row in OPERATORS.values() if fact.kind in row.kinds]
        meant = MEANT.get(str(word).lower())
        hint = f"did you mean '{meant}'?" if meant else guess(str(word), [*fitting, *_MODIFIERS])
        raise fail(
            "RP802",
            at,
            f"there is no operator {quoted(word)}",
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
    keys = min(found, key=weakness, default=None)
    return _about(fact, holds, keys, ("fact", name, _frozen(given)))


def _about(fact: Fact, holds: Holds, keys: Keys | None, same: tuple[Any, ...]) -> Condition:
    """Return the condition on one fact: known at RCPT if the fact is."""
    early: Early = holds if fact.phase is Phase.RCPT else unknown
    return Condition(
        holds, early, keys, frozenset({fact.name}), fact.phase, (holds,) if fact.rcpt else (), same
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

    return _about(fact, holds, None, ("every", name, _frozen(given)))


def _listed(fact: Fact, given: Any, at: Path, scope: Scope) -> Condition:
    listed = text_of(given, at)
    spec = scope.lists.get(listed)
    if spec is None:
        raise fail(
            "RP808",
            at,
            f"there is no list {quoted(listed)}",
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

    return _about(fact, holds, None, ("list", name, listed))


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
            f"there is no time zone {quoted(zone_name)}",
            "write one such as Europe/Madrid",
        ) from error
    wanted = "is" if fact.name == "weekday" else "between"
    for word in words:
        if word not in (wanted, "zone"):
            raise fail(
                "RP802",
                (*at, word),
                f"there is no operator {quoted(word)} for {fact.name}",
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
    """Read two times of day; return minutes since midnight."""
    ends = value if isinstance(value, (list, tuple)) else str(value).split("-")
    minutes = [int(time[1]) * 60 + int(time[2]) for end in ends if (time := _TIME.match(str(end).strip()))]
    if len(ends) != 2 or len(minutes) != 2:
        raise fail(
            "RP210", at, f"{quoted(value)} is no span of time", 'write ["22:00", "06:00"]: from, and until'
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
