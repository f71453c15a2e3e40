import asyncio

import pytest

from relayproxy.api import Answer, DnsStatus, fetch_from
from relayproxy.builtin._lookup import NotKnownError, at_once, known_to, peek_at, recorded
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


def _cached(*known):
    resolver = CachingResolver()
    for name, rdtype, records in known:
        resolver._remember((name, rdtype), Answer(DnsStatus.OK, records, 60))
    return resolver


async def _first(fetch):
    return [answer.records for answer in await fetch([("a.example", "A"), ("b.example", "A")])]


def test_a_check_whose_answers_are_known_is_done_at_once():
    resolver = _cached(("a.example", "A", ("192.0.2.1",)), ("b.example", "A", ()))
    assert at_once(_first(known_to(resolver.peek))) == [("192.0.2.1",), ()]


@pytest.mark.parametrize("known", [(), (("a.example", "A", ("192.0.2.1",)),)])
def test_a_check_that_lacks_an_answer_is_not(known):
    with pytest.raises(NotKnownError):
        at_once(_first(known_to(_cached(*known).peek)))


def test_a_check_that_waits_for_something_else_is_not_done_at_once_either():
    async def waits():
        await asyncio.sleep(0)

    with pytest.raises(NotKnownError):
        at_once(waits())


def test_what_a_check_raises_comes_through():
    async def fails():
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        at_once(fails())


def test_what_was_brought_is_recorded():
    resolver = _cached(("a.example", "A", ("192.0.2.1",)), ("b.example", "A", ()))
    used = {}
    at_once(_first(recorded(known_to(resolver.peek), used)))
    assert used == {
        ("a.example", "A"): resolver.peek("a.example", "A"),
        ("b.example", "A"): resolver.peek("b.example", "A"),
    }
