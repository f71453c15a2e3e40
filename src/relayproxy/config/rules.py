"""The rules of a configuration: compiled with their places, and tried against the tests that stand beside them.

Must not know how a rule is asked; the plugin that will ask it is asked here too.
"""

import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from relayproxy.api import Answer, App, DnsStatus, Mail, Message, Recipient, Verdict
from relayproxy.builtin.rules import Rules, RulesSettings
from relayproxy.model.edits import apply_to_envelope, apply_to_message
from relayproxy.model.envelope import Envelope
from relayproxy.rules.cases import Case, read_cases
from relayproxy.rules.compiler import compile_rules
from relayproxy.rules.lists import Listing
from relayproxy.rules.operators import as_list
from relayproxy.rules.problems import Flaw
from relayproxy.rules.problems import Path as Place
from relayproxy.rules.rule import Ruleset
from relayproxy.state.memory import MemoryState

_CLOSE = 1e-6
_EMPTY = Message(b"")


@dataclass(slots=True)
class Outcome:
    """What the rules made of one mail: the verdict, the mail with what was noted, and how it would go on."""

    verdict: Verdict | None
    mail: Mail
    message: Message
    envelope: Envelope
    hits: list[Mapping[str, str]] = field(default_factory=list)

    @property
    def action(self) -> str:
        """The verdict in a word."""
        return self.verdict.action.name.lower() if self.verdict is not None else "accept"


class _Time:
    """A clock that stands still (api.Clock)."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        """See api.Clock."""
        return self.now

    def monotonic(self) -> float:
        """See api.Clock."""
        return self.now


class _Listed:
    """DNS lists that list everything, or nothing (api.Resolver)."""

    def __init__(self) -> None:
        self.zones: tuple[str, ...] = ()

    async def query(self, name: str, rdtype: str) -> Answer:  # noqa: ARG002  (the protocol's signature)
        """See api.Resolver."""
        if name.endswith(self.zones) and self.zones:
            return Answer(DnsStatus.OK, ("127.0.0.2",))
        return Answer(DnsStatus.NXDOMAIN)


class Trial:
    """Plays mail through rules, without a pipeline, a clock or DNS. Raises OSError and ValueError for a bad list."""

    def __init__(
        self, ruleset: Ruleset, folder: Path, domains: frozenset[str] = frozenset(), hostname: str = ""
    ) -> None:
        self._ruleset = ruleset
        self._clock, self._resolver = _Time(), _Listed()
        self._app = App(hostname or "relay.example", self._resolver, self._clock, folder, domains)
        self._zones = {name: f".{spec.zone}" for name, spec in ruleset.lists.items() if spec.type == "dns"}
        self._settings = RulesSettings().with_rules(ruleset)
        self._plugin = self._made()

    def _made(self) -> Rules:
        plugin = Rules(self._settings)
        plugin.startup(replace(self._app, state=MemoryState(self._clock.time)))
        return plugin

    def play(self, case: Case) -> Outcome:
        """Return what the rules make of a test's mail."""
        self._clock.now = case.now
        self._resolver.zones = tuple(self._zones[name] for name in case.listed if name in self._zones)
        plugin = self._made() if case.repeat else self._plugin
        for turn in range(case.repeat):
            _played(plugin, case, f"before.{turn}")
        return _played(plugin, case, case.mail.id)


def _played(plugin: Rules, case: Case, mail_id: str) -> Outcome:
    """Say RCPT for each recipient, then the content, as the core does."""
    given = case.mail
    mail = Mail(
        mail_id,
        given.client,
        Envelope(given.envelope.sender, (), size=given.envelope.size),
        _EMPTY,
        direction=given.direction,
        received_at=case.now,
        findings=given.findings,
    )
    targets: list[Recipient] = []
    for place, rcpt in enumerate(case.recipients):
        mail.envelope = mail.envelope.to(case.recipients[:place])
        verdict = _asked(plugin.rcpt, mail, rcpt)
        if verdict is not None and verdict.reply is not None:
            return _outcome(verdict, mail)
        edits = list(plugin.rewrite_envelope(mail, rcpt)) if callable(plugin.rewrite_envelope) else []
        mail.envelope = apply_to_envelope(mail.envelope.to((rcpt,)), edits)
        targets += mail.envelope.recipients
    mail.envelope = mail.envelope.to(tuple(targets))
    mail.message = given.message
    verdict = _asked(plugin.message, mail)
    outcome = _outcome(verdict, mail)
    if callable(plugin.before_forward):
        changes = tuple(plugin.before_forward(mail, ""))
        outcome.message = apply_to_message(mail.message, changes)
        outcome.envelope = apply_to_envelope(mail.envelope, changes)
    return outcome


def _asked(hook: Callable[..., Any] | None, mail: Mail, *more: Any) -> Verdict | None:
    """Ask one hook, and let the mail have what it noted."""
    if hook is None:
        return None
    answer = hook(mail, *more)
    if isinstance(answer, Coroutine):
        answer = _now(answer)
    mail.findings += tuple(mail.noted)
    mail.noted.clear()
    return answer  # type: ignore[no-any-return]


def _now(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    work.close()
    raise RuntimeError("a rule waited for something that no test has")


def _outcome(verdict: Verdict | None, mail: Mail) -> Outcome:
    hits = [finding.props for finding in mail.findings if finding.method == "rule"]
    return Outcome(verdict, mail, mail.message, mail.envelope, hits)


def run_cases(cases: Sequence[Case], trial: Trial) -> Iterator[Flaw]:
    """Yield what tests expected and did not get."""
    for case in cases:
        outcome = trial.play(case)
        for key, wanted in case.expect.items():
            got, same = _compared(key, wanted, outcome)
            if not same:
                decided = _deciding(outcome)
                message = f"test '{case.name}' fails: {key} is {got}, expected {_words(wanted)}"
                yield Flaw("RP815", (*case.path, "expect", key), message, decided)


def _deciding(outcome: Outcome) -> str:
    if not outcome.hits:
        return "no rule matched"
    said = "; ".join(f"'{hit['id']}' ({hit['at']}): {hit['did']}" for hit in outcome.hits[:4])
    return f"what matched: {said}"


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _compared(key: str, wanted: Any, outcome: Outcome) -> tuple[str, bool]:
    """Return what there is, in words, and whether it is what was expected."""
    reply = outcome.verdict.reply if outcome.verdict is not None else None
    match key:
        case "verdict":
            return outcome.action, outcome.action == wanted
        case "rule":
            ids = [hit["id"] for hit in outcome.hits]
            return _words(ids) or "none", all(name in ids for name in as_list(wanted))
        case "code":
            code = reply.code if reply is not None else 250
            return str(code), code == wanted
        case "status":
            status = reply.status if reply is not None else "2.0.0"
            return status, status == wanted
        case "text":
            text = reply.text if reply is not None else ""
            return f"'{text}'", str(wanted) in text
        case "score":
            score = outcome.mail.score
            near = isinstance(wanted, (int, float)) and abs(score - wanted) < _CLOSE
            return f"{score:g}", near
        case "tags":
            tags = [f.props["name"] for f in outcome.mail.findings if f.method == "tag"]
            return _words(tags) or "none", sorted(tags) == sorted(map(str, as_list(wanted)))
        case "recipients":
            got = [str(rcpt.address) for rcpt in outcome.envelope.recipients]
            return _words(got), sorted(got) == sorted(map(str, as_list(wanted)))
        case "route":
            route = outcome.envelope.route or None
            return str(route), route == wanted
        case "require_tls":
            tls = outcome.envelope.tls_onward
            return str(tls).lower(), tls == wanted
        case _:
            return _headers(wanted, outcome.message)


def _headers(wanted: Any, message: Message) -> tuple[str, bool]:
    if not isinstance(wanted, Mapping):
        return "a mapping", False
    for name, value in wanted.items():
        texts = [found.text for found in message.all(str(name))]
        if (value is None and texts) or (value is not None and str(value) not in texts):
            return f"{name}: {_words(texts) or 'not there'}", False
    return "", True


def compiled(
    raw: Mapping[str, Any],
    pipeline: Sequence[str],
    where: Callable[[Place], str],
) -> tuple[Ruleset, list[Flaw]]:
    """Compile the rules of a configuration as it is written."""
    listeners = raw.get("listeners")
    names = (
        [one.get("name") for one in listeners if isinstance(one, dict)] if isinstance(listeners, list) else []
    )
    ruleset, flaws = compile_rules(
        raw.get("rules"),
        raw.get("lists"),
        listeners=[name for name in names if isinstance(name, str)],
        routes=_routes(raw),
        pipeline=pipeline,
        abilities=frozenset({"hold"} if raw.get("spool") else ()),
        where=where,
    )
    now = time.time()
    for rule in ruleset.rules:
        if rule.until is not None and rule.until <= now:
            message = f"rule '{rule.id}' has ended: its time was up before now"
            flaws.append(Flaw("RP825", ("rules", rule.number, "until"), message, "remove it", "warning"))
    if raw.get("rules") and "rules" not in pipeline:
        hint = "add - rules to the pipeline, behind the checks whose findings they read"
        flaws.append(Flaw("RP814", ("rules",), "there are rules, and nothing asks them", hint, on_key=True))
    return ruleset, flaws


def _routes(raw: Mapping[str, Any]) -> list[str]:
    """What a rule can call a way on: the routes by their names, and the upstreams."""
    upstreams, routes = raw.get("upstreams"), raw.get("routes")
    lines = [one for one in routes if isinstance(one, dict)] if isinstance(routes, list) else []
    names = [line.get("name") or line.get("upstream") for line in lines]
    for name, upstream in upstreams.items() if isinstance(upstreams, dict) else ():
        # What is delivered by MX needs the queue, and that a spool.
        if raw.get("spool") or not (isinstance(upstream, dict) and upstream.get("mx")):
            names.append(name)
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def tried(
    raw: Mapping[str, Any], ruleset: Ruleset, folder: Path, domains: frozenset[str], hostname: str
) -> list[Flaw]:
    """Run the tests of a configuration; return what is wrong with them, or with the rules."""
    cases, flaws = read_cases(raw.get("tests"), [rule.id for rule in ruleset.rules])
    if not cases:
        return flaws
    unreadable = list(check_lists(ruleset, folder))
    if unreadable:
        return [*flaws, *unreadable]
    return [*flaws, *run_cases(cases, Trial(ruleset, folder, domains, hostname))]


def check_lists(ruleset: Ruleset, folder: Path) -> Iterator[Flaw]:
    """Yield lists whose files can't be read."""
    for name, spec in ruleset.lists.items():
        if not spec.file:
            continue
        try:
            Listing(spec, folder)
        except OSError as error:
            message = f"{spec.file}: {error.strerror or 'unreadable'}"
            yield Flaw(
                "RP820",
                ("lists", name, "file"),
                message,
                "relative paths start at the folder of the configuration",
            )
        except ValueError as error:
            yield Flaw("RP820", ("lists", name, "file"), str(error))
