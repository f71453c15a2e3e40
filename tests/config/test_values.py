"""The small languages inside strings: what is written, what it means, and that it can be written back."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from relayproxy.config import quantities, values


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
    ],
)
def test_durations(text, seconds):
    assert quantities.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "5", "s", "5 S", "5x", "-5s", "5s5", "1h-3m", "22:30", "1e3s", "s5", "\uff15s", "99999w"],
)
def test_not_durations(text):
    with pytest.raises(PydanticCustomError):
        quantities.parse_duration(text)


@given(st.integers(0, 10**13))
def test_durations_can_be_written_back(microseconds):
    seconds = microseconds / 10**6
    assert quantities.parse_duration(quantities.format_duration(seconds)) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("50 MB", 50_000_000),
        ("1 MiB", 2**20),
        ("10M", 10 * 2**20),
        ("10k", 10240),
        ("1.5 KiB", 1536),
        ("7", 7),
        (7, 7),
        ("7 B", 7),
        ("1gb", 10**9),
    ],
)
def test_sizes(text, octets):
    assert quantities.parse_size(text) == octets


@pytest.mark.parametrize("text", ["", "MB", "50 XB", "-1", "0", 0, -5, True, 1.5, "1e6", "2000 TiB", None])
def test_not_sizes(text):
    with pytest.raises(PydanticCustomError):
        quantities.parse_size(text)


@given(st.integers(1, 2**50))
def test_sizes_can_be_written_back(octets):
    assert quantities.parse_size(quantities.format_size(octets)) == octets


@pytest.mark.parametrize("text", ["10.0.0.0/8", "192.0.2.1", "fd00::/8", "::1"])
def test_networks(text):
    assert values.parse_network(text) == ip_network(text)


@pytest.mark.parametrize("value", [5, 10.0, "10", "10.0.0.0/33", "ten", "", None, True])
def test_not_networks(value):
    with pytest.raises(PydanticCustomError):
        values.parse_network(value)


def test_host_bits_are_corrected():
    with pytest.raises(PydanticCustomError) as caught:
        values.parse_network("10.0.0.5/24")
    assert caught.value.context == {
        "text": "'10.0.0.5/24' has host bits set",
        "hint": "did you mean 10.0.0.0/24?",
    }


@pytest.mark.parametrize(
    "text",
    ["0.0.0.0:25", "[::]:25", "[2001:db8::1]:587", "mail.example.org:25", "localhost:25", "unix:/run/a.sock"],
)
def test_endpoints_can_be_written_back(text):
    assert str(values.parse_endpoint(text)) == text


def test_endpoints_of_other_forms():
    assert values.parse_endpoint("BÜCHER.example:25").host == "xn--bcher-kva.example"
    assert values.parse_endpoint("127.0.0.1", default_port=53).port == 53
    assert values.parse_endpoint("::1", default_port=53).host == "::1"
    assert values.parse_endpoint("127.0.0.1:0", lowest_port=0).port == 0


@pytest.mark.parametrize(
    "value",
    [
        25,
        "25",
        ":25",
        "*:25",
        "a:b",
        "a:0",
        "a:65536",
        "a",
        "::1",
        "[::1]",
        "[x]:25",
        "unix:a",
        "/run/a",
        "1.2.3:25",
        "a b:25",
        "unix:/" + "a" * 200,
        None,
    ],
)
def test_not_endpoints(value):
    with pytest.raises(PydanticCustomError):
        values.parse_endpoint(value)


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("Example.ORG", "example.org"),
        (".example.org", ".example.org"),
        ("bücher.example.", "xn--bcher-kva.example"),
    ],
)
def test_domains(text, domain):
    assert values.parse_domain(text) == domain


@pytest.mark.parametrize("text", ["", ".", "*.example.org", "@example.org", "a b", "a..b", "-a.org", 5])
def test_not_domains(text):
    with pytest.raises(PydanticCustomError):
        values.parse_domain(text)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("Ana@Example.org", "Ana@example.org"),
        ("@example.org", "example.org"),
        ("<>", "<>"),
        (".example.org", ".example.org"),
    ],
)
def test_sender_patterns(text, pattern):
    assert values.parse_sender(text) == pattern


@pytest.mark.parametrize("text", ["<ana@example.org>", "ana b@example.org", "ana@", "", 7])
def test_not_sender_patterns(text):
    with pytest.raises(PydanticCustomError):
        values.parse_sender(text)


@given(st.text(max_size=40))
def test_no_text_raises_anything_but_a_refusal(text):
    parsers = (
        quantities.parse_duration,
        quantities.parse_size,
        values.parse_network,
        values.parse_endpoint,
        values.parse_domain,
        values.parse_sender,
    )
    for parse in parsers:
        try:
            parse(text)
        except PydanticCustomError as refusal:
            assert refusal.type in {f"RP20{n}" for n in range(3, 9)}  # noqa: PT017  (both ends are right)
