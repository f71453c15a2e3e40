"""What the history is told: a message that has its answer, a client that was refused.

Takes what the core has at hand and makes the value that a history keeps. Called only where there is a history. Must
not know how it is kept, and never fails a message.
"""

import re
from collections.abc import Sequence

from relayproxy.model.client import Client
from relayproxy.model.envelope import Recipient
from relayproxy.model.event import MessageEvent, RefusalEvent
from relayproxy.model.mail import Mail
from relayproxy.model.reply import Reply

_NAME = b"message-id"
_VALUE = re.compile(rb"[ \t]*:\s*([^\s]{1,998})")


def message_event(
    mail: Mail,
    given: Sequence[Recipient],
    outcome: str,
    replies: Sequence[Reply],
    *,
    at: float,
    size: int,
    seconds: float = 0.0,
    route: str = "",
    reason: str = "",
) -> MessageEvent:
    """Return the event of a message whose client is about to hear `replies` (one for all `given`, or one for each)."""
    return MessageEvent(
        at,
        mail.id,
        outcome,
        mail.client,
        mail.direction,
        mail.envelope.sender,
        tuple(given),
        tuple(replies),
        size,
        route,
        reason,
        seconds,
        sum(step.seconds for step in mail.trace),
        mail.findings,
        message_id(mail.message.head),
    )


def message_id(head: bytes) -> str:
    """Return the Message-ID of a header block with its brackets, or ""; not worth an index of all fields."""
    lowered = head.lower()
    place = 0 if lowered.startswith(_NAME) else lowered.find(b"\n" + _NAME) + 1
    if not place and not lowered.startswith(_NAME):
        return ""
    found = _VALUE.match(head, place + len(_NAME))
    return found[1].decode("utf-8", "replace") if found else ""


def refusal_event(
    client: Client,
    stage: str,
    reply: Reply,
    *,
    at: float,
    mail: Mail | None = None,
    recipient: Recipient | None = None,
) -> RefusalEvent:
    """Return the event of a refusal; `mail` is there from MAIL on."""
    if mail is None:
        return RefusalEvent(at, client.id, stage, client, reply)
    return RefusalEvent(at, mail.id, stage, client, reply, mail.envelope.sender, recipient)
