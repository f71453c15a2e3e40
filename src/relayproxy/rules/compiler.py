"""From what is written under `rules:` to rules that can be asked, with every mistake in one go.

Infers when each rule is asked: at RCPT if all its facts and actions allow it, else when the message is there. Must not
know files or line numbers; `where` of a rule comes from whoever does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from relayproxy.api import Action
from relayproxy.rules.actions import ACTIONS, MEANT, VERDICTS, Act, Address, Decide, Field, Note, Rate
from relayproxy.rules.conditions import Condition, Scope, always, compile_match
from relayproxy.rules.fact_table import fact_named
from relayproxy.rules.facts import CHECKS, Fact, Phase
from relayproxy.rules.index import Index
from relayproxy.rules.lists import ListSpec, read_lists
from relayproxy.rules.problems import Flaw, FlawError, Path, fail, guess, shown
from relayproxy.rules.reach import check_reach

KEYS = ("id", "description", "match", "then", "mode", "sample", "until", "on_error")
MODES = ("enforce", "observe")
ON_ERROR = ("defer", "skip", "reject", "hold")
_LONGEST_ID = 63


@dataclass(frozen=True, slots=True)
class Rule:
    """One compiled rule. `where` is `file:line`; `until` is in seconds since the epoch; `why` explains the phase."""

    id: str
    number: int
    condition: Condition
    acts: tuple[Act, ...]
    phase: Phase
    why: str = ""
    where: str = ""
    description: str = ""
    observe: bool = False
    sample: float = 1.0
    until: float | None = None
    on_error: str = "defer"

    @property
    def verdict(self) -> Decide | None:
        """The verdict among its actions."""
        return next((act for act in self.acts if isinstance(act, Decide)), None)

    @property
    def rates(self) -> tuple[Rate, ...]:
        """Its rate limits."""
        return tuple(act for act in self.acts if isinstance(act, Rate))

    @property
    def certain(self) -> bool:
        """Whether it acts on all that it matches, always."""
        return not self.observe and self.sample >= 1 and self.until is None and not self.rates


@dataclass(frozen=True, slots=True)
class Stage:
    """The rules that are asked in one phase, with their index; an accept at RCPT is among those of the message too."""

    phase: Phase
    rules: tuple[Rule, ...]
    index: Index


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All rules, arranged by phase. `splits` are those whose answer at the message may differ by recipient."""

    rules: tuple[Rule, ...] = ()
    lists: Mapping[str, ListSpec] = field(default_factory=dict)
    table: Mapping[str, Fact] = field(default_factory=dict)
    stages: Mapping[Phase, Stage] = field(default_factory=dict)
    splits: tuple[Rule, ...] = ()

    def __len__(self) -> int:
        return len(self.rules)


def compile_rules(
    rules: Any,
    lists: Any = None,
    *,
    listeners: Sequence[str] = (),
    pipeline: Sequence[str] | None = None,
    abilities: frozenset[str] = frozenset(),
    where: Callable[[Path], str] = lambda path: ".".join(map(str, path)),
) -> tuple[Ruleset, list[Flaw]]:
    """Compile rules as they are written; never raises, what is wrong is in the flaws.

    `pipeline` are the names of the plugins in their order (None: unknown, nothing is said about them), `abilities`
    what the program can do beyond the rules (hold, route, require_tls, skip).
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
    if "skip" in abilities and pipeline is not None and "rules" in pipeline:
        after = tuple(pipeline[pipeline.index("rules") + 1 :])
    scope = Scope(specs, tuple(listeners), after, abilities, flaws=flaws)
    made = []
    seen: dict[str, int] = {}
    for number, given in enumerate(rules):
        rule = _Reader(given, number, scope, where).read()
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
    if all(rule.phase is Phase.RCPT for rule in chosen[Phase.MESSAGE]):
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
                flaws.append(Flaw("RP819", ("rules", rule.number, "match"), message, hint, on_key=True))
    return flaws


_FIXED_NAMES = frozenset({"from", "sender"})


class _Reader:
    """Reads one rule, key by key; a key that is wrong does not hide the next."""

    def __init__(self, given: Any, number: int, scope: Scope, where: Callable[[Path], str]) -> None:
        self._given = given
        self._at: Path = ("rules", number)
        self._number = number
        self._scope = scope
        self._where = where

    def read(self) -> Rule | None:
        given = self._given
        if not isinstance(given, Mapping):
            self._flaw(
                "RP110", self._at, "a rule is a mapping", "write {id: NAME, match: {...}, then: {...}}"
            )
            return None
        for key in given:
            if key not in KEYS:
                self._flaw(
                    "RP101",
                    (*self._at, key),
                    f"unknown key {shown(key)}",
                    self._key_hint(str(key)),
                    on_key=True,
                )
        before = len(self._scope.flaws)
        name = self._try(self._id) or f"rule-{self._number + 1}"
        condition = self._try(self._condition)
        acts = self._try(lambda: self._acts(name)) or ()
        mode = self._word("mode", MODES, "enforce")
        on_error = self._word("on_error", ON_ERROR, "defer")
        sample = self._try(self._sample)
        until = self._try(self._until)
        if len(self._scope.flaws) > before or condition is None:
            return None
        phase, why = self._phase(condition, acts)
        return Rule(
            id=name,
            number=self._number,
            condition=condition,
            acts=acts,
            phase=phase,
            why=why,
            where=self._where(self._at),
            description=str(given.get("description", "")),
            observe=mode == "observe",
            sample=1.0 if sample is None else sample,
            until=until,
            on_error=on_error,
        )

    def _flaw(self, code: str, at: Path, message: str, hint: str = "", *, on_key: bool = False) -> None:
        self._scope.flaws.append(Flaw(code, at, message, hint, on_key=on_key))

    def _try(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except FlawError as error:
            self._scope.flaws.append(error.flaw)
            return None

    @staticmethod
    def _key_hint(key: str) -> str:
        if key in ACTIONS or key in MEANT:
            return f"actions stand under then: then: {{{MEANT.get(key, key)}: ...}}"
        aliases = {
            "when": "match",
            "if": "match",
            "do": "then",
            "action": "then",
            "actions": "then",
            "name": "id",
        }
        return f"did you mean '{aliases[key]}'?" if key in aliases else guess(key, KEYS, "keys here")

    def _id(self) -> str:
        value = self._given.get("id")
        at = (*self._at, "id")
        if value is None:
            raise fail(
                "RP102",
                self._at,
                "key 'id' is missing",
                "every rule has a name: id: no-big-mail",
                on_key=True,
            )
        if (
            not isinstance(value, str)
            or not value
            or len(value) > _LONGEST_ID
            or not value.replace("-", "a").replace("_", "a").replace(".", "a").isalnum()
            or not value.isascii()
        ):
            raise fail(
                "RP209",
                at,
                f"{shown(value)} is no name",
                "letters, digits, dots, dashes and underscores; at most 63",
            )
        return value

    def _condition(self) -> Condition:
        if "match" not in self._given:
            return always()
        at = (*self._at, "match")
        if self._given["match"] in ({}, None):
            raise fail(
                "RP806", at, "there is no condition here", "to match all mail leave `match` out", on_key=True
            )
        return compile_match(self._given["match"], at, self._scope)

    def _acts(self, name: str) -> tuple[Act, ...]:
        if "then" not in self._given:
            if any(key in ACTIONS or key in MEANT for key in self._given):
                return ()  # it is there, in the wrong place, which is said already
            raise fail(
                "RP806",
                self._at,
                "key 'then' is missing: the rule does nothing",
                "write then: {reject: ...}",
                on_key=True,
            )
        then, at = self._given["then"], (*self._at, "then")
        if isinstance(then, str):
            if then in ("reject", "defer", "discard", "hold", "accept"):
                then = {then: True}
            else:
                raise fail(
                    "RP803",
                    at,
                    f"there is no action {shown(then)} without an argument",
                    self._action_hint(then),
                )
        steps = then if isinstance(then, (list, tuple)) else [then]
        acts: list[Act] = []
        verdicts = []
        for number, step in enumerate(steps):
            where = (*at, number) if isinstance(then, (list, tuple)) else at
            if not isinstance(step, Mapping):
                raise fail("RP110", where, "a mapping of actions is wanted", "write {score: 3}")
            for word, argument in step.items():
                acts += self._try(lambda w=word, a=argument, p=where: self._act(w, a, (*p, w), name)) or ()  # type: ignore[misc]
                if word == "rate_limit" and sum(isinstance(act, Rate) for act in acts) > 1:
                    self._flaw(
                        "RP809",
                        (*where, word),
                        "a rule has one rate_limit",
                        "write another rule",
                        on_key=True,
                    )
                if word in VERDICTS:
                    verdicts.append(word)
                    if len(verdicts) > 1:
                        self._flaw(
                            "RP809",
                            (*where, word),
                            f"'{verdicts[0]}' and '{word}' can't both be",
                            "a rule has one verdict",
                            on_key=True,
                        )
        if not acts and then in ({}, [], None):
            raise fail("RP806", at, "there is no action here", f"one of {', '.join(ACTIONS)}", on_key=True)
        return tuple(acts)

    def _act(self, word: Any, argument: Any, at: Path, name: str) -> tuple[Act, ...]:
        row = ACTIONS.get(word)
        if row is None:
            raise fail(
                "RP803", at, f"there is no action {shown(word)}", self._action_hint(str(word)), on_key=True
            )
        if row.needs and row.needs not in self._scope.abilities:
            raise fail(
                "RP307",
                at,
                f"the action '{word}' can't be done yet: it {_NEEDS[row.needs]}",
                _INSTEAD[row.needs],
                on_key=True,
            )
        return row.compile(argument, at, self._scope, name)

    @staticmethod
    def _action_hint(word: str) -> str:
        meant = MEANT.get(word.lower())
        return f"did you mean '{meant}'?" if meant else guess(word, ACTIONS) or f"one of {', '.join(ACTIONS)}"

    def _word(self, key: str, known: tuple[str, ...], default: str) -> str:
        value = self._given.get(key, default)
        if value not in known:
            self._flaw(
                "RP202",
                (*self._at, key),
                f"{shown(value)} is not one of the known words",
                guess(str(value), known),
            )
        elif value == "hold" and "hold" not in self._scope.abilities:
            self._flaw(
                "RP307",
                (*self._at, key),
                f"on_error: hold can't be done yet: it {_NEEDS['hold']}",
                "use defer",
            )
        return str(value)

    def _sample(self) -> float:
        value = self._given.get("sample", 1.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise fail(
                "RP203",
                (*self._at, "sample"),
                f"{shown(value)} is no share of the mail",
                "a number above 0, at most 1: 0.5 is half of it",
            )
        return float(value)

    def _until(self) -> float | None:
        value = self._given.get("until")
        if value is None:
            return None
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError as error:
            raise fail(
                "RP210",
                (*self._at, "until"),
                f"{shown(value)} is no date",
                "write 2027-01-31, or 2027-01-31T18:00:00Z",
            ) from error
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

    @staticmethod
    def _phase(condition: Condition, acts: Sequence[Act]) -> tuple[Phase, str]:
        """Return when the rule is asked, and what makes it so late."""
        late = sorted(name for name in condition.facts if _late(name))
        if condition.phase is Phase.MESSAGE:
            return Phase.MESSAGE, f"it asks about {late[0]}" if late else "it asks about the message"
        for act in acts:
            if isinstance(act, Decide | Address | Note | Rate) and not (
                isinstance(act, Decide) and act.action in (Action.DISCARD, Action.HOLD)
            ):
                text = (
                    act.key if isinstance(act, Rate) else act.value if isinstance(act, Address) else act.text
                )
                if text.phase is Phase.MESSAGE:
                    return Phase.MESSAGE, "a text in it names something of the message"
                if isinstance(act, Rate) and not act.per_recipient:
                    return Phase.MESSAGE, "its rate_limit counts messages"
                continue
            what = act.how + " header" if isinstance(act, Field) else type(act).__name__.lower()
            what = act.action.name.lower() if isinstance(act, Decide) else what
            return Phase.MESSAGE, f"its action ({what}) needs the message"
        return Phase.RCPT, ""


_NEEDS = {
    "hold": "needs the spool",
    "route": "needs routes that a rule can choose",
    "require_tls": "needs an upstream connection that a rule can demand TLS of",
}
_INSTEAD = {
    "hold": "use defer, or redirect to a mailbox of yours",
    "route": "write it under routes:",
    "require_tls": "write tls: required for the upstream",
}


def _late(name: str) -> bool:
    fact = fact_named(name)
    return fact is not None and fact.phase is Phase.MESSAGE
