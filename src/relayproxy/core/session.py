"""A conversation without a socket: commands in, replies out.

The SMTP listener, the LMTP listener, `relayproxy test` and most tests drive the same object. It holds the state of
one client (RFC 5321 section 4.1.4) and says what may come when. What a command means is in core/introduction.py (all
before MAIL), opening.py (MAIL), recipients.py (RCPT) and forward.py (the content). Must not know how octets arrive.
"""

from collections.abc import Coroutine, Sequence

from relayproxy.core.draft import Draft
from relayproxy.core.forward import Gone, forward
from relayproxy.core.introduction import Introduction
from relayproxy.core.opening import direction_of, drafted
from relayproxy.core.recipients import answers
from relayproxy.core.recording import message_event
from relayproxy.core.refusing import refused
from relayproxy.core.services import ListenerServices, Totals
from relayproxy.model.client import Client, SessionTotals
from relayproxy.model.edits import apply_to_envelope
from relayproxy.model.mail import Mail
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply
from relayproxy.smtp.commands import CommandError

_OK_MAIL = Reply(250, "2.1.0", "Sender ok")
_HELLO_FIRST = Reply(503, "5.5.1", "Say hello first")
_TLS_FIRST = Reply(530, "5.7.0", "Must issue a STARTTLS command first")


class Session(Introduction):
    """One client's conversation: who it is (core/introduction.py), and its transactions."""

    def __init__(self, at: ListenerServices, client: Client) -> None:
        super().__init__(at, client)
        self.unconfirmed: int | None = None
        self._report: Coroutine[object, object, None] | None = None
        self._delivering: Draft | None = None
        self._draft: Draft | None = None
        self._count = 0
        self.totals = Totals(started=at.services.clock.monotonic())

    def _may_mail(self) -> Reply | None:
        """Whether a transaction may begin (None), or the refusal."""
        policy = self._policy
        if not self._said_hello:
            return _HELLO_FIRST
        if self._draft is not None:
            return Reply(503, "5.5.1", "Sender already given")
        if policy.tls_required and self.client.tls is None:
            return _TLS_FIRST
        if policy.auth_required and not self.client.identity:
            return Reply(530, "5.7.0", "Authentication required")
        if self._services.draining or self._count >= policy.limits.messages_per_connection:
            self.closing = True
            if self._services.draining:
                return Reply(421, "4.3.2", "Shutting down, try again soon")
            return Reply(421, "4.7.0", "Too many messages on this connection")
        return None

    async def mail(self, arg: str) -> Reply:
        """MAIL: begin a transaction."""
        draft = self._drafted(arg)
        if isinstance(draft, Reply):
            return draft
        mail, scope = draft.mail, draft.scope
        pipeline = self._services.pipeline
        refusal = verdict = None
        self._begin_queries(draft)
        if pipeline.asks_mail:
            verdict = await pipeline.decide("mail", mail, scope)
            refusal = verdict.reply if verdict is not None else None
        if refusal is None and pipeline.rewrites_envelope:
            edits, verdict = await pipeline.rewritten(mail, None, scope)
            refusal = verdict.reply if verdict is not None else None
            mail.envelope = apply_to_envelope(mail.envelope, edits)
            draft.base = mail.envelope
        if refusal is not None:
            scope.cancel()
            refused(self._services, mail, None, refusal, verdict)
            self.closing = self.closing or refusal.code == 421
            return refusal
        self._draft = draft
        return _OK_MAIL

    def _begin_queries(self, draft: Draft) -> None:
        """Count the DNS questions of this message, in the task that its hooks are asked in."""
        if not draft.counts_queries and self._services.pipeline.entries:
            self._services.begin_queries()
            draft.counts_queries = True

    def mail_at_once(self, arg: str) -> Reply | None:
        """As `mail`, where no hook is asked; None (and nothing done) where one may be."""
        pipeline = self._services.pipeline
        if pipeline.asks_mail or pipeline.rewrites_envelope:
            return None
        draft = self._drafted(arg)
        if isinstance(draft, Reply):
            return draft
        self._draft = draft
        return _OK_MAIL

    def _drafted(self, arg: str) -> Draft | Reply:
        """Our own opinion of one MAIL: the transaction to be, or the refusal."""
        refusal = self._may_mail()
        if refusal is not None:
            return refusal
        try:
            draft = drafted(
                self._at,
                self.client,
                self._offered,
                arg,
                number=self._count + 1,
                scope=self._scope,
                findings=self._findings,
            )
        except CommandError as error:
            return error.reply
        if isinstance(draft, Draft):
            self._count += 1
        return draft

    async def rcpt(self, args: Sequence[str]) -> list[Reply]:
        """RCPT, for all that a pipelining client has sent at once; a reply to each, in order."""
        draft = self._draft
        if draft is None:
            return [Reply(503, "5.5.1", "Need MAIL first")] * len(args)
        self._begin_queries(draft)
        replies = await answers(self._at, draft, args)
        for reply in replies:
            if not reply.ok:
                draft.refused_temporarily = draft.refused_temporarily or reply.temporary
                self.closing = self.closing or reply.code == 421
                self._at.recipients["refused"].inc()
        return replies

    def may_send_data(self) -> Reply | None:
        """Whether the content may come now (None), or the refusal of DATA."""
        draft = self._draft
        if draft is None:
            return Reply(503, "5.5.1", "Need MAIL and RCPT first")
        if not draft.given:
            if draft.refused_temporarily:
                return Reply(451, "4.5.1", "No valid recipients yet, try again later")
            return Reply(554, "5.5.1", "No valid recipients")
        return None

    @property
    def reply_count(self) -> int:
        """How many replies the content will get: one, or one for each recipient (LMTP)."""
        if self._policy.protocol == "lmtp" and self._draft is not None:
            return len(self._draft.given)
        return 1

    async def deliver(self, message: Message, *, gone: Gone) -> list[Reply]:
        """The content has arrived whole: decide, forward, and return the replies. Ends the transaction.

        `gone()` tells whether the client has hung up; before anything went upstream that ends it.
        """
        draft, self._draft = self._draft, None
        assert draft is not None
        draft.mail.direction = direction_of(self._services.relay, self.client, draft.given)
        self.totals.messages += 1
        self.totals.recipients += len(draft.given)
        self.totals.octets += message.size
        self._delivering = draft
        try:
            settled = await forward(self._at, draft, message, gone)
            self._report = settled.report
        finally:
            if self._report is None:
                self._delivering = None
        self.unconfirmed = settled.token
        if any(reply.code == 421 for reply in settled.replies):
            self.closing = True
        return settled.replies

    @property
    def has_report(self) -> bool:
        """Whether `reported` is due."""
        return self._report is not None

    async def reported(self) -> None:
        """Tell the report hooks of the last message; call it when the client has its answer."""
        report, self._report = self._report, None
        if report is not None:
            await report
        self._delivering = None

    @property
    def must_finish(self) -> bool:
        """Whether content may have gone upstream and its answer or report is still due: not to be cancelled."""
        return self._delivering is not None and self._delivering.committing

    def refuse_content(self, reply: Reply, octets: int) -> list[Reply]:
        """The content can't be taken (too big, bare newlines, no room): end the transaction, nothing was sent."""
        draft, count = self._draft, self.reply_count
        self.reset()
        if draft is not None:
            outcome = "rejected" if reply.permanent else "deferred"
            self._at.messages[outcome].inc()
            self._services.log.info(
                "message",
                id=draft.mail.id,
                ip=self.client.ip,
                **{"from": str(draft.mail.envelope.sender), "to": [str(r.address) for r in draft.given]},
                size=octets,
                outcome=outcome,
                reply=str(reply),
            )
            if self._services.history is not None:
                at = self._services.clock.time()
                event = message_event(draft.mail, draft.given, outcome, [reply], at=at, size=octets)
                self._services.history.record(event)
        return [reply] * count

    def confirm(self) -> None:
        """The client has spoken again after our final reply: it knows, so the ledger may forget."""
        if self.unconfirmed is not None:
            self._services.ledger.settle(self.unconfirmed)
            self.unconfirmed = None

    def reset(self) -> None:
        """RSET, EHLO, the end: drop the transaction, here and at the next hop."""
        draft, self._draft = self._draft, None
        if draft is not None:
            draft.drop()

    async def close(self) -> None:
        """The connection has ended: tell the report hooks."""
        self.reset()
        self._scope.cancel()
        self._connect_scope.cancel()
        if self._services.pipeline.calls("session_closed"):
            totals = self.totals
            await self._services.pipeline.session_closed(
                self.client,
                SessionTotals(
                    totals.messages,
                    totals.recipients,
                    totals.octets,
                    self._services.clock.monotonic() - totals.started,
                ),
            )

    @property
    def mail_in_progress(self) -> Mail | None:
        """The mail of the open transaction, or None."""
        return self._draft.mail if self._draft is not None else None

    @property
    def in_transaction(self) -> bool:
        """Whether MAIL has been accepted and the transaction is open."""
        return self._draft is not None
