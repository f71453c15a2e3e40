"""What a trusted peer says about a client: attribute lists and xtext."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.smtp.commands import CommandError
from relayproxy.smtp.xclient import (
    XCLIENT_NAMES,
    XFORWARD_NAMES,
    address_attribute,
    format_attributes,
    parse_attributes,
    write_address,
    xtext_decode,
    xtext_encode,
)

PRINTABLE = st.text(max_size=30).filter(str.isprintable)


@given(PRINTABLE)
def test_xtext_there_and_back(text):
    written = xtext_encode(text)
    assert written.isascii()
    assert not {" ", "=", "\t"} & set(written)
    assert xtext_decode(written) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [("a+b=c d", "a+2Bb+3Dc+20d"), ("grüße", "gr+C3+BC+C3+9Fe"), ("", ""), ("[x]", "[x]")],
)
def test_how_xtext_is_written(text, written):
    assert xtext_encode(text) == written


@pytest.mark.parametrize(
    ("written", "text"),
    [("a+2bb", "a+b"), ("a+", "a+"), ("a+Z1", "a+Z1"), ("+C3", "\ufffd"), ("ü", "\ufffd")],
)
def test_xtext_is_read_with_patience(written, text):
    assert xtext_decode(written) == text


@pytest.mark.parametrize("written", ["a+0D+0A250", "+00", "a\tb", "+7F", "+C2+85"])
def test_control_characters_are_refused(written):
    with pytest.raises(ValueError, match="control"):
        xtext_decode(written)


@pytest.mark.parametrize(
    ("arg", "attributes"),
    [
        ("ADDR=192.0.2.1", {"ADDR": "192.0.2.1"}),
        ("addr=IPV6:2001:db8::1 Port=25", {"ADDR": "IPV6:2001:db8::1", "PORT": "25"}),
        ("NAME=[UNAVAILABLE] HELO=[tempunavail]", {"NAME": "", "HELO": ""}),
        ("NAME=", {"NAME": ""}),
        ("LOGIN=ana+40example.org  PROTO=ESMTP", {"LOGIN": "ana@example.org", "PROTO": "ESMTP"}),
        ("HELO=a HELO=b", {"HELO": "b"}),
    ],
)
def test_attributes(arg, attributes):
    assert parse_attributes(arg, XCLIENT_NAMES) == attributes


@pytest.mark.parametrize(
    ("arg", "text"),
    [
        ("", "Attributes are missing"),
        ("  ", "Attributes are missing"),
        ("ADDR", "Bad attribute"),
        ("SOURCE=LOCAL", "Bad attribute"),
        ("=x", "Bad attribute"),
        ("ADDR=192.0.2.1 FROB=1", "Bad attribute"),
        ("HELO=a+0Ab", "Bad value of HELO"),
    ],
)
def test_bad_attributes(arg, text):
    with pytest.raises(CommandError, match=f"501 5.5.4 {text}"):
        parse_attributes(arg, XCLIENT_NAMES)


@given(
    st.dictionaries(
        st.sampled_from(XFORWARD_NAMES),
        PRINTABLE.filter(lambda text: text.upper() not in ("[UNAVAILABLE]", "[TEMPUNAVAIL]")),
        min_size=1,
    )
)
def test_attributes_there_and_back(attributes):
    assert parse_attributes(format_attributes(attributes), XFORWARD_NAMES) == attributes


@pytest.mark.parametrize(
    ("ip", "value"), [("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "IPV6:2001:db8::1"), ("", "")]
)
def test_addresses(ip, value):
    assert write_address(ip) == value
    assert address_attribute(value) == ip
    assert address_attribute(value.lower()) == ip
