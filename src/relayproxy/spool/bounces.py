"""What a sender is told about queued mail: who gets a notification, and the deposit that carries it.

A notification is a message like any other: it passes the rewriting hooks, is signed, and is queued, in the transaction
that finishes what it reports. Never one about a message that has no sender; never one to somebody who was not verified.
"""

from collections.abc import Callable, Sequence
from enum import Enum

from relayproxy.api import Clock
from relayproxy.core.entry import Scope
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.pipeline import Pipeline
from relayproxy.model.address import NULL_SENDER
from relayproxy.model.client import Client
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.mail import Direction, Mail, Origin
from relayproxy.model.message import Message
from relayproxy.model.queued import Deposit, Part, Queued
from relayproxy.model.verdict import Action
from relayproxy.smtp.dsn import Fate, Kind, Report, dsn_message, wants

Router = Callable[[Client, Envelope, Sequence[Recipient]], tuple[Part, ...] | None]
"""Client, envelope, recipients: the parts in which they are queued, or None if one has no route."""

_BUDGET = 45.0


class Answer(Enum):
    """Why there is no notification: nobody wants one, nobody may be sent one, or it can't be made just now."""

    UNWANTED = "unwanted"
    UNVERIFIED = "unverified"
    LATER = "later"


class Bounces:
    """Makes notifications. `new_id` gives message ids, `route` says where recipients are queued."""

    def __init__(
        self,
        hostname: str,
        pipeline: Pipeline,
        route: Router,
        new_id: Callable[[], str],
        *,
        clock: Clock,
        log: Log,
        metrics: Metrics,
    ) -> None:
        self._hostname = hostname
        self._pipeline = pipeline
        self._route = route
        self._new_id = new_id
        self._clock = clock
        self._log = log
        self._sent = {kind: metrics.cell("queue_bounces_total", kind) for kind in Kind}

    async def notify(
        self, queued: Queued, kind: Kind, fates: Sequence[Fate], until: float = 0.0
    ) -> Deposit | Answer:
        """Return the notification about these recipients of a message, or why there is none."""
        wanted = tuple(fate for fate in fates if wants(fate.recipient, kind))
        sender = queued.envelope.sender
        if not sender or queued.origin is Origin.DSN:
            if kind is Kind.FAILED:
                self._log.warning("bounce_of_a_bounce", id=queued.id, to=_names(fates))
            return Answer.UNWANTED
        if not wanted:
            return Answer.UNWANTED
        if not queued.vouched:
            return Answer.UNVERIFIED
        return await self._made(queued, kind, wanted, until)

    async def _made(
        self, queued: Queued, kind: Kind, fates: tuple[Fate, ...], until: float
    ) -> Deposit | Answer:
        now, new_id = self._clock.time(), self._new_id()
        report = Report(
            kind,
            self._hostname,
            queued.id,
            queued.envelope,
            queued.message,
            fates,
            queued.received_at,
            now,
            until,
        )
        octets = dsn_message(report, new_id)
        envelope = Envelope(
            NULL_SENDER,
            (Recipient(queued.envelope.sender, ("NEVER",)),),
            "" if octets.isascii() else "8BITMIME",
            # Its own header is ASCII unless it names an international sender.
            queued.envelope.sender.needs_utf8,
            # What was to go over TLS only, goes back over TLS only (RFC 8689 section 5).
            requiretls=queued.envelope.requiretls,
        )
        mail = Mail(
            new_id,
            Client(new_id, "", "", helo=self._hostname, proto="ESMTP", trusted=True),
            envelope,
            Message.from_bytes(octets),
            origin=Origin.DSN,
            direction=Direction.OUTBOUND,
            received_at=now,
        )
        deposit = await self.passed_on(mail)
        if isinstance(deposit, Deposit):
            self._sent[kind].inc()
            self._log.info(
                "notified", id=new_id, about=queued.id, kind=kind, to=[str(queued.envelope.sender)]
            )
        return deposit

    async def passed_on(self, mail: Mail, *, vouched: bool = False) -> Deposit | Answer:
        """Let the rewriting hooks have a mail that did not come over SMTP; return what is to be queued."""
        if self._pipeline.rewrites:
            parts = self._route(mail.client, mail.envelope, mail.envelope.recipients[:1])
            place = parts[0].route if parts else ""
            _, verdict = await self._pipeline.before_forward(mail, place, Scope(_BUDGET))
            if verdict is not None and verdict.action is not Action.ACCEPT:
                self._log.error("rewrite_failed", id=mail.id, reason=verdict.reason)
                return Answer.LATER
        parts = self._route(mail.client, mail.envelope, mail.envelope.recipients)
        if not parts:
            to = [str(recipient.address) for recipient in mail.envelope.recipients]
            self._log.error("no_route", id=mail.id, to=to)
            return Answer.LATER
        now = self._clock.time()
        return Deposit(
            mail.id,
            mail.client,
            mail.envelope,
            b"",
            mail.message,
            parts,
            mail.received_at,
            now,
            mail.origin,
            mail.direction,
            vouched=vouched,
        )


def _names(fates: Sequence[Fate]) -> list[str]:
    return [str(fate.recipient.address) for fate in fates]
