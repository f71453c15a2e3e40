"""spf: whether the client may send for the domain of MAIL FROM and for its HELO name (RFC 7208).

Starts at MAIL and is waited for where the result is needed. Notes facts; refuses only what it is told to. Must
not know how a record is evaluated.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, Literal

from relayproxy.api import (
    AddHeader,
    App,
    Direction,
    Edits,
    Finding,
    Mail,
    Opinion,
    Plugin,
    Settings,
    defer,
    fetch_from,
    hook,
    reject,
)
from relayproxy.builtin._lookup import NotKnownError, at_once, known_to, peek_at
from relayproxy.mailauth.lookup import Fetch, Memory
from relayproxy.mailauth.spf import Spf, SpfResult
from relayproxy.mailauth.spf_fields import received_spf

_TIME_LIMIT = 20.0  # RFC 7208 section 4.6.4

Action = Literal["accept", "defer", "reject"]


class SpfSettings(Settings):
    """What to do about each result of MAIL FROM (of HELO for the null sender).

    The default is nothing: SPF breaks on forwarding, and the dmarc plugin judges it together with DKIM.
    """

    fail: Action = "accept"
    """The domain says that this client may not."""
    softfail: Action = "accept"
    """The domain says that this client probably may not."""
    permerror: Action = "accept"
    """The domain's record is broken."""
    temperror: Literal["accept", "defer"] = "accept"
    """DNS gave no answer, or took more than 20 seconds."""
    helo: bool = True
    """Whether to check the HELO name too. For the null sender it is always checked."""
    helo_fail: Action = "accept"
    """The HELO name's record says that this client may not use it."""
    explanation: bool = True
    """Whether a refusal quotes the explanation that the domain publishes."""
    received_spf: bool = False
    """Whether to add Received-SPF. Authentication-Results says the same and is always there."""


class SpfPlugin(Plugin[SpfSettings]):
    """Check both identities side by side."""

    name = "spf"
    settings = SpfSettings
    after = ()
    directions = frozenset({Direction.INBOUND})
    default_timeout = _TIME_LIMIT + 5

    def __init__(self, options: SpfSettings) -> None:
        super().__init__(options)
        if not options.received_spf:
            vars(self)["before_forward"] = None  # no hook then, so that no message is asked about for nothing

    @hook
    def startup(self, app: App) -> None:
        """Keep the resolver."""
        self._app = app
        options = self.options
        self._actions: dict[str, Action] = {
            "fail": options.fail,
            "softfail": options.softfail,
            "permerror": options.permerror,
            "temperror": options.temperror,
        }
        self._fetch = fetch_from(app.resolver)
        self._peek = peek_at(app.resolver)
        self._known = known_to(self._peek)
        self._memory: Memory[SpfResult] = Memory()

    @hook(background=True)
    def mail(self, mail: Mail) -> Opinion | Awaitable[Opinion]:
        """Note "spf" for HELO (smtp.helo) and then for MAIL FROM (smtp.mailfrom).

        Also in the properties: `domain`, the `mechanism` that matched, the `explanation` of a fail, and `weak`
        where a pass is worth little.
        """
        if not mail.client.ip:
            return None
        checks, sender = self._checks(mail, self._known), mail.envelope.sender
        try:
            of_helo = at_once(checks.check_helo()) if self.options.helo or not sender else None
            found = at_once(checks.check_mail_from(sender)) if sender else None
        except NotKnownError:
            return self._asked(mail)
        return self._settle(mail, of_helo, found)

    def _checks(self, mail: Mail, fetch: Fetch) -> Spf:
        return Spf(
            mail.client.ip,
            mail.client.helo,
            fetch,
            peek=self._peek,
            memory=self._memory,
            receiver=self._app.hostname,
            now=self._app.clock.time(),
        )

    async def _asked(self, mail: Mail) -> Opinion:
        """Check both identities side by side, with what DNS says."""
        checks, sender, helo = self._checks(mail, self._fetch), mail.envelope.sender, mail.client.helo
        if not sender:
            return self._settle(mail, await _in_time(checks.check_helo(), helo), None)
        check = _in_time(checks.check_mail_from(sender), sender.ascii_domain)
        if not self.options.helo:
            return self._settle(mail, None, await check)
        return self._settle(mail, *await asyncio.gather(_in_time(checks.check_helo(), helo), check))

    def _settle(self, mail: Mail, of_helo: SpfResult | None, found: SpfResult | None) -> Opinion:
        """Note the results, of which that for HELO is all there is for the null sender."""
        if of_helo is not None:
            _note(mail, of_helo, smtp__helo=mail.client.helo)
        if found is None:
            return self._opinion(of_helo, "HELO", self._action(of_helo)) if of_helo is not None else None
        _note(mail, found, smtp__mailfrom=found.domain)
        opinion = self._opinion(found, "MAIL FROM", self._action(found))
        if opinion is None and of_helo is not None and of_helo.result == "fail":
            opinion = self._opinion(of_helo, "HELO", self.options.helo_fail)
        return opinion

    @hook
    def before_forward(self, mail: Mail) -> Edits:
        """Add Received-SPF, one for each identity. Is a hook only where that is wanted."""
        return [self._received(mail, finding) for finding in mail.findings if finding.method == "spf"]

    def _received(self, mail: Mail, finding: Finding) -> AddHeader:
        value = received_spf(
            finding.result,
            f"{self._app.hostname}: {finding.reason or finding.props.get('domain', '')}",
            client_ip=mail.client.ip,
            envelope_from=str(mail.envelope.sender),
            helo=mail.client.helo,
            receiver=self._app.hostname,
            identity="helo" if "smtp.helo" in finding.props else "mailfrom",
            mechanism=finding.props.get("mechanism", ""),
        )
        return AddHeader("Received-SPF", value)

    def _action(self, found: SpfResult) -> Action:
        return self._actions.get(found.result, "accept")

    def _opinion(self, found: SpfResult, identity: str, action: Action) -> Opinion:
        if action == "accept":
            return None
        reason = f"spf {found.result} for {identity} {found.domain}"
        broken = found.result in ("permerror", "temperror")
        if action == "defer":
            text = f"SPF check of {identity} ended with {found.result}"
            return defer(text, status="4.7.24" if broken else "4.7.23", reason=reason)
        text = f"SPF {identity} check failed: {found.result}"
        if found.explanation and self.options.explanation:
            text += f"\nThe domain {found.domain} explains: {found.explanation}"
        return reject(text, status="5.7.24" if broken else "5.7.23", reason=reason)


async def _in_time(check: Awaitable[SpfResult], domain: str) -> SpfResult:
    try:
        async with asyncio.timeout(_TIME_LIMIT):
            return await check
    except TimeoutError:
        return SpfResult("temperror", domain, reason="the check took too long")


def _note(mail: Mail, found: SpfResult, **identity: str) -> None:
    facts = {"mechanism": found.mechanism, "explanation": found.explanation, "weak": " ".join(found.weak)}
    props: dict[str, Any] = {name: text for name, text in facts.items() if text}
    mail.note("spf", found.result, reason=found.reason, **{**identity, "domain": found.domain, **props})
