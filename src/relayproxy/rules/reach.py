"""Rules that can never act: an earlier one takes all that they could, or their conditions exclude each other.

Says only what is certain. Must not know what the verdicts are.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from relayproxy.rules.conditions import fact_is_single
from relayproxy.rules.problems import Flaw
from relayproxy.rules.rule import Rule

_MOST_COMPARED = 2_000


def check_reach(rules: Sequence[Rule]) -> Iterator[Flaw]:
    """Yield a warning for each rule that can't act."""
    takers: dict[Any, list[tuple[frozenset[Any], Rule]]] = {}
    everything: Rule | None = None
    for rule in rules[:_MOST_COMPARED]:
        parts = _parts(rule.condition.written)
        never = _excludes(parts)
        if never:
            message = f"it never matches: {never}"
            yield Flaw("RP811", ("rules", rule.number, "match"), message, "", "warning", on_key=True)
            continue
        taker = everything or _taker(takers, parts, rule)
        if taker is not None:
            message = f"rule '{taker.id}' before it takes all that this one could"
            hint = "put the narrower one first" if taker.condition.facts else "put it last"
            yield Flaw("RP810", ("rules", rule.number), message, hint, "warning")
        if rule.verdict is not None and rule.certain:
            if rule.condition.constant:
                everything = everything or rule
            elif parts:
                takers.setdefault(min(map(repr, parts)), []).append((parts, rule))


def _parts(written: Any) -> frozenset[Any]:
    """The conditions that must all hold."""
    if not written:
        return frozenset()
    if written[0] == "all":
        return frozenset(part for one in written[1] for part in _parts(one))
    return frozenset({written})


def _taker(
    takers: dict[Any, list[tuple[frozenset[Any], Rule]]], parts: frozenset[Any], rule: Rule
) -> Rule | None:
    """Return an earlier rule whose conditions are all among these, and that is asked no later."""
    for part in parts:
        for wanted, taker in takers.get(repr(part), ()):
            if wanted <= parts and taker.phase <= rule.phase:
                return taker
    return None


def _excludes(parts: Iterable[Any]) -> str:
    """Say which conditions on one fact exclude each other, or ""."""
    values: dict[str, set[Any]] = {}
    parts = tuple(parts)
    for part in parts:
        if part[0] == "not" and part[1] in parts:
            return (
                f"{part[1][1]} is asked to be so and not so" if part[1][0] == "fact" else "it excludes itself"
            )
        if part[0] != "fact" or not fact_is_single(part[1]):
            continue
        given = part[2]
        if isinstance(given, tuple) and given and isinstance(given[0], tuple):
            words = dict(given)
            if "is" not in words:
                low = max(
                    (words[w] for w in ("above", "at_least") if isinstance(words.get(w), (int, float))),
                    default=None,
                )
                high = min(
                    (words[w] for w in ("below", "at_most") if isinstance(words.get(w), (int, float))),
                    default=None,
                )
                if low is not None and high is not None and low > high:
                    return f"{part[1]} can't be above {low} and below {high}"
                continue
            given = words["is"]
        if part[1] == "client.ip":
            continue
        wanted = {str(one).lower() for one in (given if isinstance(given, tuple) else (given,))}
        both = values[part[1]] & wanted if part[1] in values else wanted
        if not both:
            return f"{part[1]} can't be two things at once"
        values[part[1]] = both
    return ""
