"""greylist: put a first message off once, since what sends spam seldom tries again (RFC 6647).

Decides when the message is known, so that only what looks doubtful waits. A provider's pool counts as one client,
and a client that has come back often enough is not put off any more. Must not know how a score comes about.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from relayproxy.api import (
    Add,
    Address,
    App,
    Direction,
    Get,
    Mail,
    Opinion,
    Plugin,
    Put,
    PutNew,
    Settings,
    defer,
    hook,
    shared_key,
    to_a_label,
)
from relayproxy.builtin._network import network_of
from relayproxy.builtin._quantities import Duration, in_words

_MOST_RECIPIENTS = 50  # of one message; who has that many is known by the first ones
_PASSED = "passed "  # and when it was last said
_DAY = 86_400.0
_VARIABLE = re.compile(r"[+=].*|[0-9]+")


def _domain(text: str) -> str:
    return to_a_label(text.strip().rstrip("."))


Domain = Annotated[str, AfterValidator(_domain)]


class GreylistSettings(Settings):
    """Who is put off, for how long, and who is known."""

    score: float | None = None
    """Only messages with at least this score are put off. Left out: what the `score` plugin says where it stands
    before this one, and else all."""
    below: float | None = None
    """Messages with at least this score are not put off, as something else decides about them."""
    delay: Duration = 300.0
    """How long the client has to wait."""
    window: Duration = 86_400.0
    """How long after the first try a second one counts. Slow senders need a day."""
    remember: Duration = 35 * 86_400.0
    """How long a pair of sender and recipient that came back is known; each message prolongs it."""
    passes: Annotated[int, Field(ge=0)] = 5
    """After so many that came back, a client is known and never put off. 0: it never is."""
    client: Literal["spf", "network", "ptr", "address"] = "spf"
    """What counts as the same client: `network` is an IPv4 /24 or IPv6 /64; `spf` is all of the servers that the
    sender's domain names where SPF passed, else the network; `ptr` the domain of the verified reverse name, else the
    network; `address` a single address (IPv6: /64)."""
    except_senders: frozenset[Domain] = frozenset()
    """Sender domains, and all below them, that are not put off where SPF passed."""
    except_recipients: frozenset[Domain] = frozenset()
    """Recipient domains, or addresses, whose mail never waits: a message to one of them goes on at once."""
    code: Literal[450, 451] = 451
    """The code of the refusal."""

    @model_validator(mode="after")
    def _in_order(self) -> "GreylistSettings":
        if self.delay >= self.window:
            raise ValueError("the delay must be shorter than the window, or nobody ever passes")
        if self.score is not None and self.below is not None and self.score >= self.below:
            raise ValueError("nothing is at least `score` and under `below`")
        return self


class Greylist(Plugin[GreylistSettings]):
    """Put off doubtful mail of clients that are not known."""

    name = "greylist"
    settings = GreylistSettings
    directions = frozenset({Direction.INBOUND})
    uses_state = True

    @hook
    def startup(self, app: App) -> None:
        """Keep the state and the clock."""
        self._state = app.state
        self._clock = app.clock

    @hook
    async def message(self, mail: Mail) -> Opinion:
        """Note "greylist": pass with `because` (known, came back), or hit with `client` and `wait` in seconds."""
        if mail.client.identity or mail.client.trusted or not mail.client.ip:
            return None
        if not self._doubtful(mail) or self._excepted(mail):
            return None
        return await self._judge(mail, self._client(mail))

    def _doubtful(self, mail: Mail) -> bool:
        if self.options.below is not None and mail.score >= self.options.below:
            return False
        if self.options.score is not None:
            return mail.score >= self.options.score
        scored = mail.finding("score")
        return scored is None or scored.props.get("greylist") == "yes"

    def _excepted(self, mail: Mail) -> bool:
        for recipient in mail.envelope.recipients:
            address = recipient.address
            if {address.ascii_domain, f"{address.local.lower()}@{address.ascii_domain}"} & (
                self.options.except_recipients
            ):
                return True
        domain = mail.envelope.sender.ascii_domain if _vouched(mail) else ""
        while domain:
            if domain in self.options.except_senders:
                return True
            domain = domain.partition(".")[2]
        return False

    def _client(self, mail: Mail) -> str:
        ip = mail.client.ip
        match self.options.client:
            case "spf" if _vouched(mail):
                return f"spf {mail.envelope.sender.ascii_domain}"
            case "ptr" if name := _ptr(mail):
                # Loading the list of public suffixes takes a moment and some memory.
                from relayproxy.mailauth.psl import organizational_domain  # noqa: PLC0415

                return f"ptr {organizational_domain(name.lower().rstrip('.'))}"
            case "address":
                return network_of(ip, 32, 64)
            case _:
                return network_of(ip)

    async def _judge(self, mail: Mail, client: str) -> Opinion:
        """Look for client and pairs; the message passes when it or all of them are known or have waited."""
        now = self._clock.time()
        sender = _usual(mail.envelope.sender)
        recipients = [r.address.key.lower() for r in mail.envelope.recipients[:_MOST_RECIPIENTS]]
        keys = [shared_key("grey", client, sender, recipient) for recipient in recipients]
        known = shared_key("greyknown", client)
        by_client, *by_pair = await self._state.do(Get(known), *map(Get, keys))
        seen = dict(zip(keys, by_pair, strict=True))
        if by_client is not None and self.options.passes:
            await self._prolong({known: by_client}, now)
            mail.note("greylist", "pass", client=client, because="known client")
            return None
        if all(map(_has_passed, seen.values())):
            await self._prolong(seen, now)
            mail.note("greylist", "pass", client=client, because="known sender")
            return None
        fresh = [key for key, text in seen.items() if not _has_passed(text)]
        firsts = await self._state.do(*(PutNew(key, repr(now), self.options.window) for key in fresh))
        wait = max(self._wait(first, now) for first in firsts)
        if wait > 0:
            mail.note("greylist", "hit", client=client, wait=f"{wait:.0f}")
            return defer(
                f"Greylisted, try again in {in_words(wait)}",
                code=self.options.code,
                status="4.7.1",
                reason=f"greylisted for {wait:.0f} s: {client}, {sender}",
            )
        await self._let_in(client, fresh, known, now)
        mail.note("greylist", "pass", client=client, because="came back")
        return None

    async def _let_in(self, client: str, keys: Iterable[str], known: str, now: float) -> None:
        """Remember pairs that have waited, and the client when that was often enough."""
        lasts = self.options.remember
        puts = [Put(key, f"{_PASSED}{now!r}", lasts) for key in keys]
        *_, count = await self._state.do(*puts, Add(shared_key("greyclient", client), 1, lasts))
        if self.options.passes and count >= self.options.passes:
            await self._state.put(known, f"{_PASSED}{now!r}", ttl=lasts)

    async def _prolong(self, seen: Mapping[str, str | None], now: float) -> None:
        """Let what is known be known for longer: once a day, as every write costs."""
        old = [key for key, text in seen.items() if now - _since(text) > _DAY]
        if old:
            await self._state.do(*(Put(key, f"{_PASSED}{now!r}", self.options.remember) for key in old))

    def _wait(self, first: str | None, now: float) -> float:
        """Return how many seconds are left of the delay for a pair that was first seen then."""
        if first is None:
            return self.options.delay
        return 0.0 if _has_passed(first) else self.options.delay - max(0.0, now - float(first))


def _since(text: str | None) -> float:
    return float(text.removeprefix(_PASSED)) if text else 0.0


def _has_passed(text: str | None) -> bool:
    return text is not None and text.startswith(_PASSED)


def _vouched(mail: Mail) -> bool:
    """Whether the sender's domain names this client as one of its own, and not just everybody."""
    return any(
        finding.method == "spf"
        and finding.result == "pass"
        and "smtp.mailfrom" in finding.props
        and not finding.props.get("weak")
        for finding in mail.findings
    )


def _ptr(mail: Mail) -> str:
    found = mail.finding("iprev")
    return found.props.get("name", "") if found is not None and found.result == "pass" else ""


def _usual(sender: Address) -> str:
    """The sender without what changes from message to message: tags, and the numbers of mailing lists (VERP)."""
    if not sender:
        return "<>"
    return f"{_VARIABLE.sub('#', sender.local.lower())}@{sender.ascii_domain}"
