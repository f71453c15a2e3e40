"""Messages that a plugin wants to hold: stored as they arrived, and not tried until a human lets them go.

Must not know why, nor how one is let go.
"""

from relayproxy.mailauth.authres import forged
from relayproxy.model.edits import apply_to_message
from relayproxy.model.mail import Mail
from relayproxy.model.message import Message
from relayproxy.model.queued import Deposit, Standing
from relayproxy.model.reply import Reply
from relayproxy.spool.hop import QueueHop, refusal
from relayproxy.spool.vouching import vouched


class SpoolQuarantine:
    """Implements ports.Quarantine over the queue's store."""

    def __init__(self, queue: QueueHop, hostname: str) -> None:
        self._queue = queue
        self._hostname = hostname

    async def hold(self, mail: Mail, lead: bytes, message: Message, reason: str) -> Reply:
        """See ports.Quarantine."""
        parts = self._queue.parts(mail.client, mail.envelope, mail.envelope.recipients)
        if parts is None:
            return Reply(451, "4.4.4", "No route to hold it for, try again later")
        deposit = Deposit(
            mail.id,
            mail.client,
            mail.envelope,
            lead,
            # What claims to be ours goes now: the release can't tell it from what we wrote.
            apply_to_message(message, forged(message, self._hostname)),
            parts,
            mail.received_at,
            mail.received_at,
            mail.origin,
            mail.direction,
            Standing.HELD,
            reason or "held by a plugin",
            vouched(mail),
            raw=True,
            findings=mail.findings,
        )
        failed = await refusal(self._queue, deposit)
        return failed or Reply(250, "2.0.0", "Ok: held for review")
