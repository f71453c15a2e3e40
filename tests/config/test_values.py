"""The small languages inside strings: what is written, what it means, and that it can be written back."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from relayproxy.config import quantities, values


def test_what_is_no_duration_is_refused_with_its_code():
    assert quantities.read_duration("1h30m") == 5400
    for text, code in (("soon", "RP205"), (5, "RP205"), ("99999w", "RP203")):
        with pytest.raises(PydanticCustomError) as caught:
            quantities.read_duration(text)
        assert caught.value.type == code
        assert caught.value.context["hint"]


@pytest.mark.parametrize(
    ("value", "code"),
    [("50 XB", "RP204"), (None, "RP204"), ("0", "RP203"), (0, "RP203"), ("2000 TiB", "RP203")],
)
def test_not_sizes(value, code):
    with pytest.raises(PydanticCustomError) as refusal:
        quantities.read_size(value)
    assert refusal.value.type == code


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
        quantities.read_duration,
        quantities.read_size,
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
