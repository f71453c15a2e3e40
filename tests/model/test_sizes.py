"""Sizes: what is written, what it means, and that it can be written back."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.model.refused import Refused
from relayproxy.model.sizes import LARGEST, format_size, parse_size, some


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("50 MB", 50_000_000),
        ("1 MiB", 2**20),
        ("10M", 10 * 2**20),
        ("10k", 10240),
        ("1.5 KiB", 1536),
        ("7", 7),
        ("0", 0),
        (7, 7),
        ("7 B", 7),
        ("1gb", 10**9),
    ],
)
def test_sizes(text, octets):
    assert parse_size(text) == octets


@pytest.mark.parametrize("value", ["", "MB", "50 XB", "-1", True, 1.5, "1e6", None])
def test_not_sizes(value):
    with pytest.raises(Refused) as refused:
        parse_size(value)
    assert not refused.value.beyond


@pytest.mark.parametrize("value", [-5, "2000 TiB", LARGEST + 1])
def test_sizes_that_can_not_be(value):
    with pytest.raises(Refused) as refused:
        parse_size(value)
    assert refused.value.beyond


def test_zero_is_a_size_where_it_may_be_one():
    with pytest.raises(Refused):
        some(0)
    assert some(1) == 1


@given(st.integers(0, LARGEST))
def test_sizes_can_be_written_back(octets):
    assert parse_size(format_size(octets)) == octets


@given(st.text(max_size=40))
def test_no_text_raises_anything_but_a_refusal(text):
    with suppress(Refused):
        assert 0 <= parse_size(text) <= LARGEST
