"""Asking the rules about one mail, and what came of it.

An evaluation is a generator: it yields what must be waited for (a DNS list, a rate) and goes on when the answer is in
`Facts.answers`; without such rules it ends at once. Must not know hooks, logs, or how mail is changed.
"""

import zlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from relayproxy.api import Action, Reply, Verdict, defer, hold, reject
from relayproxy.rules.acts import Address, Decide, Field, Note, Onward, Rate, Score, Tag
from relayproxy.rules.condition import Pending
from relayproxy.rules.facts import Facts, Phase
from relayproxy.rules.rule import Rule, Ruleset, Stage
from relayproxy.rules.texts import for_reply

_RATE_REPLY = ("Too much mail at once, try again later", 450, "4.7.1")


@dataclass(frozen=True, slots=True)
class Hit:
    """A rule that matched: what it did in words, the score it added."""

    rule: Rule
    did: str
    points: float = 0.0
    symbol: str = ""


@dataclass(slots=True)
class Result:
    """What the rules of one stage came to, in their order.

    `decided` is the rule that ended it, `skip` are plugins that it wants not to be asked. `fields`, `addresses` and `onward` are the edits that were asked for, with the rule;
    `notes` are lines for the log; `faults` are rules that could not be asked, and why.
    """

    verdict: Verdict | None = None
    decided: Rule | None = None
    skip: frozenset[str] = frozenset()
    hits: list[Hit] = field(default_factory=list)
    fields: list[tuple[Rule, Field]] = field(default_factory=list)
    addresses: list[tuple[Rule, Address]] = field(default_factory=list)
    onward: list[tuple[Rule, Onward]] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    notes: list[tuple[Rule, str]] = field(default_factory=list)
    faults: list[tuple[Rule, str]] = field(default_factory=list)


Asking = Generator[Pending, None, Result]


def ask(stage: Stage | None, facts: Facts) -> Asking | None:
    """Return the evaluation of a stage, or None when no rule matches."""
    if stage is None:
        return None
    numbers = stage.index.candidates(facts)
    for place, number in enumerate(numbers):
        # Most mail ends here: nothing is made for rules that don't match.
        try:
            if stage.rules[number].condition.holds(facts):
                return _evaluate(stage, numbers[place:], facts)
        except Exception:  # noqa: BLE001  (the evaluation comes upon it again, and knows what follows from it)
            return _evaluate(stage, numbers[place:], facts)
    return None


def _evaluate(stage: Stage, numbers: Sequence[int], facts: Facts) -> Asking:
    result = Result()
    for number in numbers:
        rule = stage.rules[number]
        if rule.until is not None and facts.now >= rule.until:
            continue
        while True:
            try:
                matched = rule.condition.holds(facts)
                if matched and rule.sample < 1:
                    matched = _sampled(rule, facts)
                if matched:
                    for rate in rule.rates:
                        matched = matched and _exceeded(rule, rate, facts, stage.phase)
                if matched and rule.phase is not stage.phase:
                    if not rule.observe:  # it acted at RCPT; what is left is that it ends, and what it skips
                        _end(rule, result)
                elif matched:
                    _act(rule, facts, result)
            except Pending as pending:
                yield pending
                continue
            except Exception as error:  # noqa: BLE001  (the fence: what a rule can't tell ends as its on_error)
                _fault(rule, error, result)
            break
        if result.decided is not None:
            break
    return result


def _sampled(rule: Rule, facts: Facts) -> bool:
    """Choose a share of the mail; the same message is always chosen alike."""
    return zlib.crc32(f"{rule.id}/{facts.mail.id}".encode()) < rule.sample * 2**32


def _exceeded(rule: Rule, rate: Rate, facts: Facts, phase: Phase) -> bool:
    """Take tokens; at the message, a rate of recipients takes one for each of them."""
    question = ("rate", rule.id, rate.key.render(facts, str).lower())
    if question not in facts.answers:
        several = rate.per_recipient and phase is Phase.MESSAGE
        raise Pending(question, (rate, len(facts.mail.envelope.recipients) if several else 1))
    return float(facts.answers[question]) > 0


def _act(rule: Rule, facts: Facts, result: Result) -> None:
    """Do what a rule says; in observe mode, only say what it would have done."""
    if rule.observe:
        result.hits.append(Hit(rule, f"would {said(rule)}"))
        return
    decide = rule.verdict
    verdict: Verdict | None = None
    if decide is not None:
        verdict = _verdict(rule, decide, facts)  # first: what can't be rendered leaves nothing half done
    elif rule.rates:
        text, code, status = _RATE_REPLY
        verdict = defer(text, code=code, status=status, reason=_reason(rule))
    points, symbol = 0.0, ""
    for act in rule.acts:
        match act:
            case Score():
                points += act.points
                symbol = act.symbol or symbol
                facts.added += act.points
                facts.forget("score")
            case Tag():
                fresh = [name for name in act.names if name not in facts.tagged]
                facts.tagged += fresh
                result.tags += fresh
                facts.forget("tags")
            case Field():
                result.fields.append((rule, act))
            case Address():
                result.addresses.append((rule, act))
            case Onward():
                result.onward.append((rule, act))
            case Note():
                result.notes.append((rule, act.text.render(facts, for_reply)))
            case _:
                pass
    result.hits.append(Hit(rule, said(rule), points, symbol))
    if verdict is not None:
        result.verdict = verdict
        _end(rule, result)


def _end(rule: Rule, result: Result) -> None:
    result.decided = rule
    if rule.verdict is not None:
        result.skip = rule.verdict.skip


def said(rule: Rule) -> str:
    """Return the rule's actions in a few words."""
    if rule.verdict is None and rule.rates:
        return "defer"
    words = [_word(act) for act in rule.acts]
    return ", ".join(dict.fromkeys(word for word in words if word))


def _word(act: object) -> str:
    match act:
        case Decide(action):
            return action.name.lower()
        case Score(points):
            return f"score {points:+g}"
        case Tag(names):
            return f"tag {' '.join(names)}"
        case Field(how, name):
            return f"{how} {name}"
        case Address(how):
            return f"{how if how in ('redirect', 'add') else 'rewrite'} recipient"
        case Onward(route):
            return f"route {route}" if route else "require TLS"
        case Note():
            return "log"
        case _:
            return ""


def _reason(rule: Rule) -> str:
    return f"rule {rule.id} ({rule.where})" if rule.where else f"rule {rule.id}"


def _verdict(rule: Rule, decide: Decide, facts: Facts) -> Verdict:
    text = decide.text.render(facts, for_reply)
    reason = _reason(rule)
    if decide.action in (Action.REJECT, Action.DEFER):
        return Verdict(decide.action, Reply(decide.code, decide.status, text), reason)
    return Verdict(decide.action, None, f"{reason}: {text}" if text else reason)


def _fault(rule: Rule, error: Exception, result: Result) -> None:
    """A rule could not be asked: what happens is what it says itself."""
    result.faults.append((rule, f"{type(error).__name__}: {error}"))
    if rule.observe or rule.on_error == "skip":
        return
    result.decided = rule
    reason = f"on_error of {_reason(rule)}"
    match rule.on_error:
        case "reject":
            result.verdict = reject("A check failed", code=554, status="5.3.0", reason=reason)
        case "hold":
            result.verdict = hold(reason)
        case _:
            result.verdict = defer("A check failed, try again later", status="4.3.0", reason=reason)


def differs(ruleset: Ruleset, one: Facts, other: Facts) -> Generator[Pending, None, bool]:
    """Tell whether the rules at the message may treat two recipients differently."""
    for rule in ruleset.splits:
        answers = []
        for facts in (one, other):
            while True:
                try:
                    answers.append(_known(rule, facts))
                except Pending as pending:
                    yield pending
                    continue
                break
        if answers[0] != answers[1]:
            return True
    return False


def _known(rule: Rule, facts: Facts) -> object:
    """What is known of a rule at RCPT: that it will not match, or how its tests of the recipient end."""
    if rule.condition.early(facts) is False:
        return False
    return tuple(leaf(facts) for leaf in rule.condition.leaves)
