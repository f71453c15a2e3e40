"""bounces: mail that a program sends gets envelope senders of its own, and the bounces to them are read.

What a bounce means is said by rules; what follows goes into the list that the plugin suppression looks at. Must not know
how a bounce or a token is written.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from relayproxy.api import (
    AddHeader,
    Address,
    App,
    Direction,
    DropHeader,
    Edit,
    Edits,
    Mail,
    Mistake,
    Opinion,
    Plugin,
    Recipient,
    ReplaceRecipient,
    SecretRef,
    SetSender,
    Setup,
    Suppressed,
    discard,
    domain_in,
    hook,
    reject,
    to_a_label,
)
from relayproxy.bounces import rules
from relayproxy.bounces.read import read
from relayproxy.bounces.report import Fate, Kind, Report
from relayproxy.bounces.rules import Judgement, Rule, classify, normal_form, rules_of
from relayproxy.bounces.trace import Trace, TraceFault, Tracer
from relayproxy.builtin._campaign import KeyedSettings, keys_of
from relayproxy.builtin._keys import signing_keys
from relayproxy.builtin.suppression import store_path
from relayproxy.model.suppressed import key_of, widest_known

HEADER = "X-Relayproxy-Trace"
"""The field that holds the whole token: servers that shorten the envelope sender return it with the header."""

_DAY = 86_400.0


def _mailbox(text: str) -> str:
    local, at, domain = text.strip().rpartition("@")
    if not (local and at and domain):
        raise ValueError(f"{text!r} is no address: write bounces@example.org")
    return f"{local}@{to_a_label(domain)}"


Domain = Annotated[str, AfterValidator(lambda text: to_a_label(text.strip()).rstrip("."))]
Mailbox = Annotated[str, AfterValidator(_mailbox)]


class BouncesSettings(KeyedSettings):
    """Which mail is traced, and what becomes of its bounces."""

    domain: Domain
    """The domain of the envelope senders that are made: one of ours (`relay.domains`), whose MX leads here and whose SPF
    names the servers that we send from."""
    secrets: tuple[SecretRef, ...] = Field(min_length=1)
    """What tokens are signed with, 16 characters or more each. The first signs, all of them verify."""
    senders: frozenset[str] = Field(min_length=1)
    """Envelope senders whose mail is traced: `news@example.org`, `example.org`, `.example.org` for all names below it.
    Their bounces no longer come to them."""
    mailbox: Mailbox
    """A mailbox behind the next hop: it is asked at RCPT in place of the address of a bounce, and gets what `deliver` says."""
    deliver: Literal["none", "unknown", "all"] = "unknown"
    """Which bounces reach the mailbox once they are read. `unknown`: what is no bounce, and what no rule matches."""
    complaints: frozenset[Mailbox] = frozenset()
    """Mailboxes that get complaints (feedback loops). They are read as bounces are, and delivered."""
    days: int = Field(30, ge=1, le=365)
    """How long a bounce is taken."""
    prefix: str = Field("b", pattern=r"^[a-z0-9_-]{1,16}$")
    """What the envelope senders begin with: `b+...@domain`."""
    rules: str | None = None
    """A file of rules in place of the built-in ones, which `relayproxy bounces rules` prints."""
    file: str = Field("suppression.db", min_length=1)
    """The list, as for the plugin suppression; not where `suppression` names one for all."""
    scope: Literal["global", "tenant", "campaign"] = "global"
    """Whose mail a recipient is suppressed for."""
    count: int = Field(3, ge=1, le=1000)
    """After how many bounces of the action `count` a recipient is suppressed."""
    within: int = Field(30, ge=1, le=365)
    """Within how many days they count."""
    unsigned: bool = False
    """Whether recipients are suppressed that the bounce alone names, as with mail to several recipients at once. Anybody
    who got such mail could then have others suppressed."""


@dataclass(frozen=True, slots=True)
class Consequence:
    """What a bounce says of one recipient, and whether that put it on the list."""

    address: str
    judgement: Judgement
    suppressed: bool


class Bounces(Plugin[BouncesSettings]):
    """Traces what goes out, reads what comes back."""

    name = "bounces"
    settings = BouncesSettings
    after = ()

    def check(self, setup: Setup) -> Iterator[Mistake]:
        """Read the rules, as `startup` will."""
        if self.options.rules is not None:
            try:
                rules_of(setup.read_yaml(setup.folder / Path(self.options.rules).expanduser()))
            except (OSError, ValueError) as error:
                yield Mistake(str(error), ("rules",))

    @hook
    async def startup(self, app: App) -> None:
        """Read secrets and rules, open the list. Raises SecretError, RuleFault, ListFault, OSError and ValueError."""
        self._clock = app.clock
        options = self.options
        if not domain_in(options.domain, app.local_domains):
            raise ValueError(f"nobody may send bounces to {options.domain}: it is none of relay.domains")
        self._tracer = Tracer(options.domain, signing_keys(options.secrets), options.days, options.prefix)
        self._rules = read_rules(app, options.rules)
        self._senders = frozenset(key_of(one) if "@" in one else to_a_label(one) for one in options.senders)
        local, _, domain = options.mailbox.rpartition("@")
        self._mailbox = Address(local, domain)
        self._store = await asyncio.to_thread(app.suppression, store_path(app.folder, options.file))

    @hook
    async def shutdown(self) -> None:
        """Close the list."""
        await asyncio.to_thread(self._store.close)

    # -- what goes out ------------------------------------------------------------------------------------------

    @hook
    def before_forward(self, mail: Mail, route: str) -> Edits:  # noqa: ARG002  (a hook's arguments)
        """Give traced mail its envelope sender and its header field."""
        sender = mail.envelope.sender
        if mail.direction is Direction.INBOUND or not self._is_traced(sender):
            return None
        tenant, campaign = keys_of(self.options, mail)
        recipients = mail.envelope.recipients
        # Naming one of several recipients would tell the others about it.
        recipient = str(recipients[0].address) if len(recipients) == 1 else ""
        trace = Trace(mail.id, tenant, campaign, recipient)
        now = self._clock.time()
        edits: list[Edit] = [DropHeader(HEADER), AddHeader(HEADER, self._tracer.token(trace, now))]
        return [SetSender(self._tracer.address(trace, now)), *edits]

    def _is_traced(self, sender: Address) -> bool:
        if not sender.domain:
            return False
        return key_of(str(sender)) in self._senders or domain_in(sender.ascii_domain, self._senders)

    # -- what comes back ----------------------------------------------------------------------------------------

    @hook
    def rcpt(self, mail: Mail, rcpt: Recipient) -> Opinion:
        """Refuse an address of ours that was not made here, or too long ago; note a good one as "bounces"."""
        try:
            trace = self._tracer.read_address(rcpt.address, self._clock.time())
        except TraceFault as fault:
            mail.note("bounces", "fail", reason=str(fault), kind=fault.kind)
            return reject(f"No bounces to this address: {fault}", reason=f"bounces: {fault.kind}")
        if trace is not None:
            mail.note("bounces", "pass", address=str(rcpt.address), id=trace.message)
        return None

    @hook
    def rewrite_envelope(self, mail: Mail, rcpt: Recipient | None) -> Edits:  # noqa: ARG002  (a hook's arguments)
        """Ask the next hop for the mailbox in place of a bounce address."""
        if rcpt is None or not self._tracer.is_ours(rcpt.address):
            return None
        return ReplaceRecipient(rcpt.address, self._mailbox)

    @hook
    async def message(self, mail: Mail) -> Opinion:
        """Read a bounce or complaint and act on it; discard it if nobody has to see it."""
        traces = list(self._traces(mail))
        boxes = {recipient.address.key.lower() for recipient in mail.envelope.recipients}
        ours = boxes == {self._mailbox.key.lower()} and bool(traces)
        if not traces and not boxes & {box.lower() for box in self.options.complaints}:
            return None
        report, consequences = await asyncio.to_thread(self._act, mail, traces)
        for one in consequences:
            judged = one.judgement
            mail.note("bounces", "hit", kind=judged.class_, rule=judged.rule, recipient=one.address)
            self.log.info(
                "%s: %s of %s (%s)%s",
                mail.id, judged.class_, one.address, judged.rule or "no rule", ", suppressed" if one.suppressed else "",
            )  # fmt: skip
        understood = report is not None and all(one.judgement.rule for one in consequences)
        if (
            not ours
            or self.options.deliver == "all"
            or (self.options.deliver == "unknown" and not understood)
        ):
            return None
        return discard("bounces: read")

    def _traces(self, mail: Mail) -> Iterator[Trace]:
        for finding in mail.findings:
            if finding.method == "bounces" and finding.result == "pass":
                local, _, domain = finding.props["address"].rpartition("@")
                trace = self._tracer.read_address(Address(local, domain), self._clock.time())
                if trace is not None:
                    yield trace

    def _act(self, mail: Mail, traces: Sequence[Trace]) -> tuple[Report | None, list[Consequence]]:
        """Read, classify and store; in a thread, as a large message takes its time and the disk too."""
        report = read(mail.message, null_sender=not mail.envelope.sender)
        if report is None:
            return None, []
        returned = self._returned(mail, report)
        if not traces:
            # Complaints come to an address that everybody may know: only the token tells that they are about our mail.
            traces = [returned] if returned is not None else []
        found = []
        for trace in traces:
            same = returned is not None and returned.message == trace.message
            whole = returned if same and returned is not None else trace
            if trace.recipient and not whole.recipient:
                whole = replace(whole, recipient=trace.recipient)
            found += [self._one(report, fate, whole) for fate in self._fates(report, whole)]
        return report, found

    def _returned(self, mail: Mail, report: Report) -> Trace | None:
        """Return what the header of the returned message tells, if its token is good."""
        for field in report.returned_fields:
            if field.name.lower() == HEADER.lower():
                try:
                    return self._tracer.read("".join(field.value.split()), self._clock.time())
                except TraceFault as fault:
                    mail.note("bounces", "fail", reason=f"in the returned header: {fault}", kind=fault.kind)
        return None

    def _fates(self, report: Report, trace: Trace) -> tuple[Fate, ...]:
        """Return what is said of whom: of the signed recipient, or of those whom the report names."""
        if not trace.recipient:
            return report.fates or (Fate(""),)
        own = [fate for fate in report.fates if key_of(fate.address) == key_of(trace.recipient)]
        # After forwarding, the report names an address that we never sent to.
        first = own[0] if own else next(iter(report.failed or report.fates), Fate(""))
        return (replace(first, address=trace.recipient),)

    def _one(self, report: Report, fate: Fate, trace: Trace) -> Consequence:
        judged = classify(self._rules, report, fate)
        now = self._clock.time()
        if not judged.rule and report.kind is not Kind.COMPLAINT:
            self._store.note_unknown(normal_form(fate.diagnosis), fate.status, fate.diagnosis, now)
        known = bool(trace.recipient) or self.options.unsigned
        if judged.action == "none" or "@" not in fate.address or not known:
            return Consequence(fate.address, judged, suppressed=False)
        line = Suppressed(
            fate.address,
            widest_known(self.options.scope, trace.tenant, trace.campaign),
            judged.class_,
            f"{fate.status} {fate.diagnosis}"[:500].strip(),
            now,
            now + judged.days * _DAY if judged.days else None,
            f"bounces: {trace.message}",
        )
        if judged.action == "count":
            within = self.options.within * _DAY
            struck = self._store.strike(line, trace.message, count=self.options.count, within=within)
            return Consequence(fate.address, judged, suppressed=struck)
        self._store.add([line])
        return Consequence(fate.address, judged, suppressed=True)


def default_rules() -> Path:
    """Return the file of the built-in rules."""
    return Path(rules.__file__).with_name("rules.yaml")


def read_rules(app: App, file: str | None) -> tuple[Rule, ...]:
    """Return the rules of a file (relative to the configuration), or the built-in ones. Raises RuleFault, OSError, ValueError."""
    path = default_rules() if file is None else app.folder / Path(file).expanduser()
    return rules_of(app.read_yaml(path))
