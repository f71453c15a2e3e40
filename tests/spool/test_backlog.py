"""How long mail of a busy destination stays away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.spool.backlog import Backlogs


def test_as_long_as_those_before_it_will_take():
    backlogs = Backlogs()
    assert backlogs.put_off("new", 8, 2, 100.0) == 4.0, "a second each, as nothing is known"
    assert backlogs.put_off("new", 8, 2, 100.0) == 8.0
    for _ in range(20):
        backlogs.began("quick", 100.0)
        backlogs.ended("quick", 100.1)
    assert backlogs.put_off("quick", 100, 2, 100.1) == pytest.approx(5.0, rel=0.1)
    backlogs.began("stuck", 100.0)
    assert backlogs.put_off("stuck", 10, 2, 130.0) == 150.0
    assert backlogs.put_off("stuck", 1000, 2, 130.0) == 600.0


def test_what_comes_back_counts_no_more():
    backlogs = Backlogs()
    backlogs.put_off("a", 10, 1, 0.0)
    for _ in range(9):
        backlogs.came("a")
    assert backlogs.put_off("a", 1, 1, 1.0) == 2.0
    assert backlogs.put_off("a", 3, 1, 1e6) == 3.0, "long ago: others have had it"


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 100), st.floats(0, 1e6)), max_size=20))
def test_never_for_nothing_and_never_for_ever(steps):
    backlogs = Backlogs()
    for count, limit, now in steps:
        assert 1.0 <= backlogs.put_off("a", count, limit, now) <= 600.0
