"""DNS for tests: a zone in a dict, with every way in which a real name server can fail.

Satisfies relayproxy.api.Resolver. Answers as a recursive resolver would: CNAMEs are followed, and NXDOMAIN and
NODATA are told apart. Must not touch the network, and waits only on a FakeClock.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from relayproxy.api import Answer, DnsStatus
from relayproxy.testing.clock import FakeClock

Records: TypeAlias = str | bytes | Iterable[Any] | DnsStatus
Zone: TypeAlias = Mapping[tuple[str, str], Records]

_CNAMES = 10


class FakeResolver:
    """A resolver over `zone`: records, or the status that a question ends with, by (name, type).

    A value is one record (a string, or bytes) or a list of records, in the forms of relayproxy.api.Answer; a
    TXT record may be text. `[]` says that the name exists without such records. A name that the zone doesn't
    have is NXDOMAIN, one that has other types or names below it is NODATA (RFC 8020). The type "*" stands for
    every type: `{("example.org", "*"): DnsStatus.SERVFAIL}`.

    `asked` lists the questions in order. Each answer takes `delay` seconds of `clock`. `ttl` and `secure` are
    those of every answer.
    """

    def __init__(
        self,
        zone: Zone | None = None,
        *,
        clock: FakeClock | None = None,
        delay: float = 0.0,
        ttl: int = 300,
        secure: bool = False,
    ) -> None:
        if delay and clock is None:
            raise ValueError("a delay needs the clock that it passes on")
        self.asked: list[tuple[str, str]] = []
        self._zone: dict[tuple[str, str], tuple[Any, ...] | DnsStatus] = {}
        self._names: set[str] = set()
        self._clock = clock
        self._delay = delay
        self._ttl = ttl
        self._secure = secure
        for (name, rdtype), records in (zone or {}).items():
            self.set(name, rdtype, records)

    def set(self, name: str, rdtype: str, records: Records) -> None:
        """Change what the zone says about one name and type."""
        key = name.lower().rstrip("."), rdtype.upper()
        self._zone[key] = _tidy(rdtype.upper(), records)
        while name and self._zone[key] is not DnsStatus.NXDOMAIN:
            self._names.add(name.lower().rstrip("."))
            name = name.partition(".")[2]

    async def query(self, name: str, rdtype: str) -> Answer:
        """Answer from the zone; never raises."""
        name, rdtype = name.lower().rstrip("."), rdtype.upper()
        self.asked.append((name, rdtype))
        if self._clock is not None and self._delay:
            await self._clock.sleep(self._delay)
        return self._answer(name, rdtype)

    def _answer(self, name: str, rdtype: str) -> Answer:
        for _ in range(_CNAMES):
            found = self._zone.get((name, rdtype), self._zone.get((name, "*")))
            if isinstance(found, DnsStatus):
                return Answer(found, ttl=self._ttl, secure=self._secure)
            if found:
                return Answer(DnsStatus.OK, found, self._ttl, self._secure)
            alias = self._zone.get((name, "CNAME"))
            if not isinstance(alias, tuple) or not alias:
                exists = name in self._names
                status = DnsStatus.NODATA if exists else DnsStatus.NXDOMAIN
                return Answer(status, ttl=self._ttl, secure=self._secure)
            name = str(alias[0]).lower().rstrip(".")
        return Answer(DnsStatus.SERVFAIL)


def _tidy(rdtype: str, records: Records) -> tuple[Any, ...] | DnsStatus:
    if isinstance(records, DnsStatus):
        return records
    listed = (records,) if isinstance(records, str | bytes) else tuple(records)
    if rdtype == "TXT":
        return tuple(record.encode() if isinstance(record, str) else record for record in listed)
    return listed
