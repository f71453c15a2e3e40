"""The process's resolver: one cache, one flight per question, and never an exception for what a server says.

Must not know what the answers are for, nor how a question goes over the wire (wire.py, loaded with the first
question and in a thread, so that a proxy without DNS plugins never pays for dnspython).
"""

import asyncio
import importlib
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING

from relayproxy.api import Answer, Clock, DnsStatus

if TYPE_CHECKING:
    from relayproxy.resolver.wire import Stub

log = logging.getLogger(__name__)

_RECORD = 300  # octets that the longest MX or SRV takes up
_IN_FLIGHT = 256  # every question on the wire holds a descriptor
_FAILURE_TTL = 5  # RFC 9520 section 3.2 asks for a second at least; a dead server is spared by every message
_NEGATIVE_TTL = 900  # RFC 2308 section 5 allows hours; whoever adds a record should not wait that long


class CachingResolver:
    """A caching stub resolver.

    `servers` are addresses and ports; without any, those of the system are asked. `timeout` in seconds bounds one
    question with all its retries. The cache holds `cache_size` answers with `octets` of records, each for its TTL,
    but at least `min_ttl` and at most `max_ttl` seconds; negative answers for at most 15 minutes, failures for
    five seconds. Raises ValueError for a server that is no address.
    """

    def __init__(
        self,
        servers: Sequence[tuple[str, int]] = (),
        *,
        timeout: float = 5.0,
        cache_size: int = 20_000,
        octets: int = 16_777_216,
        min_ttl: int = 5,
        max_ttl: int = 86_400,
        clock: Clock = time,
    ) -> None:
        self._servers = [(str(ip_address(host)), port) for host, port in servers]
        self._timeout = timeout
        self._size = cache_size
        self._octets = octets
        self._min_ttl = min_ttl
        self._max_ttl = max_ttl
        self._clock = clock
        self._cache: OrderedDict[tuple[str, str], tuple[float, Answer, int]] = OrderedDict()
        self._held = 0
        self._flights: dict[tuple[str, str], asyncio.Task[Answer]] = {}
        self._room = asyncio.Semaphore(_IN_FLIGHT)
        self._loading = asyncio.Lock()
        self._stub: Stub | None = None
        self.hits = 0
        self.misses = 0
        self.failures = 0

    def peek(self, name: str, rdtype: str) -> Answer | None:
        """Return the answer if it is in the cache and still good, without waiting for anything."""
        key = name, rdtype
        entry = self._cache.get(key)
        if entry is None:
            # Most names come as they are kept, lower-cased and without the final dot.
            key = name.lower().removesuffix("."), rdtype
            entry = self._cache.get(key)
            if entry is None:
                return None
        if entry[0] <= self._clock.monotonic():
            self._forget(key)
            return None
        self._cache.move_to_end(key)
        self.hits += 1
        return entry[1]

    async def query(self, name: str, rdtype: str) -> Answer:
        """Look up `name` for records of `rdtype` ("TXT"); from the cache, or together with whoever asks the same.

        A name that can't exist in DNS is NXDOMAIN. `ttl` of a cached answer is what it was when it came.
        """
        known = self.peek(name, rdtype)
        if known is not None:
            return known
        key = name.lower().removesuffix("."), rdtype
        flight = self._flights.get(key)
        if flight is None:
            self.misses += 1
            flight = asyncio.create_task(self._fetch(key))
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        # One of those who wait may be cancelled (its plugin ran out of time) without harm to the others.
        return await asyncio.shield(flight)

    async def close(self) -> None:
        """Give up all questions on the wire."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def _fetch(self, key: tuple[str, str]) -> Answer:
        try:
            async with asyncio.timeout(self._timeout), self._room:
                stub = self._stub or await self._load()
                answer = await stub.ask(*key)
        except TimeoutError:
            answer = Answer(DnsStatus.TIMEOUT)
        except Exception:
            # The fence: what a stranger's name server made dnspython stumble over is that server's failure.
            log.exception("the question for %s %s failed", *key)
            answer = Answer(DnsStatus.SERVFAIL)
        self.failures += answer.failed
        self._remember(key, answer)
        return answer

    def _remember(self, key: tuple[str, str], answer: Answer) -> None:
        if answer.failed:
            ttl = _FAILURE_TTL
        else:
            ttl = min(max(answer.ttl, self._min_ttl), self._max_ttl)
            if answer.status is not DnsStatus.OK:
                ttl = min(ttl, _NEGATIVE_TTL)
        octets = sum(len(r) if isinstance(r, str | bytes) else _RECORD for r in answer.records)
        self._cache[key] = self._clock.monotonic() + ttl, answer, octets
        self._held += octets
        while len(self._cache) > self._size or self._held > self._octets:
            self._forget(next(iter(self._cache)))

    def _forget(self, key: tuple[str, str]) -> None:
        self._held -= self._cache.pop(key)[2]

    async def _load(self) -> "Stub":
        async with self._loading:
            if self._stub is None:
                self._stub = await asyncio.to_thread(self._make_stub)
            return self._stub

    def _make_stub(self) -> "Stub":
        wire = importlib.import_module("relayproxy.resolver.wire")
        stub: Stub = wire.Stub(self._servers, self._timeout)
        return stub
