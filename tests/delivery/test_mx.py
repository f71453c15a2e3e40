"""Delivery by MX: which servers, in which order, and what is said where there are none."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from tests.delivery.harness import LEAD, MESSAGE, QUICK, a_mail, an_envelope, codes

from relayproxy.api import DnsStatus
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.outbox import Outbox
from relayproxy.delivery.mx import MxHop
from relayproxy.delivery.mx_lookup import Exchange, addresses, exchanges
from relayproxy.delivery.settings import UpstreamSettings
from relayproxy.delivery.tls_policy import TlsPolicies
from relayproxy.model.reply import Reply
from relayproxy.testing import FakeResolver
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.upstream import Fault, Step, UpstreamSink, answer


async def hosts(zone, domain="example.net", hostname="relay.test"):
    draws = iter((0.9, 0.1, 0.5, 0.3))
    found = await exchanges(FakeResolver(zone), domain, hostname, lambda: next(draws))
    return found if isinstance(found, Reply) else [one.host for one in found]


@pytest.mark.parametrize(
    ("zone", "found"),
    [
        ({("example.net", "MX"): [(20, "b.example"), (10, "A.example.")]}, ["a.example", "b.example"]),
        ({("example.net", "MX"): [(10, "a.example"), (10, "b.example")]}, ["b.example", "a.example"]),
        ({("example.net", "A"): "192.0.2.1"}, ["example.net"]),
        ({("example.net", "MX"): [(10, "a.example"), (20, "relay.test"), (30, "c.example")]}, ["a.example"]),
    ],
)
async def test_hosts_in_their_order(zone, found):
    assert await hosts(zone) == found


@pytest.mark.parametrize(
    ("zone", "reply"),
    [
        ({("example.net", "MX"): [(0, ".")]}, "556 5.1.10"),
        ({("example.org", "A"): "192.0.2.1"}, "550 5.1.2"),
        ({("example.net", "MX"): DnsStatus.SERVFAIL}, "451 4.4.3"),
        ({("example.net", "MX"): DnsStatus.TIMEOUT}, "451 4.4.3"),
        ({("example.net", "MX"): [(10, "Relay.Test")]}, "554 5.4.6"),
        ({("example.net", "MX"): [(20, "a.example"), (10, "relay.test")]}, "554 5.4.6"),
    ],
)
async def test_no_hosts(zone, reply):
    found = await hosts(zone)
    assert isinstance(found, Reply)
    assert str(found).startswith(reply)


async def test_addresses_by_turns_and_what_is_unknown():
    zone = {
        ("a.example", "AAAA"): ["2001:db8::1", "2001:db8::2"],
        ("a.example", "A"): ["192.0.2.1"],
        ("b.example", "A"): ["192.0.2.2", "192.0.2.1"],
        ("c.example", "*"): DnsStatus.SERVFAIL,
        ("d.example", "TXT"): "nothing",
    }
    resolver = FakeResolver(zone)
    assert await addresses(resolver, ["a.example", "b.example", "c.example"], "x") == [
        "2001:db8::1",
        "192.0.2.1",
        "2001:db8::2",
        "192.0.2.2",
    ]
    assert str(await addresses(resolver, ["c.example", "d.example"], "x")).startswith("451 4.4.3")
    assert str(await addresses(resolver, ["d.example"], "x")).startswith("550 5.4.4")


@pytest.mark.parametrize(
    ("literal", "address"), [("[192.0.2.7]", "192.0.2.7"), ("[IPv6:2001:db8::7]", "2001:db8::7")]
)
async def test_a_literal_is_its_own_address(literal, address):
    resolver = FakeResolver({})
    assert await exchanges(resolver, literal, "relay.test") == [Exchange(literal)]
    assert await addresses(resolver, [literal], literal) == [address]
    assert resolver.asked == []


@asynccontextmanager
async def an_mx_hop(zone, port):
    log = []
    resolver, logging = (
        FakeResolver(zone),
        Log(lambda line: log.append(json.loads(line)), FakeClock().time),
    )
    hop = MxHop(
        UpstreamSettings("internet", (), "relay.test", timeouts=QUICK),
        resolver,
        port=port,
        policies=TlsPolicies(resolver, clock=FakeClock(), log=logging),
        log=logging,
        metrics=Metrics(),
        monotonic=FakeClock().monotonic,
        outbox=Outbox(asyncio.get_running_loop().call_soon),
    )
    yield hop
    hop.close()
    await asyncio.sleep(0)


ZONE = {
    ("example.net", "MX"): [(10, "first.example"), (20, "second.example")],
    ("first.example", "A"): "127.0.0.2",
    ("second.example", "A"): "127.0.0.3",
}


async def deliver(hop):
    envelope = an_envelope()
    transaction = hop.begin(a_mail(envelope=envelope), 0)
    heard = await transaction.recipients(envelope.recipients)
    final = await transaction.send(LEAD, MESSAGE) if heard[0].ok else []
    transaction.abort()
    return transaction, heard, final


async def test_the_best_server_has_it():
    async with (
        UpstreamSink(host="127.0.0.2") as first,
        UpstreamSink(host="127.0.0.3", port=first.port) as second,
        an_mx_hop(ZONE, first.port) as hop,
    ):
        transaction, _, final = await deliver(hop)
        assert codes(final) == [250]
        assert not transaction.unreached
        assert transaction.capabilities is not None
        assert (len(first.messages), len(second.messages)) == (1, 0)


async def test_the_next_server_has_it_when_the_first_is_not_there():
    async with UpstreamSink(host="127.0.0.3") as second, an_mx_hop(ZONE, second.port) as hop:
        _, _, final = await deliver(hop)
        assert codes(final) == [250]
        assert len(second.messages) == 1


async def test_a_refusal_is_not_taken_to_the_next_server():
    async with (
        UpstreamSink(host="127.0.0.2") as first,
        UpstreamSink(host="127.0.0.3", port=first.port) as second,
        an_mx_hop(ZONE, first.port) as hop,
    ):
        first.plan.add(Fault(Step.RCPT, answer(550, "5.1.1 nobody")))
        _, heard, _ = await deliver(hop)
        assert [str(reply) for reply in heard] == ["550 5.1.1 nobody"]
        assert second.messages == []


async def test_no_server_is_there():
    async with UpstreamSink() as elsewhere, an_mx_hop(ZONE, elsewhere.port) as hop:
        transaction, heard, _ = await deliver(hop)
        assert transaction.unreached
        assert codes(heard) == [451]


async def test_a_domain_that_takes_no_mail():
    async with an_mx_hop({("example.net", "MX"): [(0, ".")]}, 25) as hop:
        transaction, heard, _ = await deliver(hop)
        assert not transaction.unreached
        assert str(heard[0]).startswith("556 5.1.10")
