"""From the last octet of the content to the client's reply: decide, edit, commit, settle.

The commit is never cancelled by the client's disconnect: once the content may have gone upstream, its answer is
waited for and remembered. Must not know how the next hop is reached.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TypeAlias

from relayproxy.core.draft import NOWHERE, Draft
from relayproxy.core.ledger import quick_key
from relayproxy.core.policy import route_for
from relayproxy.core.recipients import no_such_route
from relayproxy.core.recording import message_event
from relayproxy.core.services import ListenerServices
from relayproxy.mailauth.authres import forged, header_value
from relayproxy.model.address import NULL_SENDER
from relayproxy.model.edits import apply_to_message, header_line
from relayproxy.model.finding import Finding
from relayproxy.model.message import Message
from relayproxy.model.outcome import Outcome, State, outcome_of, state_of
from relayproxy.model.queued import QUEUE
from relayproxy.model.reply import Reply
from relayproxy.model.verdict import Action, Verdict, strongest
from relayproxy.smtp.received import count_hops, received_field

Gone: TypeAlias = Callable[[], bool]

_ORDER = (State.DONE, State.FAILED, State.PENDING)
_OUTCOME = {State.DONE: "relayed", State.PENDING: "deferred", State.FAILED: "rejected"}
_TAKEN = ("relayed", "queued")


@dataclass(slots=True)
class Settled:
    """The replies for the client, the ledger's token if the message was handed over, and the report that is due."""

    replies: list[Reply]
    token: int | None = None
    report: Coroutine[object, object, None] | None = None


def _shown(finding: Finding) -> str:
    """A finding in a word: what hit, if that has a name of its own, as in `rule:no-big-mail`; else the result."""
    name = finding.props.get("id") if finding.result == "hit" else None
    return f"{finding.method}:{name}" if name else f"{finding.method}={finding.result}"


async def forward(at: ListenerServices, draft: Draft, message: Message, gone: Gone) -> Settled:
    """Take one message through its last stages and return what the client is to hear."""
    job = _Job(at, draft, message)
    try:
        settled = await job.run(gone)
    except asyncio.CancelledError:
        job.abandon()
        raise
    finally:
        # Whatever happened, the next hop's connection is left usable or closed, and nothing runs on behind.
        draft.drop()
    if at.services.pipeline.reports and job.report:
        settled.report = at.services.pipeline.after_forward(draft.mail, job.report)
    return settled


class _Job:
    """One message on its last stages; the steps share what would otherwise be passed through all of them."""

    __slots__ = ("_at", "_draft", "_key", "_mail", "_received", "_route", "_services", "_start", "report")

    def __init__(self, at: ListenerServices, draft: Draft, message: Message) -> None:
        self._at = at
        self._services = at.services
        self._draft = draft
        self._received = message
        self._mail = draft.mail
        self._start = at.services.clock.monotonic()
        self._route = draft.route.upstream if draft.route is not None else ""
        self.report: tuple[Outcome, ...] = ()

    async def run(self, gone: Gone) -> Settled:
        mail, services, received = self._mail, self._services, self._received
        pipeline = services.pipeline
        mail.message = received
        # If it is discarded for all, the hooks see whom it was for; nobody else does.
        mail.envelope = mail.envelope.to(tuple(self._draft.targets or self._draft.given))
        limits = self._at.policy.limits
        head = received.head.lower()
        refusal = self._structure(head, limits.header_bytes, limits.headers, limits.received_hops)
        if refusal is not None:
            return self._end("rejected", refusal)
        self._key = quick_key(mail.envelope, received.size)
        known = services.ledger.find(self._key, received)
        if known is not None:
            self._at.ledger_hits.inc()
            settled = self._end("resent", Reply(250, "2.0.0", known[0]))
            settled.token = known[1]
            return settled
        verdict: Verdict | None = None
        if pipeline.decides_message:
            verdict = strongest((await pipeline.judge(mail, self._draft.scope), self._draft.fate))
            if verdict is not None and verdict.action is Action.HOLD and not self._draft.targets:
                # Nobody is left whom a human could let it go to.
                verdict = self._draft.discarded
        if verdict is None or verdict.action is Action.ACCEPT:
            envelope = mail.envelope
            if b"authentication-results" in head or b"received-spf" in head or b"bimi-" in head:
                # What claims to be ours goes (RFC 8601 section 5), whatever plugins there are.
                mail.message = apply_to_message(received, forged(received, services.hostname))
            if pipeline.rewrites:
                _, verdict = await pipeline.before_forward(mail, self._route, self._draft.scope)
            if verdict is None or verdict.action is Action.ACCEPT:
                return await self._commit(gone, asked_again=mail.envelope is not envelope)
        if verdict.action is Action.HOLD and services.quarantine is not None:
            reply = await services.quarantine.hold(mail, self._lead(), received, verdict.reason)
            told = Reply(reply.code, reply.status, f"{reply.text} id={mail.id}")
            return self._end("held" if reply.ok else "deferred", told, verdict)
        return self._obey(verdict)

    def abandon(self) -> None:
        """The client has hung up and the hooks were cancelled: nothing has gone upstream, and the log says so."""
        if not self._draft.committing:
            self._end("deferred", Reply(451, "4.4.2", "The client hung up"))

    def _structure(self, head: bytes, header_bytes: int, headers: int, hops: int) -> Reply | None:
        lines = head.count(b"\r\n")
        if (
            len(head) > header_bytes
            or lines > headers * 20
            or (lines > headers and len(self._received.fields) > headers)
        ):
            return Reply(552, "5.3.4", "The header is too big")
        if count_hops(head) > hops:
            return Reply(554, "5.4.6", "Too many hops: this message is in a loop")
        return None

    def _obey(self, verdict: Verdict) -> Settled:
        """Nothing goes upstream: say what the verdict says."""
        match verdict.action:
            case Action.DISCARD:
                return self._end("discarded", self._discarded(), verdict)
            case Action.HOLD:
                reply = Reply(451, "4.3.5", f"Can't hold messages here, try again later id={self._mail.id}")
                self._services.log.error("hold_without_store", id=self._mail.id, reason=verdict.reason)
                return self._end("deferred", reply, verdict)
            case _:
                given = verdict.reply
                assert given is not None
                reply = Reply(given.code, given.status, f"{given.text} id={self._mail.id}")
                if verdict.action is not Action.REJECT:
                    return self._end("deferred", reply, verdict)
                if self._services.pipeline.reports:
                    # Nobody will try again, so this is what became of it, and reports are of that.
                    self.report = tuple(
                        outcome_of(recipient, reply, self._route)
                        for recipient in self._mail.envelope.recipients
                    )
                return self._end("rejected", reply, verdict)

    async def _commit(self, gone: Gone, *, asked_again: bool) -> Settled:
        """Send it on, wait for the answer, remember it."""
        mail, services = self._mail, self._services
        if gone():
            # Nothing has gone upstream, and the client will send it again: that it hung up ends it.
            return self._end("deferred", Reply(451, "4.4.2", "The client hung up"))
        if asked_again:
            refusal = await self._ask_again()
            if refusal is not None:
                return self._end("rejected" if refusal.permanent else "deferred", refusal)
        transaction = self._draft.transaction
        assert transaction is not None
        sent = services.clock.monotonic()
        self._draft.committing = True
        replies = await transaction.send(self._lead(), mail.message)
        spent = services.clock.monotonic() - sent
        told = replies
        if transaction.per_recipient:
            if asked_again:
                # Who became whom is no longer known: the worst answer is everybody's.
                told = [max(replies, key=lambda reply: (reply.temporary, reply.code))]
            else:
                told = [replies[place] for place in self._draft.places if place != NOWHERE]
        reply = told[0]
        state = state_of(reply)
        mixed = False
        if len(told) > 1:
            states = {state_of(reply) for reply in told}
            mixed = len(states) > 1
            state = max(states, key=_ORDER.index)
        count = len(mail.envelope.recipients)
        if transaction.per_recipient:
            for one in replies:
                self._at.recipients[state_of(one).value].inc()
        else:
            self._at.recipients[state.value].inc(count)
        if services.pipeline.reports:
            each = replies if transaction.per_recipient else replies * count
            # The queue may have taken what the upstream could not be offered.
            taker = QUEUE if transaction.queued else self._route
            self.report = tuple(map(outcome_of, mail.envelope.recipients, each, repeat(taker)))
        cells, timer = self._at.deliveries[self._route]
        cells["mixed" if mixed else state.value].inc()
        timer.observe(spent)
        outcome = "queued" if state is State.DONE and transaction.queued else _OUTCOME[state]
        settled = self._settle(outcome, [self._worded(reply) for reply in told], str(reply))
        if state is State.DONE:
            # Only "all done" can be an answer to an identical resend; a mixed LMTP result is each one's own.
            settled.token = services.ledger.enter(self._key, self._received, f"{reply.text} id={mail.id}")
        return settled

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
        if mail.envelope.route:
            route = route_for(self._services.routes, mail.client, mail.envelope, NULL_SENDER)
            if route is None:
                return no_such_route(self._services, mail)
            self._route = route.upstream
        hop = self._services.hops[self._route]
        draft.transaction = hop.begin(mail, mail.message.size)
        replies = await draft.transaction.recipients(mail.envelope.recipients)
        refused = [reply for reply in replies if not reply.ok]
        return max(refused, key=lambda reply: reply.temporary) if refused else None

    def _worded(self, reply: Reply) -> Reply:
        """The next hop's reply as the client hears it: its code and words, with our id behind a 250."""
        if not reply.ok:
            return reply if reply.status else Reply(reply.code, f"{reply.code // 100}.0.0", reply.text)
        first = reply.text.replace("\n", " ")
        return Reply(250, reply.status or "2.0.0", f"{first or 'Ok'} id={self._mail.id}")

    def _end(self, outcome: str, reply: Reply, verdict: Verdict | None = None) -> Settled:
        """Nothing was sent on this time: one reply for everybody."""
        return self._settle(outcome, [reply], verdict=verdict)

    def _settle(
        self, outcome: str, replies: list[Reply], upstream: str = "", verdict: Verdict | None = None
    ) -> Settled:
        at = self._at
        at.messages[outcome].inc()
        if outcome in _TAKEN:
            at.octets.inc(self._received.size)
        self._log(outcome, replies, upstream, verdict)
        if self._services.history is not None:
            self._record(outcome, replies, upstream, verdict)
        if at.policy.protocol == "lmtp":
            return Settled(self._each(replies))
        return Settled(replies[:1])

    def _each(self, replies: list[Reply]) -> list[Reply]:
        """One reply for each recipient as given (RFC 2033 section 4.2), whoever answered."""
        draft = self._draft
        given, addressed = draft.given, draft.addressed
        if len(replies) != len(addressed):
            replies = [replies[0]] * len(addressed)
        if len(addressed) == len(given):
            return replies
        coming = iter(replies)
        return [next(coming) if place != NOWHERE else self._discarded() for place in draft.places]

    def _discarded(self) -> Reply:
        return Reply(250, "2.0.0", f"Ok id={self._mail.id}")

    def _record(self, outcome: str, replies: Sequence[Reply], upstream: str, verdict: Verdict | None) -> None:
        services = self._services
        assert services.history is not None
        services.history.record(
            message_event(
                self._mail,
                self._draft.addressed,
                outcome,
                replies,
                at=services.clock.time(),
                size=self._received.size,
                seconds=services.clock.monotonic() - self._start,
                route=self._route if upstream else "",
                reason=verdict.reason if verdict is not None else "",
            )
        )

    def _log(self, outcome: str, replies: Sequence[Reply], upstream: str, verdict: Verdict | None) -> None:
        mail, client = self._mail, self._mail.client
        fields: dict[str, object] = {
            "time": "",
            "level": "info",
            "event": "message",
            "id": mail.id,
            "listener": client.listener,
            "ip": client.ip,
            "helo": client.helo,
            "direction": mail.direction,
            "from": str(mail.envelope.sender),
            "to": [str(recipient.address) for recipient in self._draft.addressed],
            "size": self._received.size,
            "outcome": outcome,
            "reply": str(replies[0]),
            "seconds": round(self._services.clock.monotonic() - self._start, 6),
        }
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
            fields["findings"] = [_shown(finding) for finding in mail.findings]
            fields["score"] = round(mail.score, 3)
        if mail.trace:
            fields["hooks"] = {f"{step.plugin}.{step.hook}": round(step.seconds, 6) for step in mail.trace}
        self._services.log.event(fields)
