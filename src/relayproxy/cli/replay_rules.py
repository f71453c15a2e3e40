"""Rules asked again about mail of which the history knows some facts: what they decide, and what can't be told.

A fact that is not known is never guessed: the rule that needs it is undecided, and so is what hangs on it. Must not know
where the mail was kept, nor how the result is shown.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from relayproxy.history.messages import Kept
from relayproxy.model.address import Address
from relayproxy.model.client import Client, TlsInfo
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.finding import Finding
from relayproxy.model.mail import Direction, Mail
from relayproxy.model.message import Message
from relayproxy.model.verdict import Action
from relayproxy.rules.acts import Address as AddressAct
from relayproxy.rules.acts import Score, Tag
from relayproxy.rules.condition import Pending
from relayproxy.rules.engine import said
from relayproxy.rules.facts import CHECKS, Facts, Phase, World
from relayproxy.rules.rule import Rule, Ruleset

KNOWN: Final = frozenset(
    {
        *("client.ip", "client.helo", "client.login", "client.authenticated", "client.trusted", "client.tls"),
        *("client.tls_version", "listener", "direction", "sender", "sender.domain", "sender.local"),
        *("recipient", "recipient.domain", "recipient.local", "recipient.is_local", "recipients.count"),
        *("size", "score", "tags", "time", "weekday"),
    }
)
"""The facts that the history always knows; those of findings depend on who was asked at the time."""

_OF_RECIPIENT = frozenset({"recipient", "recipient.domain", "recipient.local", "recipient.is_local"})


class UnknownFactError(Exception):
    """A rule asks about a fact that nobody knows any more; the text is its name."""


class KnownFacts(Facts):
    """The facts of a kept message. `asked` are the plugins that looked at it, `hidden` facts that are not known any more."""

    __slots__ = ("asked", "hidden")

    def __init__(self, mail: Mail, rcpt: Recipient, world: World, now: float, asked: frozenset[str]) -> None:
        super().__init__(mail, rcpt, world, now)
        self.asked = asked
        self.hidden: set[str] = set()

    def __missing__(self, name: str) -> Any:
        """Compute a fact that is known. Raises UnknownFactError."""
        if name in self.hidden or not (name in KNOWN or self._found(name)):
            raise UnknownFactError(name)
        return super().__missing__(name)

    def __getitem__(self, name: str) -> Any:
        """Return a fact. Raises UnknownFactError."""
        if name in self.hidden:
            raise UnknownFactError(name)
        return super().__getitem__(name)

    def _found(self, name: str) -> bool:
        """Whether it is about findings of a method that were noted, or would have been by a plugin that was asked."""
        method = name.removeprefix("finding.").partition(".")[0]
        if method == name and method not in CHECKS:
            return False
        plugin = CHECKS[method][0] if method in CHECKS else method
        return plugin in self.asked or any(found.method == method for found in self.mail.findings)


@dataclass(frozen=True, slots=True)
class Open:
    """A rule that could not be decided, and what for."""

    rule: Rule
    why: str

    @property
    def same(self) -> tuple[Any, ...]:
        """Equal for rules that ask and do the same."""
        rule = self.rule
        return rule.id, rule.condition.written, said(rule), rule.observe


@dataclass(slots=True)
class Judgement:
    """What the rules make of one recipient. `decided` is the rule that ended it, None where all let it pass.

    `hits` are the rules that matched, with what they did; `open` those that can't be told, in their order: if one of them
    has a verdict, what follows it holds only unless it matches.
    """

    decided: Rule | None = None
    hits: list[tuple[str, str]] = field(default_factory=list)
    points: float = 0.0
    open: list[Open] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """The verdict in a word or two, and whose it is."""
        rule = self.decided
        decide = rule.verdict if rule is not None else None
        if rule is None or decide is None:
            return "accept"
        code = f" {decide.code} {decide.status}" if decide.code else ""
        return f"{decide.action.name.lower()}{code}  (rule {rule.id}, {rule.where})"

    @property
    def same(self) -> tuple[Any, ...]:
        """Equal for judgements that do the same to the mail."""
        decide = self.decided.verdict if self.decided is not None else None
        ending = (decide.action, decide.code, decide.status) if decide is not None else (Action.ACCEPT, 0, "")
        return ending, tuple(self.hits), round(self.points, 6)


@dataclass(frozen=True, slots=True)
class Rulebook:
    """The rules of a configuration, what they need beside the mail, and the plugins that are asked before them."""

    ruleset: Ruleset
    world: World
    before: frozenset[str]

    def judge(self, kept: Kept, address: str, asked: frozenset[str]) -> Judgement:
        """Ask the rules about one recipient of a message that plugins `asked` had looked at."""
        mail = _mail(kept, self.before)
        local, _, domain = address.rpartition("@")
        facts = KnownFacts(
            mail, Recipient(Address(local, domain)), self.world, kept.at, (asked & self.before) | {"rules"}
        )
        author = _author(mail.findings)
        if author:
            facts["from.domain"] = author
        result = Judgement()
        for phase in (Phase.RCPT, Phase.MESSAGE):
            stage = self.ruleset.stages.get(phase)
            if stage is not None and not _ask(stage.rules, phase, facts, result):
                break
        return result


def _ask(rules: Iterable[Rule], phase: Phase, facts: KnownFacts, result: Judgement) -> bool:
    """Ask the rules of a phase; return whether the mail goes on to the next one."""
    for rule in rules:
        if rule.until is not None and facts.now >= rule.until:
            continue
        answer = _matches(rule, facts)
        if isinstance(answer, str):
            if rule.phase is phase:
                result.open.append(Open(rule, answer))
                _blur(rule, facts)
            continue
        if not answer:
            continue
        if rule.phase is phase:
            result.hits.append((rule.id, f"would {said(rule)}" if rule.observe else said(rule)))
            if not rule.observe:
                result.points += _act(rule, facts)
        if rule.verdict is not None and not rule.observe:
            result.decided = rule
            return rule.verdict.action is Action.ACCEPT
    return True


def _matches(rule: Rule, facts: KnownFacts) -> bool | str:
    """Return whether a rule matches, or what keeps that from being told."""
    condition = rule.condition
    try:
        if condition.early(facts) is False:
            return False
    except (UnknownFactError, Pending):
        pass  # what decides may stand behind it
    try:
        if not condition.holds(facts):
            return False
    except UnknownFactError as error:
        return str(error)
    except Pending as pending:
        return f"the {pending.question[0].upper()} list {pending.question[1]}"
    if rule.rates:
        return "how much mail there was (rate_limit)"
    return "the sample" if rule.sample < 1 else True


def _act(rule: Rule, facts: KnownFacts) -> float:
    """Let later rules see what this one adds; return its points."""
    points = 0.0
    for act in rule.acts:
        match act:
            case Score():
                points += act.points
                facts.added += act.points
                facts.forget("score")
            case Tag():
                facts.tagged += [name for name in act.names if name not in facts.tagged]
                facts.forget("tags")
            case AddressAct():
                facts.hidden |= _OF_RECIPIENT
            case _:
                pass
    return points


def _blur(rule: Rule, facts: KnownFacts) -> None:
    """Hide from later rules what an undecided one may have changed."""
    if rule.observe:
        return
    for act in rule.acts:
        match act:
            case Score():
                facts.hidden.add("score")
            case Tag():
                facts.hidden.add("tags")
            case AddressAct():
                facts.hidden |= _OF_RECIPIENT
            case _:
                pass


def _mail(kept: Kept, before: frozenset[str]) -> Mail:
    """Return a mail with what is known of it; its content is empty."""
    direction = Direction(kept.direction) if kept.direction else Direction.INBOUND
    client = Client(
        kept.id,
        kept.listener,
        kept.ip,
        helo=kept.helo,
        tls=TlsInfo(kept.tls, "", 0) if kept.tls else None,
        identity=kept.login,
        trusted=direction is not Direction.INBOUND,
    )
    envelope = Envelope(_address(kept.sender), tuple(_recipients(kept)), size=kept.size)
    findings = tuple(found for found in kept.findings if found.by in before)
    return Mail(
        kept.id,
        client,
        envelope,
        Message(b"", b""),
        direction=direction,
        received_at=kept.at,
        findings=findings,
    )


def _recipients(kept: Kept) -> Iterator[Recipient]:
    for address, _, _ in kept.recipients:
        yield Recipient(_address(address))


def _address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(local, domain)


def _author(findings: Iterable[Finding]) -> str:
    """The author's domain, which DMARC has noted."""
    return next((found.props.get("header.from", "") for found in findings if found.method == "dmarc"), "")
