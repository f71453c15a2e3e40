"""Ids are unique across workers, restarts and machines, and sort by time."""

from hypothesis import given
from hypothesis import strategies as st

from relayproxy.core.ids import COMMAND, NODE_BITS, Ids, node_from

NOW = 1_790_000_000.0


def made(count, *, slot=0, node=None, at=NOW):
    ids = Ids(slot, node)
    return [ids.next(at) for _ in range(count)]


def test_many_in_a_second_are_different_and_in_order():
    found = made(5000)
    assert found == sorted(set(found))
    assert {len(one) for one in found} == {9}


def test_workers_and_machines_have_their_own_in_the_same_second():
    everybody = [
        *(made(3000, slot=slot) for slot in (0, 1, COMMAND)),
        *(made(3000, slot=slot, node=node) for slot in (0, 1) for node in (0, 1, 2**NODE_BITS - 1)),
    ]
    assert len({one for ids in everybody for one in ids}) == 3000 * len(everybody)


def test_a_worker_that_starts_again_within_a_second_repeats_nothing():
    before = Ids(0)
    first = [before.next(NOW - 5), *(before.next(NOW) for _ in range(100))]
    after = Ids(0)
    second = [after.next(NOW + 0.5), *(after.next(NOW + 1) for _ in range(100)), after.next(NOW + 2)]
    assert not set(first) & set(second)
    assert second == sorted(set(second))


@given(
    st.lists(st.floats(-2, 3), max_size=50),
    st.integers(0, 31),
    st.none() | st.integers(0, 2**NODE_BITS - 1),
)
def test_they_grow_whatever_the_clock_does(steps, slot, node):
    ids, now, found = Ids(slot, node), NOW, []
    for step in steps:
        now += step
        found.append(ids.next(now))
    assert found == sorted(set(found))


def test_ids_of_both_lengths_sort_by_time():
    early, late = made(1, node=2**NODE_BITS - 1), made(1, at=NOW + 10)
    assert len(early[0]) == 13
    assert early < late


def test_a_machine_keeps_its_node():
    assert node_from("a", "b") == node_from("a", "b") == 367399
    assert len({node_from(f"mx{n}") for n in range(20)}) == 20
