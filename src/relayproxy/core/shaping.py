"""Which destinations are treated alike: recipient domains rolled up by rules on their names or on their mail servers.

Most domains leave their mail to a few providers, who count what we send them and not what we send to each domain. Must
not know queues or connections.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from relayproxy.api import DnsStatus, Resolver
from relayproxy.model.address import domain_in

_MOST = 10_000
_KEPT = 600.0
_KEPT_UNKNOWN = 30.0


@dataclass(frozen=True, slots=True)
class Shape:
    """How mail goes to the domains that it names, or whose best mail servers it names (`.example.org`: all below it).

    `concurrency` transactions at once, of which `rate` may begin in a second, with `recipients` each, and `messages` over
    one connection; `retry` are seconds between attempts. 0, () and False leave it as it is elsewhere.
    """

    name: str
    domains: frozenset[str] = frozenset()
    exchanges: frozenset[str] = frozenset()
    concurrency: int = 0
    rate: float = 0.0
    recipients: int = 0
    messages: int = 0
    tls_required: bool = False
    retry: tuple[float, ...] = ()

    @property
    def group(self) -> str:
        """What its destinations are counted under; no domain is called so."""
        return f"+{self.name}"


class Shapes:
    """Finds the first shape of a domain. Domains are in A-labels and lower case.

    Mail servers are looked up once and remembered for ten minutes; a domain whose servers can't be looked up has no shape
    that asks for them.
    """

    def __init__(self, shapes: Sequence[Shape], resolver: Resolver, monotonic: Callable[[], float]) -> None:
        self.shapes = tuple(shapes)
        self._resolver = resolver
        self._now = monotonic
        self._found: dict[str, tuple[Shape | None, float]] = {}
        self._asks = any(shape.exchanges for shape in shapes)

    def __bool__(self) -> bool:
        return bool(self.shapes)

    def known(self, domain: str) -> bool:
        """Whether `shape` tells the truth about a domain without anybody being asked."""
        found = self._found.get(domain)
        return not self._asks or not domain or (found is not None and self._now() < found[1])

    def shape(self, domain: str) -> Shape | None:
        """Return the shape of a domain as far as is known now."""
        found = self._found.get(domain)
        if found is not None:
            return found[0]
        return self._first(domain, ()) if self.shapes and domain else None

    def group(self, domain: str) -> str:
        """Return what a domain is counted under: its shape's group, or itself."""
        shape = self.shape(domain)
        return shape.group if shape is not None else domain

    async def learn(self, domain: str) -> Shape | None:
        """Return the shape of a domain; asks for its mail servers where a rule wants to know them."""
        if self.known(domain):
            return self.shape(domain)
        answer = await self._resolver.query(domain, "MX")
        hosts: list[str] = []
        if answer.status is DnsStatus.OK and answer.records:
            best = min(int(preference) for preference, _ in answer.records)
            hosts = [
                str(host).rstrip(".").lower()
                for preference, host in answer.records
                if int(preference) == best
            ]
        elif not answer.failed:
            hosts = [domain]  # RFC 5321 section 5.1: the domain is its own mail server
        shape = self._first(domain, hosts)
        if len(self._found) >= _MOST:
            del self._found[next(iter(self._found))]
        self._found[domain] = shape, self._now() + (_KEPT_UNKNOWN if answer.failed else _KEPT)
        return shape

    def _first(self, domain: str, hosts: Sequence[str]) -> Shape | None:
        for shape in self.shapes:
            if domain_in(domain, shape.domains) or any(domain_in(host, shape.exchanges) for host in hosts):
                return shape
        return None
