"""A conversation without a socket: commands in, replies out.

The SMTP listener, the LMTP listener, `relayproxy test` and most tests drive the same object. It holds the state of
one client (RFC 5321 section 4.1.4), asks the hooks, and asks the next hop about every recipient. What happens to the
content is in core/forward.py. Must not know how octets arrive.
"""

from collections.abc import Coroutine, Sequence
from dataclasses import replace
from ipaddress import ip_address

from relayproxy.core.entry import Scope
from relayproxy.core.forward import Draft, Gone, forward, no_such_route
from relayproxy.core.policy import address_in, ip_in, route_for
from relayproxy.core.ports import Transaction
from relayproxy.core.recording import message_event, refusal_event
from relayproxy.core.services import ListenerServices, Totals
from relayproxy.model.client import Client, Credentials, SessionTotals, TlsInfo
from relayproxy.model.edits import apply_to_envelope
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.finding import Finding
from relayproxy.model.mail import Direction, Mail
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply
from relayproxy.model.verdict import Action, Verdict
from relayproxy.smtp.commands import CommandError, Offered, parse_mail, parse_rcpt
from relayproxy.smtp.xclient import (
    XCLIENT_NAMES,
    XFORWARD_NAMES,
    address_attribute,
    parse_attributes,
)

_OK_MAIL = Reply(250, "2.1.0", "Sender ok")
_OK_RCPT = "2.1.5"
_EMPTY = Message(b"")
_HELLO_FIRST = Reply(503, "5.5.1", "Say hello first")
_TLS_FIRST = Reply(530, "5.7.0", "Must issue a STARTTLS command first")
_ALL_EXTENSIONS = frozenset({"8BITMIME", "SMTPUTF8", "DSN"})


class Session:
    """One client's conversation. `closing` tells the server to close after the reply that was returned."""

    def __init__(self, at: ListenerServices, client: Client) -> None:
        self._at = at
        self._services = at.services
        self._policy = at.policy
        self._base = client
        self.client = client
        self.closing = False
        self.unconfirmed: int | None = None
        self._report: Coroutine[object, object, None] | None = None
        self._delivering: Draft | None = None
        self._said_hello = False
        self._offered = Offered()
        self._connect_findings: tuple[Finding, ...] = ()
        self._findings: tuple[Finding, ...] = ()
        self._connect_scope = Scope()
        self._scope = self._connect_scope
        self._draft: Draft | None = None
        self._count = 0
        self._auth_failures = 0
        self.totals = Totals(started=at.services.clock.monotonic())

    # -- beginning ------------------------------------------------------------------------------------------

    async def greet(self) -> Reply:
        """Return the banner, or the refusal in its place."""
        self._judge_trust()
        if self._services.pipeline.calls("connect"):
            verdict, self._connect_findings = await self._services.pipeline.decide_client(
                "connect", self.client, self._connect_scope
            )
            self._findings = self._connect_findings
            if verdict is not None and verdict.reply is not None:
                self.closing = True
                code = 554 if verdict.action is Action.REJECT else 421
                reply = Reply(code, verdict.reply.status, verdict.reply.text)
                self._record_refusal("connect", reply)
                return reply
        return self._at.banner

    def _judge_trust(self) -> None:
        """Relay authorisation is decided here and nowhere else: by network, or by login."""
        trusted = bool(self.client.identity) or self._at.trusts(self.client.ip)
        if trusted != self.client.trusted:
            self.client = replace(self.client, trusted=trusted)

    async def hello(self, verb: str, name: str) -> Reply:
        """EHLO, HELO or LHLO: ends a transaction, and says what is offered."""
        client = self._named(verb, name)
        if isinstance(client, Reply):
            return client
        if self._services.pipeline.calls("helo"):
            scope = Scope(parent=self._connect_scope)
            verdict, notes = await self._services.pipeline.decide_client("helo", client, scope, name=name)
            if verdict is not None and verdict.reply is not None:
                # A refused greeting changes nothing (RFC 5321 section 4.1.4).
                scope.cancel()
                self._record_refusal("helo", verdict.reply)
                return verdict.reply
            self._forget_hello()
            self._scope = scope
            self._findings += notes
        return self._welcomed(verb, client)

    def hello_at_once(self, verb: str, name: str) -> Reply | None:
        """As `hello`, where no hook is asked; None (and nothing done) where one is."""
        if self._services.pipeline.calls("helo"):
            return None
        client = self._named(verb, name)
        return client if isinstance(client, Reply) else self._welcomed(verb, client)

    def _named(self, verb: str, name: str) -> Client | Reply:
        """The client under the name that it gives itself, or the refusal."""
        lmtp = self._policy.protocol == "lmtp"
        if lmtp != (verb == "LHLO"):
            return Reply(500, "5.5.1", f"This is {'LMTP: say LHLO' if lmtp else 'SMTP: say EHLO'}")
        if not name or len(name) > 255 or not name.isprintable() or " " in name:
            return Reply(501, "5.5.4", f"Syntax: {verb} hostname")
        proto = "LMTP" if lmtp else "ESMTP" if verb == "EHLO" else "SMTP"
        return self.client.greeted(self.client.helo if self.client.forwarded else name, proto)

    def _welcomed(self, verb: str, client: Client) -> Reply:
        """Begin anew with a client that has given its name, and say what is offered."""
        self.reset()
        self.client = client
        self._said_hello = True
        if verb == "HELO":
            self._offered = Offered(0, eightbit=False, smtputf8=False, dsn=False, auth=False)
            return Reply(250, "", self._services.hostname)
        known, size = self._at.capabilities()
        tls = self.client.tls is not None
        key = (known, size, tls, self.allows_xclient, self.allows_xforward)
        if key not in self._at.greetings:
            self._at.greetings[key] = self._greeting(known, size, tls=tls)
        self._offered, reply = self._at.greetings[key]
        return reply

    def _greeting(self, known: frozenset[str] | None, size: int, *, tls: bool) -> tuple[Offered, Reply]:
        """What is offered now: ours, less what the next hops can't take (docs/specifications has the rules)."""
        policy, limits = self._policy, self._policy.limits
        theirs = _ALL_EXTENSIONS if known is None else known
        size = min(size, limits.message_size) if size else limits.message_size
        may_auth = bool(policy.auth_mechanisms) and (tls or not policy.auth_require_tls)
        requiretls = known is not None and "REQUIRETLS" in known and tls
        offered = Offered(
            size,
            eightbit="8BITMIME" in theirs,
            smtputf8="SMTPUTF8" in theirs,
            dsn="DSN" in theirs,
            auth=may_auth,
            requiretls=requiretls,
        )
        lines = ["PIPELINING", f"SIZE {size}", "ENHANCEDSTATUSCODES", "CHUNKING"]
        lines += [name for name in ("8BITMIME", "SMTPUTF8", "DSN") if name in theirs]
        lines.append(f"LIMITS RCPTMAX={limits.recipients} MAILMAX={limits.messages_per_connection}")
        if policy.starttls and not tls:
            lines.append("STARTTLS")
        if may_auth:
            lines.append("AUTH " + " ".join(policy.auth_mechanisms))
        if requiretls:
            lines.append("REQUIRETLS")
        if self.allows_xclient:
            lines.append("XCLIENT " + " ".join(XCLIENT_NAMES))
        if self.allows_xforward:
            lines.append("XFORWARD " + " ".join(XFORWARD_NAMES))
        return offered, Reply(250, "", "\n".join((self._services.hostname, *lines)))

    def _forget_hello(self) -> None:
        """Drop what the hooks noted and still do about the last greeting."""
        self.reset()
        if self._scope is not self._connect_scope:
            self._scope.cancel()
            self._scope = self._connect_scope
        self._findings = self._connect_findings
        self._said_hello = False

    def secured(self, tls: TlsInfo) -> None:
        """TLS has begun: everything said before it is forgotten (RFC 3207 section 4.2)."""
        self._forget_hello()
        self.client = replace(
            self._base, tls=tls, ptr=self.client.ptr if self.client.ip == self._base.ip else ""
        )
        self._judge_trust()

    def ready_for_tls(self, arg: str) -> Reply | None:
        """Whether STARTTLS may go ahead (None), or the refusal."""
        if not self._policy.starttls:
            return Reply(502, "5.5.1", "TLS is not available here")
        if self.client.tls is not None:
            return Reply(503, "5.5.1", "TLS is already on")
        if arg:
            return Reply(501, "5.5.4", "STARTTLS takes no argument")
        if self._draft is not None:
            return Reply(503, "5.5.1", "Not during a mail transaction")
        return None

    # -- who is it, really ----------------------------------------------------------------------------------

    @property
    def allows_xclient(self) -> bool:
        """Whether the peer may say who the client really is."""
        return ip_in(self.client.peer, self._policy.xclient)

    @property
    def allows_xforward(self) -> bool:
        """Whether the peer may say where the mail came from."""
        return ip_in(self.client.peer, self._policy.xforward)

    async def xclient(self, arg: str) -> Reply:
        """XCLIENT: the peer speaks for another client; the session starts over (Postfix XCLIENT_README)."""
        if not self.allows_xclient:
            return Reply(550, "5.7.0", "Insufficient authorization")
        if self._draft is not None:
            return Reply(503, "5.5.1", "Not during a mail transaction")
        try:
            given = parse_attributes(arg, XCLIENT_NAMES)
            client = _speaking_for(self.client, given)
        except CommandError as error:
            return error.reply
        self._forget_hello()
        self._connect_scope.cancel()
        self._connect_scope = self._scope = Scope()
        self._connect_findings = self._findings = ()
        identity = given.get("LOGIN", client.identity)
        self.client = replace(client, identity=identity, forwarded=False)
        return await self.greet()

    def xforward(self, arg: str) -> Reply:
        """XFORWARD: where the mail came from, for checks and logs; relay rights stay the peer's own."""
        if not self.allows_xforward:
            return Reply(550, "5.7.0", "Insufficient authorization")
        if self._draft is not None:
            return Reply(503, "5.5.1", "Not during a mail transaction")
        try:
            given = parse_attributes(arg, XFORWARD_NAMES)
            self.client = replace(
                _speaking_for(self.client, given), forwarded=given.get("SOURCE", "") != "LOCAL"
            )
        except CommandError as error:
            return error.reply
        return Reply(250, "2.0.0", "Ok")

    def may_auth(self) -> Reply | None:
        """Whether AUTH may go ahead (None), or the refusal (RFC 4954 section 4)."""
        if not self._said_hello or self.client.proto == "SMTP":
            return Reply(503, "5.5.1", "Say EHLO first")
        if not self._policy.auth_mechanisms:
            return Reply(502, "5.5.1", "AUTH is not available here")
        if self._policy.auth_require_tls and self.client.tls is None:
            return Reply(538, "5.7.11", "Encryption required for AUTH")
        if self.client.identity:
            return Reply(503, "5.5.1", "Already authenticated")
        if self._draft is not None:
            return Reply(503, "5.5.1", "Not during a mail transaction")
        return None

    async def authenticate(self, credentials: Credentials) -> Reply:
        """Check credentials: plugins first, then the listener's own back end."""
        pipeline = self._services.pipeline
        identity, failed = await pipeline.identify(self.client, credentials)
        if identity is None and self._at.authenticator is not None:
            right = await self._at.authenticator.check(self.client, credentials)
            if right:
                identity = credentials.login
            failed = failed or right is None
        if identity is not None:
            self._at.auth["ok"].inc()
            self.client = replace(self.client, identity=identity)
            self._judge_trust()
            return Reply(235, "2.7.0", "Authentication successful")
        if failed:
            self._at.auth["error"].inc()
            return Reply(454, "4.7.0", "Can't check credentials now, try again later")
        self._at.auth["wrong"].inc()
        self._auth_failures += 1
        self._services.log.warning(
            "auth_failed",
            id=self.client.id,
            ip=self.client.ip,
            login=credentials.login,
            count=self._auth_failures,
        )
        if self._auth_failures >= self._policy.limits.auth_failures:
            self.closing = True
            return Reply(421, "4.7.0", "Too many failed logins")
        return Reply(535, "5.7.8", "Authentication credentials invalid")

    # -- the transaction ------------------------------------------------------------------------------------

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
            refusal = self._refused(verdict)
        if refusal is None and pipeline.rewrites_envelope:
            edits, verdict = await pipeline.rewritten(mail, None, scope)
            refusal = self._refused(verdict)
            mail.envelope = apply_to_envelope(mail.envelope, edits)
            draft.base = mail.envelope
        if refusal is not None:
            scope.cancel()
            self._log_refusal(mail, None, refusal, verdict)
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
        limits = self._policy.limits
        try:
            envelope = parse_mail(arg, self._offered)
        except CommandError as error:
            return error.reply
        if envelope.size > min(limits.message_size, self._offered.size or limits.message_size):
            return Reply(552, "5.3.4", "Message is too big")
        if self._services.budget.used + envelope.size > self._services.budget.limit:
            return Reply(452, "4.3.1", "Not enough room now, try again later")
        if self.client.identity and not self._owns(envelope):
            return Reply(553, "5.7.1", "This login may not send from that address")
        self._count += 1
        mail = Mail(
            f"{self.client.id}.{self._count}",
            self.client,
            envelope,
            _EMPTY,
            direction=self._direction(()),
            received_at=self._services.clock.time(),
            findings=self._findings,
        )
        return Draft(mail, Scope(limits.message_budget, self._scope), declared=envelope.size, base=envelope)

    def _owns(self, envelope: Envelope) -> bool:
        """Whether the login may send from this address; a login that isn't listed may use any."""
        allowed = self._policy.senders.get(self.client.identity, self._policy.senders.get("*"))
        if allowed is None or not envelope.sender:
            return True
        return address_in(envelope.sender, frozenset(allowed))

    def _direction(self, recipients: Sequence[Recipient]) -> Direction:
        """Derive the direction from who sends and to whom; before RCPT a trusted client counts as outbound."""
        relay, client = self._services.relay, self.client
        if client.trusted and not client.forwarded and not (relay.domains and recipients):
            return Direction.OUTBOUND
        ours = bool(recipients) and all(relay.serves(recipient.address) for recipient in recipients)
        stranger = not self.client.trusted or (
            self.client.forwarded and not self.client.identity and not ip_in(self.client.ip, relay.networks)
        )
        if stranger and (ours or not self.client.trusted or not recipients):
            return Direction.INBOUND
        return Direction.INTERNAL if ours else Direction.OUTBOUND

    @staticmethod
    def _refused(verdict: Verdict | None) -> Reply | None:
        return verdict.reply if verdict is not None else None

    async def rcpt(self, args: Sequence[str]) -> list[Reply]:
        """RCPT, for all that a pipelining client has sent at once; a reply to each, in order."""
        draft = self._draft
        if draft is None:
            return [Reply(503, "5.5.1", "Need MAIL first")] * len(args)
        self._begin_queries(draft)
        if len(args) == 1:
            # The usual case, without the bookkeeping of a batch.
            pipeline = self._services.pipeline
            answer = (
                await self._consider(draft, args[0], ())
                if pipeline.asks_rcpt or pipeline.rewrites_envelope
                else self._considered(draft, args[0], 0)
            )
            if not isinstance(answer, Reply):
                answer = (await self._ask(draft, [answer]))[0]
            if not answer.ok:
                self._refusing(draft, answer)
            return [answer]
        replies: list[Reply | None] = []
        asked: list[tuple[Recipient, list[Recipient]]] = []
        for arg in args:
            opinion = await self._consider(draft, arg, asked)
            if isinstance(opinion, Reply):
                replies.append(opinion)
            else:
                asked.append(opinion)
                replies.append(None)
        answers = iter(await self._ask(draft, asked) if asked else ())
        final = [reply or next(answers) for reply in replies]
        for reply in final:
            if not reply.ok:
                self._refusing(draft, reply)
        return final

    def _refusing(self, draft: Draft, reply: Reply) -> None:
        draft.refused_temporarily = draft.refused_temporarily or reply.temporary
        self.closing = self.closing or reply.code == 421
        self._at.recipients["refused"].inc()

    async def _consider(
        self, draft: Draft, arg: str, asked: Sequence[tuple[Recipient, list[Recipient]]]
    ) -> Reply | tuple[Recipient, list[Recipient]]:
        """Our own opinion of one RCPT and that of the hooks: a refusal, or (as given, as it goes on).

        `asked` are those of the same batch that the next hop hasn't answered yet.
        """
        waiting = len(asked)
        recipient = self._permitted(draft, arg, waiting)
        if isinstance(recipient, Reply):
            return recipient
        targets = [recipient]
        pipeline = self._services.pipeline
        if draft.given or waiting or draft.mail.envelope.recipients:
            # The hooks see who shares the message so far: whom the next hop has refused does not.
            before = (*draft.given, *(given for given, _ in asked))
            draft.mail.envelope = draft.mail.envelope.to(before)
        if pipeline.asks_rcpt:
            verdict = await pipeline.decide("rcpt", draft.mail, draft.scope, rcpt=recipient)
            refusal = self._refused(verdict)
            if refusal is None and not draft.shares(verdict, waiting):
                refusal = Reply(
                    452, "4.5.3", "This recipient is treated otherwise: send it in another transaction"
                )
            if refusal is not None:
                self._log_refusal(draft.mail, recipient, refusal, verdict)
                return refusal
        if pipeline.rewrites_envelope:
            edits, verdict = await pipeline.rewritten(draft.mail, recipient, draft.scope)
            refusal = self._refused(verdict)
            if refusal is not None:
                self._log_refusal(draft.mail, recipient, refusal, verdict)
                return refusal
            one = draft.base.to((recipient,))
            if edits:
                one = apply_to_envelope(one, edits)
                targets = list(one.recipients)
                if not targets:
                    return Reply(550, "5.1.1", "No such recipient")
            envelope = draft.mail.envelope
            one = one.to(envelope.recipients)
            if one != envelope:
                if draft.transaction is not None or waiting:
                    other = "sender" if one.sender != envelope.sender else "way on"
                    return Reply(
                        452, "4.5.3", f"This recipient takes another {other}: send it in another transaction"
                    )
                draft.mail.envelope = one
        return self._misrouted(draft, targets[0], waiting) or (recipient, targets)

    def _considered(self, draft: Draft, arg: str, waiting: int) -> Reply | tuple[Recipient, list[Recipient]]:
        """As `_consider`, where there are no hooks."""
        recipient = self._permitted(draft, arg, waiting)
        if isinstance(recipient, Reply):
            return recipient
        return self._misrouted(draft, recipient, waiting) or (recipient, [recipient])

    def _permitted(self, draft: Draft, arg: str, waiting: int) -> Reply | Recipient:
        """Whether this client may send there at all: the recipient as given, or the refusal."""
        try:
            recipient = parse_rcpt(arg, self._offered, smtputf8=draft.mail.envelope.smtputf8)
        except CommandError as error:
            return error.reply
        if len(draft.given) + waiting >= self._policy.limits.recipients:
            return Reply(452, "4.5.3", "Too many recipients")
        if (
            not self.client.trusted
            and recipient.address.domain
            and not self._services.relay.serves(recipient.address)
        ):
            reply = Reply(550, "5.7.1", "Relaying denied")
            self._log_refusal(draft.mail, recipient, reply)
            return reply
        return recipient

    def _misrouted(self, draft: Draft, target: Recipient, waiting: int) -> Reply | None:
        """Give the transaction its route, or return why this recipient can't go along."""
        services = self._services
        route = route_for(services.routes, self.client, draft.mail.envelope, target.address)
        if route is None and draft.mail.envelope.route:
            return no_such_route(services, draft.mail)
        if route is None:
            return Reply(550, "5.1.2", "No route for this recipient")
        if draft.route is None:
            draft.route = route
        elif route.upstream != draft.route.upstream:
            return Reply(452, "4.5.3", "This recipient takes another route: send it in another transaction")
        hop = services.hops[route.upstream]
        if hop.per_recipient and self._policy.protocol != "lmtp" and (draft.given or waiting):
            # The next hop answers for each recipient; one reply to our client can't say two things.
            return Reply(452, "4.5.3", "One recipient at a time here: send it in another transaction")
        return None

    async def _ask(self, draft: Draft, asked: list[tuple[Recipient, list[Recipient]]]) -> list[Reply]:
        """Let the next hop speak for itself about each recipient; a reply for each that was given."""
        transaction = draft.transaction
        if transaction is None:
            assert draft.route is not None
            hop = self._services.hops[draft.route.upstream]
            transaction = draft.transaction = hop.begin(self.client, draft.mail.envelope, draft.declared)
        heard = await transaction.recipients([targets[0] for _, targets in asked])
        replies: list[Reply] = []
        copies: list[Recipient] = []
        for (recipient, targets), answer in zip(asked, heard, strict=True):
            reply = answer
            if not reply.status:
                reply = Reply(reply.code, _OK_RCPT if reply.ok else f"{reply.code // 100}.0.0", reply.text)
            if reply.ok:
                draft.places.append(len(draft.targets))
                draft.given.append(recipient)
                draft.targets.append(targets[0])
                copies += targets[1:]
            else:
                self._log_refusal(draft.mail, recipient, reply)
            replies.append(reply)
        if copies:
            await self._copy(draft, transaction, copies)
        return replies

    async def _copy(self, draft: Draft, transaction: Transaction, copies: list[Recipient]) -> None:
        """Offer the further recipients that a plugin added; one that is refused is logged, the mail goes on."""
        known = {target.address.key for target in draft.targets}
        fresh = list({copy.address.key: copy for copy in copies if copy.address.key not in known}.values())
        for copy, reply in zip(fresh, await transaction.recipients(fresh) if fresh else (), strict=True):
            if reply.ok:
                draft.targets.append(copy)
            else:
                self._services.log.warning(
                    "copy_refused", id=draft.mail.id, to=str(copy.address), reply=str(reply)
                )

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
        draft.mail.direction = self._direction(draft.given)
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

    def _log_refusal(
        self, mail: Mail, recipient: Recipient | None, reply: Reply, verdict: Verdict | None = None
    ) -> None:
        fields: dict[str, object] = {"from": str(mail.envelope.sender)}
        if recipient is not None:
            fields["to"] = str(recipient.address)
        fields["reply"] = str(reply)
        if verdict is not None and verdict.reason:
            fields["reason"] = verdict.reason
        self._services.log.info("refused", id=mail.id, ip=self.client.ip, **fields)
        self._record_refusal("mail" if recipient is None else "rcpt", reply, mail, recipient)

    def _record_refusal(
        self, stage: str, reply: Reply, mail: Mail | None = None, recipient: Recipient | None = None
    ) -> None:
        history = self._services.history
        if history is not None:
            at = self._services.clock.time()
            history.record(refusal_event(self.client, stage, reply, at=at, mail=mail, recipient=recipient))


def _speaking_for(client: Client, given: dict[str, str]) -> Client:
    """Return the client with what a trusted peer says of it. Raises CommandError."""
    changes: dict[str, object] = {}
    if "ADDR" in given:
        address = address_attribute(given["ADDR"])
        if address:
            try:
                ip_address(address)
            except ValueError:
                raise CommandError(Reply(501, "5.5.4", "Bad value of ADDR")) from None
        changes["ip"] = address
    if "PORT" in given:
        port = given["PORT"] or "0"
        if not (port.isascii() and port.isdigit() and int(port) < 65536):
            raise CommandError(Reply(501, "5.5.4", "Bad value of PORT"))
        changes["port"] = int(port)
    if "HELO" in given:
        changes["helo"] = given["HELO"]
    if "NAME" in given:
        changes["ptr"] = given["NAME"]
    return replace(client, **changes)  # type: ignore[arg-type]
