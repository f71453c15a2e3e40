"""Asking the next hop, at RCPT, for recipients that the queue would otherwise have to refuse in a bounce (a call-ahead).

A transaction with the null sender that ends behind its RCPTs; what it brought is remembered for a while. Must not know
whose mail it is that is to be verified, nor what follows from it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from relayproxy.api import Clock
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.ports import WatchedHop
from relayproxy.model.address import NULL_SENDER
from relayproxy.model.client import Client
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.mail import Direction, Mail
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply

RESULTS = ("accepted", "refused", "unknown", "remembered")
_REMEMBERED = 20_000
_AT_ONCE = 100  # recipients that every server takes in one transaction (RFC 5321 section 4.5.3.1.8)
_LATE = Reply(451, "4.4.1", "The next hop took too long to verify the recipient")


@dataclass(frozen=True, slots=True)
class Verification:
    """When recipients of a route are verified: `whose` is unverified, always or never.

    `rejects` says that an unverified sender's message to recipients that could not be verified is refused for good and
    not for now. An answer may take `timeout` seconds; a yes holds for `accepted_for` seconds, a no for `refused_for`.
    """

    whose: str = "never"
    rejects: bool = False
    timeout: float = 10.0
    accepted_for: float = 6 * 3600.0
    refused_for: float = 900.0


class Verifier:
    """Asks, and remembers the answers. `hostname` is the name under which it asks."""

    def __init__(self, hostname: str, *, clock: Clock, log: Log, metrics: Metrics) -> None:
        self._client = Client("verify", "", "", helo=hostname, proto="ESMTP", trusted=True)
        self._monotonic = clock.monotonic
        self._log = log
        self._cells = {result: metrics.cell("queue_verifications_total", result) for result in RESULTS}
        self._known: OrderedDict[tuple[str, str], tuple[float, Reply]] = OrderedDict()

    async def ask(
        self, route: str, hop: WatchedHop, rule: Verification, recipients: Sequence[Recipient]
    ) -> list[Reply]:
        """Return what the next hop of `route` says about recipients, all of one destination: 2yz, 5yz, or 4yz.

        4yz is not remembered: it could not be told.
        """
        now = self._monotonic()
        answers: dict[str, Reply] = {}
        for recipient in recipients:
            key = recipient.address.key
            known = self._known.get((route, key))
            if known is not None and known[0] > now:
                self._cells["remembered"].inc()
                answers[key] = known[1]
        unknown = list({r.address.key: r for r in recipients if r.address.key not in answers}.values())
        for recipient, reply in zip(unknown, await self._probe(hop, rule, unknown), strict=True):
            key = recipient.address.key
            answers[key] = reply
            result = "accepted" if reply.ok else "refused" if reply.permanent else "unknown"
            self._cells[result].inc()
            if result != "unknown":
                self._remember((route, key), rule.accepted_for if reply.ok else rule.refused_for, reply)
            else:
                self._log.info(
                    "recipient_not_verified", route=route, to=str(recipient.address), reply=str(reply)
                )
        return [answers[recipient.address.key] for recipient in recipients]

    def _remember(self, key: tuple[str, str], seconds: float, reply: Reply) -> None:
        self._known[key] = (self._monotonic() + seconds, reply)
        self._known.move_to_end(key)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    async def _probe(
        self, hop: WatchedHop, rule: Verification, recipients: Sequence[Recipient]
    ) -> list[Reply]:
        replies: list[Reply] = []
        try:
            async with asyncio.timeout(rule.timeout):
                for start in range(0, len(recipients), _AT_ONCE):
                    replies += await self._asked(hop, recipients[start : start + _AT_ONCE])
        except TimeoutError:
            replies += [_LATE] * (len(recipients) - len(replies))
        return replies

    async def _asked(self, hop: WatchedHop, recipients: Sequence[Recipient]) -> list[Reply]:
        # Options of DSN are left out: nothing is sent, so nothing is to be reported.
        asked = [Recipient(recipient.address) for recipient in recipients]
        utf8 = any(recipient.address.needs_utf8 for recipient in asked)
        envelope = Envelope(NULL_SENDER, tuple(asked), smtputf8=utf8)
        mail = Mail("verify", self._client, envelope, Message(b""), direction=Direction.OUTBOUND)
        transaction = hop.begin(mail, 0)
        try:
            return [_lasting(reply) for reply in await transaction.recipients(asked)]
        finally:
            transaction.abort()


def _lasting(reply: Reply) -> Reply:
    """552 to RCPT means too many of them, which doesn't last (RFC 5321 section 4.5.3.1.10)."""
    return Reply(452, "4.5.3", reply.text) if reply.code == 552 and reply.status in ("", "5.5.3") else reply
