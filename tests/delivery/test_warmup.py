"""Budgets: never more than a day allows, whatever is asked at the same time, given back, or not reachable."""

import asyncio
import datetime as dt
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayproxy.api import SharedState, Unavailable
from relayproxy.delivery.warmup import DAY, Budgets, Warmup, until_tomorrow
from relayproxy.state.memory import MemoryState
from relayproxy.testing.clock import FakeClock

START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC).timestamp()


def warmup(*days: int, name: str = "w") -> Warmup:
    return Warmup(name, START, days)


class Moody(SharedState):
    """A state that can be taken away."""

    def __init__(self, inner: SharedState) -> None:
        self.inner = inner
        self.there = True

    async def do(self, *operations):
        if not self.there:
            raise Unavailable("away")
        return await self.inner.do(*operations)


@pytest.mark.parametrize(
    ("days", "budget"),
    [(-0.01, 0), (0, 50), (0.99, 50), (1, 100), (1.5, 100), (2, math.inf), (365, math.inf)],
)
def test_the_day_counts_from_midnight(days, budget):
    assert warmup(50, 100).budget(START + days * DAY) == budget


def test_until_tomorrow():
    assert until_tomorrow(START) == DAY
    assert until_tomorrow(START + DAY - 1) == 1


async def test_groups_are_counted_apart_and_the_next_day_anew():
    clock = FakeClock(START)
    budgets = Budgets(MemoryState(clock.time), clock.time)
    one = (warmup(5, 10),)
    assert await budgets.take(one, {"+google": 3, "other": 9}) == {"+google": 3, "other": 5}
    assert await budgets.take(one, {"+google": 3, "other": 1}) == {"+google": 2, "other": 0}
    clock.advance(DAY)
    assert await budgets.take(one, {"+google": 12}) == {"+google": 10}
    clock.advance(DAY)
    assert await budgets.take(one, {"+google": 1000}) == {"+google": 1000}


async def test_of_two_budgets_the_smaller_one_counts_and_neither_loses_any():
    clock = FakeClock(START)
    state = MemoryState(clock.time)
    wide, narrow = warmup(10, name="wide"), warmup(4, name="narrow")
    assert await Budgets(state, clock.time).take((wide, narrow), {"other": 8}) == {"other": 4}
    assert await Budgets(state, clock.time).take((wide,), {"other": 8}) == {"other": 6}


async def test_what_is_given_back_can_be_taken_again():
    clock = FakeClock(START)
    budgets = Budgets(MemoryState(clock.time), clock.time)
    one = (warmup(5),)
    assert await budgets.take(one, {"other": 7}) == {"other": 5}
    assert await budgets.take(one, {"other": 1}) == {"other": 0}
    await budgets.give(one, {"other": 2})
    assert await budgets.take(one, {"other": 7}) == {"other": 2}


steps = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["take", "give", "away", "back"]), st.integers(1, 40)),
    max_size=40,
)


@settings(deadline=None)
@given(st.integers(1, 60), steps)
def test_all_workers_together_never_take_more(limit, steps):
    """An outage leaves each what it last knew of; what the others have taken unseen before is all that can be too much."""

    async def run() -> None:
        clock = FakeClock(START)
        inner = MemoryState(clock.time)
        states = [Moody(inner) for _ in range(4)]
        workers = [Budgets(state, clock.time, workers=4, slot=slot) for slot, state in enumerate(states)]
        one = (warmup(limit),)
        used: Counter[int] = Counter()
        away = False
        for slot, step, count in steps:
            if step == "take":
                taken = (await workers[slot].take(one, {"other": count}))["other"]
                assert 0 <= taken <= count
                used[slot] += taken
            elif step == "give":
                back = min(count, used[slot])
                await workers[slot].give(one, {"other": back})
                used[slot] -= back
            else:
                states[slot].there = step == "back"
                away = away or step == "away"
            if not away:
                assert used.total() <= limit
        assert used.total() <= 2 * limit

    asyncio.run(run())


@given(st.integers(1, 100), st.integers(1, 8))
def test_without_a_state_the_parts_of_all_workers_are_the_whole(limit, count):
    async def run() -> None:
        clock = FakeClock(START)
        workers = [Budgets(None, clock.time, workers=count, slot=slot) for slot in range(count)]
        taken = [(await one.take((warmup(limit),), {"other": 1000}))["other"] for one in workers]
        assert sum(taken) == limit
        assert max(taken) - min(taken) <= 1

    asyncio.run(run())


async def test_after_an_outage_the_others_hear_of_what_was_used():
    clock = FakeClock(START)
    state = Moody(MemoryState(clock.time))
    one, other = (Budgets(state, clock.time, workers=2, slot=slot) for slot in range(2))
    rule = (warmup(10),)
    assert await one.take(rule, {"other": 2}) == {"other": 2}
    state.there = False
    assert await one.take(rule, {"other": 9}) == {"other": 4}, "half of what is left"
    state.there = True
    assert await one.take(rule, {"other": 1}) == {"other": 1}
    assert await other.take(rule, {"other": 9}) == {"other": 3}
