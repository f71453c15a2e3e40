import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.model.shared import Add, Bucket, Get, Put, PutNew, shared_key

PARTS = st.lists(st.text(max_size=40), min_size=1, max_size=4)


@given(PARTS, PARTS)
def test_two_lists_never_share_a_key(one, other):
    assert (shared_key("p", *one) == shared_key("p", *other)) == (one == other)


@given(st.lists(st.text(max_size=2000), max_size=4))
def test_a_key_is_plain_and_short(parts):
    key = shared_key("prefix", *parts)
    assert Get(key).key == key
    assert len(key) <= 120


def test_short_parts_stay_readable():
    assert shared_key("rate", "login", "alice@example.org") == "rate|login|alice@example.org"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Bucket("", 1.0, 1.0),
        lambda: Bucket("b\n", 1.0, 1.0),
        lambda: Bucket("b", 0.0, 1.0),
        lambda: Bucket("b", 1.0, math.inf),
        lambda: Bucket("b", 1.0, 1.0, cost=2.0),
        lambda: Bucket("b", 1.0, 1.0, cost=-1.0),
        lambda: Add("c", math.nan, 1.0),
        lambda: Add("c", 1.0, 0.0),
        lambda: Add("c", 1.0, 1.0, -1.0),
        lambda: Put("t", "x", math.inf),
        lambda: PutNew("t", "\ud800", 1.0),
        lambda: Get("é"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_made(make):
    with pytest.raises(ValueError):
        make()
