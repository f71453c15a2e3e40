import pytest
from pydantic import TypeAdapter, ValidationError

from relayproxy.builtin._network import is_public, network_of
from relayproxy.builtin._quantities import Duration, Frequency, Rate, in_words

DURATION, RATE = TypeAdapter(Duration), TypeAdapter(Rate)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("1h30m", 5400), ("7d", 604_800), ("1w", 604_800)]
)
def test_durations(text, seconds):
    assert DURATION.validate_python(text) == seconds
    assert DURATION.validate_python(DURATION.dump_python(float(seconds), mode="json")) == seconds


@pytest.mark.parametrize("value", ["", "5", "m", "5x", "-5m", "5m 3", "0s", "20000w", 5, None, True])
def test_what_is_no_duration(value):
    with pytest.raises(ValidationError):
        DURATION.validate_python(value)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("100/1h", (100, 3600)), ("20/m", (20, 60)), ("5 / 10min", (5, 600)), ("1/1d", (1, 86_400))],
)
def test_rates(text, rate):
    made = RATE.validate_python(text)
    assert made == Frequency(*rate)
    assert RATE.validate_python(RATE.dump_python(made, mode="json")) == made


@pytest.mark.parametrize("value", ["", "100", "/1h", "100/", "0/1h", "1/0h", "1.5/h", 100, None])
def test_what_is_no_rate(value):
    with pytest.raises(ValidationError):
        RATE.validate_python(value)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 second"),
        (1, "1 second"),
        (90, "90 seconds"),
        (120, "2 minutes"),
        (121, "3 minutes"),
        (5400, "90 minutes"),
        (7201, "3 hours"),
    ],
)
def test_times_for_people(seconds, words):
    assert in_words(seconds) == words


def test_networks():
    assert network_of("192.0.2.77") == "192.0.2.0/24"
    assert network_of("2001:db8:1:2:3::4") == "2001:db8:1:2::/64"
    assert network_of("::ffff:192.0.2.77", 32, 64) == "192.0.2.77/32"
    assert network_of("") == ""
    assert [is_public(ip) for ip in ("8.8.8.8", "10.0.0.1", "fe80::1", "")] == [True, False, False, False]
