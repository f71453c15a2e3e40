"""Encoded-words: decoded where they can be, left alone where not, in one pass."""

from email.header import Header, decode_header, make_header

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.model.encoded_words import _CHARSETS, decode_words

WORDS = st.lists(
    st.sampled_from(
        ["=?", "?=", "?q?", "?b?", "utf-8", "=C3=BC", "w7w=", " ", "a", "?", "=", "ü", "utf-7", "\r"]
    ),
    max_size=16,
).map("".join)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        ("=?UTF-8?B?R3LDvMOfZQ==?=", "Grüße"),
        ("=?utf-8?B?R3LDvMOfZQ?=", "Grüße"),
        ("=?utf-8*en?q?a_b?=", "a b"),
        ("=?iso-8859-1?q?=E9?=", "é"),
        ("=?koi8-u?q?=A4?=", "є"),
        ("=?shift_jis?b?k/qWew==?=", "日本"),
        ("Re: =?utf-8?q?a?= b", "Re: a b"),
        ("=?utf-8?q?a?= =?utf-8?q?b?=", "ab"),
        ("=?utf-8?q?a?=\t =?iso-8859-1?q?b?=", "ab"),
        ("=?utf-8?q?a?= b =?utf-8?q?c?=", "a b c"),
        ("=?utf-8?q?a?==?utf-8?q?b?=", "ab"),
        ("=?utf-8?q?=C3?= =?utf-8?q?=BC?=", "ü"),
        ("=?utf-8?q?a b?=", "a b"),
        ("€ =?utf-8?q?a?= ü", "€ a ü"),
        ("=?utf-8?q??=", ""),
        ("x =?utf-8?q??= y", "x  y"),
        ("=?utf-8?q?=FF?=", "\ufffd"),
    ],
)
def test_what_is_shown(value, shown):
    assert decode_words(value) == shown


@pytest.mark.parametrize(
    "value",
    [
        "=?utf-8?b?a?=",
        "=?x-nobody-knows?q?a?=",
        "=?unknown-8bit?q?=FF?=",
        "=?hex?q?6161?=",
        "=?rot13?q?a?=",
        "=?idna?q?xn--a?=",
        "=?punycode?q?a-b?=",
        "=?unicode_escape?q?=5Cx41?=",
        "=?undefined?q?a?=",
        "=?utf-8?x?a?=",
        "=?utf-8?q?a",
        "=?utf-8?q?grü?=",
        "=??q?a?=",
        "=?q?=",
        "=?",
    ],
)
def test_what_can_not_be_decoded_stays_as_it_is(value):
    assert decode_words(value) == value
    assert decode_words(f"a {value} =?utf-8?q?b?=") == f"a {value} b"


@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=80))
def test_what_the_standard_library_writes_is_read_back(text):
    written = Header(text, "utf-8", maxlinelen=60).encode(linesep="").replace("\n", "")
    assert decode_words(written) == str(make_header(decode_header(written)))
    assert decode_words(written) == text


@given(WORDS | st.text(max_size=60))
def test_anything_is_decoded_somehow(value):
    shown = decode_words(value)
    if "=?" not in value:
        assert shown == value


@given(
    st.sampled_from(sorted(name for name in _CHARSETS if name.islower() or name.isdigit())),
    st.binary(max_size=40),
)
def test_no_charset_and_no_octets_raise(charset, octets):
    word = "".join(f"={octet:02X}" for octet in octets)
    assert isinstance(decode_words(f"=?{charset}?q?{word}?="), str)


@pytest.mark.parametrize(
    "piece", ["=?a?q?x", "=?utf-8?q?", "=?", "=?utf-8?q?a?= ", "?=", "=?utf-8?b?YQ==?=x"]
)
def test_a_hostile_value_costs_one_pass(piece):
    """A quadratic decoder needs minutes for this; the suite's patience is the limit."""
    value = piece * (500_000 // len(piece))
    assert len(decode_words(value)) <= len(value)
