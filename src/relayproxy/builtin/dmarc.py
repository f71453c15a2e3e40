"""dmarc: whether the message comes from the domain that its reader sees in From (RFC 9989).

Puts together what spf, dkim_verify and arc found, and does what the settings say. Must not check signatures,
nor read a record.
"""

import asyncio
import weakref
from collections.abc import Awaitable, Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from relayproxy.api import (
    Action,
    App,
    Direction,
    Mail,
    Message,
    Mistake,
    Opinion,
    Plugin,
    Settings,
    Setup,
    defer,
    fetch_from,
    hold,
    hook,
    printable,
    reject,
    to_a_label,
)
from relayproxy.builtin._lookup import NotKnownError, at_once, known_to, peek_at, recorded
from relayproxy.mailauth.authres import AuthenticationResults, parse_arc
from relayproxy.mailauth.dkim_verify import find_signatures
from relayproxy.mailauth.dmarc import DmarcResult, Identifier, Organization, discover, evaluate
from relayproxy.mailauth.from_header import ANOMALIES, Author, read_author
from relayproxy.mailauth.lookup import Answer, Fetch, Memory, Question, Remembering
from relayproxy.mailauth.spf_fields import upgraded

_LONGEST_RECORD = 4096  # characters; a part of a record would be another record
OnFail = Literal["observe", "follow-policy", "score"]


def _known_anomaly(name: str) -> str:
    if name not in ANOMALIES:
        raise ValueError(f"{name!r} is none of {', '.join(ANOMALIES)}")
    return name


AnomalyName = Annotated[str, AfterValidator(_known_anomaly)]
Domain = Annotated[str, AfterValidator(lambda text: to_a_label(text).rstrip("."))]


class Scores(Settings):
    """What a fail adds to the score, by the policy that the domain publishes."""

    reject: float = 8.0
    """p=reject"""
    quarantine: float = 4.0
    """p=quarantine"""
    none: float = 0.0
    """p=none"""


class DmarcSettings(Settings):
    """What to do about each result."""

    on_fail: OnFail = "observe"
    """`observe`: only note it. `follow-policy`: do what the author's domain asks for. `score`: add to the score."""
    domains: dict[Domain, OnFail | Literal["ignore"]] = Field(default_factory=dict)
    """Another `on_fail` for single author domains and all below them; `ignore` does not evaluate them at all."""
    quarantine: Literal["hold", "accept", "reject"] = "hold"
    """What following p=quarantine means here."""
    scores: Scores = Scores()
    """For `score`."""
    on_temperror: Literal["auto", "accept", "defer"] = "auto"
    """What to do when DNS gave no answer. `auto`: defer where the policy is followed, else accept."""
    bad_from: Literal["reject", "accept"] = "reject"
    """What to do about a From that does not name exactly one author in exactly one way."""
    tolerate: frozenset[AnomalyName] = frozenset()
    """Defects of From that are let pass. If it still names one domain, that is evaluated."""
    trusted_forwarders: bool = True
    """Whether a fail is excused by a trusted ARC seal whose sealer saw the author's domain authenticated."""
    upgraded_spf: Literal["report", "distrust"] = "report"
    """What to do about an SPF pass when an earlier hop says that SPF failed: note it, or not count the pass."""
    discovery: Literal["tree-walk", "public-suffix-list"] = "tree-walk"
    """How organizational domains are found. The list is the way before RFC 9989."""


class Dmarc(Plugin[DmarcSettings]):
    """Judge the message when the checks that it rests on are done."""

    name = "dmarc"
    settings = DmarcSettings
    after = ("spf", "dkim_verify", "arc")
    directions = frozenset({Direction.INBOUND})

    def check(self, setup: Setup) -> Iterator[Mistake]:
        """Warn of checks that are not there to rest on, and of mail to hold with no place for it."""
        for needed in ("spf", "dkim_verify"):
            if needed not in setup.plugins:
                message = f"without '{needed}' in the pipeline, mail that only it would confirm fails DMARC"
                yield Mistake(message, hint=f"add - {needed} before it", warning=True)
        follows = "follow-policy" in (self.options.on_fail, *self.options.domains.values())
        if follows and self.options.quarantine == "hold" and not setup.can_hold:
            message = (
                "p=quarantine means to hold the message, and there is no spool: the client will hear 451"
            )
            yield Mistake(message, ("quarantine",), "add a spool, or write quarantine: accept", warning=True)

    @hook
    def startup(self, app: App) -> None:
        """Keep the resolver; load the list of public suffixes if that is to be used."""
        self._fetch = fetch_from(app.resolver)
        self._peek = peek_at(app.resolver)
        self._known = known_to(self._peek)
        self._memory: Memory[DmarcResult] = Memory()
        self._remembers = isinstance(app.resolver, Remembering)
        self._last: tuple[weakref.ref[Message] | None, Author] = None, Author()
        self._asking: set[asyncio.Task[None]] = set()
        self._organization: Organization | None = None
        if self.options.discovery == "public-suffix-list":
            from relayproxy.mailauth.psl import organizational_domain  # noqa: PLC0415  (loads the list)

            self._organization = organizational_domain

    @hook
    def shutdown(self) -> None:
        """Give up what is still being asked."""
        for task in self._asking:
            task.cancel()

    @hook
    def arrived(self, mail: Mail) -> None:
        """Ask for the author's policy while SPF and DKIM are being checked, so that the resolver knows it by then."""
        if not self._remembers:
            return
        author = self._author(mail.message).domain
        if not author or self._mode(author) == "ignore" or self._peek(f"_dmarc.{author}", "TXT") is not None:
            return
        signers = (one.claim.domain for one in find_signatures(mail.message))
        others = [name for name in (mail.envelope.sender.ascii_domain, *signers) if name]
        task = asyncio.create_task(discover(author, others, self._fetch, self._organization))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    @hook
    def message(self, mail: Mail) -> Opinion | Awaitable[Opinion]:
        """Note "dmarc" with header.from, policy.dmarc (what is asked for) and, for rules, `policy` and `org`.

        Also in the properties: `policy_domain`, `aligned` (methods), `override` where a fail was excused, and for
        reports the `record` as published, how it was found (`discovery`), and the `disposition` asked for here.
        """
        author = self._author(mail.message)
        bad = [name for name in author.anomalies if name not in self.options.tolerate]
        if bad or not author.domain:
            return self._bad_from(mail, author, bad)
        mode = self._mode(author.domain)
        if mode == "ignore":
            return None
        identifiers = tuple(self._identifiers(mail))
        try:
            return at_once(self._judge(mail, author.domain, identifiers, mode, self._known))
        except NotKnownError:
            return self._judge(mail, author.domain, identifiers, mode, self._fetch)

    async def _judge(
        self, mail: Mail, author: str, identifiers: tuple[Identifier, ...], mode: OnFail, fetch: Fetch
    ) -> Opinion:
        """Evaluate over what `fetch` brings; nothing is noted before all is known."""
        key = author, identifiers
        found = self._memory.find(key, self._peek)
        if found is None:
            used: dict[Question, Answer] = {}
            found = await evaluate(author, identifiers, recorded(fetch, used), self._organization)
            self._memory.keep(key, found, used)
        override = await self._override(mail, found, fetch) if found.result == "fail" else ""
        follows = found.result == "fail" and not override and mode == "follow-policy"
        opinion = self._follow(found) if follows else None
        self._note(mail, found, mode, override, opinion)
        if found.result == "temperror":
            return self._on_temperror(found, mode)
        return opinion

    def _author(self, message: Message) -> Author:
        """Return the author of a message; mostly it is the one that was asked about last."""
        last, author = self._last
        if last is None or last() is not message:
            author = read_author(message)
            self._last = weakref.ref(message), author
        return author

    def _bad_from(self, mail: Mail, author: Author, bad: list[str]) -> Opinion:
        mail.note("dmarc", "permerror", reason=author.reason, anomalies=" ".join(author.anomalies))
        if not bad or self.options.bad_from == "accept":
            return None
        reason = f"From: {' '.join(bad)}"
        return reject(f"From must name one author: {ANOMALIES[bad[0]]}", status="5.7.1", reason=reason)

    def _mode(self, domain: str) -> OnFail | Literal["ignore"]:
        """Return the mode of the longest listed domain that the author is in."""
        while domain:
            if domain in self.options.domains:
                return self.options.domains[domain]
            domain = domain.partition(".")[2]
        return self.options.on_fail

    def _identifiers(self, mail: Mail) -> Iterator[Identifier]:
        """Yield what SPF and DKIM answered for; HELO counts only for the null sender (RFC 9989 section 4.4.2)."""
        null_sender = not mail.envelope.sender
        for finding in mail.findings:
            props = finding.props
            if finding.method == "dkim" and "header.d" in props:
                yield Identifier("dkim", props["header.d"], finding.result)
            elif finding.method == "spf" and ("smtp.helo" in props) == null_sender:
                domain = props.get("domain") or props.get("smtp.mailfrom", "").rpartition("@")[2]
                if finding.result == "pass" and self._distrusted(mail, domain):
                    continue
                yield Identifier("spf", domain, finding.result)

    def _distrusted(self, mail: Mail, domain: str) -> bool:
        """Note an SPF pass that a forwarder may have lent to a forger; return whether it must not count."""
        said = upgraded(mail.message, domain)
        if said:
            mail.note("spf_upgrade", "hit", reason=said, domain=domain)
        return bool(said) and self.options.upgraded_spf == "distrust"

    async def _override(self, mail: Mail, found: DmarcResult, fetch: Fetch) -> str:
        """Return who excuses the fail: the sealer of the outermost ARC set, if trusted and if it saw a pass."""
        arc = mail.finding("arc")
        if not self.options.trusted_forwarders or arc is None or arc.result != "pass":
            return ""
        if arc.props.get("trusted", "") in ("", "no", "false", "0"):
            return ""
        seen = _outermost(mail.message)
        if seen is None or not await self._saw_pass(seen, found.domain, fetch):
            return ""
        return seen.authserv_id

    async def _saw_pass(self, seen: AuthenticationResults, author: str, fetch: Fetch) -> bool:
        """Whether the sealer's results amount to a DMARC pass: as it says itself, or evaluated again."""
        identifiers = []
        for result in seen.results:
            props = result.props
            if result.method == "dmarc":
                return result.result == "pass" and to_a_label(props.get("header.from", "")) == author
            if result.method == "dkim":
                domain = props.get("header.d") or props.get("header.i", "").rpartition("@")[2]
                identifiers.append(Identifier("dkim", domain, result.result))
            elif result.method == "spf" and "smtp.mailfrom" in props:
                domain = props["smtp.mailfrom"].rpartition("@")[2]
                identifiers.append(Identifier("spf", domain, result.result))
        return (await evaluate(author, identifiers, fetch, self._organization)).result == "pass"

    def _note(self, mail: Mail, found: DmarcResult, mode: str, override: str, opinion: Opinion) -> None:
        score = 0.0
        if mode == "score" and found.result == "fail" and not override:
            score = float(getattr(self.options.scores, found.policy))
        reason = found.reason
        if override:
            reason = f"excused by the trusted forwarder {printable(override, 80)}"
        mail.note(
            "dmarc",
            found.result,
            score=score,
            reason=reason,
            header__from=found.domain,
            **_policy_props(found, override),
            **self._for_reports(found, opinion),
        )

    def _for_reports(self, found: DmarcResult, opinion: Opinion) -> dict[str, str]:
        """Return what an aggregate report needs beside the result (RFC 9990 section 3.1)."""
        if found.record is None or not found.policy:
            return {}
        asked = {Action.REJECT: "reject", Action.HOLD: "quarantine"}
        return {
            "record": found.record.text if len(found.record.text) <= _LONGEST_RECORD else "",
            "discovery": "psl" if self.options.discovery == "public-suffix-list" else "treewalk",
            "disposition": asked[opinion.action] if opinion is not None else "none",
        }

    def _on_temperror(self, found: DmarcResult, mode: str) -> Opinion:
        setting = self.options.on_temperror
        if setting == "accept" or (setting == "auto" and mode != "follow-policy"):
            return None
        return defer(
            f"The DMARC policy of {found.domain} can't be determined", status="4.7.24", reason=found.reason
        )

    def _follow(self, found: DmarcResult) -> Opinion:
        """Do what the owner of the author's domain asks for."""
        reason = f"dmarc fail, {found.policy_domain} asks for {found.policy}"
        refused = found.policy == "reject" or (
            found.policy == "quarantine" and self.options.quarantine == "reject"
        )
        if refused:
            text = f"{found.domain} asks to refuse mail that it did not authenticate (DMARC)"
            return reject(text, status="5.7.26", reason=reason)
        if found.policy == "quarantine" and self.options.quarantine == "hold":
            return hold(reason)
        return None


def _policy_props(found: DmarcResult, override: str) -> dict[str, Any]:
    """Return the properties of a result that a policy stands behind."""
    if not found.policy:
        return {}
    aligned = [
        method for method, is_it in (("spf", found.spf_aligned), ("dkim", found.dkim_aligned)) if is_it
    ]
    props: dict[str, Any] = {
        "policy__dmarc": "none" if override else found.policy,
        "policy": found.policy,
        "policy_domain": found.policy_domain,
        "org": found.organization,
        "aligned": " ".join(aligned),
    }
    if override:
        props["override"] = "trusted_forwarder"  # the word of RFC 9990 for it
    return props


def _outermost(message: Message) -> AuthenticationResults | None:
    """Return what the last sealer saw: the results of the ARC set with the highest instance.

    None if any set can't be read: an earlier one, whose sealer nobody trusts, must not stand in for it.
    """
    try:
        found = dict(parse_arc(field.value) for field in message.all("ARC-Authentication-Results"))
    except ValueError:
        return None
    return found[max(found)] if found else None
