"""The work of `relayproxy replay --history`: kept messages through the rules of two configurations.

A message whose content the spool still has is played whole, as one from a folder; of the others the rules are asked about
what the history knows. Must not know how the result is shown.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from relayproxy.builtin.rules import ruleset_of
from relayproxy.cli.replay_rules import Judgement, Rulebook
from relayproxy.history.messages import Kept
from relayproxy.model.queued import Standing
from relayproxy.rules.facts import World
from relayproxy.rules.lists import Listing as RuleList
from relayproxy.spool.listing import Filter, Listing
from relayproxy.spool.protocol import SpoolError
from relayproxy.supervisor import Plan


@dataclass(slots=True)
class Comparison:
    """What would be different of one message, in words, and the rules for which that can't be told, with what they need."""

    changes: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)


def rulebook_of(plan: Plan) -> Rulebook:
    """Return the rules of a configuration, their lists read. Raises OSError and ValueError for a list that can't be."""
    config = plan.config
    ruleset = ruleset_of(plan.choices)
    lists = {name: RuleList(spec, plan.folder) for name, spec in ruleset.lists.items()}
    names = [entry.name for entry in config.pipeline]
    before = names[: names.index("rules")] if "rules" in names else names
    world = World(ruleset.table, frozenset(config.relay.domains), lists, config.hostname)
    return Rulebook(ruleset, world, frozenset(before))


def compare(kept: Kept, old: Rulebook, new: Rulebook, asked: frozenset[str]) -> Comparison:
    """Compare what the rules of two configurations make of a message that plugins `asked` had looked at."""
    result = Comparison()
    addresses = list(dict.fromkeys(address for address, _, _ in kept.recipients)) or [""]
    changes: dict[str, list[str]] = {}
    undecided: Counter[str] = Counter()
    for address in addresses:
        judgements = old.judge(kept, address, asked), new.judge(kept, address, asked)
        for line in _changes(*judgements):
            changes.setdefault(line, []).append(address)
        undecided.update(_undecided(*judgements))
    for line, some in changes.items():
        whose = "" if len(some) == len(addresses) else f"  for {', '.join(some)}"
        result.changes.append(f"{line}{whose}")
    result.undecided = list(undecided)
    return result


def _changes(old: Judgement, new: Judgement) -> Iterator[str]:
    """Yield what is certain to be different."""
    if old.same == new.same:
        return
    if old.same[0] != new.same[0]:
        doubt = ", unless an undecided rule before it matches"
        for sign, one in (("-", old), ("+", new)):
            unsure = any(open_.rule.verdict is not None and not open_.rule.observe for open_ in one.open)
            yield f"{sign} {one.verdict}{doubt if unsure else ''}"
    if round(old.points, 3) != round(new.points, 3):
        yield f"score of rules {old.points:g} -> {new.points:g}"
    for sign, some, others in (("-", old.hits, new.hits), ("+", new.hits, old.hits)):
        for name, did in some:
            if (name, did) not in others:
                yield f"{sign} rule {name}: {did}"


def _undecided(old: Judgement, new: Judgement) -> Iterator[str]:
    """Yield the rules that only one of the configurations has; one that both have changes nothing."""
    both = {one.same for one in old.open} & {one.same for one in new.open}
    for sign, judgement in (("-", old), ("+", new)):
        for one in judgement.open:
            if one.same not in both:
                yield f"{sign} rule {one.rule.id} ({one.rule.where}) needs {one.why}"


class Contents:
    """The contents that a spool still has; none where there is no spool."""

    def __init__(self, listing: Listing | None) -> None:
        self._listing = listing

    def of(self, identity: str) -> bytes | None:
        """Return the octets of a message as they arrived, or None. Raises SpoolError."""
        if self._listing is None:
            return None
        rows = self._listing.rows(Filter(ids=(identity,), standing=(Standing.HELD,)), 1)
        try:
            return self._listing.content(rows[0].message) if rows else None
        except (SpoolError, OSError):
            return None  # gone between the two questions, or set aside
