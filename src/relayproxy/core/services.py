"""What a session works with: the settings, the ports and the counters of one worker, gathered in two values.

Built once by the composition root; a reload builds others. Holds no logic beyond looking things up.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from relayproxy.api import Clock
from relayproxy.core.log import Log
from relayproxy.core.metrics import Cell, Metrics, Timer
from relayproxy.core.pipeline import Pipeline
from relayproxy.core.policy import ListenerPolicy, Relay, Route, ip_in
from relayproxy.core.ports import Authenticator, Capabilities, History, Ledger, NextHop, Quarantine
from relayproxy.model.reply import Reply
from relayproxy.smtp.commands import Offered

VERBS = (
    "HELO", "EHLO", "LHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT", "VRFY",
    "HELP", "EXPN", "XCLIENT", "XFORWARD", "other",
)  # fmt: skip
_REMEMBERED = 4096
OUTCOMES = ("relayed", "queued", "rejected", "deferred", "discarded", "held", "resent")
CONNECTION_RESULTS = ("accepted", "refused", "limited", "bad_proxy", "tls_failed", "timeout")


class Budget:
    """Octets of messages in flight in this worker, against a limit."""

    __slots__ = ("_cell", "limit", "used")

    def __init__(self, limit: int, cell: Cell) -> None:
        self.limit = limit
        self.used = 0
        self._cell = cell

    def take(self, octets: int) -> bool:
        """Reserve `octets`; False (and nothing reserved) if they don't fit."""
        if self.used + octets > self.limit:
            return False
        self.used += octets
        self._cell.set(self.used)
        return True

    def give(self, octets: int) -> None:
        """Return what was taken."""
        self.used -= octets
        self._cell.set(self.used)


@dataclass(slots=True)
class Services:
    """Everything of one worker that outlives a connection."""

    hostname: str
    relay: Relay
    routes: tuple[Route, ...]
    hops: Mapping[str, NextHop]
    pipeline: Pipeline
    ledger: Ledger
    log: Log
    metrics: Metrics
    clock: Clock
    budget: Budget
    quarantine: Quarantine | None = None
    begin_queries: Callable[[], object] = lambda: None
    history: History | None = None
    draining: bool = False
    retiring: bool = False


class ListenerServices:
    """A listener's policy with its counters, made once so that a command costs an addition."""

    def __init__(
        self, services: Services, policy: ListenerPolicy, authenticator: Authenticator | None
    ) -> None:
        self.services = services
        self.policy = policy
        self.authenticator = authenticator
        metrics, name = services.metrics, policy.name
        self.commands: dict[str, tuple[Cell, ...]] = {
            verb: tuple(metrics.cell("commands_total", name, verb, f"{c}xx") for c in range(2, 6))
            for verb in VERBS
        }
        self.messages = {outcome: metrics.cell("messages_total", name, outcome) for outcome in OUTCOMES}
        self.recipients = {
            state: metrics.cell("recipients_total", state)
            for state in ("done", "pending", "failed", "refused")
        }
        self.connections = metrics.cell("connections", name)
        self.results = {
            result: metrics.cell("connections_total", name, result) for result in CONNECTION_RESULTS
        }
        self.octets = metrics.cell("bytes_total", name)
        self.auth = {result: metrics.cell("auth_total", name, result) for result in ("ok", "wrong", "error")}
        self.ledger_hits = metrics.cell("ledger_hits_total")
        self.deliveries: dict[str, tuple[dict[str, Cell], Timer]] = {
            hop: (
                {
                    result: metrics.cell("deliveries_total", hop, result)
                    for result in ("done", "pending", "failed", "mixed")
                },
                metrics.timer("delivery_duration_seconds", hop),
            )
            for hop in services.hops
        }
        kind = "LMTP" if policy.protocol == "lmtp" else "ESMTP"
        self.banner = Reply(220, "", f"{services.hostname} {kind} relayproxy")
        self._trusted: dict[str, bool] = {}
        self.greetings: dict[tuple[object, ...], tuple[Offered, Reply]] = {}
        reachable = [
            route
            for route in services.routes
            if not route.chosen and (not route.listeners or name in route.listeners)
        ]
        self.hops = tuple({route.upstream: services.hops[route.upstream] for route in reachable}.values())

    def trusts(self, ip: str) -> bool:
        """Whether a client of this address may relay anywhere; remembered, as most clients come again."""
        known = self._trusted.get(ip)
        if known is None:
            if len(self._trusted) >= _REMEMBERED:
                self._trusted.clear()
            known = self._trusted[ip] = ip_in(ip, self.services.relay.networks)
        return known

    def capabilities(self) -> tuple[frozenset[str] | None, int]:
        """What all reachable next hops can take together: (extensions or None if unknown, SIZE or 0)."""
        extensions: frozenset[str] | None = None
        size = 0
        for hop in self.hops:
            known: Capabilities | None = hop.capabilities
            if known is None:
                continue
            extensions = known.extensions if extensions is None else extensions & known.extensions
            if known.size:
                size = min(size, known.size) if size else known.size
        return extensions, size


@dataclass(slots=True)
class Totals:
    """What a connection has come to so far."""

    messages: int = 0
    recipients: int = 0
    octets: int = 0
    started: float = field(default=0.0)
