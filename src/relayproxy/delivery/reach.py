"""Transactions that tell whether their upstream was reached at all.

To the client both are a 451. The queue must know: what was never reached may be tried again, or taken over, without
a second delivery, and says something about the upstream rather than about the message.
"""

from typing import Any, cast

from relayproxy.core.ports import Capabilities
from relayproxy.delivery.connect import ConnectError, Connection
from relayproxy.delivery.transaction import SmtpTransaction
from relayproxy.delivery.upstream import Upstream
from relayproxy.model.client import Client
from relayproxy.model.envelope import Envelope
from relayproxy.model.mail import Mail


class _Seen:
    """The upstream as one transaction uses it; notes that no connection came about."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self.unreached = False
        self.problem = ""
        self.capabilities: Capabilities | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._upstream, name)

    async def connect(self, client: Client | None) -> Connection:
        """Open a connection. Raises ConnectError."""
        try:
            connection = await self._upstream.connect(client)
        except ConnectError as error:
            self.unreached, self.problem = True, str(error)
            raise
        self.capabilities = connection.capabilities
        return connection

    def kept(self, client: Client | None) -> Connection | None:
        """Return a kept connection, or None."""
        connection = self._upstream.kept(client)
        if connection is not None:
            self.capabilities = connection.capabilities
        return connection


class ReachTransaction(SmtpTransaction):
    """Implements ports.WatchedTransaction."""

    waits = 0.0

    def __init__(self, upstream: Upstream, client: Client, envelope: Envelope, size: int) -> None:
        self._seen = _Seen(upstream)
        super().__init__(cast("Upstream", self._seen), client, envelope, size)

    @property
    def unreached(self) -> bool:
        """Whether no connection came about."""
        return self._seen.unreached

    @property
    def problem(self) -> str:
        """Why no connection came about."""
        return self._seen.problem

    @property
    def capabilities(self) -> Capabilities | None:
        """What the other end can take."""
        return self._seen.capabilities


class Reach:
    """Implements ports.WatchedHop over an upstream."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self.name = upstream.name
        self.per_recipient = upstream.per_recipient

    @property
    def capabilities(self) -> Capabilities | None:
        """What it last said it can take."""
        return self._upstream.capabilities

    def begin(self, mail: Mail, size: int) -> ReachTransaction:
        """Start a transaction; nothing is sent before the first recipient."""
        return ReachTransaction(self._upstream, mail.client, mail.envelope, size)
