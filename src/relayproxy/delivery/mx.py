"""Delivery to the mail servers of the recipients' domain, as a next hop for the queue.

Each address is an upstream of its own, for each demand on TLS, with its kept connections and its breaker; those that
were not used for long are forgotten. All recipients of a transaction are of one domain.
"""

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace

from relayproxy.api import Resolver
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.outbox import Outbox
from relayproxy.core.ports import Capabilities
from relayproxy.delivery import tls_results
from relayproxy.delivery.demand import Demand, Wish
from relayproxy.delivery.mx_lookup import Exchange, addresses, exchanges
from relayproxy.delivery.reach import ReachTransaction
from relayproxy.delivery.settings import Address, UpstreamSettings
from relayproxy.delivery.tls_policy import PolicyError, TlsPolicies
from relayproxy.delivery.upstream import Upstream
from relayproxy.delivery.ways import fitting
from relayproxy.mailauth.mta_sts import Held
from relayproxy.mailauth.tls_report import sts_strings
from relayproxy.model.client import Client
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.event import TlsEvent
from relayproxy.model.mail import Mail
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply, printable

_KEPT = 500
_HTTPS = 443
_MOST_ADDRESSES = 10
_UNREACHED = Reply(451, "4.4.1", "No mail server of this domain can be reached now")
_NO_REQUIRETLS = Reply(
    550, "5.7.30", "No mail server of this domain takes REQUIRETLS, which this message needs"
)
_ANY = frozenset({"8BITMIME", "SMTPUTF8", "DSN"})
_DOMAIN: ContextVar[str] = ContextVar("domain", default="")
_HELD: ContextVar[Held | None] = ContextVar("held", default=None)


@dataclass(slots=True)
class Server:
    """One address under one demand. `judged` counts the results of TLS, `last` is the newest."""

    upstream: Upstream
    judged: int = 0
    last: TlsEvent | None = None


class MxHop:
    """Implements ports.WatchedHop. `settings` are those of every server, without addresses."""

    per_recipient = False

    def __init__(
        self,
        settings: UpstreamSettings,
        resolver: Resolver,
        *,
        port: int,
        log: Log,
        metrics: Metrics,
        monotonic: Callable[[], float],
        policies: TlsPolicies,
        outbox: Outbox | None = None,
        choose: Callable[[], float] = random.random,
        begin_queries: Callable[[], object] = lambda: None,
        hostname: str = "",
    ) -> None:
        self.name = settings.name
        # What we say in EHLO may be the name of one of several local addresses; as an MX we are known by one name.
        self._hostname = hostname or settings.hostname
        self.begin_queries = begin_queries
        self.port = port
        self.policies = policies
        self.log = log
        self._settings = settings
        self._resolver = resolver
        self._metrics = metrics
        self._monotonic = monotonic
        self._outbox = outbox
        self._choose = choose
        self._servers: OrderedDict[tuple[str, str, Demand], Server] = OrderedDict()
        # Made before the first message, as all metrics are.
        self._make("", "", Demand())

    @property
    def capabilities(self) -> Capabilities:
        """What may be asked of it: what a server can't take is found out when it is reached, and reported."""
        return Capabilities(_ANY if self._settings.tls == "off" else _ANY | {"REQUIRETLS"})

    @property
    def enforces(self) -> bool:
        """Whether a host that offers less TLS than it did gets nothing."""
        return self._settings.ratchet == "enforce"

    def _make(self, host: str, ip: str, demand: Demand) -> Server:
        def judged(event: TlsEvent) -> None:
            server.judged, server.last = server.judged + 1, event
            self._tell(event)

        name = "" if host.startswith("[") else host
        settings = self._settings
        off = settings.tls == "off"
        server = Server(
            Upstream(
                replace(
                    settings,
                    addresses=(Address(ip, self.port, name=name),),
                    demand=None if off else demand,
                    on_tls=judged,
                ),
                log=self.log,
                metrics=self._metrics,
                monotonic=self._monotonic,
                outbox=self._outbox,
                policies=self.policies,
            )
        )
        return server

    def _tell(self, event: TlsEvent) -> None:
        if self._settings.on_tls is not None:
            # A server is shared by the domains that ask the same of it; each is told of by its own policy.
            event, held = replace(event, domain=_DOMAIN.get() or event.domain), _HELD.get()
            if event.policy == "sts" and held is not None:
                patterns = held.policy.mx
                event = replace(event, policy_strings=sts_strings(held.policy), mx_patterns=patterns)
            self._settings.on_tls(event)

    def begin(self, mail: Mail, size: int) -> "MxTransaction":
        """Start a transaction; nothing is looked up before the first recipient."""
        return MxTransaction(self, mail.client, mail.envelope, size)

    def wish(self, envelope: Envelope) -> Wish:
        """Return what is asked of TLS for a message, before its recipients' domain is."""
        settings = self._settings
        return Wish(
            settings.tls,
            settings.consult,
            envelope.requiretls,
            envelope.tls_onward,
            envelope.tls_optional,
        )

    async def exchanges(self, domain: str) -> list[Exchange] | Reply:
        """Return the hosts to try for a domain, in order, or the reply that says why there are none."""
        return await exchanges(self._resolver, domain, self._hostname, self._choose)

    async def sts(self, wish: Wish, domain: str) -> Held | None:
        """Return the MTA-STS policy of a domain that is to be heeded. Raises PolicyError.

        The history is told of a domain that has one, and without it, as it can't be had.
        """
        held = await self.policies.sts(wish, domain)
        result, problem = self.policies.sts_problem(domain)
        if held is None and result and "mta-sts" in wish.consults:
            error = PolicyError(problem, result, "sts")
            self._refused(Address(f"mta-sts.{domain}", _HTTPS), error)
        return held

    def _refused(self, address: Address, error: PolicyError) -> None:
        tls_results.refused(replace(self._settings, on_tls=self._tell), address, error)

    async def demand(self, wish: Wish, exchange: Exchange, domain: str, held: Held | None) -> Demand:
        """Return what TLS to a host has to be. Raises PolicyError.

        The history is told of it, and of what a policy in mode testing would have refused.
        """

        def noted(error: PolicyError) -> None:
            self._refused(Address(exchange.host, self.port), error)

        try:
            return await self.policies.for_host(
                wish,
                exchange.host,
                self.port,
                domain=domain,
                trusted=exchange.trusted,
                held=held,
                noted=noted,
            )
        except PolicyError as error:
            noted(error)
            raise

    async def addresses(self, host: str, domain: str) -> list[str] | Reply:
        """Return those addresses of a host that our own can reach, or the reply that says why there are none."""
        found = await addresses(self._resolver, [host], domain)
        return found if isinstance(found, Reply) else fitting(found, self._settings.source_address)

    def server(self, host: str, ip: str, demand: Demand) -> Server:
        """Return the upstream of an address."""
        key = (host, ip, demand)
        server = self._servers.get(key)
        if server is None:
            server = self._servers[key] = self._make(host, ip, demand)
            if len(self._servers) > _KEPT:
                self._servers.popitem(last=False)[1].upstream.close()
        self._servers.move_to_end(key)
        return server

    async def announce(self) -> None:
        """Say in the log if DANE can't count, since the name servers that are asked don't validate."""
        asks = "dane" in self.wish(Envelope()).consults
        if asks and await self.policies.validates() is False:
            self.log.warning("dns_not_validating", upstream=self.name)

    def close(self) -> None:
        """Close all kept connections."""
        for server in self._servers.values():
            server.upstream.close()
        self._servers.clear()


class MxTransaction:
    """Implements ports.WatchedTransaction: the first server that can be reached, as TLS has to be, has it, whatever it then says."""

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
        self._insecure = ""
        self._lacking = self._others = 0
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
            replies = await self._first(recipients, recipients[0].address.ascii_domain)
            if not isinstance(replies, Reply):
                return replies
            self._refusal = replies
        return [self._refusal] * len(recipients)

    async def _first(self, recipients: Sequence[Recipient], domain: str) -> list[Reply] | Reply:
        """Find the server and offer it the first recipients; return its answers, or the reply that says why there is none."""
        hop, token = self._hop, _DOMAIN.set(domain)
        # A first attempt runs in a task of the client's message, whose checks may have asked a lot.
        hop.begin_queries()
        try:
            wish = hop.wish(self._envelope)
            if wish.tls == "off" and (wish.requiretls or wish.encrypted):
                return self._put_off("TLS is off here, and this message needs it")
            found = await hop.exchanges(domain)
            if isinstance(found, Reply):
                return found
            try:
                held = await hop.sts(wish, domain)
            except PolicyError as error:
                return self._put_off(str(error))
            _HELD.set(held)
            return await self._try(recipients, found, wish, domain, held)
        finally:
            _HELD.set(None)
            _DOMAIN.reset(token)

    async def _try(
        self,
        recipients: Sequence[Recipient],
        found: Sequence[Exchange],
        wish: Wish,
        domain: str,
        held: Held | None,
    ) -> list[Reply] | Reply:
        homeless: list[Reply] = []
        tried = 0
        for exchange in found:
            try:
                demand = await self._hop.demand(wish, exchange, domain, held)
            except PolicyError as error:
                self._insecure, self._others = str(error), self._others + 1
                continue
            places = await self._hop.addresses(exchange.host, domain)
            if isinstance(places, Reply):
                homeless.append(places)
                continue
            if not places:
                tried += 1  # it has some, but none that our own address can reach
            for ip in places[: _MOST_ADDRESSES - tried]:
                tried += 1
                replies = await self._offer(self._hop.server(exchange.host, ip, demand), demand, recipients)
                if replies is not None:
                    return replies
        return self._nobody(tried, homeless)

    async def _offer(
        self, server: Server, demand: Demand, recipients: Sequence[Recipient]
    ) -> list[Reply] | None:
        """Offer the first recipients to one server; None if another is to be tried."""
        judged = server.judged
        tried = ReachTransaction(server.upstream, self._client, self._envelope, self._size)
        replies = await tried.recipients(recipients)
        known = tried.capabilities
        if tried.unreached:
            self.problem, result = tried.problem, ""
            if server.judged > judged and server.last is not None and server.last.result != "success":
                result = server.last.result
                if demand.tls or self._hop.enforces:
                    self._insecure = server.last.reason
            if result == "starttls-not-supported" and not demand.policy:
                self._lacking += 1
            else:
                # It may be otherwise next time; where the domain promises TLS, somebody may have taken it out.
                self._others += 1
            return None
        if self._envelope.requiretls and known is not None and "REQUIRETLS" not in known:
            self._lacking += 1
            tried.abort()
            return None
        self._current = tried
        return replies

    def _nobody(self, tried: int, homeless: Sequence[Reply]) -> Reply:
        """Return what is said where no server has it."""
        if self._envelope.requiretls and self._lacking and not self._others and not homeless:
            return _NO_REQUIRETLS
        if self._insecure:
            return self._put_off(self._insecure)
        if tried:
            self.unreached = True
            return _UNREACHED
        return next((reply for reply in homeless if reply.temporary), homeless[0])

    def _put_off(self, problem: str) -> Reply:
        """Return the reply of mail that waits for TLS to be as it has to be, which the log is told of too."""
        self._hop.log.warning("tls_put_off", upstream=self._hop.name, id=self._client.id, problem=problem)
        return Reply(451, "4.7.5", printable(f"Not sent without the TLS that it needs: {problem}", 400))

    async def send(self, lead: bytes, message: Message) -> list[Reply]:
        """Send the content."""
        if self._current is None:
            return [self._refusal or _UNREACHED]
        return await self._current.send(lead, message)

    def abort(self) -> None:
        """End without a message."""
        if self._current is not None:
            self._current.abort()
