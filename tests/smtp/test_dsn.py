"""Notifications: what every mail reader must find in them, whatever the message and its addresses were."""

import email
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply
from relayproxy.smtp.dsn import Fate, Kind, Report, dsn_message, status_of, wants
from relayproxy.testing.mail import make_address

NOW = 1_790_000_000.0
MESSAGE = Message.from_bytes(b"Subject: x\r\nTo: b@example.net\r\n\r\nbody\r\n")


def report(kind: Kind = Kind.FAILED, message: Message = MESSAGE, **changes) -> Report:
    envelope = changes.pop("envelope", Envelope(make_address("a@example.org")))
    fates = changes.pop(
        "fates", (Fate(Recipient(make_address("b@example.net")), "550 5.1.1 no", "5.1.1", "mx.example.net"),)
    )
    return Report(kind, "relay.test", "id1", envelope, message, fates, NOW, NOW + 60, **changes)


def parse(octets: bytes):
    """Read it with another implementation: the standard library's."""
    assert octets.replace(b"\r\n", b"").count(b"\n") == 0
    parsed = email.message_from_bytes(octets, policy=email.policy.SMTP)
    assert parsed.get_content_type() == "multipart/report"
    assert not any(part.defects for part in parsed.walk())
    return parsed


def test_a_failure_says_who_what_and_why():
    parsed = parse(dsn_message(report(), "new1"))
    assert parsed["To"] == "a@example.org"
    assert parsed["Auto-Submitted"] == "auto-replied"
    assert parsed["Message-ID"] == "<new1@relay.test>"
    assert parsed.get_param("report-type") == "delivery-status"
    text, status, original = parsed.iter_parts()
    assert "<b@example.net>" in text.get_content()
    assert "550 5.1.1 no" in text.get_content()
    per_message, per_recipient = status.get_payload()
    assert per_message["Reporting-MTA"] == "dns; relay.test"
    assert per_recipient["Final-Recipient"] == "rfc822; b@example.net"
    assert (per_recipient["Action"], per_recipient["Status"]) == ("failed", "5.1.1")
    assert per_recipient["Remote-MTA"] == "dns; mx.example.net"
    assert per_recipient["Diagnostic-Code"] == "smtp; 550 5.1.1 no"
    assert original.get_content_type() == "message/rfc822"


def test_an_upstream_whose_name_is_no_domain_is_not_told():
    fate = Fate(Recipient(make_address("b@example.net")), "550 5.1.1 no", "5.1.1", "smarthost")
    _, status, _ = parse(dsn_message(report(fates=(fate,)), "new1")).iter_parts()
    assert status.get_payload()[1]["Remote-MTA"] is None


@pytest.mark.parametrize(
    ("kind", "ret", "size", "whole"),
    [
        (Kind.FAILED, "", 100, True),
        (Kind.FAILED, "", 60_000, False),
        (Kind.FAILED, "FULL", 60_000, True),
        (Kind.FAILED, "FULL", 2_000_000, False),
        (Kind.FAILED, "HDRS", 100, False),
        (Kind.DELAYED, "FULL", 100, False),
        (Kind.RELAYED, "FULL", 100, False),
    ],
)
def test_how_much_comes_back(kind, ret, size, whole):
    message = Message(b"Subject: x\r\n\r\n", b"y" * size + b"\r\n")
    octets = dsn_message(report(kind, message, envelope=Envelope(make_address("a@x.org"), ret=ret)), "new1")
    *_, original = parse(octets).iter_parts()
    assert original.get_content_type() == ("message/rfc822" if whole else "text/rfc822-headers")
    assert (b"y" * size in octets) == whole
    assert b"Subject: x\r\n" in octets


def test_what_the_sender_gave_for_itself_comes_back_decoded():
    fate = Fate(
        Recipient(make_address("b@example.net"), ("FAILURE",), "rfc822;B+2Btag@example.net"), "", "5.0.0"
    )
    octets = dsn_message(
        report(envelope=Envelope(make_address("a@x.org"), envid="q+3D1"), fates=(fate,)), "n"
    )
    assert b"Original-Envelope-Id: q=1\r\n" in octets
    assert b"Original-Recipient: rfc822; B+tag@example.net\r\n" in octets


def test_a_delay_says_until_when():
    octets = dsn_message(report(Kind.DELAYED, until=NOW + 86_400), "n")
    assert b"Will-Retry-Until: " in octets
    assert b"Action: delayed\r\n" in octets


def test_international_addresses_make_it_a_global_report():
    envelope = Envelope(make_address("ä@example.org"), smtputf8=True)
    fate = Fate(Recipient(make_address("ö@example.net")), "550 5.1.1 no", "5.1.1")
    octets = dsn_message(report(envelope=envelope, fates=(fate,)), "n")
    assert b'report-type="global-delivery-status"' in octets
    assert "Final-Recipient: utf-8; ö@example.net\r\n".encode() in octets
    assert b"Content-Type: message/global\r\n" in octets


@pytest.mark.parametrize(
    ("notify", "kinds"),
    [
        ((), {Kind.FAILED, Kind.DELAYED}),
        (("NEVER",), set()),
        (("SUCCESS",), {Kind.RELAYED}),
        (("FAILURE", "DELAY", "SUCCESS"), set(Kind)),
        (("DELAY",), {Kind.DELAYED}),
    ],
)
def test_who_wants_what(notify, kinds):
    recipient = Recipient(make_address("b@example.net"), notify)
    assert {kind for kind in Kind if wants(recipient, kind)} == kinds


def test_status_of_a_reply():
    assert status_of(Reply(550, "5.1.1", "x")) == "5.1.1"
    assert status_of(Reply(451, "", "x")) == "4.0.0"


@given(
    st.binary(max_size=300),
    st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=300),
)
def test_whatever_was_in_the_message_and_the_reply(body, words):
    message = Message(b"Subject: x\r\n\r\n", body.replace(b"\r", b"").replace(b"\n", b"\r\n"))
    fate = Fate(Recipient(make_address("b@example.net")), f"550 {words}", "5.0.0")
    octets = dsn_message(report(message=message, fates=(fate,)), "new1")
    parsed = parse(octets)
    assert len(list(parsed.iter_parts())) == 3
    assert bytes(message) in octets


def test_a_message_that_holds_the_boundary_does_not_end_the_part():
    message = Message(b"Subject: x\r\n\r\n", b"--=_new1.0--\r\n--=_new1.1\r\n")
    assert len(list(parse(dsn_message(report(message=message), "new1")).iter_parts())) == 3


def test_what_needs_tls_is_not_quoted():
    envelope = Envelope(make_address("a@example.org"), ret="FULL", requiretls=True)
    octets = dsn_message(report(envelope=envelope), "new1")
    assert b"text/rfc822-headers" in octets
    assert b"body" not in octets


@pytest.mark.parametrize(("requiretls", "field"), [(False, "No"), (True, None)])
def test_tls_that_is_no_condition_is_none_on_the_way_back(requiretls, field):
    message = Message.from_bytes(b"TLS-Required: No\r\n" + bytes(MESSAGE))
    envelope = Envelope(make_address("a@example.org"), requiretls=requiretls)
    assert parse(dsn_message(report(message=message, envelope=envelope), "new1"))["TLS-Required"] == field
    assert parse(dsn_message(report(), "new1"))["TLS-Required"] is None
