"""Who the client is, as it says and as it is found out: banner, EHLO, STARTTLS, XCLIENT, XFORWARD, AUTH.

The half of a session that comes before any mail. Must not know what a transaction is made of.
"""

from abc import ABC, abstractmethod
from dataclasses import replace

from relayproxy.core.entry import Scope
from relayproxy.core.greeting import named, welcome
from relayproxy.core.identity import by_xclient, by_xforward, login
from relayproxy.core.policy import ip_in
from relayproxy.core.refusing import remembered
from relayproxy.core.services import ListenerServices
from relayproxy.model.client import Client, Credentials, TlsInfo
from relayproxy.model.finding import Finding
from relayproxy.model.reply import Reply
from relayproxy.model.verdict import Action
from relayproxy.smtp.commands import CommandError, Offered

_NOT_NOW = Reply(503, "5.5.1", "Not during a mail transaction")
_NOT_YOU = Reply(550, "5.7.0", "Insufficient authorization")


class Introduction(ABC):
    """What is known of one client. `closing` tells the server to close after the reply that was returned."""

    def __init__(self, at: ListenerServices, client: Client) -> None:
        self._at = at
        self._services = at.services
        self._policy = at.policy
        self._base = client
        self.client = client
        self.closing = False
        self._said_hello = False
        self._offered = Offered()
        self._connect_findings: tuple[Finding, ...] = ()
        self._findings: tuple[Finding, ...] = ()
        self._connect_scope = Scope()
        self._scope = self._connect_scope
        self._auth_failures = 0

    @property
    @abstractmethod
    def in_transaction(self) -> bool:
        """Whether MAIL has been accepted and the transaction is open."""

    @abstractmethod
    def reset(self) -> None:
        """RSET, EHLO, the end: drop the transaction, here and at the next hop."""

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
                remembered(self._services, self.client, "connect", reply)
                return reply
        return self._at.banner

    def _judge_trust(self) -> None:
        """Relay authorisation is decided here and nowhere else: by network, or by login."""
        trusted = bool(self.client.identity) or self._at.trusts(self.client.ip)
        if trusted != self.client.trusted:
            self.client = replace(self.client, trusted=trusted)

    async def hello(self, verb: str, name: str) -> Reply:
        """EHLO, HELO or LHLO: ends a transaction, and says what is offered."""
        client = named(self.client, self._policy.protocol, verb, name)
        if isinstance(client, Reply):
            return client
        if self._services.pipeline.calls("helo"):
            scope = Scope(parent=self._connect_scope)
            verdict, notes = await self._services.pipeline.decide_client("helo", client, scope, name=name)
            if verdict is not None and verdict.reply is not None:
                # A refused greeting changes nothing (RFC 5321 section 4.1.4).
                scope.cancel()
                remembered(self._services, client, "helo", verdict.reply)
                return verdict.reply
            self._forget_hello()
            self._scope = scope
            self._findings += notes
        return self._welcomed(client)

    def hello_at_once(self, verb: str, name: str) -> Reply | None:
        """As `hello`, where no hook is asked; None (and nothing done) where one is."""
        if self._services.pipeline.calls("helo"):
            return None
        client = named(self.client, self._policy.protocol, verb, name)
        return client if isinstance(client, Reply) else self._welcomed(client)

    def _welcomed(self, client: Client) -> Reply:
        """Begin anew with a client that has given its name, and say what is offered."""
        self.reset()
        self.client = client
        self._said_hello = True
        self._offered, reply = welcome(self._at, client)
        return reply

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
        if self.in_transaction:
            return _NOT_NOW
        return None

    # -- who is it, really ----------------------------------------------------------------------------------

    async def xclient(self, arg: str) -> Reply:
        """XCLIENT: the peer speaks for another client; the session starts over."""
        if not ip_in(self.client.peer, self._policy.xclient):
            return _NOT_YOU
        if self.in_transaction:
            return _NOT_NOW
        try:
            client = by_xclient(self.client, arg)
        except CommandError as error:
            return error.reply
        self._forget_hello()
        self._connect_scope.cancel()
        self._connect_scope = self._scope = Scope()
        self._connect_findings = self._findings = ()
        self.client = client
        return await self.greet()

    def xforward(self, arg: str) -> Reply:
        """XFORWARD: where the mail came from, for checks and logs; relay rights stay the peer's own."""
        if not ip_in(self.client.peer, self._policy.xforward):
            return _NOT_YOU
        if self.in_transaction:
            return _NOT_NOW
        try:
            self.client = by_xforward(self.client, arg)
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
        if self.in_transaction:
            return _NOT_NOW
        return None

    async def authenticate(self, credentials: Credentials) -> Reply:
        """Check credentials: plugins first, then the listener's own back end."""
        proved = await login(self._at, self.client, credentials)
        if isinstance(proved, str):
            self.client = replace(self.client, identity=proved)
            self._judge_trust()
            return Reply(235, "2.7.0", "Authentication successful")
        if proved.temporary:
            return proved
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
        return proved
