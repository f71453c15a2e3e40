"""What the queue counts in the shared state holds in every store: warm-up budgets and rates of destinations."""

import asyncio

from relayproxy.delivery.warmup import DAY, Budgets, Warmup
from relayproxy.spool.rates import Rates
from relayproxy.testing.clock import FakeClock


class TestConformance:
    """Held against memory, SQLite and Valkey."""

    async def test_workers_that_ask_at_once_never_get_more_than_the_budget(self, store, clock):
        today = clock.time() // DAY * DAY
        rule = (Warmup("source 192.0.2.1", today, (100, 200)),)
        workers = [Budgets(store, clock.time, workers=4, slot=slot) for slot in range(4)]

        async def ask(budgets: Budgets) -> int:
            taken = 0
            for _ in range(10):
                found = (await budgets.take(rule, {"+google": 7}))["+google"]
                await budgets.give(rule, {"+google": found // 7})
                taken += found - found // 7
            return taken

        taken = await asyncio.gather(*map(ask, workers))
        assert sum(taken) == 100
        assert await workers[0].take(rule, {"other": 1}) == {"other": 1}
        clock.advance(DAY)
        assert await workers[1].take(rule, {"+google": 300}) == {"+google": 200}

    async def test_workers_keep_a_rate_together(self, store, clock):
        workers = [Rates(store, clock.monotonic, workers=3) for _ in range(3)]
        begun = 0
        for _ in range(100):
            for rates in workers:
                begun += await rates.take("+google", 0.5) == 0.0
            clock.advance(0.5)
        assert 24 <= begun <= 26  # one at once, then one every two seconds in fifty


async def test_without_a_state_each_worker_keeps_to_its_part():
    clock = FakeClock()
    workers = [Rates(None, clock.monotonic, workers=2) for _ in range(2)]
    begun = 0
    for _ in range(1000):
        for rates in workers:
            begun += await rates.take("+google", 1.0) == 0.0
        clock.advance(0.1)
    assert 98 <= begun <= 104
    assert 0 < await workers[0].take("+google", 1.0) <= 2.0
