"""Connections counted across workers: never too few, never below zero, and a dead worker's are forgotten."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayproxy.server.quota import CELLS, Quota
from relayproxy.shared import GenerationMemory

CLIENTS = [f"192.0.2.{n}" for n in range(20)] + ["", "2001:db8::1"]


def test_the_limit_of_a_client_holds_across_workers():
    memory = GenerationMemory(3)
    workers = [Quota(memory.counts, slot) for slot in range(3)]
    assert [worker.enter("192.0.2.1", 3, 100) for worker in workers] == ["", "", ""]
    assert [worker.enter("192.0.2.1", 3, 100) for worker in workers] == ["client"] * 3
    assert workers[0].enter("192.0.2.2", 3, 100) == ""
    workers[1].leave("192.0.2.1")
    assert workers[2].enter("192.0.2.1", 3, 100) == ""


def test_the_limit_in_all_holds_across_workers():
    memory = GenerationMemory(2)
    workers = [Quota(memory.counts, slot) for slot in range(2)]
    for number in range(10):
        assert workers[number % 2].enter(f"192.0.2.{number}", 3, 10) == ""
    assert [worker.enter("198.51.100.1", 3, 10) for worker in workers] == ["total", "total"]
    workers[0].leave("192.0.2.0")
    assert workers[1].enter("198.51.100.1", 3, 10) == ""


def test_clients_of_a_unix_socket_are_not_one_client():
    quota = Quota(GenerationMemory(1).counts, 0)
    assert [quota.enter("", 1, 5) for _ in range(6)] == [""] * 5 + ["total"]


def test_what_a_killed_worker_had_is_forgotten_by_its_successor():
    memory = GenerationMemory(2)
    first, second = Quota(memory.counts, 0), Quota(memory.counts, 1)
    for quota in (first, first, second):
        quota.enter("192.0.2.1", 3, 100)
    assert second.enter("192.0.2.1", 3, 100) == "client"
    successor = Quota(memory.counts, 0)
    assert [successor.enter("192.0.2.1", 3, 100) for _ in range(3)] == ["", "", "client"]
    assert memory.counts[1][CELLS - 1] == 1


def test_a_refusal_is_not_counted():
    memory = GenerationMemory(1)
    quota = Quota(memory.counts, 0)
    quota.enter("192.0.2.1", 1, 2)
    for _ in range(5):
        assert quota.enter("192.0.2.1", 1, 2) == "client"
    assert memory.counts[0][CELLS - 1] == 1


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(CLIENTS), st.booleans()), max_size=120),
    per_client=st.integers(1, 4),
    total=st.integers(1, 30),
)
def test_it_errs_only_on_the_high_side(steps: list[tuple[int, str, bool]], per_client: int, total: int):
    memory = GenerationMemory(3)
    workers = [Quota(memory.counts, slot) for slot in range(3)]
    open_by: list[Counter[str]] = [Counter() for _ in workers]
    for slot, ip, enters in steps:
        everybody = sum(open_by, Counter())
        if enters:
            refused = workers[slot].enter(ip, per_client, total)
            if refused == "total":
                assert everybody.total() >= total
            elif not refused:
                assert everybody.total() < total
                assert not ip or everybody[ip] < per_client
                open_by[slot][ip] += 1
        elif open_by[slot][ip]:
            workers[slot].leave(ip)
            open_by[slot][ip] -= 1
        assert all(min(region) >= 0 for region in memory.counts)
    assert [region[CELLS - 1] for region in memory.counts] == [mine.total() for mine in open_by]
    for slot, mine in enumerate(open_by):
        for ip in mine.elements():
            workers[slot].leave(ip)
    assert not any(any(region) for region in memory.counts)


def test_a_collision_in_one_row_refuses_nobody():
    """Among many clients some share a cell of the first row; the second row tells them apart."""
    quota = Quota(GenerationMemory(1).counts, 0)
    places: dict[int, str] = {}
    for number in range(100_000):
        ip = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        first, second = quota._places(ip)
        other = places.setdefault(first, ip)
        if other != ip and quota._places(other)[1] != second:
            break
    else:
        pytest.fail("no two clients share a cell")
    assert quota.enter(other, 1, 100) == ""
    assert quota.enter(ip, 1, 100) == ""
    assert quota.enter(ip, 1, 100) == "client"
