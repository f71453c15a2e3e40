"""ratelimit: how many recipients or messages a client, login, sender or recipient may have in a time.

Token buckets in the shared state: a burst at once, then a steady rate. Several limits hold at the same time, and
a recipient counts against all of them or none. Must not know where the buckets are kept.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from relayproxy.api import (
    Address,
    App,
    Bucket,
    Mail,
    Opinion,
    Plugin,
    Recipient,
    Settings,
    Take,
    defer,
    hook,
    shared_key,
    to_a_label,
)
from relayproxy.builtin._network import network_of
from relayproxy.builtin._quantities import Rate, in_words

By = Literal[
    "client", "network", "login", "sender", "sender_domain", "recipient", "recipient_domain", "listener"
]
_OF_RECIPIENT = frozenset({"recipient", "recipient_domain"})


def _sender(mail: Mail) -> str:
    """The null sender is everybody's, so it counts for each client on its own."""
    sender = mail.envelope.sender
    return sender.key.lower() if sender else f"<> from {network_of(mail.client.ip, 32, 64)}"


KEYS: dict[str, Callable[[Mail, Address | None], str]] = {
    "client": lambda mail, _: network_of(mail.client.ip, 32, 64),
    "network": lambda mail, _: network_of(mail.client.ip),
    "login": lambda mail, _: mail.client.identity,
    "listener": lambda mail, _: mail.client.listener,
    "sender": lambda mail, _: _sender(mail),
    "sender_domain": lambda mail, _: mail.envelope.sender.ascii_domain or _sender(mail),
    "recipient": lambda _, rcpt: rcpt.key.lower() if rcpt else "",
    "recipient_domain": lambda _, rcpt: rcpt.ascii_domain if rcpt else "",
}
"""What a limit may count by. An empty key (no login, a Unix socket) has no limit."""


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _folded(text: str) -> str:
    local, at, domain = text.strip().rpartition("@")
    return f"{local.lower()}{at}{to_a_label(domain)}"


Folded = Annotated[str, AfterValidator(_folded)]


class Limit(Settings):
    """One limit: so many for each key."""

    name: str = ""
    """What the log calls it. Left out: made from `per`."""
    per: Annotated[
        tuple[By, ...],
        BeforeValidator(_listed),
        Field(min_length=1),
        WithJsonSchema({"anyOf": [{"enum": list(KEYS)}, {"type": "array", "items": {"enum": list(KEYS)}}]}),
    ]
    """What has a bucket of its own: client (an IPv4 address or an IPv6 /64), network (/24 or /64), login, sender,
    sender_domain, recipient, recipient_domain, listener; or several, for each combination."""
    rate: Rate
    """How many in which time, in the long run: 100/1h."""
    burst: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """How many at once after a quiet time. Left out: as many as `rate` counts."""
    count: Literal["recipients", "messages"] = "recipients"
    """What is counted. One message to a hundred recipients is a hundred recipients."""
    only: frozenset[Folded] = frozenset()
    """Keys that it is for, such as logins, addresses or domains. Left out: all."""
    exempt: frozenset[Folded] = frozenset()
    """Keys that it is not for."""
    code: Literal[450, 451] = 450
    """The code of the refusal."""
    observe: bool = False
    """Whether it is only noted and logged what would be refused."""

    @model_validator(mode="after")
    def _sensible(self) -> "Limit":
        if self.count == "messages" and _OF_RECIPIENT & set(self.per):
            raise ValueError("a limit per recipient counts recipients; write count: recipients")
        if (self.only or self.exempt) and len(self.per) > 1:
            raise ValueError("only and exempt go with a limit per one thing")
        return self

    @property
    def label(self) -> str:
        """Its name."""
        return self.name or "+".join(self.per)


def _distinct(limits: tuple[Limit, ...]) -> tuple[Limit, ...]:
    places = [(limit.label, limit.count) for limit in limits]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise ValueError(f"two limits are called {place[0]!r}: give each a name")
    return limits


class RatelimitSettings(Settings):
    """All limits hold at once."""

    limits: Annotated[tuple[Limit, ...], AfterValidator(_distinct), Field(min_length=1)] = (
        Limit.model_validate({"per": "login", "rate": "200/1h"}),
    )
    """Left out: 200 recipients an hour for each login."""


class Ratelimit(Plugin[RatelimitSettings]):
    """Count messages at MAIL and recipients at RCPT, and put off what is above a limit."""

    name = "ratelimit"
    settings = RatelimitSettings
    after = ()
    uses_state = True

    def __init__(self, options: RatelimitSettings) -> None:
        super().__init__(options)
        self._at_mail = [limit for limit in options.limits if limit.count == "messages"]
        self._at_rcpt = [limit for limit in options.limits if limit.count == "recipients"]

    @hook
    def startup(self, app: App) -> None:
        """Keep the state."""
        self._state = app.state

    @hook
    async def mail(self, mail: Mail) -> Opinion:
        """Count a message; note "ratelimit" with `limit`, `key`, `wait` (seconds) and `mode` where one is reached."""
        return await self._count(mail, None, self._at_mail) if self._at_mail else None

    @hook
    async def rcpt(self, mail: Mail, rcpt: Recipient) -> Opinion:
        """Count a recipient; note as at MAIL."""
        return await self._count(mail, rcpt.address, self._at_rcpt) if self._at_rcpt else None

    async def _count(self, mail: Mail, rcpt: Address | None, limits: Sequence[Limit]) -> Opinion:
        concerned = [(limit, key) for limit in limits if (key := _key(limit, mail, rcpt))]
        if not concerned:
            return None
        enforced = [(limit, key) for limit, key in concerned if not limit.observe]
        groups = [enforced] if enforced else []
        # A limit that is only observed takes nothing from the others and is stopped by none of them.
        groups += [[one] for one in concerned if one[0].observe]
        answers = await self._state.do(
            *(Take(tuple(_bucket(limit, key) for limit, key in group)) for group in groups)
        )
        verdict: Opinion = None
        longest = 0.0
        for group, waits in zip(groups, answers, strict=True):
            for (limit, key), wait in zip(group, waits, strict=True):
                if not wait:
                    continue
                reason = f"{limit.label}: {key} has used up {limit.rate} (burst {_burst(limit)})"
                mode = "observe" if limit.observe else "enforce"
                seconds = f"{wait:.0f}"
                mail.note(
                    "ratelimit", "hit", reason=reason, limit=limit.label, key=key, wait=seconds, mode=mode
                )
                if limit.observe:
                    self.log.info("would put off %s for %.0f s: %s", mail.id, wait, reason)
                elif wait > longest:
                    longest = wait
                    verdict = _put_off(limit, wait, reason)
        return verdict


def _key(limit: Limit, mail: Mail, rcpt: Address | None) -> str:
    """Return what the limit counts by for this mail and recipient, or "" where it is not concerned."""
    parts = [KEYS[by](mail, rcpt) for by in limit.per]
    if not all(parts):
        return ""
    key = " ".join(parts)
    if (limit.only and _folded(key) not in limit.only) or _folded(key) in limit.exempt:
        return ""
    return key


def _burst(limit: Limit) -> int:
    return limit.burst or limit.rate.count


def _bucket(limit: Limit, key: str) -> Bucket:
    place = shared_key("rate", limit.label, limit.count, key)
    return Bucket(place, limit.rate.count / limit.rate.seconds, _burst(limit))


def _put_off(limit: Limit, wait: float, reason: str) -> Opinion:
    what = "recipients" if limit.count == "recipients" else "messages"
    text = f"Too many {what} in a short time, try again in {in_words(wait)}"
    return defer(text, code=limit.code, status="4.7.1", reason=reason)
