"""An upstream in pass-through whose mail the queue takes while it can't be reached.

Must not know how the queue stores, nor how the upstream is reached.
"""

from collections.abc import Callable, Sequence

from relayproxy.core.ports import Capabilities, WatchedHop, WatchedTransaction
from relayproxy.model.envelope import Recipient
from relayproxy.model.mail import Mail
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply
from relayproxy.spool.hop import NAME, QueueHop, QueueTransaction
from relayproxy.spool.vouching import vouched


class WhenDownHop:
    """Implements ports.NextHop: the upstream itself, and the queue in its place when it can't be reached."""

    def __init__(self, hop: WatchedHop, queue: QueueHop) -> None:
        self.name = f"{hop.name}{NAME}"
        self.per_recipient = hop.per_recipient
        self._hop = hop
        self._queue = queue

    @property
    def capabilities(self) -> Capabilities | None:
        """What the upstream last said it can take."""
        return self._hop.capabilities

    def begin(self, mail: Mail, size: int) -> "WhenDownTransaction":
        """Start a transaction with the upstream."""
        return WhenDownTransaction(
            self._hop.begin(mail, size), lambda: QueueTransaction(self._queue, mail, later=True), mail
        )


class WhenDownTransaction:
    """Implements ports.Transaction. The queue takes over before anything was said to the upstream, or never.

    Not for mail of unverified strangers: the upstream could not say whether it wants their recipients, and a bounce
    would go to somebody who never wrote. They keep it, and try again.
    """

    def __init__(
        self, upstream: WatchedTransaction, queue: Callable[[], QueueTransaction], mail: Mail
    ) -> None:
        self.per_recipient = upstream.per_recipient
        self._upstream = upstream
        self._open_queue = queue
        self._mail = mail
        self._queue: QueueTransaction | None = None
        self._accepted = 0

    @property
    def queued(self) -> bool:
        """Whether the queue has it."""
        return self._queue is not None

    async def recipients(self, recipients: Sequence[Recipient]) -> list[Reply]:
        """Offer recipients to whoever takes this transaction."""
        if self._queue is None:
            replies = await self._upstream.recipients(recipients)
            if not self._upstream.unreached:
                self._accepted += sum(reply.ok for reply in replies)
                return replies
            self._upstream.abort()
            self._queue = self._open_queue()
        replies = await self._queue.recipients(recipients)
        self._accepted += sum(reply.ok for reply in replies)
        return replies

    async def send(self, lead: bytes, message: Message) -> list[Reply]:
        """Send the content, or store it."""
        if self._queue is None:
            return await self._upstream.send(lead, message)
        if vouched(self._mail):
            replies = await self._queue.send(lead, message)
        else:
            self._queue.abort()
            replies = [Reply(451, "4.4.1", "The next hop can't be reached now, try again later")]
        return replies * (self._accepted if self.per_recipient else 1)

    def abort(self) -> None:
        """End without a message."""
        self._upstream.abort()
        if self._queue is not None:
            self._queue.abort()
