"""MX records (RFC 5321 section 5.1, RFC 7505) and the reverse names of addresses that send, as their owner sees them.

Must not know whether anything answers at the hosts.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from relayproxy.mailauth.audit.report import Line, Record
from relayproxy.mailauth.iprev import check_iprev
from relayproxy.mailauth.lookup import Answer, Fetch

_MOST = 20
_IP_LIKE = re.compile(r"[0-9.]+\Z|.*:")


async def mx_hosts(domain: str, fetch: Fetch) -> tuple[str, ...]:
    """Return the hosts that take the domain's mail, best first; none if it takes none, or DNS gave no answer."""
    (answer,) = await fetch([(domain, "MX")])
    hosts = [host.lower().rstrip(".") for _, host in sorted(answer.records)]
    return tuple(dict.fromkeys(host for host in hosts if host))[:_MOST]


async def audit_mx(domain: str, fetch: Fetch) -> list[Line]:
    """Judge the MX records of a domain and the addresses of their hosts."""
    (answer,) = await fetch([(domain, "MX")])
    if answer.failed:
        return [Line("mx", domain, "error", f"DNS gave no answer ({answer.status.value})")]
    if not answer.records:
        return await _implicit(domain, fetch)
    hosts = await mx_hosts(domain, fetch)
    null = [Line("mx", domain, "error", "a null MX (.) stands beside other records: take it out")]
    if all(host for _, host in answer.records):
        null = []
    elif not hosts:
        return [Line("mx", domain, "ok", "null MX: the domain takes no mail")]
    return null + [await _host(host, fetch) for host in hosts]


async def _implicit(domain: str, fetch: Fetch) -> list[Line]:
    a, aaaa = await fetch([(domain, "A"), (domain, "AAAA")])
    if a.records or aaaa.records:
        text = "there is no MX record, so mail goes to the address of the domain itself: publish one"
        return [Line("mx", domain, "warning", text)]
    text = "there is neither MX nor address, so mail can't be answered; a domain without mail says so with MX 0 ."
    return [Line("mx", domain, "error", text)]


async def _host(host: str, fetch: Fetch) -> Line:
    if _IP_LIKE.match(host):
        return Line("mx", host, "error", "an MX record must name a host, not an address")
    alias, a, aaaa = await fetch([(host, "CNAME"), (host, "A"), (host, "AAAA")])
    if alias.records:
        text = (
            f"it is an alias (CNAME of {alias.records[0]}), which an MX must not name (RFC 2181 section 10.3)"
        )
        return Line("mx", host, "error", text)
    found = [*_addresses(a), *_addresses(aaaa)]
    if not found:
        failed = a.failed or aaaa.failed
        return Line(
            "mx", host, "error", "DNS gave no answer for its address" if failed else "it has no address"
        )
    private = [str(address) for address in found if not address.is_global]
    if private:
        return Line("mx", host, "error", f"its address {private[0]} can't be reached from the Internet")
    return Line("mx", host, "ok", ", ".join(map(str, found[:_MOST])))


def _addresses(answer: Answer) -> Sequence[IPv4Address | IPv6Address]:
    return [ip_address(record) for record in answer.records]


async def audit_ptr(ip: str, hostname: str, fetch: Fetch) -> Line:
    """Judge the reverse name of an address that sends, saying `hostname` at EHLO. Raises ValueError for no address."""
    address = ip_address(ip)
    if not address.is_global:
        return Line("ptr", ip, "warning", "not a public address: name the one that the world sees with --ip")
    found = await check_iprev(ip, fetch)
    wanted = Record(address.reverse_pointer, f"{hostname}.", "PTR", "the owner of the address publishes it")
    if found.result == "temperror":
        return Line("ptr", ip, "error", f"DNS gave no answer: {found.reason}")
    if found.result == "permerror":
        return Line("ptr", ip, "error", "it has no reverse name, and large receivers refuse it", (wanted,))
    if found.result == "fail":
        text = f"its reverse name {found.claimed[0]} doesn't lead back to it, and large receivers refuse it"
        return Line("ptr", ip, "error", text, (wanted,))
    if hostname.lower() not in {name.lower() for name in found.claimed}:
        text = f"its name is {found.name}, but EHLO says {hostname}: some receivers mind"
        return Line("ptr", ip, "warning", text, (wanted,))
    return Line("ptr", ip, "ok", f"{found.name}, and back")
