import asyncio

import pytest

from relayproxy.api import Answer, DnsStatus, Resolver
from relayproxy.testing import FakeClock, FakeResolver

ZONE = {
    ("example.org", "TXT"): ["v=spf1 -all", b"\xff"],
    ("example.org", "MX"): [(10, "mx.example.org")],
    ("www.example.org", "CNAME"): "example.org",
    ("broken.example", "*"): DnsStatus.SERVFAIL,
    ("slow.example", "A"): DnsStatus.TIMEOUT,
    ("gone.example", "A"): DnsStatus.NXDOMAIN,
    ("bare.example", "A"): [],
    ("loop.example", "CNAME"): "loop.example",
    ("deep.below.example", "A"): "192.0.2.1",
}


@pytest.mark.parametrize(
    ("name", "rdtype", "status", "records"),
    [
        ("example.org", "TXT", DnsStatus.OK, (b"v=spf1 -all", b"\xff")),
        ("EXAMPLE.org.", "mx", DnsStatus.OK, ((10, "mx.example.org"),)),
        ("www.example.org", "MX", DnsStatus.OK, ((10, "mx.example.org"),)),
        ("www.example.org", "AAAA", DnsStatus.NODATA, ()),
        ("example.org", "A", DnsStatus.NODATA, ()),
        ("below.example", "A", DnsStatus.NODATA, ()),
        ("bare.example", "A", DnsStatus.NODATA, ()),
        ("nothing.example", "A", DnsStatus.NXDOMAIN, ()),
        ("gone.example", "TXT", DnsStatus.NXDOMAIN, ()),
        ("broken.example", "A", DnsStatus.SERVFAIL, ()),
        ("broken.example", "TXT", DnsStatus.SERVFAIL, ()),
        ("slow.example", "A", DnsStatus.TIMEOUT, ()),
        ("loop.example", "A", DnsStatus.SERVFAIL, ()),
    ],
)
async def test_answers_like_a_recursive_resolver(name, rdtype, status, records):
    answer = await FakeResolver(ZONE).query(name, rdtype)
    assert (answer.status, answer.records) == (status, records)
    assert answer.failed == (status in (DnsStatus.SERVFAIL, DnsStatus.TIMEOUT))


async def test_logs_what_was_asked_and_takes_changes():
    resolver: Resolver = FakeResolver(ttl=60, secure=True)
    assert (await resolver.query("Example.org", "a")).status is DnsStatus.NXDOMAIN
    resolver.set("example.org", "A", "192.0.2.1")
    assert await resolver.query("example.org", "A") == Answer(DnsStatus.OK, ("192.0.2.1",), 60, secure=True)
    assert resolver.asked == [("example.org", "A"), ("example.org", "A")]


async def test_answers_take_their_delay_side_by_side():
    clock = FakeClock()
    resolver = FakeResolver(ZONE, clock=clock, delay=0.05)

    async def both():
        return await asyncio.gather(resolver.query("example.org", "TXT"), resolver.query("example.org", "MX"))

    answers = await clock.run(both())
    assert [answer.status for answer in answers] == [DnsStatus.OK, DnsStatus.OK]
    assert clock.monotonic() == 0.05


def test_a_delay_needs_a_clock():
    with pytest.raises(ValueError, match="clock"):
        FakeResolver(delay=1)
