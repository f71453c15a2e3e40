"""compliance: whether what our users send keeps the rules that Gmail, Yahoo and Microsoft have for bulk senders.

Notes what is wrong and why; defers or refuses only where it is told to, rule by rule, so that a mistake is seen here
before it costs the reputation of a domain there. Must not know how a rule is checked.
"""

import asyncio
from collections.abc import Awaitable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from relayproxy.api import (
    App,
    Direction,
    Mail,
    Opinion,
    Plugin,
    Settings,
    Verdict,
    defer,
    fetch_from,
    hook,
    reject,
    to_a_label,
)
from relayproxy.builtin._lookup import peek_at
from relayproxy.mailauth.bulk_rules import (
    Problem,
    Signer,
    check_automatic,
    check_date,
    check_from,
    check_lines,
    check_message_id,
    check_singletons,
    check_unsubscribe,
    is_bulk,
    signers_of,
)
from relayproxy.mailauth.dmarc import Identifier, evaluate
from relayproxy.mailauth.from_header import Author, read_author
from relayproxy.mailauth.iprev import check_iprev
from relayproxy.mailauth.spf import Spf

Check = Literal[
    "from", "dkim", "dmarc", "spf", "ptr", "tls", "unsubscribe", "singletons", "message_id", "date", "size",
    "lines", "automatic",
]  # fmt: skip
Domain = Annotated[str, AfterValidator(lambda text: to_a_label(text.strip()).rstrip("."))]

_STATUS = {"dkim": "5.7.20", "spf": "5.7.23", "ptr": "5.7.25", "dmarc": "5.7.26", "size": "5.3.4"}
_DAY = 86_400
_FREE_MAIL = frozenset({
    "aol.com", "gmail.com", "gmx.de", "gmx.net", "googlemail.com", "hotmail.com", "icloud.com", "live.com", "mac.com",
    "mail.ru", "me.com", "msn.com", "outlook.com", "proton.me", "protonmail.com", "qq.com", "web.de", "yahoo.com",
    "yandex.ru", "ymail.com",
})  # fmt: skip


class ComplianceSettings(Settings):
    """What is known of the way that mail takes from here, and which rules are more than a note in the log."""

    addresses: tuple[IPv4Address | IPv6Address, ...] = Field((), max_length=8)
    """The public addresses that mail leaves from, ours or those of the upstream. Without them `spf` and `ptr` are not
    checked."""
    helo: Domain | None = None
    """The name that is said in EHLO there. Left out: `hostname`."""
    enforce: dict[Check, Literal["defer", "reject"]] = Field(default_factory=dict)
    """Rules that stop a message which breaks them. All others are only noted."""
    skip: frozenset[Check] = frozenset()
    """Rules that are not checked."""
    bulk: Literal["auto", "always", "never"] = "auto"
    """Which mail has to offer one-click unsubscribe. `auto`: what says that it is bulk, by List-Id, List-Unsubscribe,
    Feedback-ID or Precedence."""
    free_mail: frozenset[Domain] = _FREE_MAIL
    """Domains that From must not name, because they ask receivers to refuse what their own servers did not send."""
    size: int = Field(25_000_000, gt=0)
    """How many octets a message may have."""
    date_days: int = Field(7, ge=1)
    """How many days Date may lie in the past. In the future it is one."""


class Compliance(Plugin[ComplianceSettings]):
    """Checks once the message is there, before anything goes upstream."""

    name = "compliance"
    settings = ComplianceSettings
    after = ("dkim_sign",)
    directions = frozenset({Direction.OUTBOUND})

    @hook
    def startup(self, app: App) -> None:
        """Keep the resolver and the clock."""
        self._app = app
        self._fetch = fetch_from(app.resolver)
        self._peek = peek_at(app.resolver)
        self._free_mail = self.options.free_mail - app.local_domains

    @hook
    async def message(self, mail: Mail) -> Opinion:
        """Note "compliance" for each rule that is broken (`check` is the rule), or one pass."""
        skip = self.options.skip
        signers = [*_promised(mail), *signers_of(mail.message)]
        author = read_author(mail.message)
        found = [*self._read(mail, author, signers), *await self._ask(mail, author.domain, signers)]
        problems = [problem for problem in found if problem.check not in skip]
        for problem in problems:
            result = "temperror" if problem.unknown else "fail"
            mail.note("compliance", result, reason=problem.reason, check=problem.check)
        if not problems:
            mail.note("compliance", "pass")
        return self._opinion(problems)

    def _read(self, mail: Mail, author: Author, signers: list[Signer]) -> Iterator[Problem]:
        """Yield what can be told without DNS."""
        message, options = mail.message, self.options
        now = self._app.clock.time()
        yield from check_from(author, self._free_mail)
        yield from check_singletons(message)
        yield from check_lines(message)
        yield from check_message_id(message)
        yield from check_date(message, now, options.date_days * _DAY, _DAY)
        yield from check_automatic(message, null_sender=not mail.envelope.sender)
        if message.size > options.size:
            yield Problem("size", f"the message has {message.size} octets, {options.size} are taken")
        if options.bulk == "always" or (options.bulk == "auto" and is_bulk(message)):
            yield from check_unsubscribe(message, signers)
        for name in sorted(self._app.unencrypted):
            yield Problem("tls", f"mail leaves without TLS by the upstream {name}")

    async def _ask(self, mail: Mail, author: str, signers: list[Signer]) -> list[Problem]:
        """Return what DNS says about the domains and addresses that the message will be judged by, asked all at once."""
        skip = self.options.skip
        checks: list[Awaitable[list[Problem]]] = []
        if author and not skip.issuperset({"dkim", "dmarc"}):
            checks.append(self._alignment(author, signers))
        for address in map(str, self.options.addresses):
            if "spf" not in skip:
                checks.append(self._spf(mail, address))
            if "ptr" not in skip:
                checks.append(self._ptr(address))
        return [problem for found in await asyncio.gather(*checks) for problem in found]

    async def _alignment(self, author: str, signers: list[Signer]) -> list[Problem]:
        found = await evaluate(author, [Identifier("dkim", one.domain) for one in signers], self._fetch)
        problems = []
        if found.result == "temperror":
            reason = f"the DMARC record of {author} can't be had: {found.reason}"
            problems.append(Problem("dmarc", reason, unknown=True))
        elif found.result == "none":
            problems.append(Problem("dmarc", found.reason or f"{author} has no DMARC record"))
        if not signers:
            problems.append(Problem("dkim", "there is no DKIM signature, and none will be made"))
        elif found.result in ("none", "temperror"):
            # Without a record nobody says how alignment is meant; one name above the other is what it comes to.
            if not any(_related(one.domain, author) for one in signers):
                problems.append(Problem("dkim", f"no DKIM signature is of {author}"))
        elif not found.dkim_aligned:
            problems.append(Problem("dkim", f"no DKIM signature is aligned with {author}"))
        return problems

    async def _spf(self, mail: Mail, address: str) -> list[Problem]:
        helo = self.options.helo or self._app.hostname
        check = Spf(address, helo, self._fetch, peek=self._peek, receiver=helo, now=self._app.clock.time())
        found = await check.check_mail_from(mail.envelope.sender)
        if found.result == "pass":
            return []
        reason = f"SPF of {found.domain} says {found.result} for {address}"
        return [Problem("spf", reason, unknown=found.result == "temperror")]

    async def _ptr(self, address: str) -> list[Problem]:
        found = await check_iprev(address, self._fetch)
        if found.result == "pass":
            return []
        return [Problem("ptr", f"{address}: {found.reason}", unknown=found.result == "temperror")]

    def _opinion(self, problems: list[Problem]) -> Verdict | None:
        """Return the strongest of what the settings ask for; what isn't known for certain defers."""
        deferral = None
        for problem in problems:
            action = self.options.enforce.get(problem.check)  # type: ignore[call-overload]
            reason = f"compliance: {problem.check}"
            text = f"This would be refused by large receivers: {problem.reason}"
            status = _STATUS.get(problem.check, "5.7.1")
            if action == "reject" and not problem.unknown:
                return reject(
                    text, code=552 if problem.check == "size" else 550, status=status, reason=reason
                )
            if action is not None and deferral is None:
                status = "4.4.3" if problem.unknown else f"4{status[1:]}"
                deferral = defer(text, status=status, reason=reason)
        return deferral


def _promised(mail: Mail) -> Iterator[Signer]:
    """Yield the signatures that dkim_sign is going to make."""
    found = mail.finding("dkim_sign")
    if found is not None and found.result == "pass":
        covers = frozenset(found.props["covers"].split())
        yield from (Signer(domain, covers) for domain in found.props["domains"].split())


def _related(one: str, other: str) -> bool:
    return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")
