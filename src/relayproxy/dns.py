"""DNS as everybody sees it who asks: what a question is answered with, and questions put side by side.

Must not know name servers, or what an answer is for.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from relayproxy.mailauth import lookup


class DnsStatus(Enum):
    """The different ways in which a question can end; only the first has records."""

    OK = "ok"
    NXDOMAIN = "nxdomain"
    NODATA = "nodata"
    SERVFAIL = "servfail"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one DNS question.

    `records` by type: A/AAAA/PTR/CNAME/NS are strings (names without the final dot), MX pairs of (preference,
    name), TXT bytes with the strings of a record joined, TLSA tuples (usage, selector, mtype, data), SRV
    tuples (priority, weight, port, target). `ttl` in seconds, `secure` the AD bit of a validating resolver.
    """

    status: DnsStatus
    records: tuple[Any, ...] = ()
    ttl: int = 0
    secure: bool = False

    @property
    def failed(self) -> bool:
        """Whether nothing is known (SERVFAIL, time-out): a temporary error for whoever asked."""
        return self.status in (DnsStatus.SERVFAIL, DnsStatus.TIMEOUT)


class Resolver(Protocol):
    """DNS as checks see it: it never raises for what a name server says, it answers."""

    async def query(self, name: str, rdtype: str) -> Answer:
        """Look up `name` (A-labels, final dot optional) for records of `rdtype` ("TXT", "MX", ...)."""
        ...


def fetch_from(resolver: Resolver) -> lookup.Fetch:
    """Return what relayproxy.mailauth asks by: it puts questions side by side, so that a batch takes as long as its slowest."""

    async def fetch(questions: Sequence[lookup.Question]) -> list[lookup.Answer]:
        if len(questions) == 1:
            return [await resolver.query(*questions[0])]
        return await asyncio.gather(*(resolver.query(*question) for question in questions))

    return fetch
