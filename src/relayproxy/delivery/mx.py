"""Delivery to the mail servers of the recipients' domain, as a next hop for the queue.

Each address is an upstream of its own, with its kept connections and its breaker; those that were not used for long are
forgotten. All recipients of a transaction are of one domain.
"""

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

from relayproxy.api import Resolver
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.outbox import Outbox
from relayproxy.core.ports import Capabilities
from relayproxy.delivery.mx_lookup import addresses, exchanges
from relayproxy.delivery.reach import ReachTransaction
from relayproxy.delivery.settings import Address, UpstreamSettings
from relayproxy.delivery.upstream import Upstream
from relayproxy.delivery.ways import fitting
from relayproxy.model.client import Client
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.mail import Mail
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply

_KEPT = 500
_UNREACHED = Reply(451, "4.4.1", "No mail server of this domain can be reached now")


class MxHop:
    """Implements ports.WatchedHop. `settings` are those of every server, without addresses."""

    per_recipient = False
    capabilities: Capabilities | None = None

    def __init__(
        self,
        settings: UpstreamSettings,
        resolver: Resolver,
        *,
        port: int,
        log: Log,
        metrics: Metrics,
        monotonic: Callable[[], float],
        outbox: Outbox | None = None,
        choose: Callable[[], float] = random.random,
    ) -> None:
        self.name = settings.name
        self._settings = settings
        self._resolver = resolver
        self._port = port
        self._log = log
        self._metrics = metrics
        self._monotonic = monotonic
        self._outbox = outbox
        self._choose = choose
        self._servers: OrderedDict[str, Upstream] = OrderedDict()
        # Made before the first message, as all metrics are.
        self._make("")

    def _make(self, ip: str) -> Upstream:
        return Upstream(
            replace(self._settings, addresses=(Address(ip, self._port),)),
            log=self._log,
            metrics=self._metrics,
            monotonic=self._monotonic,
            outbox=self._outbox,
        )

    def begin(self, mail: Mail, size: int) -> "MxTransaction":
        """Start a transaction; nothing is looked up before the first recipient."""
        return MxTransaction(self, mail.client, mail.envelope, size)

    async def servers(self, domain: str) -> list[str] | Reply:
        """Return the addresses to try for a domain, in order, or the reply that says why there are none."""
        hosts = await exchanges(self._resolver, domain, self._settings.hostname, self._choose)
        if isinstance(hosts, Reply):
            return hosts
        found = await addresses(self._resolver, hosts, domain)
        return found if isinstance(found, Reply) else fitting(found, self._settings.source_address)

    def server(self, ip: str) -> Upstream:
        """Return the upstream of an address."""
        server = self._servers.get(ip)
        if server is None:
            server = self._servers[ip] = self._make(ip)
            if len(self._servers) > _KEPT:
                self._servers.popitem(last=False)[1].close()
        self._servers.move_to_end(ip)
        return server

    def close(self) -> None:
        """Close all kept connections."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()


class MxTransaction:
    """Implements ports.WatchedTransaction: the first server that can be reached has it, whatever it then says."""

    per_recipient = False
    queued = False
    waits = 0.0

    def __init__(self, hop: MxHop, client: Client, envelope: Envelope, size: int) -> None:
        self._hop = hop
        self._client = client
        self._envelope = envelope
        self._size = size
        self._current: ReachTransaction | None = None
        self._refusal: Reply | None = None
        self.unreached = False
        self.problem = ""

    @property
    def capabilities(self) -> Capabilities | None:
        """What the server that has it can take."""
        return self._current.capabilities if self._current is not None else None

    async def recipients(self, recipients: Sequence[Recipient]) -> list[Reply]:
        """Offer recipients, all of one domain."""
        if self._current is not None:
            return await self._current.recipients(recipients)
        if self._refusal is None:
            found = await self._hop.servers(recipients[0].address.ascii_domain)
            if isinstance(found, Reply):
                self._refusal = found
            else:
                for ip in found:
                    tried = ReachTransaction(self._hop.server(ip), self._client, self._envelope, self._size)
                    replies = await tried.recipients(recipients)
                    if not tried.unreached:
                        self._current = tried
                        return replies
                    self.problem = tried.problem
                self.unreached, self._refusal = True, _UNREACHED
        return [self._refusal] * len(recipients)

    async def send(self, lead: bytes, message: Message) -> list[Reply]:
        """Send the content."""
        if self._current is None:
            return [self._refusal or _UNREACHED]
        return await self._current.send(lead, message)

    def abort(self) -> None:
        """End without a message."""
        if self._current is not None:
            self._current.abort()
