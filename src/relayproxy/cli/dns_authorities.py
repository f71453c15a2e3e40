"""The name servers of a zone, each to be asked by itself: one of them may not have a new record yet.

Must not know what they are asked for.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from relayproxy.api import Resolver, fetch_from
from relayproxy.resolver import CachingResolver

_MOST = 8
_WAIT = 3.0  # seconds: a server that can't be reached from here says nothing, and is passed over


class Authorities:
    """Finds the servers through `resolver` and asks them at `port`."""

    def __init__(self, resolver: Resolver, port: int = 53) -> None:
        self._resolver = resolver
        self._port = port
        self._direct: dict[str, CachingResolver] = {}

    async def of(self, name: str) -> Sequence[tuple[str, Resolver]]:
        """Return the addresses of the servers that are responsible for a name; none where they can't be found out."""
        zone = name
        hosts: tuple[str, ...] = ()
        while not hosts and "." in zone:
            hosts = (await self._resolver.query(zone, "NS")).records
            zone = zone.partition(".")[2]
        questions = [(host, rdtype) for host in hosts[:_MOST] for rdtype in ("A", "AAAA")]
        answers = await fetch_from(self._resolver)(questions)
        addresses = list(dict.fromkeys(address for answer in answers for address in answer.records))[:_MOST]
        return [(address, self._server(address)) for address in addresses]

    def _server(self, address: str) -> Resolver:
        if address not in self._direct:
            self._direct[address] = CachingResolver(((address, self._port),), timeout=_WAIT)
        return self._direct[address]

    async def close(self) -> None:
        """Give up all questions."""
        for one in self._direct.values():
            await one.close()


@asynccontextmanager
async def authorities(resolver: Resolver, port: int = 53) -> AsyncIterator[Authorities]:
    """Make one, and close it at the end."""
    made = Authorities(resolver, port)
    try:
        yield made
    finally:
        await made.close()
