"""A compiled condition as a value, and how conditions are joined.

It has two forms: `holds` gives the answer when all facts are known, `early` answers True, False or None (not known
yet) at RCPT.

Must not know how a condition is written.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from relayproxy.rules.fact_table import FACTS
from relayproxy.rules.facts import Fact, Facts, Kind, Phase
from relayproxy.rules.lists import ListSpec
from relayproxy.rules.operators import Key
from relayproxy.rules.problems import Flaw

Holds: TypeAlias = Callable[[Facts], bool]
Early: TypeAlias = Callable[[Facts], bool | None]
Keys: TypeAlias = tuple[tuple[str, Key], ...]


class Pending(Exception):  # noqa: N818  (no error: the evaluation goes on when the answer is there)
    """An answer is needed that must be waited for; `question` names it in Facts.answers."""

    def __init__(self, question: tuple[str, ...], value: Any) -> None:
        super().__init__(question)
        self.question = question
        self.value = value


@dataclass(slots=True)
class Scope:
    """What a compilation knows and gathers.

    Known are lists, listeners and routes by name, the plugins that an accept can skip, and what this configuration is
    able to do (`hold`); gathered are the facts and lists in use, and flaws.
    """

    lists: Mapping[str, ListSpec] = field(default_factory=dict)
    listeners: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
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


def unknown(facts: Facts) -> None:  # noqa: ARG001  (the shape of a condition)
    """Say at RCPT that the answer needs the message."""
    return


def _joined(parts: list[Condition], sign: str) -> dict[str, Any]:
    return {
        "facts": frozenset[str]().union(*(part.facts for part in parts)),
        "phase": max((part.phase for part in parts), default=Phase.RCPT),
        "leaves": tuple(leaf for part in parts for leaf in part.leaves),
        "written": (sign, frozenset(part.written for part in parts)),
    }


def all_of(parts: list[Condition]) -> Condition:
    """Return the condition that all of these hold."""
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

    keys = min((part.keys for part in parts if part.keys is not None), key=weakness, default=None)
    return Condition(holds, early, keys, **_joined(parts, "all"))


def any_of(parts: list[Condition]) -> Condition:
    """Return the condition that one of these holds."""
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


_DEAR = (
    ("attachment", 3),
    ("part", 3),
    ("mime", 3),
    ("from", 2),
    ("header", 1),
    ("first_header", 1),
    ("subject", 1),
)


def weakness(keys: Keys) -> tuple[int, int, int]:
    """Order keys by how much they are likely to let through, then by what their facts cost: the least is the best."""
    worst = max(_STRENGTH[key.kind] for _, key in keys)
    if any(isinstance(value, bool) for _, key in keys for value in key.values) or any(
        FACTS.get(name) is not None and FACTS[name].kind is Kind.WORD for name, _ in keys
    ):
        worst = 3
    cost = max((price for name, _ in keys for word, price in _DEAR if name.startswith(word)), default=0)
    return worst, cost, sum(len(key.values) for _, key in keys)
