import asyncio
import json

import pytest

from relayproxy.api import SharedState, Unavailable
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.state.guard import RESULTS, GuardedState
from relayproxy.state.memory import MemoryState


class Faulty(MemoryState):
    """A store that fails or hangs while it is told to."""

    fault = ""
    asked = 0

    async def do(self, *operations):
        self.asked += 1
        if self.fault == "hang":
            await asyncio.Event().wait()
        if self.fault:
            raise Unavailable(self.fault)
        return await super().do(*operations)


class Guard:
    def __init__(self, clock, **settings) -> None:
        self.inner = Faulty(clock.time)
        self.lines: list[str] = []
        self.metrics = Metrics()
        self.state = GuardedState(
            self.inner,
            name="sqlite:///x",
            log=Log(self.lines.append, clock.time),
            metrics=self.metrics,
            monotonic=clock.monotonic,
            **settings,
        )

    @property
    def counts(self):
        return {result: self.metrics.cell("state_calls_total", result).value for result in RESULTS}

    @property
    def events(self):
        return [json.loads(line)["event"] for line in self.lines]

    async def fails(self, times=1):
        for _ in range(times):
            with pytest.raises(Unavailable):
                await self.state.get("t")


async def test_what_works_goes_through(clock):
    guard = Guard(clock)
    await guard.state.put("t", "x", ttl=10.0)
    assert await guard.state.get("t") == "x"
    assert guard.counts == {"ok": 2, "error": 0, "timeout": 0, "refused": 0}
    assert guard.events == []


async def test_after_three_failures_it_is_left_alone_and_tried_again_once(clock):
    guard = Guard(clock)
    guard.inner.fault = "broken"
    await guard.fails(10)
    assert (guard.inner.asked, guard.counts["error"], guard.counts["refused"]) == (3, 3, 7)
    clock.advance(5.0)
    await guard.fails(10)
    assert guard.inner.asked == 4
    clock.advance(5.0)
    guard.inner.fault = ""
    assert await guard.state.get("t") is None
    assert guard.events == ["state_unavailable", "state_available"]
    assert json.loads(guard.lines[0])["error"] == "broken"
    assert json.loads(guard.lines[1])["seconds"] == 10.0


async def test_only_one_call_tries_again(clock):
    guard = Guard(clock, failures=1)
    guard.inner.fault = "broken"
    await guard.fails()
    clock.advance(5.0)
    guard.inner.fault = "hang"
    trying = asyncio.create_task(guard.state.get("t"))
    await asyncio.sleep(0)
    await guard.fails(3)
    assert guard.inner.asked == 2
    trying.cancel()
    await asyncio.gather(trying, return_exceptions=True)
    await guard.fails()
    clock.advance(5.0)
    guard.inner.fault = ""
    assert await guard.state.get("t") is None


async def test_a_store_that_hangs_is_given_up(clock):
    guard = Guard(clock, timeout=0.01)
    guard.inner.fault = "hang"
    with pytest.raises(Unavailable, match=r"within 0\.01 s"):
        await guard.state.get("t")
    assert guard.counts["timeout"] == 1


async def test_a_second_outage_is_logged_again(clock):
    guard = Guard(clock)
    for fault in ("one", "", "two", ""):
        guard.inner.fault = fault
        if fault:
            await guard.fails(2)
        else:
            await guard.state.get("t")
    assert guard.events == ["state_unavailable", "state_available"] * 2


async def test_without_a_store_every_call_says_so():
    with pytest.raises(Unavailable, match="no shared state"):
        await SharedState().take("b", 1.0, 1.0)


async def test_memory_has_a_bound(clock):
    store = MemoryState(clock.time, most=100)
    for number in range(500):
        await store.put(f"k{number}", "x", ttl=10.0 + number)
        assert store.size <= 100
    assert await store.get("k499") == "x"
    assert await store.get("k0") is None


async def test_a_late_failure_of_an_outage_that_is_over_begins_no_new_one(clock):
    guard = Guard(clock, timeout=0.02)
    guard.inner.fault = "hang"
    late = asyncio.create_task(guard.state.get("t"))
    await asyncio.sleep(0)
    guard.inner.fault = "broken"
    await guard.fails()
    clock.advance(1.0)
    guard.inner.fault = ""
    await guard.state.get("t")
    with pytest.raises(Unavailable):
        await late
    assert guard.counts["timeout"] == 1
    assert guard.events == ["state_unavailable", "state_available"]
