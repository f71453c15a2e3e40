from relayproxy.api import Answer, DnsStatus
from relayproxy.builtin._lookup import fetch_from, peek_at
from relayproxy.resolver import CachingResolver
from relayproxy.testing import FakeClock, FakeResolver


async def test_a_batch_takes_as_long_as_its_slowest():
    clock = FakeClock()
    resolver = FakeResolver({("a.example", "A"): "192.0.2.1"}, clock=clock, delay=1)
    answers = await clock.run(fetch_from(resolver)([("a.example", "A"), ("b.example", "A")]))
    assert [answer.status for answer in answers] == [DnsStatus.OK, DnsStatus.NXDOMAIN]
    assert clock.monotonic() == 1
    assert await fetch_from(FakeResolver())([]) == []


async def test_what_a_resolver_knows_can_be_had_at_once():
    resolver = CachingResolver()
    assert peek_at(resolver)("a.example", "A") is None
    resolver._remember(("a.example", "A"), Answer(DnsStatus.OK, ("192.0.2.1",), 60))
    assert peek_at(resolver)("A.example", "A").records == ("192.0.2.1",)


def test_a_resolver_without_memory_knows_nothing():
    assert peek_at(FakeResolver({("a.example", "A"): "192.0.2.1"}))("a.example", "A") is None
