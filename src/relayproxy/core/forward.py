"""From the last octet of the content to the client's reply: decide, edit, commit, settle.

The commit is never cancelled by the client's disconnect: once the content may have gone upstream, its answer is
waited for and remembered. Must not know how the next hop is reached.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from relayproxy.core.pipeline import Scope
from relayproxy.core.policy import Route
from relayproxy.core.ports import Transaction
from relayproxy.core.services import ListenerServices
from relayproxy.mailauth.authres import forged, header_value
from relayproxy.model.edits import apply_to_message, header_line
from relayproxy.model.envelope import Recipient
from relayproxy.model.mail import Mail
from relayproxy.model.message import Message
from relayproxy.model.outcome import Outcome, State, outcome_of
from relayproxy.model.reply import Reply
from relayproxy.model.verdict import Action, Verdict, strongest
from relayproxy.smtp.received import count_hops, received_field

Gone: TypeAlias = Callable[[], bool]

_OUTCOME = {State.DONE: "relayed", State.PENDING: "deferred", State.FAILED: "rejected"}


@dataclass(slots=True)
class Draft:
    """An open transaction: the mail so far, the recipients as given and as they went on, the next hop's side."""

    mail: Mail
    scope: Scope
    declared: int = 0
    route: Route | None = None
    transaction: Transaction | None = None
    given: list[Recipient] = field(default_factory=list)
    targets: list[Recipient] = field(default_factory=list)
    refused_temporarily: bool = False

    def drop(self) -> None:
        """End it without a message."""
        self.scope.cancel()
        if self.transaction is not None:
            self.transaction.abort()


@dataclass(slots=True)
class Settled:
    """The replies for the client, and the ledger's token if the message was handed over."""

    replies: list[Reply]
    token: int | None = None


async def forward(at: ListenerServices, draft: Draft, message: Message, gone: Gone) -> Settled:
    """Take one message through its last stages and return what the client is to hear."""
    job = _Job(at, draft, message)
    try:
        return await job.run(gone)
    finally:
        # Whatever happened, the next hop's connection is left usable or closed, and nothing runs on behind.
        draft.drop()


class _Job:
    """One message on its last stages; the steps share what would otherwise be passed through all of them."""

    def __init__(self, at: ListenerServices, draft: Draft, message: Message) -> None:
        self._at = at
        self._services = at.services
        self._draft = draft
        self._received = message
        self._mail = draft.mail
        self._start = at.services.clock.monotonic()
        assert draft.route is not None
        self._route = draft.route.upstream

    async def run(self, gone: Gone) -> Settled:
        mail, services = self._mail, self._services
        mail.message = self._received
        if mail.envelope.recipients != tuple(self._draft.targets):
            mail.envelope = replace(mail.envelope, recipients=tuple(self._draft.targets))
        limits = self._at.policy.limits
        refusal = self._structure(limits.header_bytes, limits.headers, limits.received_hops)
        if refusal is not None:
            return self._end("rejected", refusal)
        known = services.ledger.find(mail.envelope, self._received)
        if known is not None:
            self._at.ledger_hits.inc()
            return self._end("resent", Reply(250, "2.0.0", known))
        verdict: Verdict | None = None
        if services.pipeline.decides_message:
            verdict = await services.pipeline.decide("message", mail, self._draft.scope)
            verdict = strongest((verdict, await services.pipeline.join(mail, self._draft.scope)))
        if verdict is None or verdict.action is Action.ACCEPT:
            verdict, sent = await self._edit_and_send(gone)
            if sent is not None:
                return sent
        assert verdict is not None
        match verdict.action:
            case Action.DISCARD:
                return self._end("discarded", Reply(250, "2.0.0", f"Ok id={mail.id}"), verdict)
            case Action.HOLD:
                reply = Reply(451, "4.3.5", f"Can't hold messages here, try again later id={mail.id}")
                services.log.error("hold_without_store", id=mail.id, reason=verdict.reason)
                return self._end("deferred", reply, verdict)
            case _:
                assert verdict.reply is not None
                outcome = "rejected" if verdict.action is Action.REJECT else "deferred"
                reply = verdict.reply
                return self._end(
                    outcome, Reply(reply.code, reply.status, f"{reply.text} id={mail.id}"), verdict
                )

    def _structure(self, header_bytes: int, headers: int, hops: int) -> Reply | None:
        head = self._received.head
        if (
            len(head) > header_bytes
            or head.count(b"\r\n") > headers * 20
            or (head.count(b"\r\n") > headers and len(self._received.fields) > headers)
        ):
            return Reply(552, "5.3.4", "The header is too big")
        if count_hops(head) > hops:
            return Reply(554, "5.4.6", "Too many hops: this message is in a loop")
        return None

    async def _edit_and_send(self, gone: Gone) -> tuple[Verdict | None, Settled | None]:
        mail, services = self._mail, self._services
        before = mail.envelope
        mail.message = self._without_forgeries()
        if services.pipeline.calls("before_forward"):
            _, verdict = await services.pipeline.before_forward(mail, self._route, self._draft.scope)
            if verdict is not None and verdict.action is not Action.ACCEPT:
                return verdict, None
        if gone():
            # Nothing has gone upstream, and the client will send it again: that it hung up ends it.
            reply = Reply(451, "4.4.2", "The client hung up")
            return None, self._end("deferred", reply)
        if mail.envelope is not before:
            refusal = await self._ask_again()
            if refusal is not None:
                return None, self._end("rejected" if refusal.permanent else "deferred", refusal)
        return None, await self._commit()

    def _without_forgeries(self) -> Message:
        """Remove Authentication-Results that claim to be ours (RFC 8601 section 5), whatever plugins there are."""
        head = self._received.head
        if b"uthentication-" in head or b"UTHENTICATION-" in head:
            return apply_to_message(self._received, forged(self._received, self._services.hostname))
        return self._received

    def _lead(self) -> bytes:
        """The trace fields on top: our results above our Received (RFC 8601 section 4.1)."""
        mail, services = self._mail, self._services
        trace = received_field(
            mail.client,
            by=services.hostname,
            id=mail.id,
            when=mail.received_at,
            smtputf8=mail.envelope.smtputf8,
        )
        results = header_value(services.hostname, mail.findings) if mail.findings else ""
        return header_line("Authentication-Results", results) + trace if results else trace

    async def _ask_again(self) -> Reply | None:
        """The envelope was edited after the next hop heard it: begin anew, all or nothing."""
        draft, mail = self._draft, self._mail
        if draft.transaction is not None:
            draft.transaction.abort()
        if not mail.envelope.recipients:
            return Reply(451, "4.3.0", "No recipient is left")
        hop = self._services.hops[self._route]
        draft.transaction = hop.begin(mail.client, mail.envelope, mail.message.size)
        replies = await draft.transaction.recipients(mail.envelope.recipients)
        refused = [reply for reply in replies if not reply.ok]
        return max(refused, key=lambda reply: reply.temporary) if refused else None

    async def _commit(self) -> Settled:
        mail, services = self._mail, self._services
        transaction = self._draft.transaction
        assert transaction is not None
        sent = services.clock.monotonic()
        replies = await transaction.send(self._lead(), mail.message)
        spent = services.clock.monotonic() - sent
        token: int | None = None
        if all(reply.ok for reply in replies):
            # Only "all done" can be an answer to an identical resend; a mixed LMTP result is each one's own.
            token = services.ledger.enter(mail.envelope, self._received, f"{replies[0].text} id={mail.id}")
        recipients = mail.envelope.recipients
        per_recipient = replies if transaction.per_recipient else replies * len(recipients)
        outcomes = tuple(
            outcome_of(recipient, reply, self._route)
            for recipient, reply in zip(recipients, per_recipient, strict=True)
        )
        cells, timer = self._at.deliveries[self._route]
        states = {outcome.state for outcome in outcomes}
        cells["mixed" if len(states) > 1 else next(iter(states)).value].inc()
        timer.observe(spent)
        answers = [self._worded(reply) for reply in replies]
        settled = self._settle(_OUTCOME[max(states, key=_rank)], answers, outcomes, upstream=str(replies[0]))
        settled.token = token
        if services.pipeline.calls("after_forward"):
            await services.pipeline.after_forward(mail, outcomes)
        return settled

    def _worded(self, reply: Reply) -> Reply:
        """The next hop's reply as the client hears it: its code and words, with our id behind a 250."""
        status = reply.status or f"{reply.code // 100}.0.0"
        if not reply.ok:
            return reply if reply.status else Reply(reply.code, status, reply.text)
        first = reply.text.replace("\n", " ")
        return Reply(250, status, f"{first or 'Ok'} id={self._mail.id}")

    def _end(self, outcome: str, reply: Reply, verdict: Verdict | None = None) -> Settled:
        """Nothing was sent on this time: one reply for everybody."""
        return self._settle(outcome, [reply], (), verdict=verdict)

    def _settle(
        self,
        outcome: str,
        replies: list[Reply],
        outcomes: Sequence[Outcome],
        *,
        upstream: str = "",
        verdict: Verdict | None = None,
    ) -> Settled:
        at, given = self._at, self._draft.given
        at.messages[outcome].inc()
        for one in outcomes:
            at.recipients[one.state.value].inc()
        if outcome == "relayed":
            at.octets.inc(self._received.size)
        self._log(outcome, replies, upstream, verdict)
        if at.policy.protocol == "lmtp":
            # One reply for each recipient as given (RFC 2033 section 4.2), whoever answered.
            spread = replies if len(replies) == len(given) else [replies[0]] * len(given)
            return Settled(spread)
        return Settled(replies[:1])

    def _log(self, outcome: str, replies: Sequence[Reply], upstream: str, verdict: Verdict | None) -> None:
        mail, client = self._mail, self._mail.client
        fields: dict[str, object] = {}
        if client.tls is not None:
            fields["tls"] = client.tls.version
        if client.identity:
            fields["login"] = client.identity
        if upstream:
            fields["upstream"] = self._route
            fields["upstream_reply"] = upstream
        if verdict is not None:
            fields["reason"] = verdict.reason
        if mail.findings:
            fields["findings"] = [f"{finding.method}={finding.result}" for finding in mail.findings]
            fields["score"] = round(mail.score, 3)
        if mail.trace:
            fields["hooks"] = {f"{step.plugin}.{step.hook}": round(step.seconds, 6) for step in mail.trace}
        self._services.log.info(
            "message",
            id=mail.id,
            listener=client.listener,
            ip=client.ip,
            helo=client.helo,
            direction=mail.direction.value,
            **{"from": str(mail.envelope.sender), "to": [str(r.address) for r in self._draft.given]},
            size=self._received.size,
            outcome=outcome,
            reply=str(replies[0]),
            seconds=round(self._services.clock.monotonic() - self._start, 6),
            **fields,
        )


def _rank(state: State) -> int:
    return (State.DONE, State.FAILED, State.PENDING).index(state)
