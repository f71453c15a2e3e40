"""What every store does, held against all of them."""

import asyncio
import random

import pytest

from relayproxy.api import Add, Bucket, Delete, Get, Put, PutNew, Take
from relayproxy.state.memory import MemoryState


class TestConformance:
    """One class for memory, SQLite and Valkey."""

    async def test_a_bucket_gives_its_burst_at_once_and_then_its_rate(self, store, clock):
        assert [await store.take("b", rate=2.0, burst=3.0) for _ in range(3)] == [0.0] * 3
        assert await store.take("b", 2.0, 3.0) == pytest.approx(0.5, abs=1e-5)
        assert await store.take("b", 2.0, 3.0) == pytest.approx(0.5, abs=1e-5), "a refusal costs nothing"
        clock.advance(0.5)
        assert await store.take("b", 2.0, 3.0) == 0.0
        assert await store.take("b", 2.0, 3.0, cost=3.0) == pytest.approx(1.5, abs=1e-5)
        clock.advance(3600.0)
        assert await store.take("b", 2.0, 3.0, cost=3.0) == 0.0, "it never holds more than the burst"
        assert await store.take("b", 2.0, 3.0) > 0

    async def test_several_buckets_are_taken_from_together_or_not_at_all(self, store):
        wide, narrow = Bucket("wide", 1.0, 10.0), Bucket("narrow", 0.1, 1.0)
        assert await store.do(Take((wide, narrow))) == [[0.0, 0.0]]
        ((free, wait),) = await store.do(Take((wide, narrow)))
        assert (free, wait) == (0.0, pytest.approx(10.0, abs=1e-5))
        assert [await store.take("wide", 1.0, 10.0) for _ in range(9)] == [0.0] * 9
        assert await store.take("wide", 1.0, 10.0) > 0

    async def test_the_same_bucket_twice_is_charged_twice(self, store):
        bucket = Bucket("b", 1.0, 3.0, cost=2.0)
        ((first, second),) = await store.do(Take((bucket, bucket)))
        assert (first, second) == (0.0, pytest.approx(1.0, abs=1e-5))
        assert await store.take("b", 1.0, 3.0, cost=3.0) == 0.0

    async def test_a_clock_that_was_wrong_locks_nobody_out(self, store, clock):
        clock.advance(1e6)
        await store.take("b", 1.0, 1.0)
        clock._passed -= 1e6
        assert await store.take("b", 1.0, 1.0) == 0.0

    async def test_a_counter_counts_and_ends(self, store, clock):
        assert await store.add("c", ttl=10.0) == 1.0
        clock.advance(9.0)
        assert await store.add("c", 2.5, ttl=10.0) == 3.5
        clock.advance(9.0)
        assert await store.add("c", 0, ttl=10.0) == 3.5
        clock.advance(1.0)
        assert await store.add("c", 0, ttl=10.0) == 0.0

    async def test_a_counter_with_a_half_life_decays(self, store, clock):
        await store.add("c", 8.0, ttl=1000.0, half_life=10.0)
        clock.advance(20.0)
        assert await store.add("c", 0, ttl=1000.0, half_life=10.0) == pytest.approx(2.0)
        assert await store.add("c", -1.0, ttl=1000.0, half_life=10.0) == pytest.approx(1.0)
        clock.advance(10.0)
        assert await store.add("c", 0, ttl=1000.0, half_life=10.0) == pytest.approx(0.5)

    async def test_a_text_is_there_until_its_time_is_over(self, store, clock):
        assert await store.get("t") is None
        await store.put("t", "née | \u20ac \x01", ttl=10.0)
        assert await store.get("t") == "née | \u20ac \x01"
        clock.advance(10.0)
        assert await store.get("t") is None

    async def test_an_empty_text_is_a_text(self, store):
        await store.put("t", "", ttl=10.0)
        assert await store.get("t") == ""
        assert await store.put_new("t", "x", ttl=10.0) == ""

    async def test_what_is_kept_can_be_listed_by_the_beginning_of_its_key(self, store, clock):
        assert [key async for key, _ in store.entries()] == []
        await store.put("a*|1", "x", ttl=10.0)
        await store.add("a*|2", 3.0, ttl=20.0)
        await store.put("ab|3", "y", ttl=20.0)
        clock.advance(5.0)
        found = dict([entry async for entry in store.entries("a*|")])
        assert sorted(found) == ["a*|1", "a*|2"]
        assert (found["a*|1"].text, found["a*|2"].number) == ("x", 3.0)
        assert found["a*|2"].ends == pytest.approx(clock.time() + 15.0, abs=1e-3)
        clock.advance(10.0)
        assert sorted([key async for key, _ in store.entries()]) == ["a*|2", "ab|3"], (
            "what has ended is left out"
        )

    async def test_a_long_list_comes_whole(self, store):
        await store.do(*(Put(f"k|{number:04d}", "", 10.0) for number in range(2500)))
        keys = [key async for key, _ in store.entries("k|")]
        assert sorted(keys) == [f"k|{number:04d}" for number in range(2500)]

    async def test_only_the_first_of_new_texts_stays(self, store, clock):
        assert await store.put_new("t", "first", ttl=10.0) is None
        clock.advance(5.0)
        assert await store.put_new("t", "second", ttl=10.0) == "first"
        clock.advance(5.0)
        assert await store.put_new("t", "third", ttl=10.0) is None, "asking does not prolong"
        assert await store.get("t") == "third"

    async def test_what_is_deleted_is_gone(self, store):
        await store.put("t", "x", ttl=10.0)
        await store.take("b", 1.0, 1.0)
        assert await store.do(Delete("t"), Delete("b"), Delete("never")) == [None] * 3
        assert await store.get("t") is None
        assert await store.take("b", 1.0, 1.0) == 0.0

    async def test_a_batch_sees_what_it_did(self, store):
        assert await store.do(
            Put("t", "x", 10.0), Get("t"), Add("c", 1.0, 10.0), Add("c", 1.0, 10.0), Delete("t"), Get("t")
        ) == [None, "x", 1.0, 2.0, None, None]
        assert await store.do() == []

    async def test_what_many_do_at_once_adds_up(self, store):
        waits = await asyncio.gather(*(store.take("b", 0.001, 20.0) for _ in range(50)))
        assert waits.count(0.0) == 20
        values = await asyncio.gather(*(store.add("c", ttl=10.0) for _ in range(50)))
        assert sorted(values) == [float(n + 1) for n in range(50)]
        firsts = await asyncio.gather(*(store.put_new("t", str(n), ttl=10.0) for n in range(50)))
        assert firsts.count(None) == 1

    async def test_it_agrees_with_the_rules_in_memory(self, store, clock):
        """A long random walk: the script in Lua says what the rows say in Python."""
        chance = random.Random(7)
        model = MemoryState(clock.time)
        for _ in range(60):
            batch = [_any_operation(chance) for _ in range(chance.randint(1, 5))]
            assert _flat(await store.do(*batch)) == pytest.approx(_flat(await model.do(*batch)), abs=1e-5)
            clock.advance(chance.choice([0.0, 0.3, 2.0, 15.0]))


def _any_operation(chance: random.Random) -> object:
    def key() -> str:
        return f"k{chance.randint(1, 3)}"

    match chance.randint(1, 6):
        case 1:
            return Take(tuple(Bucket(f"b{key()}", 0.7, 3.0, chance.choice([1.0, 2.5])) for _ in range(2)))
        case 2:
            return Add(f"c{key()}", chance.choice([0.0, 1.0, -2.5]), 7.0, chance.choice([0.0, 3.0]))
        case 3:
            return Get(f"t{key()}")
        case 4:
            return Put(f"t{key()}", str(chance.randint(0, 9)), 6.0)
        case 5:
            return PutNew(f"t{key()}", str(chance.randint(0, 9)), 6.0)
        case _:
            return Delete(chance.choice("bct") + key())


def _flat(answers: list[object]) -> list[float]:
    """Answers as numbers, so that they can be compared but for the rounding of clocks."""
    flat: list[float] = []
    for answer in answers:
        parts = answer if isinstance(answer, list) else [answer]
        flat += [-1.0 if one is None else float(one) for one in parts]
    return flat
