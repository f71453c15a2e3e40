import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.api import Add, Bucket, Delete, Get, Put, PutNew, Take
from relayproxy.state.rows import decayed, only_reads, perform

START = 1_800_000_000.0
STEPS = st.lists(st.tuples(st.floats(0, 50), st.sampled_from([1.0, 2.0, 4.5])), max_size=60)


class Rows(dict):
    def do(self, operation, now):
        return perform(operation, self.get, self.__setitem__, now)


@given(STEPS, st.floats(0.01, 5.0), st.floats(5.0, 30.0))
def test_a_bucket_never_gives_more_than_its_burst_and_rate_allow(steps, rate, burst):
    rows, now, taken = Rows(), START, []
    for pause, cost in steps:
        now += pause
        ((wait,),) = [rows.do(Take((Bucket("b", rate, burst, cost),)), now)]
        if not wait:
            taken.append((now, cost))
        else:
            ((again,),) = [Rows(rows).do(Take((Bucket("b", rate, burst, cost),)), now + wait + 1e-4)]
            assert again == 0.0, "who waits as long as told is let in"
    for first in range(len(taken)):
        sums = 0.0
        for at, cost in taken[first:]:
            sums += cost
            assert sums <= burst + rate * (at - taken[first][0]) + 1e-3


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.floats(1, 1e6))
def test_decay_in_two_steps_is_decay_in_one(value, seconds, half_life):
    once = decayed(value, 2 * seconds, half_life)
    twice = decayed(decayed(value, seconds, half_life), seconds, half_life)
    assert once == pytest.approx(twice, rel=1e-6, abs=1e-9)
    assert abs(once) <= abs(value)


@pytest.mark.parametrize(
    ("operation", "reads"),
    [
        (Get("k"), True),
        (Add("k", 0, 1.0), True),
        (Add("k", 1, 1.0), False),
        (Put("k", "", 1.0), False),
        (PutNew("k", "", 1.0), False),
        (Delete("k"), False),
        (Take((Bucket("k", 1.0, 1.0),)), False),
    ],
)
def test_what_only_reads_writes_nothing(operation, reads):
    assert only_reads(operation) is reads
    written = []
    perform(operation, lambda _: None, lambda key, row: written.append((key, row)), START)
    assert bool(written) is not reads
