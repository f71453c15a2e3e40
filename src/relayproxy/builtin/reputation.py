"""reputation: what became of the mail of an address, a sender's domain and a login until now.

Counts good and bad messages in the shared state, old ones less and less; what is known is a finding with a score
before the message is there. A sender's domain counts only where it is proven, or a forger could spoil or borrow its
name. Must not judge a message itself: it learns from what the others found.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from relayproxy.api import (
    Add,
    App,
    Finding,
    Mail,
    Opinion,
    Outcome,
    Plugin,
    Settings,
    State,
    hook,
    printable,
    shared_key,
)
from relayproxy.builtin._network import network_of
from relayproxy.builtin._quantities import Duration

Kind = Literal["client", "domain", "login"]
Scale = Annotated[float, Field(ge=0, le=100)]


class Scales(Settings):
    """How much a reputation weighs at most, in either direction."""

    client: Scale = 2.0
    """Of the client's network (IPv4 /32, IPv6 /64)."""
    domain: Scale = 2.0
    """Of the sender's domain, where SPF, DKIM or DMARC prove it."""
    login: Scale = 0.0
    """Of the login. For the report: a login of your own is stopped by `ratelimit`, not by a score."""


class ReputationSettings(Settings):
    """What counts as bad and as good, and how long it is remembered."""

    bad: float = 6.0
    """A message with at least this score was bad. So was one that the upstream refused for good."""
    good: float = 2.0
    """A message with less than this score that was delivered was good. What lies between is not counted."""
    half_life: Duration = 7 * 86_400.0
    """After this time a message counts half."""
    doubt: Annotated[float, Field(gt=0, le=10_000)] = 10.0
    """So many messages it takes until half of the scale is reached."""
    scales: Scales = Scales()
    """How much it weighs at most."""

    @model_validator(mode="after")
    def _in_order(self) -> "ReputationSettings":
        if self.good > self.bad:
            raise ValueError("good is above bad: a message can't be both")
        return self


class _Subject(NamedTuple):
    kind: Kind
    name: str

    def key(self, side: str) -> str:
        return shared_key("reputation", self.kind, self.name, side)


def standing(good: float, bad: float, doubt: float) -> float:
    """Return a reputation from -1 (all good) to 1 (all bad), nearer to 0 the fewer messages there were."""
    return (bad - good) / (good + bad + doubt)


class Reputation(Plugin[ReputationSettings]):
    """Tell what is known when the message is there, and learn when its fate is."""

    name = "reputation"
    settings = ReputationSettings
    after = ("spf", "dkim_verify", "dmarc")
    uses_state = True

    @hook
    def startup(self, app: App) -> None:
        """Keep the state."""
        self._state = app.state
        self._lasts = 10 * self.options.half_life

    @hook
    async def message(self, mail: Mail) -> Opinion:
        """Note "reputation" (hit: rather bad, miss: rather good) for each of client, domain and login that is known.

        In the properties: `kind`, `name`, and the counts `good` and `bad`.
        """
        subjects = list(_subjects(mail))
        counts = await self._state.do(
            *(
                Add(subject.key(side), 0, self._lasts, self.options.half_life)
                for subject in subjects
                for side in ("good", "bad")
            )
        )
        for subject, good, bad in zip(subjects, counts[::2], counts[1::2], strict=True):
            if good + bad < 0.01:
                continue
            value = standing(good, bad, self.options.doubt)
            mail.note(
                "reputation",
                "hit" if value > 0 else "miss",
                score=round(value * getattr(self.options.scales, subject.kind), 3),
                reason=f"{subject.kind} {printable(subject.name, 100)}: {bad:.1f} bad, {good:.1f} good",
                kind=subject.kind,
                name=printable(subject.name, 100),
                good=f"{good:.1f}",
                bad=f"{bad:.1f}",
            )
        return None

    @hook
    async def after_forward(self, mail: Mail, outcomes: tuple[Outcome, ...]) -> None:
        """Count the message as good, as bad, or not at all."""
        side = self._side(mail, outcomes)
        if side:
            await self._state.do(
                *(
                    Add(subject.key(side), 1, self._lasts, self.options.half_life)
                    for subject in _subjects(mail)
                )
            )

    def _side(self, mail: Mail, outcomes: tuple[Outcome, ...]) -> Literal["good", "bad", ""]:
        # Its own score is left out: who was bad once would otherwise make himself worse with every message.
        own = sum(finding.score for finding in mail.findings if finding.method == "reputation")
        score = mail.score - own
        states = {outcome.state for outcome in outcomes}
        if score >= self.options.bad or states == {State.FAILED}:
            return "bad"
        return "good" if score < self.options.good and State.DONE in states else ""


def _subjects(mail: Mail) -> Iterator[_Subject]:
    client, domain = mail.client, mail.envelope.sender.ascii_domain
    if client.identity:
        # Whoever logged in may do so from anywhere; that the address is dynamic says nothing of the sender.
        yield _Subject("login", client.identity)
        return
    if client.ip and not client.trusted:
        yield _Subject("client", network_of(client.ip, 32, 64))
    if domain and any(_proves(finding, domain) for finding in mail.findings):
        yield _Subject("domain", domain)


def _proves(finding: Finding, domain: str) -> bool:
    """Whether a finding shows that the message comes from `domain` itself."""
    if finding.result != "pass":
        return False
    match finding.method:
        case "spf":
            return "smtp.mailfrom" in finding.props and not finding.props.get("weak")
        case "dkim":
            return finding.props.get("header.d", "").lower() == domain
        case "dmarc":
            return finding.props.get("header.from", "").lower() == domain
        case _:
            return False
