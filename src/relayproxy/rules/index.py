"""Which of many rules can match at all: a look-up for each fact instead of a test for each rule.

A rule whose condition has keys is a candidate only if one of them is met; all others always are. Must not know what
a rule does.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from relayproxy.rules.condition import Keys
from relayproxy.rules.facts import Fact, Facts
from relayproxy.rules.networks import Networks
from relayproxy.rules.operators import Key
from relayproxy.rules.patterns import Patterns

Look: TypeAlias = Callable[[Any, list[int]], None]

_CHANGING = frozenset({"score", "tags"})
"""Facts that rules themselves change: what they were before the first rule says nothing."""
_MOST_KEPT = 2000
"""Values of a fact whose candidates are remembered."""
_LONGEST_KEPT = 255


class _Kept(dict[Any, tuple[int, ...]]):
    """What the values of a fact lead to, found once for each: clients, domains, senders and subjects come again."""

    def __init__(self, exact: Mapping[Any, Sequence[int]], looks: tuple[Look, ...]) -> None:
        super().__init__()
        self._exact, self._looks = exact, looks

    def __missing__(self, value: Any) -> tuple[int, ...]:
        found = list(self._exact.get(value, ()))
        for look in self._looks:
            look(value, found)
        numbers = tuple(found)
        if not (isinstance(value, str) and len(value) > _LONGEST_KEPT):
            if len(self) >= _MOST_KEPT:
                self.clear()
            self[value] = numbers
        return numbers


_Row: TypeAlias = tuple[
    str,
    Callable[[Facts], Any],
    Callable[[Any], Any] | None,
    bool,
    Mapping[Any, Sequence[int]],
    _Kept | None,
]
"""Of one fact: name, how to get and (if text) to fold it, whether it has many values, and where they lead: by `exact` alone
where there is nothing else to look up."""


class Index:
    """Finds candidates among numbered conditions; `table` has the facts that they ask about."""

    def __init__(self, conditions: Iterable[Keys | None], table: Mapping[str, Fact]) -> None:
        keyed: dict[str, dict[str, list[tuple[Key, int]]]] = {}
        always = []
        for number, keys in enumerate(conditions):
            if keys is None or any(name in _CHANGING for name, _ in keys):
                always.append(number)
                continue
            for name, key in keys:
                keyed.setdefault(name, {}).setdefault(key.kind, []).append((key, number))
        self._always = tuple(always)
        self._rows = [_row(table[name], kinds) for name, kinds in keyed.items()]

    def candidates(self, facts: Facts) -> Sequence[int]:
        """Return the numbers of the conditions that may hold, in order."""
        found: list[int] = []
        for name, get, fold, many, exact, kept in self._rows:
            # What Facts does for a fact that is missing, here without a call for each.
            if name in facts:
                value = facts[name]
            else:
                value = get(facts)
                if fold is not None and value:
                    value = fold(value)
                facts[name] = value
            for one in value if many else (value,):
                if kept is not None:
                    found += kept[one]
                elif one in exact:
                    found += exact[one]
        if not found:
            return self._always
        return sorted({*self._always, *found})


def _row(fact: Fact, kinds: dict[str, list[tuple[Key, int]]]) -> _Row:
    exact = _table(kinds.pop("is", []))
    looks = tuple(_MAKERS[kind](pairs) for kind, pairs in kinds.items())
    kept = _Kept(exact, looks) if looks else None
    return fact.name, fact.get, fact.fold if fact.folded else None, fact.many, exact, kept


def _table(pairs: list[tuple[Key, int]]) -> dict[Any, list[int]]:
    table: dict[Any, list[int]] = {}
    for key, number in pairs:
        for value in key.values:
            table.setdefault(value, []).append(number)
    return table


def _under(pairs: list[tuple[Key, int]]) -> Look:
    get = _table(pairs).get

    def look(value: str, found: list[int]) -> None:
        while value:
            numbers = get(value)
            if numbers is not None:
                found += numbers
            value = value.partition(".")[2]

    return look


def _pattern(pairs: list[tuple[Key, int]]) -> Look:
    flat = [(pattern, number) for key, number in pairs for pattern in key.values]
    patterns = Patterns([pattern for pattern, _ in flat])
    numbers = [number for _, number in flat]
    empty = [numbers[place] for place in patterns.found("")]

    def look(value: str, found: list[int]) -> None:
        if value:
            places = patterns.found(value)
            if places:
                found += [numbers[place] for place in places]
        else:
            found += empty

    return look


def _network(pairs: list[tuple[Key, int]]) -> Look:
    networks: Networks[int] = Networks((network, number) for key, number in pairs for network in key.values)

    def look(value: Any, found: list[int]) -> None:
        found += networks.found(value)

    return look


def _above(pairs: list[tuple[Key, int]]) -> Look:
    ordered = sorted((key.values[0], number) for key, number in pairs)
    bounds = [bound for bound, _ in ordered]
    numbers = [number for _, number in ordered]

    def look(value: float, found: list[int]) -> None:
        if value >= bounds[0]:
            found += numbers[: bisect_right(bounds, value)]

    return look


def _below(pairs: list[tuple[Key, int]]) -> Look:
    ordered = sorted((key.values[0], number) for key, number in pairs)
    bounds = [bound for bound, _ in ordered]
    numbers = [number for _, number in ordered]

    def look(value: float, found: list[int]) -> None:
        if value <= bounds[-1]:
            found += numbers[bisect_left(bounds, value) :]

    return look


_MAKERS: dict[str, Callable[[list[tuple[Key, int]]], Look]] = {
    "under": _under,
    "pattern": _pattern,
    "network": _network,
    "above": _above,
    "below": _below,
}
