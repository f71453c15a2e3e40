"""Mail: the only object with an identity. Everything else about a message is a value that it points to.

A hook gets a view of its own, sees the findings of all that ran before it and notes its own; the pipeline merges
them in the order of the configuration, whatever finished first.
"""

from enum import StrEnum
from typing import NamedTuple

from relayproxy.model.client import Client
from relayproxy.model.envelope import Envelope
from relayproxy.model.finding import Finding
from relayproxy.model.message import Message


class Direction(StrEnum):
    """Inbound: a stranger to our domains. Outbound: a trusted client to elsewhere. Internal: to our own."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"
    INTERNAL = "internal"


class Origin(StrEnum):
    """How the message came to be: over SMTP, as a bounce or a report that we wrote, or released by a human."""

    SMTP = "smtp"
    DSN = "dsn"
    REPORT = "report"
    RELEASE = "release"


class Step(NamedTuple):
    """One line of the trace: what a hook of a plugin did and how many seconds it took."""

    hook: str
    plugin: str
    seconds: float
    answer: str
    error: str = ""


class Mail:
    """One message on its way through the pipeline.

    `id` is in the SMTP reply, the log and Received. `message` has no octets before DATA. `findings` are the
    facts noted so far; use `note` to add one.
    """

    __slots__ = (
        "by",
        "client",
        "direction",
        "envelope",
        "findings",
        "id",
        "message",
        "noted",
        "origin",
        "received_at",
        "trace",
    )

    def __init__(
        self,
        id: str,  # noqa: A002  (the name that authors expect)
        client: Client,
        envelope: Envelope,
        message: Message,
        *,
        origin: Origin = Origin.SMTP,
        direction: Direction = Direction.INBOUND,
        received_at: float = 0.0,
        findings: tuple[Finding, ...] = (),
    ) -> None:
        self.id = id
        self.client = client
        self.envelope = envelope
        self.message = message
        self.origin = origin
        self.direction = direction
        self.received_at = received_at
        self.findings = findings
        self.by = ""
        self.trace: list[Step] = []
        self.noted: list[Finding] = []

    def view(self, by: str = "") -> "Mail":
        """Return what one hook call sees: the same values, and a list of its own to note findings in, `by` a plugin."""
        seen = Mail.__new__(
            Mail
        )  # made for every call of a hook: the constructor would cost as much as the call
        seen.id = self.id
        seen.client = self.client
        seen.envelope = self.envelope
        seen.message = self.message
        seen.origin = self.origin
        seen.direction = self.direction
        seen.received_at = self.received_at
        seen.findings = self.findings
        seen.noted = []
        seen.trace = self.trace
        seen.by = by
        return seen

    def note(
        self,
        method: str,
        result: str,
        *,
        score: float = 0.0,
        reason: str = "",
        **props: str,
    ) -> Finding:
        """Note a fact and return it. Dots in property names are written as two underscores.

        `mail.note("spf", "pass", smtp__mailfrom="example.org")`. Raises ValueError for an unknown result.
        """
        named = {key.replace("__", "."): value for key, value in props.items()}
        finding = Finding(method, result, score, named, reason, self.by)
        self.noted.append(finding)
        return finding

    def finding(self, method: str) -> Finding | None:
        """Return the latest finding of `method`, or None."""
        for finding in reversed(self.findings):
            if finding.method == method:
                return finding
        return None

    @property
    def score(self) -> float:
        """The sum of all scores noted so far."""
        return sum(finding.score for finding in self.findings)
