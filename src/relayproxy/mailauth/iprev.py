"""The reverse name of a client, and whether it leads back to its address (RFC 8601 section 2.7.3).

Must not know what follows from the result.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from relayproxy.mailauth.lookup import Fetch

NAMES = 10
"""So many PTR names are followed (as RFC 7208 section 4.6.4 does); the rest are ignored."""


@dataclass(frozen=True, slots=True)
class ReverseName:
    """`result` is "pass", "fail", "temperror" or "permerror"; `name` the name that led back, or "".

    `claimed` are all names that the address claims, of which at most ten were followed.
    """

    result: str
    name: str = ""
    claimed: tuple[str, ...] = ()
    reason: str = ""


async def check_iprev(ip: str, fetch: Fetch) -> ReverseName:
    """Look up the names of `ip` and, all at once, their addresses. An IPv4-mapped address is checked as IPv4.

    Raises ValueError if `ip` is no address.
    """
    address = _plain(ip)
    (answer,) = await fetch([(address.reverse_pointer, "PTR")])
    if answer.failed:
        return ReverseName("temperror", reason="the look-up of the reverse name failed")
    claimed = tuple(str(name) for name in answer.records if name)
    if not claimed:
        return ReverseName("permerror", reason="there is no reverse name")
    rdtype = "A" if address.version == 4 else "AAAA"
    answers = await fetch([(name, rdtype) for name in claimed[:NAMES]])
    for name, forward in zip(claimed, answers, strict=False):
        if any(ip_address(record) == address for record in forward.records):
            return ReverseName("pass", name, claimed)
    if any(forward.failed for forward in answers):
        return ReverseName("temperror", "", claimed, "the look-up of an address failed")
    return ReverseName("fail", "", claimed, "no reverse name leads back to the address")


def _plain(ip: str) -> IPv4Address | IPv6Address:
    address = ip_address(ip)
    return getattr(address, "ipv4_mapped", None) or address
