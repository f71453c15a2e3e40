"""Which hosts take the mail of a domain (RFC 5321 section 5.1, RFC 7505), and their addresses.

Asks a Resolver and nobody else. Must not know connections.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, zip_longest

from relayproxy.api import DnsStatus, Resolver
from relayproxy.model.reply import Reply

_MOST_HOSTS = 10
_MOST_ADDRESSES = 10


@dataclass(frozen=True, slots=True)
class Exchange:
    """A host that takes mail. `trusted`: DNSSEC vouches for its name, or it is the name that mail is addressed to."""

    host: str
    trusted: bool = False


async def exchanges(
    resolver: Resolver, domain: str, hostname: str, choose: Callable[[], float] = random.random
) -> list[Exchange] | Reply:
    """Return the hosts to try, best first, or the reply that says why there are none.

    `domain` in A-labels, or an address literal, which stands for itself; `hostname` is ours: hosts that are no better
    than we are would send the mail back.
    """
    if domain.startswith("["):
        return [Exchange(domain)]
    answer = await resolver.query(domain, "MX")
    if answer.failed:
        return Reply(451, "4.4.3", f"The mail servers of {domain} can't be looked up now")
    if answer.status is DnsStatus.NXDOMAIN:
        return Reply(550, "5.1.2", f"The domain {domain} does not exist")
    found = sorted(
        ((int(preference), choose(), str(host).rstrip(".").lower()) for preference, host in answer.records),
    )
    if not found:
        return [Exchange(domain, trusted=True)]
    if not any(host for _, _, host in found):
        return Reply(556, "5.1.10", f"The domain {domain} takes no mail")
    ours = [preference for preference, _, host in found if host == hostname.lower()]
    if ours:
        found = [row for row in found if row[0] < min(ours)]
        if not found:
            return Reply(554, "5.4.6", f"The mail servers of {domain} lead back here")
    names = dict.fromkeys(host for _, _, host in found if host)
    return [Exchange(host, answer.secure or host == domain) for host in names][:_MOST_HOSTS]


async def addresses(resolver: Resolver, hosts: list[str], domain: str) -> list[str] | Reply:
    """Return the addresses of hosts in their order, IPv6 and IPv4 by turns; or the reply that says why there are none."""
    if len(hosts) == 1 and hosts[0].startswith("["):
        text = hosts[0][1:-1]
        return [text[5:] if text[:5].lower() == "ipv6:" else text]
    found: list[str] = []
    unknown = False
    for host in hosts:
        six, four = await asyncio.gather(resolver.query(host, "AAAA"), resolver.query(host, "A"))
        unknown = unknown or six.failed or four.failed
        pairs = chain.from_iterable(zip_longest(six.records, four.records))
        found += [str(address) for address in pairs if address is not None]
        if len(found) >= _MOST_ADDRESSES:
            break
    if found:
        return list(dict.fromkeys(found))[:_MOST_ADDRESSES]
    if unknown:
        return Reply(451, "4.4.3", f"The mail servers of {domain} can't be looked up now")
    return Reply(550, "5.4.4", f"The mail servers of {domain} have no address")
