"""One rule, from what is written to what is asked, key by key; a key that is wrong does not hide the next.

Must not know the rules beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from relayproxy.api import Action
from relayproxy.model.refused import quoted
from relayproxy.rules.action_table import ACTIONS, MEANT, VERDICTS
from relayproxy.rules.acts import Act, Address, Decide, Field, Note, Onward, Rate
from relayproxy.rules.cel import compile_when
from relayproxy.rules.condition import Condition, Scope, all_of, always
from relayproxy.rules.conditions import compile_match
from relayproxy.rules.fact_table import fact_named
from relayproxy.rules.facts import Phase
from relayproxy.rules.problems import Flaw, FlawError, Path, fail, guess
from relayproxy.rules.rule import Rule

KEYS = ("id", "description", "match", "when", "then", "mode", "sample", "until", "on_error")
MODES = ("enforce", "observe")
ON_ERROR = ("defer", "skip", "reject", "hold")
_LONGEST_ID = 63


class Reader:
    """Reads one rule, key by key; a key that is wrong does not hide the next."""

    def __init__(self, given: Any, number: int, scope: Scope, where: Callable[[Path], str]) -> None:
        self._given = given
        self._at: Path = ("rules", number)
        self._number = number
        self._scope = scope
        self._where = where

    def read(self) -> Rule | None:
        """Return the rule, or None where it has a mistake; what is wrong goes to the scope."""
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
                    f"unknown key {quoted(key)}",
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
        wrong = any(flaw.severity == "error" for flaw in self._scope.flaws[before:])
        if wrong or condition is None:
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
                f"{quoted(value)} is no name",
                "letters, digits, dots, dashes and underscores; at most 63",
            )
        return value

    def _condition(self) -> Condition:
        """Return what `match` and `when` say; both must hold, and what `match` rules out is not evaluated."""
        if "when" not in self._given:
            return self._match()
        match = self._match()
        when = compile_when(self._given["when"], (*self._at, "when"), self._scope)
        return when if match.constant else all_of([match, when])

    def _match(self) -> Condition:
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
                    f"there is no action {quoted(then)} without an argument",
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
                "RP803", at, f"there is no action {quoted(word)}", self._action_hint(str(word)), on_key=True
            )
        if row.needs and row.needs not in self._scope.abilities:
            raise fail("RP309", at, f"the action '{word}' {_NEEDS[row.needs]}", _ADD[row.needs], on_key=True)
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
                f"{quoted(value)} is not one of the known words",
                guess(str(value), known),
            )
        elif value == "hold" and "hold" not in self._scope.abilities:
            self._flaw("RP309", (*self._at, key), f"on_error: hold {_NEEDS['hold']}", _ADD["hold"])
        return str(value)

    def _sample(self) -> float:
        value = self._given.get("sample", 1.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise fail(
                "RP203",
                (*self._at, "sample"),
                f"{quoted(value)} is no share of the mail",
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
                f"{quoted(value)} is no date",
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
            if isinstance(act, Onward):
                continue
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


_NEEDS = {"hold": "needs a spool"}
_ADD = {"hold": 'add spool: {url: "sqlite:///var/spool/relayproxy/spool.db"}'}


def _late(name: str) -> bool:
    fact = fact_named(name)
    return fact is not None and fact.phase is Phase.MESSAGE
