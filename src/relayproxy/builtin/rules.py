"""rules: asks the rules of the configuration about each mail, through the same hooks as any other plugin.

What a rule is stands in relayproxy.rules; here is when the rules are asked, what is remembered of a mail between its
hooks, and what is told of it. Must not know how a rule is written.
"""

from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from pydantic import PrivateAttr

from relayproxy.api import (
    App,
    Clock,
    Edit,
    Mail,
    Opinion,
    Origin,
    Plugin,
    Recipient,
    Resolver,
    Settings,
    SharedState,
    Verdict,
    defer,
    hook,
    shared_key,
)
from relayproxy.rules.acts import Address, Field, Onward, Rate
from relayproxy.rules.condition import Pending
from relayproxy.rules.edits import address_edits, field_edits, onward_edits
from relayproxy.rules.engine import Asking, Result, ask, differs
from relayproxy.rules.facts import Facts, Phase, World
from relayproxy.rules.lists import Listing
from relayproxy.rules.rule import Rule, Ruleset

T = TypeVar("T")

_MOST = 10_000
_APART = "This recipient needs another treatment: send it in another transaction"


class RulesSettings(Settings):
    """No options of its own: the rules stand under `rules:` at the top of the configuration."""

    _ruleset: Ruleset = PrivateAttr(default_factory=Ruleset)

    def with_rules(self, ruleset: Ruleset) -> "RulesSettings":
        """Return the settings with compiled rules."""
        made = self.model_copy()
        made._ruleset = ruleset  # noqa: SLF001  (its own private attribute: YAML must not reach it)
        return made

    @property
    def ruleset(self) -> Ruleset:
        """The compiled rules."""
        return self._ruleset


class Rules(Plugin[RulesSettings]):
    """Runs the rules of the configuration."""

    name = "rules"
    settings = RulesSettings

    @classmethod
    def keeps_state(cls, options: RulesSettings) -> bool:
        """Whether a rule counts: what `rate_limit` counts is shared by all workers."""
        return any(rule.rates for rule in options.ruleset.rules)

    def __init__(self, options: RulesSettings) -> None:
        super().__init__(options)
        self._ruleset = options.ruleset
        self.skips = frozenset(name for rule in self._ruleset.rules for name in rule.skip)
        stages = self._ruleset.stages
        self._at_rcpt, self._at_message = stages.get(Phase.RCPT), stages.get(Phase.MESSAGE)
        self._world = World(self._ruleset.table)
        self._listings: dict[str, Listing] = {}
        self._clock: Clock | None = None
        self._resolver: Resolver | None = None
        self._state = SharedState()
        self._first: dict[str, tuple[Recipient, Facts]] = {}
        self._changes: dict[str, tuple[Recipient, Result, Facts]] = {}
        self._edits: dict[str, tuple[Result, Facts]] = {}
        self._counts: dict[tuple[str, str], Callable[[], None]] = {}
        self._about: Facts | None = None
        self._asking: Asking | None = None
        self._hide_unused()

    def _hide_unused(self) -> None:
        """A hook that no rule needs is none: the core then has nothing to call and nothing to wait for."""
        acts = [
            act
            for stage in (self._at_rcpt, self._at_message)
            if stage
            for rule in stage.rules
            for act in rule.acts
        ]
        at_rcpt = [act for rule in (self._at_rcpt.rules if self._at_rcpt else ()) for act in rule.acts]
        needed = {
            "rcpt": self._at_rcpt is not None or bool(self._ruleset.splits),
            "rewrite_envelope": any(isinstance(act, (Address, Onward)) for act in at_rcpt),
            "message": self._at_message is not None,
            "before_forward": self._at_message is not None
            and any(isinstance(act, (Field, Address, Onward)) for act in acts),
        }
        for name, wanted in needed.items():
            if not wanted:
                setattr(self, name, None)

    @hook
    def startup(self, app: App) -> None:
        """Read the lists. Raises OSError and ValueError for a list that can't be read."""
        self._clock, self._resolver = app.clock, app.resolver
        self._listings = {name: Listing(spec, app.folder) for name, spec in self._ruleset.lists.items()}
        self._state = app.state
        self._counts = {
            (rule.id, outcome): app.counter(self.name, rule.id, outcome)
            for rule in self._ruleset.rules
            for outcome in ("observed" if rule.observe else "enforced", "error")
        }
        self._world = World(self._ruleset.table, app.local_domains, self._listings, app.hostname)

    # -- the hooks ------------------------------------------------------------------------------------------

    def has_rcpt(self, mail: Mail, rcpt: Recipient) -> bool:
        """Whether a rule has anything to say of this recipient, or of its sharing the message with the first."""
        self._refresh()
        facts = self._facts(mail, rcpt)
        self._asking = asking = ask(self._at_rcpt, facts)
        if asking is None and not mail.envelope.recipients:
            self._begin(mail, rcpt, facts)
            return False
        if asking is None and not self._ruleset.splits:
            return False
        self._about = facts
        return True

    @hook(screen="has_rcpt")
    def rcpt(self, mail: Mail, rcpt: Recipient) -> Any:
        """Ask the rules that can answer now, and whether this recipient can share the message with the first."""
        if not self._is_screened(mail, rcpt) and not self.has_rcpt(mail, rcpt):
            return None
        facts, asking = self._taken(mail)
        if asking is None:
            return self._join(mail, rcpt, facts)
        result = _ended(asking)
        if isinstance(result, Pending):
            return self._rcpt_later(mail, rcpt, facts, asking, result)
        return self._rcpt_done(mail, rcpt, facts, result)

    def _is_screened(self, mail: Mail, rcpt: Recipient | None) -> bool:
        """Whether the screen was asked just before about the same: then what it found is still there."""
        facts = self._about
        return facts is not None and facts.mail.id == mail.id and (rcpt is None or facts.rcpt is rcpt)

    def _taken(self, mail: Mail) -> tuple[Facts, Asking | None]:
        """Return what the screen has left for the hook."""
        facts, asking = self._about, self._asking
        assert facts is not None
        self._about = self._asking = None
        facts.mail = mail
        return facts, asking

    async def _rcpt_later(
        self,
        mail: Mail,
        rcpt: Recipient,
        facts: Facts,
        asking: Generator[Pending, None, Result],
        first: Pending,
    ) -> Opinion:
        result = await self._answered(asking, first, facts)
        found = self._rcpt_done(mail, rcpt, facts, result)
        return found if found is None or isinstance(found, Verdict) else await found

    def _rcpt_done(self, mail: Mail, rcpt: Recipient, facts: Facts, result: Result) -> Any:
        self._tell(mail, result, str(rcpt.address))
        if result.verdict is not None and result.verdict.reply is not None:
            return result.verdict
        if result.addresses or result.onward:
            _keep(self._changes, mail.id, (rcpt, result, facts))
        return self._join(mail, rcpt, facts)

    def _join(self, mail: Mail, rcpt: Recipient, facts: Facts) -> Any:
        """Let a recipient share the message with the first one, or have it sent apart (RFC 5321 section 4.5.3.1.10)."""
        if not mail.envelope.recipients:
            self._begin(mail, rcpt, facts)
            return None
        if not self._ruleset.splits:
            return None
        first = self._first.get(mail.id)
        if first is None or first[0] != mail.envelope.recipients[0]:
            chosen = mail.envelope.recipients[0]
            first = (chosen, self._facts(mail, chosen))
            _keep(self._first, mail.id, first)
        comparing = differs(self._ruleset, first[1], facts)
        apart = _ended(comparing)
        if isinstance(apart, Pending):
            return self._join_later(comparing, apart, facts, first[1])
        return _apart() if apart else None

    def _begin(self, mail: Mail, rcpt: Recipient, facts: Facts) -> None:
        """Keep what is known of the first recipient: nobody is before it, or nobody whom the next hop took."""
        if self._at_message is not None:
            _keep(self._first, mail.id, (rcpt, facts))

    async def _join_later(
        self, comparing: Generator[Pending, None, bool], pending: Pending, facts: Facts, other: Facts
    ) -> Opinion:
        return _apart() if await self._answered(comparing, pending, facts, other) else None

    @hook
    def rewrite_envelope(self, mail: Mail, rcpt: Recipient | None) -> tuple[Edit, ...]:
        """Change the recipient, and how its mail goes on, as the rules said a moment ago."""
        kept = self._changes.pop(mail.id, None)
        if kept is None or rcpt is None or kept[0].address != rcpt.address:
            return ()
        _, result, facts = kept
        edits = address_edits([act for _, act in result.addresses], facts, rcpt)
        return (*edits, *onward_edits(act for _, act in result.onward))

    def has_message(self, mail: Mail) -> bool:
        """Whether a rule has anything to say of the message."""
        self._refresh()
        first = self._first.pop(mail.id, None)
        if first is not None:
            facts = first[1]
            facts.follow(mail)
        else:
            recipients = mail.envelope.recipients
            facts = self._facts(mail, recipients[0] if recipients else None)
        self._asking = ask(self._at_message, facts)
        if self._asking is None:
            return False
        self._about = facts
        return True

    @hook(screen="has_message")
    def message(self, mail: Mail) -> Any:
        """Ask the rules that need the message."""
        if not self._is_screened(mail, None) and not self.has_message(mail):
            return None
        facts, asking = self._taken(mail)
        assert asking is not None
        result = _ended(asking)
        if isinstance(result, Pending):
            return self._message_later(mail, facts, asking, result)
        return self._message_done(mail, facts, result)

    async def _message_later(
        self, mail: Mail, facts: Facts, asking: Generator[Pending, None, Result], first: Pending
    ) -> Opinion:
        return self._message_done(mail, facts, await self._answered(asking, first, facts))

    def _message_done(self, mail: Mail, facts: Facts, result: Result) -> Opinion:
        self._tell(mail, result)
        if result.fields or result.addresses or result.onward:
            _keep(self._edits, mail.id, (result, facts))
        return result.verdict

    @hook
    def before_forward(self, mail: Mail, route: str) -> Any:  # noqa: ARG002  (the hook's signature)
        """Change the message as the rules said; about one that a human has released, they are asked again."""
        kept = self._edits.pop(mail.id, None)
        if kept is not None:
            return self._changed(mail, *kept)
        return self._released(mail) if mail.origin is Origin.RELEASE else ()

    def _changed(self, mail: Mail, result: Result, facts: Facts) -> tuple[Edit, ...]:
        edits: list[Edit] = list(field_edits([act for _, act in result.fields], facts))
        acts = [act for rule, act in result.addresses if rule.phase is Phase.MESSAGE]
        if acts:
            copied = [act for act in acts if act.how == "add"]
            changed = [act for act in acts if act.how != "add"]
            for rcpt in mail.envelope.recipients:
                edits += address_edits(changed, self._facts(mail, rcpt), rcpt)
            edits += address_edits(copied, facts, mail.envelope.recipients[0]) if copied else ()
        edits += onward_edits(act for _, act in result.onward)
        return tuple(edits)

    async def _released(self, mail: Mail) -> tuple[Edit, ...]:
        """What the rules want changed; their verdicts were overruled by whoever released the message."""
        recipients = mail.envelope.recipients
        facts = self._facts(mail, recipients[0] if recipients else None)
        asking = ask(self._at_message, facts)
        if asking is None:
            return ()
        result = _ended(asking)
        if isinstance(result, Pending):
            result = await self._answered(asking, result, facts)
        return self._changed(mail, result, facts)

    # -- answers from elsewhere -----------------------------------------------------------------------------

    async def _answered(self, asking: Generator[Pending, None, T], pending: Pending, *views: Facts) -> T:
        """Go on with an evaluation, finding out what it asks for."""
        wanted = pending
        while True:
            try:
                answer: Any = await self._answer(wanted)
            except Exception as error:  # noqa: BLE001  (the rule that asked says what becomes of the mail)
                answer = _Failed(error)
            for facts in views:
                facts.answers[wanted.question] = answer
            try:
                wanted = next(asking)
            except StopIteration as end:
                result: T = end.value
                return result

    async def _answer(self, pending: Pending) -> Any:
        kind, name, *rest = pending.question
        if kind == "dns":
            assert self._resolver is not None
            return await self._listings[name].ask(self._resolver, pending.value)
        rate: Rate
        rate, cost = pending.value
        # More recipients than ever are in the bucket take it whole, so that a full one lets them pass.
        cost = min(float(cost), rate.burst)
        return await self._state.take(
            shared_key("rule", name, rest[0]), rate.count / rate.seconds, rate.burst, cost
        )

    # -- telling --------------------------------------------------------------------------------------------

    def _tell(self, mail: Mail, result: Result, rcpt: str = "") -> None:
        """Note what matched, for later plugins, the log and `relayproxy test`; `rcpt` is whom alone it is about."""
        for hit in result.hits:
            self._count(hit.rule, "observed" if hit.rule.observe else "enforced")
            props = {"id": hit.rule.id, "at": hit.rule.where, "did": hit.did}
            if hit.symbol:
                props["symbol"] = hit.symbol
            if hit.rule.observe:
                self.log.info("%s rule %s (%s) %s", mail.id, hit.rule.id, hit.rule.where, hit.did)
            mail.note("rule", "hit", score=hit.points, reason=hit.rule.description, **props)
        for name in sorted(result.skip):
            mail.note("skip", "hit", plugin=name, rcpt=rcpt)
        for name in result.tags:
            mail.note("tag", "hit", name=name)
        for rule, text in result.notes:
            self.log.info("%s rule %s: %s", mail.id, rule.id, text or "matched")
        for rule, error in result.faults:
            self._count(rule, "error")
            self.log.error("%s rule %s (%s) could not be asked: %s", mail.id, rule.id, rule.where, error)

    def _count(self, rule: Rule, outcome: str) -> None:
        count = self._counts.get((rule.id, outcome))
        if count is not None:
            count()

    def _facts(self, mail: Mail, rcpt: Recipient | None) -> Facts:
        return Facts(mail, rcpt, self._world, mail.received_at)

    def _refresh(self) -> None:
        """Read lists again whose files have changed."""
        if self._listings and self._clock is not None:
            now = self._clock.monotonic()
            for name, listing in self._listings.items():
                said = listing.refresh(now)
                if said:
                    self.log.error("list %s stays as it was: %s", name, said)


class _Failed:
    """An answer that could not be had: raises what went wrong where the rule looks at it."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __bool__(self) -> bool:
        raise self._error

    def __float__(self) -> float:
        raise self._error


def _ended(asking: Generator[Pending, None, T]) -> T | Pending:
    """Run an evaluation; return its result, or what it has to wait for."""
    try:
        return next(asking)
    except StopIteration as end:
        result: T = end.value
        return result


def _apart() -> Verdict:
    return defer(
        _APART, code=452, status="4.5.3", reason="the rules treat it differently from the first recipient"
    )


def _keep(book: dict[str, T], key: str, value: T) -> None:
    """Remember something of a mail; what was never asked for again (a client that hung up) is dropped in time."""
    book[key] = value
    if len(book) > _MOST:
        del book[next(iter(book))]


def ruleset_of(choices: Iterable[tuple[Any, Any, Any]]) -> Ruleset:
    """Return the rules among the plugins of a configuration."""
    for _, _, settings in choices:
        if isinstance(settings, RulesSettings):
            return settings.ruleset
    return Ruleset()
