"""What was seen of TLS with a host: in the state, for all workers, and no way round while the state is down."""

import json

import pytest

from relayproxy.api import SharedState
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.delivery.ratchet import Level, Ratchet, RatchetError, key_of, seen_in
from relayproxy.state.memory import MemoryState
from relayproxy.testing.clock import FakeClock

HOUR = 3600.0


class Bench:
    """A ratchet over a state, or over one that is down."""

    def __init__(self, state=None):
        self.clock, self.log, self.metrics = FakeClock(1_790_000_000.0), [], Metrics()
        self.state = state or MemoryState(self.clock.time)
        self.ratchet = self.another()

    def another(self):
        """Of another worker."""
        log = Log(lambda line: self.log.append(json.loads(line)), self.clock.time)
        return Ratchet(self.state, clock=self.clock, log=log, metrics=self.metrics)

    async def judge(self, level, *, enforce=True, ratchet=None):
        """Whether a connection of this level may be used."""
        try:
            await (ratchet or self.ratchet).judge("MX.example", 25, level, enforce=enforce, expire=HOUR)
        except RatchetError as error:
            return error.level is not level
        return True

    async def seen(self):
        return seen_in(await self.state.get(key_of("mx.example", 25)))


@pytest.mark.parametrize("first", list(Level))
@pytest.mark.parametrize("then", list(Level))
async def test_never_less_than_was_seen(first, then):
    bench = Bench()
    assert await bench.judge(first)
    for ratchet in (bench.ratchet, bench.another()):
        assert await bench.judge(then, ratchet=ratchet) is (then >= first)
    assert len(bench.log) == (2 if then < first else 0)
    assert bench.metrics.cell("tls_ratchet_total", "refused").value == len(bench.log)


async def test_warned_is_not_forgotten():
    bench = Bench()
    await bench.judge(Level.VERIFIED)
    for _ in range(2):
        assert await bench.judge(Level.ENCRYPTED, enforce=False)
    assert await bench.seen() == "TLS with a certificate that is good for its name"
    assert [event["refused"] for event in bench.log] == [False, False]


async def test_it_ends_when_it_was_not_seen_for_long():
    bench = Bench()
    for _ in range(20):
        assert await bench.judge(Level.ENCRYPTED)
        bench.clock.advance(HOUR / 2)
    assert await bench.seen() == "TLS"
    bench.clock.advance(HOUR)
    assert await bench.judge(Level.CLEAR)
    assert await bench.seen() == ""


async def test_while_the_state_is_down_only_what_is_good_to_the_full_is_let_through():
    bench = Bench(SharedState())
    assert await bench.judge(Level.VERIFIED)
    for level in (Level.CLEAR, Level.ENCRYPTED):
        assert not await bench.judge(level)
        assert await bench.judge(level, enforce=False)


async def test_a_text_that_is_no_level_says_nothing():
    bench = Bench()
    await bench.state.put(key_of("mx.example", 25), "nonsense", ttl=HOUR)
    assert await bench.judge(Level.CLEAR)
    assert await bench.seen() == ""
