"""Memory that workers share: each has its own region, all see all, and what a killed one wrote stays."""

import os
import warnings
from collections.abc import Callable

import pytest

from relayproxy.core.ledger import REGION, SharedLedger, quick_key
from relayproxy.core.metrics import SLAB, Metrics
from relayproxy.model.envelope import Envelope
from relayproxy.model.message import Message
from relayproxy.server.quota import CELLS, Quota
from relayproxy.shared import GenerationMemory, LedgerMemory

MESSAGE = Message.from_bytes(b"Message-ID: <1@example.org>\r\n\r\nbody\r\n")
KEY = quick_key(Envelope(), MESSAGE.size)


def in_a_child(work: Callable[[], None]) -> None:
    """Do `work` in a forked process that is then killed."""
    with warnings.catch_warnings():
        # Later Pythons warn of threads in the parent; the child makes none and returns nowhere.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            work()
            os.kill(os.getpid(), 9)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9


@pytest.mark.parametrize("workers", [1, 2, 32])
def test_each_worker_has_a_region_of_its_own(workers: int):
    memory = GenerationMemory(workers)
    assert [len(array) for array in memory.arrays] == [SLAB] * workers
    assert [len(region) for region in memory.counts] == [CELLS] * workers
    assert len(memory.beats) >= workers
    for slot in range(workers):
        memory.arrays[slot][0] = memory.arrays[slot][SLAB - 1] = slot + 1.0
        memory.counts[slot][0] = memory.counts[slot][CELLS - 1] = slot + 1
        memory.beats[slot] = slot + 0.5
    for slot in range(workers):
        assert memory.arrays[slot][0] == memory.arrays[slot][SLAB - 1] == slot + 1.0
        assert sum(memory.arrays[slot]) == 2 * (slot + 1.0)
        assert sum(memory.counts[slot]) == 2 * (slot + 1)
        assert memory.beats[slot] == slot + 0.5


def test_all_is_zero_at_first():
    memory = GenerationMemory(3)
    assert not any(any(array) for array in memory.arrays)
    assert not any(any(region) for region in memory.counts)
    assert not any(memory.beats)


def test_two_generations_share_nothing():
    first, second = GenerationMemory(1), GenerationMemory(1)
    first.arrays[0][5] = 1.0
    first.counts[0][5] = 1
    first.beats[0] = 1.0
    assert (second.arrays[0][5], second.counts[0][5], second.beats[0]) == (0.0, 0, 0.0)


def test_what_a_killed_worker_wrote_is_there_for_the_others():
    memory = GenerationMemory(2)

    def work() -> None:
        Metrics(memory.arrays, 1).cell("ledger_hits_total").inc(3)
        memory.beats[1] = 42.0
        Quota(memory.counts, 1).enter("192.0.2.1", 9, 9)

    in_a_child(work)
    mine = Metrics(memory.arrays, 0)
    mine.cell("ledger_hits_total").inc()
    assert [sample.value for sample in mine.samples()] == [4.0]
    assert memory.beats[1] == 42.0
    assert Quota(memory.counts, 0).enter("192.0.2.1", 1, 9) == "client"


class TestLedger:
    def test_each_worker_of_two_generations_in_turn_has_a_region(self):
        memory = LedgerMemory(3)
        assert len(memory.regions) == 6
        assert {len(region) for region in memory.regions} == {REGION}
        slots = {memory.slot(worker, generation) for worker in range(3) for generation in (4, 5)}
        assert slots == set(range(6))
        assert memory.slot(2, 4) == memory.slot(2, 6)

    def test_an_entry_of_a_killed_worker_is_found_by_another_and_by_the_next_generation(self):
        memory = LedgerMemory(2)

        def work() -> None:
            SharedLedger(memory.regions, memory.slot(0, 0), lambda: 1000.0).enter(KEY, MESSAGE, "Ok id=1")

        in_a_child(work)
        for worker, generation in ((1, 0), (0, 0), (0, 1)):
            ledger = SharedLedger(memory.regions, memory.slot(worker, generation), lambda: 1001.0)
            found = ledger.find(KEY, MESSAGE)
            assert found is not None
            assert found[0] == "Ok id=1"

    def test_and_struck_out_for_all(self):
        memory = LedgerMemory(2)
        mine, other = (SharedLedger(memory.regions, memory.slot(n, 0), lambda: 0.0) for n in range(2))
        mine.enter(KEY, MESSAGE, "Ok id=1")
        found = other.find(KEY, MESSAGE)
        assert found is not None
        other.settle(found[1])
        assert mine.find(KEY, MESSAGE) is None
