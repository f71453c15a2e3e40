"""The resolver, and the checks above it, with a real unbound in front of a local zone."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.servers.unbound import Unbound

from relayproxy.api import Answer, DnsStatus, fetch_from
from relayproxy.mailauth.dmarc import Identifier, evaluate
from relayproxy.mailauth.iprev import check_iprev
from relayproxy.mailauth.spf import Spf
from relayproxy.model.address import Address
from relayproxy.resolver import CachingResolver

pytestmark = pytest.mark.servers

LONG = bytes(range(33, 127)) * 60  # 5,640 octets: over UDP only the first part comes
ZONE = {
    ("a.example.org", "A"): ["192.0.2.1", "192.0.2.2"],
    ("a.example.org", "AAAA"): "2001:db8::1",
    ("a.example.org", "MX"): ["10 mx.example.org.", "20 a.example.org."],
    ("mx.example.org", "A"): "192.0.2.25",
    ("1.2.0.192.in-addr.arpa", "PTR"): "a.example.org.",
    ("9.2.0.192.in-addr.arpa", "PTR"): "nowhere.example.org.",
    ("alias.example.org", "CNAME"): "a.example.org.",
    ("long.example.org", "TXT"): LONG,
    ("odd.example.org", "TXT"): 'quo"te; back\\slash \xe9\0'.encode("latin-1"),
    ("example.org", "TXT"): [
        "v=spf1 include:one.example.org include:two.example.org mx:a.example.org -all",
        "another=record",
    ],
    ("one.example.org", "TXT"): "v=spf1 ip4:203.0.113.0/24 -all",
    ("two.example.org", "TXT"): "v=spf1 a:a.example.org ?all",
    ("_dmarc.example.org", "TXT"): "v=DMARC1; p=reject; np=reject; sp=quarantine",
    ("down.example.org", "A"): "192.0.2.9",
}


@pytest.fixture
async def unbound() -> AsyncIterator[Unbound]:
    server = Unbound(ZONE, {"refused.example": "refuse", "silent.example": "deny"})
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def resolver(unbound: Unbound) -> AsyncIterator[CachingResolver]:
    asking = unbound.resolver(timeout=1.0)
    yield asking
    await asking.close()


async def test_every_kind_of_answer(resolver: CachingResolver):
    async def ask(name: str, rdtype: str) -> tuple[DnsStatus, set[object]]:
        answer = await resolver.query(name, rdtype)
        return answer.status, set(answer.records)

    asked = {
        ("a.example.org", "A"): (DnsStatus.OK, {"192.0.2.1", "192.0.2.2"}),
        ("a.example.org", "AAAA"): (DnsStatus.OK, {"2001:db8::1"}),
        ("a.example.org", "MX"): (DnsStatus.OK, {(10, "mx.example.org"), (20, "a.example.org")}),
        ("1.2.0.192.in-addr.arpa", "PTR"): (DnsStatus.OK, {"a.example.org"}),
        ("alias.example.org", "A"): (DnsStatus.OK, {"192.0.2.1", "192.0.2.2"}),
        ("alias.example.org", "TXT"): (DnsStatus.NODATA, set()),
        ("long.example.org", "TXT"): (DnsStatus.OK, {LONG}),
        ("odd.example.org", "TXT"): (DnsStatus.OK, {ZONE["odd.example.org", "TXT"]}),
        ("mx.example.org", "TXT"): (DnsStatus.NODATA, set()),
        ("two.example.org", "A"): (DnsStatus.NODATA, set()),
        ("no.example.org", "A"): (DnsStatus.NXDOMAIN, set()),
        ("a.refused.example", "A"): (DnsStatus.SERVFAIL, set()),
        ("a.silent.example", "A"): (DnsStatus.TIMEOUT, set()),
    }
    found = await asyncio.gather(*(ask(*question) for question in asked))
    assert dict(zip(asked, found, strict=True)) == asked


async def test_a_dead_server_is_a_temporary_error_and_one_that_is_back_answers(unbound: Unbound):
    resolver = unbound.resolver(timeout=0.5, min_ttl=0)
    assert (await resolver.query("a.example.org", "A")).status is DnsStatus.OK
    await unbound.end()
    answer = await resolver.query("mx.example.org", "A")
    assert answer.failed
    assert (await resolver.query("a.example.org", "A")).status is DnsStatus.OK  # known
    await unbound.start()
    assert (await unbound.resolver().query("mx.example.org", "A")).records == ("192.0.2.25",)
    await resolver.close()


@pytest.mark.parametrize(
    ("ip", "result", "mechanism"),
    [
        ("203.0.113.7", "pass", "include:one.example.org"),
        ("192.0.2.2", "pass", "include:two.example.org"),
        ("192.0.2.25", "pass", "mx:a.example.org"),
        ("198.51.100.1", "fail", "-all"),
    ],
)
async def test_spf(resolver: CachingResolver, ip: str, result: str, mechanism: str):
    checks = Spf(ip, "mx.example.org", fetch_from(resolver))
    found = await checks.check_mail_from(Address("a", "example.org"))
    assert (found.result, found.mechanism) == (result, mechanism)


async def test_dmarc_walks_the_tree(resolver: CachingResolver):
    async def policy(author: str, *passed: str) -> tuple[str, str, str]:
        found = await evaluate(author, [Identifier("dkim", one) for one in passed], fetch_from(resolver))
        return found.result, found.policy, found.policy_domain

    assert await policy("example.org", "a.example.org") == ("pass", "reject", "example.org")
    assert await policy("deep.down.example.org") == ("fail", "reject", "example.org")  # np: no such name
    assert await policy("down.example.org") == ("fail", "quarantine", "example.org")  # sp
    assert await policy("example.com") == ("none", "", "")
    assert (await policy("a.silent.example"))[0] == "temperror"


async def test_iprev(resolver: CachingResolver):
    async def result(ip: str) -> tuple[str, str]:
        found = await check_iprev(ip, fetch_from(resolver))
        return found.result, found.name

    assert await result("192.0.2.1") == ("pass", "a.example.org")
    assert await result("192.0.2.9") == ("fail", "")
    assert await result("192.0.2.8") == ("permerror", "")


async def test_many_who_ask_the_same_are_one_question(resolver: CachingResolver):
    answers: list[Answer] = await asyncio.gather(*(resolver.query("a.example.org", "A") for _ in range(50)))
    assert {answer.status for answer in answers} == {DnsStatus.OK}
    assert (resolver.misses, resolver.hits) == (1, 0)
