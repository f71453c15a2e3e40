"""The token that ties a bounce to its mail."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.bounces.trace import Trace, TraceFault, Tracer
from relayproxy.model.address import Address
from relayproxy.smtp.commands import parse_path

NOW = 1_790_000_000.0
DAY = 86_400
KEY, OTHER = b"k" * 16, b"o" * 16
TRACER = Tracer("bounce.example.org", (KEY,))
FULL = Trace("8f3k2.1", "shop", "spring", "a@example.net")


def fault(tracer, token, now=NOW):
    with pytest.raises(TraceFault) as caught:
        tracer.read(token, now)
    return caught.value.kind


def test_there_and_back_as_address_and_as_field():
    address = TRACER.address(FULL, NOW)
    assert len(address.local) <= 64
    assert TRACER.read_address(address, NOW) == FULL
    assert TRACER.read(TRACER.token(FULL, NOW), NOW) == FULL
    assert TRACER.read_address(Address(address.local.upper(), "BOUNCE.example.ORG"), NOW) == FULL


def test_other_addresses_are_not_ours():
    for address in (
        Address("b", "bounce.example.org"),
        Address("b+x", "example.org"),
        Address("a+x", "bounce.example.org"),
        Address("", ""),
    ):
        assert TRACER.read_address(address, NOW) is None
        assert not TRACER.is_ours(address)


def test_what_has_no_room_is_left_out():
    long = "x" * 30 + "@example.net"
    assert TRACER.read_address(TRACER.address(replace(FULL, recipient=long), NOW), NOW) == replace(
        FULL, recipient=""
    )
    both = replace(FULL, campaign="c" * 45, recipient=long)
    assert TRACER.read_address(TRACER.address(both, NOW), NOW) == replace(FULL, campaign="", recipient="")
    three = replace(both, tenant="t" * 60)
    assert TRACER.read_address(TRACER.address(three, NOW), NOW) == Trace("8f3k2.1")
    assert TRACER.read(TRACER.token(three, NOW), NOW) == three
    with pytest.raises(ValueError, match="no address has room"):
        TRACER.address(Trace("m" * 80), NOW)


def test_a_change_of_any_character_is_seen():
    token = TRACER.token(FULL, NOW)
    for place, char in enumerate(token):
        other = "b" if char == "a" else "a"
        assert fault(TRACER, token[:place] + other + token[place + 1 :]) in ("forged", "malformed")


def test_bad_tokens():
    assert fault(TRACER, "") == "malformed"
    assert fault(TRACER, "x" * 2000) == "malformed"
    assert fault(TRACER, TRACER.token(FULL, NOW) + "=") == "malformed"
    assert fault(Tracer("bounce.example.org", (OTHER,)), TRACER.token(FULL, NOW)) == "forged"


def test_it_expires_and_a_clock_that_is_ahead_does_no_harm():
    token = TRACER.token(FULL, NOW)
    assert TRACER.read(token, NOW + 30 * DAY) == FULL
    assert fault(TRACER, token, NOW + 31 * DAY) == "expired"
    assert TRACER.read(token, NOW - DAY) == FULL
    assert fault(TRACER, token, NOW - 2 * DAY) == "expired"


def test_a_new_key_in_front():
    token = TRACER.token(FULL, NOW)
    assert Tracer("bounce.example.org", (OTHER, KEY)).read(token, NOW) == FULL


def test_bad_settings():
    for changes in (
        {"keys": ()},
        {"keys": (b"",)},
        {"days": 0},
        {"days": 1023},
        {"prefix": "A"},
        {"prefix": ""},
    ):
        with pytest.raises(ValueError, match=r".+"):
            Tracer(**({"domain": "d", "keys": (KEY,)} | changes))


TEXT = st.text(max_size=20)


@given(TEXT.filter(bool), TEXT, TEXT, TEXT)
def test_any_text_comes_back_in_lower_case_and_the_address_is_one(message, tenant, campaign, recipient):
    def folded(text):
        return (
            "".join(c.lower() if c.isascii() else c for c in text)
            .encode("utf-8", "surrogatepass")
            .decode("utf-8", "replace")
        )

    trace = Trace(message, tenant, campaign, recipient)
    token = TRACER.token(trace, NOW)
    if len(token.split("=")[2]) <= 80:
        assert TRACER.read(token, NOW) == Trace(*map(folded, (message, tenant, campaign, recipient)))
    local = f"b+{token}"
    if len(local) <= 64:
        address, _ = parse_path(f"<{local}@bounce.example.org>", "FROM")
        assert address.local == local
