"""Durations and rates: what is written, what it means, and that it can be written back."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.model.durations import format_duration, parse_duration, parse_rate, positive
from relayproxy.model.refused import Refused, quoted


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5),
        ("2m", 120),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("1d", 86400),
        ("1w", 604800),
        ("1.5s", 1.5),
        ("1h 5s", 3605),
        ("2min", 120),
        (" 1d 12h ", 129_600),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        5,
        None,
        True,
        "5",
        "s",
        "5 S",
        "5x",
        "-5s",
        "5s5",
        "1h-3m",
        "22:30",
        "1e3s",
        "s5",
        "\uff15s",
        "99999w",
    ],
)
def test_not_durations(text):
    with pytest.raises(Refused):
        parse_duration(text)


@given(st.integers(0, 10**13))
def test_durations_can_be_written_back(microseconds):
    seconds = microseconds / 10**6
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/1h", (100, 3600)),
        ("20/m", (20, 60)),
        ("5 / 10min", (5, 600)),
        (" 1/1h30m ", (1, 5400)),
        ("3/500ms", (3, 0.5)),
    ],
)
def test_rates(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "value", ["", "100", "/1h", "100/", "0/1h", "1/0h", "1.5/h", "1/x", "1/99999w", 100, None]
)
def test_what_is_no_rate(value):
    with pytest.raises(Refused):
        parse_rate(value)


def test_what_is_refused_says_what_to_write():
    with pytest.raises(Refused, match="'5' has no unit; for seconds write 5s"):
        parse_duration(5)
    with pytest.raises(Refused) as caught:
        positive(0.0)
    assert (caught.value.beyond, caught.value.hint) == (True, "write a duration above zero")
    assert quoted("a\n" + "b" * 100) == "'a\\n" + "b" * 55 + "...'"


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text):
    for read in (parse_duration, parse_rate):
        with suppress(Refused):
            read(text)
