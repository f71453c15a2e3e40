"""Signing, checked by dkimpy and by our own verification: an attack on a signed message must be seen by both."""

import re
import time

import dkim
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.api import Answer, DnsStatus
from relayproxy.mailauth.canonical import body_digest, body_digests
from relayproxy.mailauth.dkim_keys import new_ed25519_key, new_rsa_key, read_key
from relayproxy.mailauth.dkim_sign import HEADERS, IF_PRESENT, check_names, sign
from relayproxy.mailauth.dkim_verify import body_forms, find_signatures, questions, verify
from relayproxy.model.edits import AddHeader, apply_to_message
from relayproxy.model.message import Message

RSA = new_rsa_key()
ED25519 = new_ed25519_key()
NOW = 1_700_000_000

RAW = (
    b"Received: from a by b\r\n"
    b"From: Joe <joe@example.org>\r\n"
    b"To: Suzie <suzie@example.net>,\r\n"
    b"\tSally <sally@example.net>\r\n"
    b"Subject:  Is dinner   ready?\r\n"
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700\r\n"
    b"\r\n"
    b"Hi.\r\n\r\nWe lost the game.  \r\n\r\n\r\n"
)


def signed(raw=RAW, key=RSA, **options):
    message = Message.from_bytes(raw)
    options = {"domain": "example.org", "selector": "s1", "now": NOW} | options
    return bytes(apply_to_message(message, [AddHeader("DKIM-Signature", sign(message, key, **options))]))


def result(raw, key=RSA):
    message = Message.from_bytes(raw)
    found = find_signatures(message)
    answers = {question: Answer(DnsStatus.OK, (key.record().encode(),)) for question in questions(found)}
    (only,) = verify(message, found, answers, body_digests(message, body_forms(found)), now=NOW)
    return only.result


def dkimpy_says(raw):
    return dkim.verify(raw, dnsfunc=lambda name, timeout=5: RSA.record().encode())


def tags(raw):
    value = Message.from_bytes(raw).header("DKIM-Signature")
    return {name.strip(): text.strip() for name, _, text in (tag.partition("=") for tag in value.split(";"))}


@pytest.mark.parametrize("key", [RSA, ED25519], ids=["rsa", "ed25519"])
def test_what_is_signed_verifies(key):
    assert result(signed(key=key), key) == "pass"


def test_dkimpy_verifies_it():
    assert dkimpy_says(signed())


def test_the_tags():
    found = tags(signed(expire=NOW + 604_800, identity="joe@sub.example.org"))
    assert found["v"] == "1"
    assert found["a"] == "rsa-sha256"
    assert found["c"] == "relaxed/relaxed"
    assert found["d"] == "example.org"
    assert found["s"] == "s1"
    assert found["t"] == str(NOW)
    assert found["x"] == str(NOW + 604_800)
    assert found["i"] == "joe@sub.example.org"
    assert "l" not in found
    assert {"x", "i"}.isdisjoint(tags(signed()))
    assert tags(signed(key=ED25519))["a"] == "ed25519-sha256"


def test_the_example_of_rfc_8463_is_signed_alike():
    """The digest of the body is that of appendix A.3, whose message this is."""
    body = b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"
    key = read_key(b"nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
    raw = signed(b"From: joe@football.example.com\r\n\r\n" + body, key, domain="football.example.com")
    assert tags(raw)["bh"] == "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="
    assert result(raw, key) == "pass"


def test_lines_are_short_and_folded_where_a_header_may_be():
    head = Message.from_bytes(signed()).head
    field = head.partition(b"Received:")[0]
    assert max(map(len, field.split(b"\r\n"))) <= 78
    assert all(line[:1] == b"\t" and line.strip() for line in field.split(b"\r\n")[1:-1])


def test_every_name_is_signed_once_more_than_it_occurs():
    raw = RAW.replace(b"Date:", b"Sender: joe@example.org\r\nComments: x\r\nDate:")
    names = re.split(r"\s*:\s*", tags(signed(raw))["h"])
    counts = {name: names.count(name) for name in names}
    assert {name for name, count in counts.items() if count == 2} == {
        "From",
        "To",
        "Subject",
        "Date",
        "Sender",
    }
    assert {name for name, count in counts.items() if count == 1} == set(HEADERS) - {
        "From",
        "To",
        "Subject",
        "Date",
    }


@pytest.mark.parametrize("name", HEADERS)
def test_adding_a_signed_field_breaks_the_signature(name):
    for raw in (RAW, RAW.replace(b"Date:", f"{name}: y\r\nDate:".encode()) if name != "From" else RAW):
        attacked = f"{name}: x\r\n".encode() + signed(raw)
        assert result(attacked) == "fail"
        assert not dkimpy_says(attacked)


@pytest.mark.parametrize("name", IF_PRESENT)
def test_fields_of_mailing_lists_may_be_added_but_not_doubled(name):
    field = f"{name}: x\r\n".encode()
    assert result(field + signed()) == "pass"
    with_it = signed(field + RAW)
    assert result(with_it) == "pass"
    assert result(field + with_it) == "fail"
    assert result(with_it.replace(field, field.replace(b"x", b"y"))) == "fail"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"dinner", b"Dinner"),
        (b"Sally <sally@", b"Sally <wally@"),
        (b"game.", b"game!"),
        (b"t=1700000000", b"t=1700000001"),
        (b"d=example.org", b"d=example.com"),
        (b"\r\n\r\nHi.", b"\r\n\r\n\r\nHi."),
        (b"From:From:", b"From:"),
        (b"Subject:  Is dinner   ready?\r\n", b""),
    ],
)
def test_any_other_change_breaks_it(old, new):
    raw = signed()
    assert old in raw
    assert result(raw.replace(old, new)) == "fail"
    assert not dkimpy_says(raw.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Subject:  Is dinner   ready?", b"SUBJECT:Is\r\n\tdinner ready?  "),
        (b"game.  \r\n", b"game.\r\n\r\n\r\n"),
        (b"Received: from a by b", b"Received: from c by d"),
    ],
)
def test_what_relays_do_to_blanks_does_not_break_it(old, new):
    assert result(signed().replace(old, new)) == "pass"


@pytest.mark.parametrize("count", [0, 2])
def test_a_message_without_exactly_one_from_is_not_signed(count):
    raw = RAW.replace(b"From: Joe <joe@example.org>\r\n", b"From: a@example.org\r\n" * count)
    with pytest.raises(ValueError, match="exactly one From"):
        signed(raw)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a..b",
        "-a.example",
        "a-.example",
        "a b",
        "a;b=c",
        "exämple.org",
        "a\r\nb",
        "x" * 64,
        "a." * 126,
    ],
)
def test_names_that_can_not_stand_in_dns_are_refused(name):
    with pytest.raises(ValueError):
        signed(domain=name)
    with pytest.raises(ValueError):
        signed(selector=name)


def test_names_that_can():
    check_names("example.org", "2026._x-1")
    check_names("xn--exmple-cua.org", "S1")
    with pytest.raises(ValueError, match="253"):
        check_names(".".join(["a" * 63] * 3), "b" * 63)


@pytest.mark.parametrize(
    "identity",
    [
        "",
        "joe",
        "@",
        "joe@example.com",
        "joe@badexample.org",
        "a;b=c@example.org",
        "a b@example.org",
        "a@b\r\n@example.org",
    ],
)
def test_an_identity_is_an_address_within_the_domain(identity):
    with pytest.raises(ValueError):
        signed(identity=identity)


def test_other_headers_may_be_chosen_and_from_is_always_among_them():
    raw = signed(headers=("Subject", "from"), if_present=())
    assert re.split(r"\s*:\s*", tags(raw)["h"]) == ["From", "From", "Subject", "Subject", "from"]
    assert result(raw) == "pass"
    assert dkimpy_says(raw)


def test_the_digest_of_the_body_may_be_given():
    message = Message.from_bytes(RAW)
    assert signed(body=body_digest(message)) == signed()


def test_a_line_that_is_no_field_and_odd_octets_are_signed_round():
    raw = b"garbage\r\nX\xff: y\r\n" + RAW.replace(b"Is dinner", b"\xc3\xa9 \xff")
    assert result(signed(raw)) == "pass"


FIELDS = st.lists(
    st.tuples(
        st.sampled_from(["Subject", "subject", "To", "Cc", "X-Other", "Received", "List-Id", "Reply-To"]),
        st.lists(st.sampled_from(["a", " ", "\t", "\r\n b", ":", ";", "é", "=?"])).map("".join),
    ),
    max_size=8,
)
BODIES = st.lists(st.sampled_from([b" ", b"\t", b"\r\n", b"x", b".", b"\xff"])).map(b"".join)


@given(FIELDS, BODIES)
def test_dkimpy_and_we_verify_whatever_we_signed(fields, body):
    head = "From: a@example.org\r\n" + "".join(f"{name}: {value}.\r\n" for name, value in fields)
    raw = signed(head.encode() + b"\r\n" + body + b"\r\n", selector="hypothesis")
    assert result(raw) == "pass"
    assert dkimpy_says(raw)


@given(FIELDS, BODIES, st.data())
def test_we_verify_what_dkimpy_signed(fields, body, data):
    head = "From: a@example.org\r\n" + "".join(f"{name}: {value}.\r\n" for name, value in fields)
    raw = head.encode() + b"\r\n" + body + b"\r\n"
    algorithms = data.draw(st.tuples(*[st.sampled_from([b"simple", b"relaxed"])] * 2))
    pem = RSA.pem().replace(b"\r\n", b"\n")
    field = dkim.sign(raw, b"s1", b"example.org", pem, canonicalize=algorithms)
    message = Message.from_bytes(field + raw)
    found = find_signatures(message)
    answers = {question: Answer(DnsStatus.OK, (RSA.record().encode(),)) for question in questions(found)}
    digests = body_digests(message, body_forms(found))
    (only,) = verify(message, found, answers, digests, now=time.time())
    assert (only.result, dkimpy_says(field + raw)) == ("pass", True), only.reason
