"""The resolver against a real name server on the loopback interface."""

import asyncio
import contextlib
import struct
import subprocess
import sys
from collections import Counter

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.api import Answer, DnsStatus
from relayproxy.resolver import Budgeted, CachingResolver
from relayproxy.resolver.wire import Stub, to_name
from relayproxy.testing import FakeClock

SOA = "ns.test. hostmaster.test. 1 3600 600 86400 60"
BIG = ["x" * 250 for _ in range(20)]

ZONE = {
    ("a.test.", "A"): ["192.0.2.1", "192.0.2.2"],
    ("a.test.", "AAAA"): ["2001:db8::1"],
    ("a.test.", "MX"): ["10 mx.test.", "0 ."],
    ("a.test.", "TXT"): ['"v=spf1 " "-all"', '"caf\\195\\169"'],
    ("a.test.", "SRV"): ["1 2 25 mx.test."],
    ("_25._tcp.a.test.", "TLSA"): ["3 1 1 " + "ab" * 32],
    ("a.test.", "NS"): ["ns.test."],
    ("a.test.", "CAA"): ['0 issue "ca.test"'],
    ("1.2.0.192.in-addr.arpa.", "PTR"): ["a.test.", "b.test."],
    ("alias.test.", "CNAME"): ["a.test."],
    ("big.test.", "TXT"): [f'"{text}{number}"' for number, text in enumerate(BIG)],
    ("b\\\\046.test.", "A"): ["192.0.2.3"],
    ("xn--exmple-cua.test.", "A"): ["192.0.2.4"],
}


class NameServer(asyncio.DatagramProtocol):
    """Answers from ZONE over UDP and TCP; names that begin with a status behave as it says."""

    def __init__(self):
        self.seen = Counter()
        self.requests = []
        self.heard = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.task = asyncio.ensure_future(self.answer_udp(data, addr))

    async def answer_udp(self, data, addr):
        reply = await self.reply(data)
        if reply is None:
            return
        wire = reply.to_wire(max_size=65535)
        if len(wire) > 1232:
            reply.answer, reply.flags = [], reply.flags | dns.flags.TC
            wire = reply.to_wire()
        self.seen["udp"] += 1
        self.transport.sendto(wire, addr)

    async def serve_tcp(self, reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError):
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            reply = await self.reply(await reader.readexactly(length))
            self.seen["tcp"] += 1
            wire = reply.to_wire(max_size=65535)
            writer.write(struct.pack("!H", len(wire)) + wire)
            await writer.drain()
        writer.close()

    async def reply(self, data):
        query = dns.message.from_wire(data)
        self.requests.append(query)
        self.heard.set()
        name, rdtype = query.question[0].name, query.question[0].rdtype
        self.seen[name.to_text()] += 1
        await self.gate.wait()
        reply = dns.message.make_response(query)
        kind = name.to_text().partition(".")[0]
        if kind == "silent":
            return None
        if kind in ("servfail", "refused"):
            reply.set_rcode(dns.rcode.from_text(kind))
            return reply
        if kind == "odd":
            reply.answer = [dns.rrset.from_text("odd.test.", 60, "IN", "A", "192.0.2.9")]
            reply.set_rcode(dns.rcode.NXDOMAIN)
            return reply
        if kind in ("half", "circle"):
            target = "a.test." if kind == "half" else f"circle.{name.to_text()}"
            reply.answer.append(dns.rrset.from_text(name, 600, "IN", "CNAME", target))
            return reply
        if kind == "secure":
            reply.flags |= dns.flags.AD
        key = name.to_text().lower()
        alias = ZONE.get((key, "CNAME"))
        if alias:
            reply.answer.append(dns.rrset.from_text(key, 600, "IN", "CNAME", *alias))
            key = alias[0]
        found = ZONE.get((key, dns.rdatatype.to_text(rdtype)))
        if found:
            reply.answer.append(dns.rrset.from_text(key, 120, "IN", rdtype, *found))
        else:
            if kind != "nosoa":
                reply.authority.append(dns.rrset.from_text("test.", 7200, "IN", "SOA", SOA))
            if not any(known == key for known, _ in ZONE) and kind != "secure":
                reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply


@pytest.fixture
async def server():
    loop = asyncio.get_running_loop()
    name_server = NameServer()
    while True:
        transport, _ = await loop.create_datagram_endpoint(lambda: name_server, ("127.0.0.1", 0))
        name_server.address = transport.get_extra_info("sockname")
        try:
            tcp = await asyncio.start_server(name_server.serve_tcp, *name_server.address)
        except OSError:
            transport.close()
            continue
        break
    yield name_server
    name_server.gate.set()
    tcp.close()
    await tcp.wait_closed()
    transport.close()


@pytest.fixture
async def clock():
    return FakeClock()


@pytest.fixture
async def resolver(server, clock):
    made = CachingResolver([server.address], clock=clock, timeout=4)
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("name", "rdtype", "records"),
    [
        ("a.test", "A", {"192.0.2.1", "192.0.2.2"}),
        ("A.TEST.", "AAAA", {"2001:db8::1"}),
        ("a.test", "MX", {(10, "mx.test"), (0, "")}),
        ("a.test", "TXT", {b"v=spf1 -all", b"caf\xc3\xa9"}),
        ("a.test", "SRV", {(1, 2, 25, "mx.test")}),
        ("_25._tcp.a.test", "TLSA", {(3, 1, 1, b"\xab" * 32)}),
        ("a.test", "NS", {"ns.test"}),
        ("a.test", "CAA", {'0 issue "ca.test"'}),
        ("1.2.0.192.in-addr.arpa", "PTR", {"a.test", "b.test"}),
        ("alias.test", "A", {"192.0.2.1", "192.0.2.2"}),
        ("alias.test", "CNAME", {"a.test"}),
        ("half.test", "AAAA", {"2001:db8::1"}),
        ("b\\046.test", "A", {"192.0.2.3"}),
        ("exämple.test", "A", {"192.0.2.4"}),
    ],
)
async def test_records_come_in_their_form(resolver, name, rdtype, records):
    answer = await resolver.query(name, rdtype)
    assert answer.status is DnsStatus.OK
    assert set(answer.records) == records
    assert answer.ttl == 120 or (rdtype == "CNAME" and answer.ttl == 600)
    assert not answer.secure


@pytest.mark.parametrize(
    ("name", "rdtype", "status", "ttl"),
    [
        ("a.test", "LOC", DnsStatus.NODATA, 60),
        ("alias.test", "LOC", DnsStatus.NODATA, 60),
        ("nothing.test", "A", DnsStatus.NXDOMAIN, 60),
        ("nosoa.test", "A", DnsStatus.NXDOMAIN, 300),
        ("servfail.test", "A", DnsStatus.SERVFAIL, 0),
        ("refused.test", "A", DnsStatus.SERVFAIL, 0),
        ("odd.test", "A", DnsStatus.SERVFAIL, 0),
        ("half.test", "LOC", DnsStatus.NODATA, 60),
        ("circle.test", "A", DnsStatus.SERVFAIL, 0),
        ("a.test", "NOSUCHTYPE", DnsStatus.SERVFAIL, 0),
        ("a..test", "A", DnsStatus.NXDOMAIN, 0),
        ("l" * 64 + ".test", "A", DnsStatus.NXDOMAIN, 0),
        ("a." * 127 + "test", "A", DnsStatus.NXDOMAIN, 0),
        ("\udcff.test", "A", DnsStatus.NXDOMAIN, 0),
    ],
)
async def test_every_other_end_has_its_status(resolver, name, rdtype, status, ttl):
    answer = await resolver.query(name, rdtype)
    assert (answer.status, answer.records, answer.ttl) == (status, (), ttl)


async def test_silence_is_a_timeout(server):
    resolver = CachingResolver([server.address], timeout=0.05)
    assert (await resolver.query("silent.test", "A")).status is DnsStatus.TIMEOUT
    assert resolver.failures == 1


async def test_a_refused_connection_is_a_failure_and_not_an_error():
    resolver = CachingResolver([("127.0.0.1", 1)], timeout=0.05)
    assert (await resolver.query("a.test", "A")).failed


async def test_a_long_answer_comes_over_tcp(server, resolver):
    answer = await resolver.query("big.test", "TXT")
    assert len(answer.records) == len(BIG)
    assert server.seen["tcp"] == 1


async def test_asks_with_edns_and_for_validation(server, resolver):
    plain = await resolver.query("a.test", "A")
    vouched = await resolver.query("secure.test", "A")
    assert (plain.secure, vouched.secure) == (False, True)
    assert all(query.edns == 0 and query.payload == 1232 for query in server.requests)
    assert all(query.flags & dns.flags.AD for query in server.requests)


async def test_answers_are_kept_for_their_ttl(server, resolver, clock):
    first = await resolver.query("a.test", "A")
    clock.advance(119)
    assert resolver.peek("A.test.", "A") is first
    assert await resolver.query("a.test", "A") is first
    clock.advance(1)
    assert resolver.peek("a.test", "A") is None
    assert set((await resolver.query("a.test", "A")).records) == set(first.records)
    assert server.seen["a.test."] == 2
    assert (resolver.hits, resolver.misses) == (2, 2)


@pytest.mark.parametrize(
    ("name", "rdtype", "kept"),
    [
        ("nothing.test", "A", 60),
        ("a.test", "LOC", 60),
        ("nosoa.test", "A", 300),
        ("servfail.test", "A", 5),
    ],
)
async def test_negative_answers_and_failures_are_kept_too(server, resolver, clock, name, rdtype, kept):
    first = await resolver.query(name, rdtype)
    clock.advance(kept - 1)
    assert resolver.peek(name, rdtype) is first
    clock.advance(1)
    assert resolver.peek(name, rdtype) is None


async def test_the_time_that_answers_are_kept_has_bounds(server, clock):
    long = CachingResolver([server.address], clock=clock, min_ttl=300)
    await long.query("a.test", "A")
    clock.advance(299)
    assert long.peek("a.test", "A")
    short = CachingResolver([server.address], clock=clock, max_ttl=10)
    await short.query("a.test", "A")
    clock.advance(10)
    assert short.peek("a.test", "A") is None


async def test_the_cache_drops_what_was_used_least_recently(server):
    resolver = CachingResolver([server.address], cache_size=2)
    await resolver.query("a.test", "A")
    await resolver.query("a.test", "AAAA")
    assert resolver.peek("a.test", "A")
    await resolver.query("a.test", "MX")
    assert resolver.peek("a.test", "A")
    assert resolver.peek("a.test", "AAAA") is None


async def test_the_cache_is_bounded_by_octets(server):
    resolver = CachingResolver([server.address], octets=5000)
    for name, rdtype in (("big.test", "TXT"), ("a.test", "A"), ("a.test", "MX")):
        await resolver.query(name, rdtype)
    assert resolver.peek("big.test", "TXT") is None
    assert resolver.peek("a.test", "A")
    tiny = CachingResolver([server.address], octets=100)
    assert (await tiny.query("big.test", "TXT")).status is DnsStatus.OK
    assert tiny.peek("big.test", "TXT") is None


async def test_the_same_question_is_on_the_wire_once(server, resolver):
    server.gate.clear()
    waiting = [asyncio.ensure_future(resolver.query("a.test", "A")) for _ in range(20)]
    await server.heard.wait()
    server.gate.set()
    answers = await asyncio.gather(*waiting)
    assert server.seen["a.test."] == 1
    assert all(answer is answers[0] for answer in answers)


async def test_who_gives_up_does_not_spoil_it_for_others(server, resolver):
    server.gate.clear()
    first = asyncio.ensure_future(resolver.query("a.test", "A"))
    second = asyncio.ensure_future(resolver.query("a.test", "A"))
    await server.heard.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    server.gate.set()
    assert (await second).status is DnsStatus.OK


async def test_close_ends_what_is_on_the_wire(server, resolver):
    server.gate.clear()
    waiting = asyncio.ensure_future(resolver.query("a.test", "A"))
    await server.heard.wait()
    await resolver.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_without_servers_it_asks_those_of_the_system(monkeypatch):
    resolver = CachingResolver(timeout=0.05)
    stub = await resolver._load()
    assert stub._stub.nameservers
    monkeypatch.setattr(dns.resolver.BaseResolver, "read_resolv_conf", _no_resolv_conf)
    assert [str(server) for server in (await CachingResolver()._load())._stub.nameservers] == [
        "Do53:127.0.0.1@53"
    ]


def _no_resolv_conf(self, path):
    raise dns.resolver.NoResolverConfiguration


async def test_a_fault_of_the_stub_is_a_failure(server, resolver, monkeypatch, caplog):
    class Broken:
        async def ask(self, name, rdtype):
            raise ZeroDivisionError

    resolver._stub = Broken()
    assert (await resolver.query("a.test", "A")).status is DnsStatus.SERVFAIL
    assert "a.test A failed" in caplog.text


async def test_the_stub_alone_keeps_its_time_too(server):
    assert (await Stub([server.address], 0.05).ask("silent.test", "A")).status is DnsStatus.TIMEOUT


async def test_dnspython_is_set_up_once(resolver):
    answers = await asyncio.gather(resolver.query("a.test", "A"), resolver.query("a.test", "MX"))
    assert [answer.status for answer in answers] == [DnsStatus.OK, DnsStatus.OK]


def test_dnspython_is_loaded_by_the_first_question():
    code = "import sys, relayproxy.resolver as r; r.CachingResolver(); print('dns' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"


def test_a_server_that_is_no_address_is_refused():
    with pytest.raises(ValueError, match="does not appear to be"):
        CachingResolver([("ns.test", 53)])


@given(st.text())
def test_any_text_is_a_name_or_is_refused(text):
    try:
        name = to_name(text)
    except (dns.exception.DNSException, UnicodeError):
        return
    assert name.is_absolute()


class Known:
    def __init__(self, known):
        self.known = known
        self.asked = []

    def peek(self, name, rdtype):
        return Answer(DnsStatus.OK) if name in self.known else None

    async def query(self, name, rdtype):
        self.asked.append(name)
        return Answer(DnsStatus.NXDOMAIN)


async def test_a_message_has_so_many_questions_and_no_more(caplog):
    budgeted = Budgeted(Known({"cached.test"}), limit=2)

    async def message():
        budgeted.begin()
        names = ["cached.test", "a.test", "cached.test", "b.test", "c.test", "cached.test"]
        return [(await asyncio.ensure_future(budgeted.query(name, "A"))).status.value for name in names]

    first, second = await asyncio.gather(message(), message())
    assert first == second == ["ok", "nxdomain", "ok", "nxdomain", "servfail", "ok"]
    assert "c.test A was not asked" in caplog.text
    assert budgeted.peek("cached.test", "A")
    assert budgeted.peek("a.test", "A") is None


async def test_outside_of_a_message_nothing_is_counted():
    known = Known(())
    budgeted = Budgeted(known, limit=1)
    for _ in range(3):
        assert (await budgeted.query("a.test", "A")).status is DnsStatus.NXDOMAIN
    assert len(known.asked) == 3
