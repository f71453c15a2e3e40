"""Questions over the wire, by dnspython's asynchronous stub resolver: the one module that imports it.

Turns what dnspython returns or raises into an Answer. Must not cache, count, or know who asked.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver

from relayproxy.api import Answer, DnsStatus, to_a_label

log = logging.getLogger(__name__)

_EDNS_PAYLOAD = 1232  # what passes unfragmented everywhere (DNS flag day 2020); more comes over TCP
_TRY_TIMEOUT = 2.0
_ALIASES = 8


class Stub:
    """A stub resolver without a cache that asks `servers` (address and port), or those of the system.

    `timeout` in seconds bounds a question with all its retries. Reads /etc/resolv.conf when made.
    """

    def __init__(self, servers: Sequence[tuple[str, int]], timeout: float) -> None:
        try:
            stub = dns.asyncresolver.Resolver(configure=not servers)
        except dns.resolver.NoResolverConfiguration:
            stub = dns.asyncresolver.Resolver(configure=False)
            servers = [("127.0.0.1", 53)]  # as resolv.conf(5) says
        if servers:
            stub.nameservers = [dns.nameserver.Do53Nameserver(*server) for server in servers]
        stub.use_edns(0, 0, _EDNS_PAYLOAD)
        stub.flags = dns.flags.RD | dns.flags.AD  # RFC 6840 section 5.7: ask what was validated
        stub.timeout = min(_TRY_TIMEOUT, timeout)
        stub.lifetime = timeout
        self._stub = stub

    async def ask(self, name: str, rdtype: str) -> Answer:
        """Put one question. A name that can't exist in DNS is NXDOMAIN, an unknown type SERVFAIL."""
        try:
            qname = to_name(name)
        except (dns.exception.DNSException, UnicodeError):
            return Answer(DnsStatus.NXDOMAIN)
        for _ in range(_ALIASES):
            try:
                found = await self._stub.resolve(qname, rdtype, raise_on_no_answer=False)
            except dns.resolver.NXDOMAIN as error:
                return _negative(DnsStatus.NXDOMAIN, error.kwargs["responses"][qname])
            except dns.exception.Timeout:
                return Answer(DnsStatus.TIMEOUT)
            except dns.exception.DNSException as error:
                log.debug("no answer for %s %s: %s", name, rdtype, error)
                return Answer(DnsStatus.SERVFAIL)
            if found.rrset is not None:
                return _positive(found, rdtype)
            if found.canonical_name == qname or found.response.authority:
                return _negative(DnsStatus.NODATA, found.response)
            # An alias without its target and without a word that there is none, as unbound answers from
            # local-data: the target has to be asked for.
            qname = found.canonical_name
        return Answer(DnsStatus.SERVFAIL)


def to_name(name: str) -> dns.name.Name:
    """Return the absolute name, octet for octet: names come from mail, where a backslash escapes nothing."""
    labels = to_a_label(name).removesuffix(".").split(".") if name not in ("", ".") else []
    return dns.name.Name([*(label.encode("ascii") for label in labels), b""])


def _positive(found: dns.resolver.Answer, rdtype: str) -> Answer:
    records: Iterable[Any] = found.rrset or ()
    convert: Callable[[Any], Any] = _FORMS.get(rdtype, _as_text)
    return Answer(
        DnsStatus.OK,
        tuple(convert(record) for record in records),
        found.chaining_result.minimum_ttl,
        bool(found.response.flags & dns.flags.AD),
    )


def _negative(status: DnsStatus, response: dns.message.QueryMessage) -> Answer:
    """Return an answer without records; its TTL is that of RFC 2308 section 5, five minutes if none is stated."""
    ttl = response.resolve_chaining().minimum_ttl
    return Answer(status, (), ttl, secure=bool(response.flags & dns.flags.AD))


def _host(name: dns.name.Name) -> str:
    return "" if name == dns.name.root else name.to_text(omit_final_dot=True)


def _as_text(record: Any) -> str:
    return str(record.to_text())


_FORMS: dict[str, Callable[[Any], Any]] = {
    "A": lambda record: record.address,
    "AAAA": lambda record: record.address,
    "CNAME": lambda record: _host(record.target),
    "NS": lambda record: _host(record.target),
    "PTR": lambda record: _host(record.target),
    "MX": lambda record: (record.preference, _host(record.exchange)),
    "SRV": lambda record: (record.priority, record.weight, record.port, _host(record.target)),
    "TLSA": lambda record: (record.usage, record.selector, record.mtype, record.cert),
    "TXT": lambda record: b"".join(record.strings),
}
