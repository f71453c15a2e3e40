"""Which way a message takes: shares by weights, steadiness, who is left when one is not."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.delivery.ways import Way, bind_problem, fitting, in_turn


def ways(**weights: float) -> list[Way]:
    return [Way(name, lambda shape: None, weight) for name, weight in weights.items()]


def first(of: list[Way], key: str) -> str:
    return next(in_turn(of, key)).name


def test_shares_follow_the_weights():
    found = Counter(first(ways(a=1, b=2, c=5), f"m{number}") for number in range(4000))
    assert found["a"] / 4000 == pytest.approx(1 / 8, abs=0.03)
    assert found["b"] / 4000 == pytest.approx(2 / 8, abs=0.03)


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 1000), min_size=1),
    st.text(max_size=30),
)
def test_each_comes_once_and_those_without_weight_last(weights, key):
    order = list(in_turn(ways(**weights), key))
    assert sorted(way.name for way in order) == sorted(weights)
    positive = [way.weight > 0 for way in order]
    assert positive == sorted(positive, reverse=True)
    assert order == list(in_turn(list(reversed(ways(**weights))), key)), "the order of writing means nothing"


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 1000), min_size=2),
    st.text(max_size=30),
)
def test_only_the_messages_of_one_that_is_gone_go_elsewhere(weights, key):
    chosen = first(ways(**weights), key)
    gone = next(name for name in weights if name != chosen)
    assert first([way for way in ways(**weights) if way.name != gone], key) == chosen


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("", ["192.0.2.1", "2001:db8::1"]),
        ("127.0.0.2", ["192.0.2.1"]),
        ("::1", ["2001:db8::1"]),
    ],
)
def test_servers_of_the_same_kind(source, found):
    assert fitting(["192.0.2.1", "2001:db8::1"], source) == found


def test_an_address_of_this_machine_can_be_used():
    assert bind_problem("127.0.0.7") == ""
    assert bind_problem("192.0.2.1") == "Cannot assign requested address"
