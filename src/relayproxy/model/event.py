"""What happened, as values that a history keeps: one for each message, refusal, TLS connection, and later note.

They hold what was known at that moment and no octets of a message. Must not know how they are kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from relayproxy.model.address import Address
from relayproxy.model.client import Client
from relayproxy.model.envelope import Recipient
from relayproxy.model.finding import Finding
from relayproxy.model.reply import Reply

STAGES = ("connect", "helo", "mail", "rcpt")
"""Where a client can be refused before there is a message."""

NOTES = ("attempt", "bounce", "complaint", "unsubscribe")
"""What may be said of a message after it was taken; `unsubscribe` is of a recipient, and names no message."""

KINDS = ("message", "refused", "tls", *NOTES)
"""What events there are, in the words of a history."""

TLS_RESULTS = (
    "success",
    "starttls-not-supported",
    "certificate-host-mismatch",
    "certificate-expired",
    "certificate-not-trusted",
    "validation-failure",
    "tlsa-invalid",
    "dnssec-invalid",
    "dane-required",
    "sts-policy-fetch-error",
    "sts-policy-invalid",
    "sts-webpki-invalid",
)
"""Success, and the failure types of RFC 8460 section 4.3."""


@dataclass(frozen=True, slots=True)
class MessageEvent:
    """A message whose content arrived, and what its client was told.

    `at` is in seconds since the epoch, `outcome` one of relayed, queued, deferred, rejected, discarded, held and resent.
    `replies` has one reply for all `recipients` (as the client gave them), or one for each. `route` is the
    upstream's name, `seconds` the time from the last octet to the answer, `hook_seconds` that of all hooks
    together. `reason` is the verdict's, for the admin.
    """

    at: float
    id: str
    outcome: str
    client: Client
    direction: str
    sender: Address
    recipients: tuple[Recipient, ...]
    replies: tuple[Reply, ...]
    size: int
    route: str = ""
    reason: str = ""
    seconds: float = 0.0
    hook_seconds: float = 0.0
    findings: tuple[Finding, ...] = ()
    message_id: str = ""


@dataclass(frozen=True, slots=True)
class RefusalEvent:
    """A client that was refused before there was a message, at one of STAGES. `id` is the message's or connection's."""

    at: float
    id: str
    stage: str
    client: Client
    reply: Reply
    sender: Address | None = None
    recipient: Recipient | None = None


@dataclass(frozen=True, slots=True)
class TlsEvent:
    """One outgoing connection on which TLS was wanted, for reports after RFC 8460.

    `domain` is the next hop that was to be reached (by MX, the recipients' domain), `host` and `port` where the connection
    went, `result` one of TLS_RESULTS, `policy` what it was made under: "tlsa", "sts", or the setting ("opportunistic", ...). Of
    a policy file that could not be had, the host is the one that should have had it, and the port 443.
    `policy_strings` are the TLSA records or the lines of the MTA-STS policy that were applied, `mx_patterns` the hosts that
    the latter names (section 4.2 there).
    """

    at: float
    route: str
    domain: str
    host: str
    port: int
    policy: str
    result: str
    version: str = ""
    reason: str = ""
    policy_strings: tuple[str, ...] = ()
    mx_patterns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.result not in TLS_RESULTS:
            raise ValueError(f"{self.result!r} is no result type of RFC 8460")


@dataclass(frozen=True, slots=True)
class NoteEvent:
    """What is learnt of a message later: `kind` is one of NOTES, `id` the message's, `details` go to JSON."""

    at: float
    kind: str
    id: str
    recipient: Address | None = None
    reply: Reply | None = None
    route: str = ""
    details: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in NOTES:
            raise ValueError(f"{self.kind!r} is no kind of note; use one of {', '.join(NOTES)}")


Event: TypeAlias = MessageEvent | RefusalEvent | TlsEvent | NoteEvent
