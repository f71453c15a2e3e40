"""Policies of MTA-STS: fetched once for all workers, anew in time, and never lost to an outage."""

import json

import pytest

from relayproxy.api import DnsStatus, SharedState, shared_key
from relayproxy.core.log import Log
from relayproxy.delivery import sts_cache
from relayproxy.delivery.sts_cache import StsCache
from relayproxy.mailauth.mta_sts import PolicyFile
from relayproxy.state.memory import MemoryState
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.resolver import FakeResolver

DAY = 86_400
DOMAIN = "example.org"


class Bench:
    """Caches of several workers with one state, one DNS and one file."""

    def __init__(self, state=None):
        self.clock = FakeClock(1_790_000_000.0)
        self.state = state or MemoryState(self.clock.time)
        self.resolver = FakeResolver()
        self.publish(DOMAIN)
        self.file = PolicyFile(200, f"version: STSv1\nmode: enforce\nmx: mx\nmax_age: {DAY}\n".encode())
        self.fetched = 0
        self.log = []
        self.cache = self.worker()

    def publish(self, domain, identity="1"):
        self.resolver.set(f"_mta-sts.{domain}", "TXT", f"v=STSv1; id={identity}")
        self.resolver.set(f"mta-sts.{domain}", "A", "192.0.2.1")

    def worker(self):
        log = Log(lambda line: self.log.append(json.loads(line)), self.clock.time)
        return StsCache(self.resolver, clock=self.clock, log=log, get=self.get, state=self.state)

    async def get(self, _domain, addresses):
        assert addresses == ["192.0.2.1"]
        self.fetched += 1
        return self.file

    async def mode(self, cache=None):
        held = await (cache or self.cache).find(DOMAIN)
        return held.policy.mode if held else ""


async def test_fetched_once_for_all_workers():
    bench = Bench()
    for cache in (bench.cache, bench.cache, bench.worker(), bench.worker()):
        assert await bench.mode(cache) == "enforce"
    assert bench.fetched == 1
    bench.publish(DOMAIN, "2")
    assert await bench.mode() == "enforce"
    assert bench.fetched == 2


async def test_fetched_anew_at_half_of_its_time_so_that_an_outage_does_not_end_it():
    bench = Bench()
    await bench.mode()
    bench.clock.advance(DAY / 2 - 1)
    await bench.mode()
    assert bench.fetched == 1
    bench.clock.advance(1)
    bench.file = PolicyFile(fault="no answer")
    assert await bench.mode() == "enforce"
    assert bench.fetched == 2
    assert bench.cache.problem(DOMAIN)[0] == "sts-policy-fetch-error"
    bench.clock.advance(DAY / 2 - 1)
    assert await bench.mode(bench.worker()) == "enforce"
    bench.clock.advance(1)
    assert await bench.mode() == ""


async def test_it_works_while_the_state_is_down_or_holds_nonsense():
    assert await Bench(SharedState()).mode() == "enforce"
    for text in ("nonsense", "[]", '["1", "x", "enforce", 1, []]', "7"):
        bench = Bench()
        await bench.state.put(shared_key("mta-sts", DOMAIN), text, ttl=60)
        assert await bench.mode() == "enforce"
        assert bench.fetched == 1


@pytest.mark.parametrize("failing", [False, True])
async def test_it_does_not_grow_without_a_bound(monkeypatch, failing):
    monkeypatch.setattr(sts_cache, "_KEPT", 5)
    bench = Bench()
    if failing:
        bench.file = PolicyFile(503)
    for number in range(12):
        bench.publish(f"d{number}.example")
        await bench.cache.find(f"d{number}.example")
    assert len(bench.cache._held) == (0 if failing else 5)
    assert len(bench.cache._failed) == (5 if failing else 0)


async def test_a_record_that_can_not_be_asked_for_is_told_of():
    bench = Bench()
    bench.resolver.set(f"_mta-sts.{DOMAIN}", "TXT", DnsStatus.SERVFAIL)
    assert await bench.mode() == ""
    result, problem = bench.cache.problem(DOMAIN)
    assert result == "sts-policy-fetch-error"
    assert "DNS gave no answer" in problem
    assert bench.cache.problem("other.example") == ("", "")
