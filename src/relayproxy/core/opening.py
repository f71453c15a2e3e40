"""MAIL: whether a client may begin this transaction, and the draft that begins it.

Must not know what the hooks say to it.
"""

from collections.abc import Sequence

from relayproxy.core.draft import Draft
from relayproxy.core.entry import Scope
from relayproxy.core.policy import Relay, address_in, ip_in
from relayproxy.core.services import ListenerServices
from relayproxy.model.client import Client
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.finding import Finding
from relayproxy.model.mail import Direction, Mail
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply
from relayproxy.smtp.commands import Offered, parse_mail

_EMPTY = Message(b"")


def drafted(
    at: ListenerServices,
    client: Client,
    offered: Offered,
    arg: str,
    *,
    number: int,
    scope: Scope,
    findings: tuple[Finding, ...],
) -> Draft | Reply:
    """Return the transaction that this MAIL begins, the session's `number`-th, or the refusal. Raises CommandError."""
    services, limits = at.services, at.policy.limits
    envelope = parse_mail(arg, offered)
    size = envelope.size
    if size:
        if size > min(limits.message_size, offered.size or limits.message_size):
            return Reply(552, "5.3.4", "Message is too big")
        if services.budget.used + size > services.budget.limit:
            return Reply(452, "4.3.1", "Not enough room now, try again later")
    if client.identity and not _owns(at, client, envelope):
        return Reply(553, "5.7.1", "This login may not send from that address")
    mail = Mail(
        f"{client.id}.{number}",
        client,
        envelope,
        _EMPTY,
        direction=direction_of(services.relay, client, ()),
        received_at=services.clock.time(),
        findings=findings,
    )
    return Draft(mail, Scope(limits.message_budget, scope), offered, size, envelope)


def _owns(at: ListenerServices, client: Client, envelope: Envelope) -> bool:
    """Whether the login may send from this address; a login that isn't listed may use any."""
    senders = at.policy.senders
    allowed = senders.get(client.identity, senders.get("*"))
    if allowed is None or not envelope.sender:
        return True
    return address_in(envelope.sender, frozenset(allowed))


def direction_of(relay: Relay, client: Client, recipients: Sequence[Recipient]) -> Direction:
    """Derive the direction from who sends and to whom; before RCPT a trusted client counts as outbound."""
    if not client.trusted:
        return Direction.INBOUND
    if not client.forwarded and not (relay.domains and recipients):
        return Direction.OUTBOUND
    ours = bool(recipients) and all(relay.serves(recipient.address) for recipient in recipients)
    stranger = client.forwarded and not client.identity and not ip_in(client.ip, relay.networks)
    if stranger and (ours or not recipients):
        return Direction.INBOUND
    return Direction.INTERNAL if ours else Direction.OUTBOUND
