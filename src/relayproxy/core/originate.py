"""Mail that we write ourselves, on its way out: routed, rewritten and signed like any other, then handed on.

There is no client and no verdict; what a report or a bounce says is decided before. Must not know what it says, nor
how the next hop is reached.
"""

from relayproxy.core.entry import Scope
from relayproxy.core.policy import choose_route
from relayproxy.core.services import Services
from relayproxy.model.client import Client
from relayproxy.model.edits import header_line
from relayproxy.model.envelope import Envelope
from relayproxy.model.mail import Direction, Mail, Origin
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply
from relayproxy.model.verdict import Action
from relayproxy.smtp.received import rfc5322_date

_BUDGET = 45.0  # seconds of all hooks together


async def originate(
    services: Services,
    mail_id: str,
    envelope: Envelope,
    message: Message,
    origin: Origin,
) -> Reply:
    """Send a message of ours to the one recipient of `envelope`; return the next hop's final reply, or ours.

    Goes through before_forward, so that it is signed. A fault there is a 451 and nothing is sent. Raises nothing for
    what a next hop does.
    """
    client = Client(mail_id, "", "", helo=services.hostname, proto="ESMTP", trusted=True)
    (recipient,) = envelope.recipients
    route = choose_route(services.routes, client, envelope.sender, recipient.address)
    if route is None:
        return Reply(550, "5.1.2", "No route for this recipient")
    mail = Mail(
        mail_id,
        client,
        envelope,
        message,
        origin=origin,
        direction=Direction.OUTBOUND,
        received_at=services.clock.time(),
    )
    scope = Scope(_BUDGET)
    try:
        _, verdict = await services.pipeline.before_forward(mail, route.upstream, scope)
    finally:
        scope.cancel()
    if verdict is not None and verdict.action is not Action.ACCEPT:
        return verdict.reply or Reply(451, "4.3.0", "A plugin keeps this message from being sent")
    transaction = services.hops[route.upstream].begin(mail, mail.message.size)
    try:
        replies = await transaction.recipients(mail.envelope.recipients)
        refused = [reply for reply in replies if not reply.ok]
        if refused or not replies:
            return refused[0] if refused else Reply(451, "4.3.0", "No recipient is left")
        sent = await transaction.send(_lead(services, mail), mail.message)
    finally:
        transaction.abort()
    return next((reply for reply in sent if not reply.ok), sent[0])


def _lead(services: Services, mail: Mail) -> bytes:
    """Our Received field (RFC 5321 section 4.4): there was no connection, so it has no `from`."""
    when = rfc5322_date(int(mail.received_at))
    return header_line("Received", f"by {services.hostname} (relayproxy) id {mail.id}; {when}")
