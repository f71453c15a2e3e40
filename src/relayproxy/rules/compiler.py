"""From what is written under `rules:` to rules that can be asked, with every mistake in one go.

Infers when each rule is asked: at RCPT if all its facts and actions allow it, else when the message is there. Must not
know files or line numbers; `where` of a rule comes from whoever does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from relayproxy.api import Action
from relayproxy.rules.condition import Scope
from relayproxy.rules.facts import CHECKS, Fact, Phase
from relayproxy.rules.index import Index
from relayproxy.rules.lists import ListSpec, read_lists
from relayproxy.rules.problems import Flaw, Path
from relayproxy.rules.reach import check_reach
from relayproxy.rules.reader import Reader
from relayproxy.rules.rule import Rule, Ruleset, Stage


def compile_rules(
    rules: Any,
    lists: Any = None,
    *,
    listeners: Sequence[str] = (),
    routes: Sequence[str] = (),
    pipeline: Sequence[str] | None = None,
    abilities: frozenset[str] = frozenset(),
    where: Callable[[Path], str] = lambda path: ".".join(map(str, path)),
) -> tuple[Ruleset, list[Flaw]]:
    """Compile rules as they are written; never raises, what is wrong is in the flaws.

    `pipeline` are the names of the plugins in their order (None: unknown, nothing is said about them), `abilities`
    what the configuration has beyond the rules (hold: a place to keep mail).
    """
    flaws: list[Flaw] = []
    specs = read_lists(lists, flaws)
    if rules is None:
        rules = ()
    if not isinstance(rules, (list, tuple)):
        flaws.append(
            Flaw("RP110", ("rules",), "a list of rules is wanted", "begin each with a dash: - id: NAME")
        )
        rules = ()
    after: tuple[str, ...] = ()
    if pipeline is not None and "rules" in pipeline:
        after = tuple(pipeline[pipeline.index("rules") + 1 :])
    scope = Scope(specs, tuple(listeners), tuple(routes), after, abilities, flaws=flaws)
    made = []
    seen: dict[str, int] = {}
    for number, given in enumerate(rules):
        rule = Reader(given, number, scope, where).read()
        if rule is None:
            continue
        if rule.id in seen:
            at: Path = ("rules", number, "id")
            flaws.append(
                Flaw("RP807", at, f"two rules are called '{rule.id}'", f"the first is rules[{seen[rule.id]}]")
            )
        seen.setdefault(rule.id, number)
        made.append(rule)
    for name in specs:
        if name not in scope.used_lists and not flaws:
            flaws.append(Flaw("RP824", ("lists", name), "no rule uses this list", "", "warning", on_key=True))
    placed = _in_order(made)
    flaws += check_reach(placed)
    if pipeline is not None:
        flaws += _checks_before(placed, pipeline)
    return _arranged(placed, specs, scope.table), flaws


def _in_order(rules: Sequence[Rule]) -> list[Rule]:
    """Put off what an accept before it may take away: it can't be asked before that accept is known."""
    placed = []
    barrier = ""
    for rule in rules:
        one = rule
        if barrier and rule.phase is Phase.RCPT:
            one = replace(rule, phase=Phase.MESSAGE, why=f"rule '{barrier}' before it may accept the message")
        verdict = one.verdict
        if (
            not barrier
            and one.phase is Phase.MESSAGE
            and verdict
            and verdict.action is Action.ACCEPT
            and not one.observe
        ):
            barrier = one.id
        placed.append(one)
    return placed


def _arranged(rules: Sequence[Rule], lists: Mapping[str, ListSpec], table: Mapping[str, Fact]) -> Ruleset:
    """Sort rules into stages; an accept at RCPT counts at the message again, for the rules behind it."""
    chosen: dict[Phase, list[Rule]] = {Phase.RCPT: [], Phase.MESSAGE: []}
    for rule in rules:
        chosen[rule.phase].append(rule)
        verdict = rule.verdict
        if rule.phase is Phase.RCPT and verdict is not None and verdict.action is Action.ACCEPT:
            chosen[Phase.MESSAGE].append(rule)
    if all(rule.phase is Phase.RCPT and not rule.skip for rule in chosen[Phase.MESSAGE]):
        chosen[Phase.MESSAGE].clear()
    stages = {
        phase: Stage(phase, tuple(some), Index((rule.condition.keys for rule in some), table))
        for phase, some in chosen.items()
        if some
    }
    splits = tuple(rule for rule in chosen[Phase.MESSAGE] if rule.condition.rcpt)
    return Ruleset(tuple(rules), dict(lists), dict(table), stages, splits)


def _checks_before(rules: Sequence[Rule], pipeline: Sequence[str]) -> list[Flaw]:
    """Whoever notes what a rule reads stands before the rules, or the rule would never match."""
    before = pipeline[: pipeline.index("rules")] if "rules" in pipeline else pipeline
    flaws = []
    for rule in rules:
        for name in sorted(rule.condition.facts):
            method = name.removeprefix("finding.").partition(".")[0]
            if (name in _FIXED_NAMES) or method not in CHECKS:
                continue
            plugin = CHECKS[method][0]
            if plugin not in before:
                later = plugin in pipeline
                message = f"'{name}' is what {plugin} finds, which " + (
                    "comes after rules" if later else "is not in the pipeline"
                )
                hint = f"put {plugin} before rules" if later else f"add - {plugin} before - rules"
                key = "when" if rule.condition.written[:1] == ("cel",) else "match"
                flaws.append(Flaw("RP819", ("rules", rule.number, key), message, hint, on_key=True))
    return flaws


_FIXED_NAMES = frozenset({"from", "sender"})
