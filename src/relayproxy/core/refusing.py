"""A refusal before the content: told to the log and to the history.

Must not know why it came to that.
"""

from relayproxy.core.recording import refusal_event
from relayproxy.core.services import Services
from relayproxy.model.client import Client
from relayproxy.model.envelope import Recipient
from relayproxy.model.mail import Mail
from relayproxy.model.reply import Reply
from relayproxy.model.verdict import Verdict


def refused(
    services: Services,
    mail: Mail,
    recipient: Recipient | None,
    reply: Reply,
    verdict: Verdict | None = None,
) -> None:
    """Tell of a refused MAIL (`recipient` None) or RCPT."""
    fields: dict[str, object] = {"from": str(mail.envelope.sender)}
    if recipient is not None:
        fields["to"] = str(recipient.address)
    fields["reply"] = str(reply)
    if verdict is not None and verdict.reason:
        fields["reason"] = verdict.reason
    services.log.info("refused", id=mail.id, ip=mail.client.ip, **fields)
    remembered(services, mail.client, "mail" if recipient is None else "rcpt", reply, mail, recipient)


def remembered(
    services: Services,
    client: Client,
    stage: str,
    reply: Reply,
    mail: Mail | None = None,
    recipient: Recipient | None = None,
) -> None:
    """Tell the history, if there is one, of a refusal at `stage` (connect, helo, mail, rcpt)."""
    if services.history is not None:
        at = services.clock.time()
        services.history.record(refusal_event(client, stage, reply, at=at, mail=mail, recipient=recipient))
