"""Bounces of every form, what is none, and octets that nobody expects."""

import base64
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bounces.messages import DSN, REPORTS, message_of

from relayproxy.bounces.dsn import read_status, status_in, untyped
from relayproxy.bounces.mime import parts_of
from relayproxy.bounces.read import read
from relayproxy.bounces.report import Kind
from relayproxy.model.message import Message

SUITES = Path(os.environ.get("RELAYPROXY_SUITES", Path(__file__).parents[3] / "shared" / "suites"))
ARF = SUITES / "mail-auth/resources/arf"


@pytest.mark.parametrize("name", REPORTS)
def test_every_form(name):
    text, kind, fates = REPORTS[name]
    report = read(message_of(text))
    assert report is not None
    assert report.kind is kind
    assert report.fates == fates


def test_what_a_dsn_says_about_the_message():
    report = read(message_of(DSN))
    assert (report.reporter, report.envelope_id) == ("mail.example.net", "env-1")
    assert [fate.address for fate in report.failed] == ["Gone@Example.net"]


@pytest.mark.parametrize("name", ["a DSN", "Exim", "qmail", "loose parts", "a complaint"])
def test_the_header_fields_that_come_back(name):
    fields = read(message_of(REPORTS[name][0])).returned_fields
    assert [one.value for one in fields if one.name == "X-Relayproxy-Trace"] == ["abcdefghijkl=aa=m.1==="]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_line_ends_do_not_matter_inside_of_parts(end):
    status = end.join(
        (
            b"Reporting-MTA: dns; gateway.example",
            b"",
            b"Final-Recipient: rfc822; gone@example.net",
            b"Status: 5.1.1",
            b"",
        )
    )
    head = "Content-Type: message/global-delivery-status\nContent-Transfer-Encoding: base64\n\n"
    report = read(message_of(head + base64.b64encode(status).decode()))
    assert report.reporter == "gateway.example"
    assert [(fate.address, fate.status) for fate in report.fates] == [("gone@example.net", "5.1.1")]


HEADERS = {
    "away": "Subject: Automatic reply: your news\n",
    "RFC 3834": "Subject: I am not here\nAuto-Submitted: auto-replied (vacation)\n",
    "precedence": "Subject: Re: news\nPrecedence: auto_reply\n",
    "field": "Subject: Re: news\nX-Autoreply: yes\n",
    "German": "Subject: Abwesenheitsnotiz: Urlaub\n",
}


@pytest.mark.parametrize("name", HEADERS)
def test_automatic_answers(name):
    report = read(
        message_of(f"From: a@example.net\n{HEADERS[name]}\nI am away until Monday.\n"), null_sender=False
    )
    assert (report.kind, report.fates) == (Kind.AUTO_REPLY, ())
    assert report.reporter == "a@example.net"


@pytest.mark.parametrize(
    ("head", "null_sender"),
    [
        ("From: a@example.net\nSubject: Re: news\n", False),
        ("From: a@example.net\nSubject: hello\n", True),
        ("From: a@example.net\nSubject: a delivery failure yesterday?\n", False),
    ],
)
def test_a_letter_is_no_report(head, null_sender):
    assert (
        read(
            message_of(f"{head}\nThe mail to b@example.net bounced: 550 user unknown\n"),
            null_sender=null_sender,
        )
        is None
    )


def test_a_returned_bounce_is_not_read_for_the_bounce():
    inner = DSN.replace("A/1.2", "inner").format(original="Subject: x\n")
    outer = "From: a@example.net\nSubject: fwd\nContent-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: message/rfc822\n\n"
    assert (
        read(
            message_of((outer + inner + "\n--o--\n").replace("{", "{{").replace("}", "}}")), null_sender=False
        )
        is None
    )


@pytest.mark.skipif(not ARF.is_dir(), reason="the suite mail-auth is not there")
@pytest.mark.parametrize("number", ["001", "002", "003", "004", "005"])
def test_complaints_of_others(number):
    octets = (ARF / f"{number}.eml").read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    told = json.loads((ARF / f"{number}.json").read_text())
    report = read(Message.from_bytes(octets), null_sender=False)
    assert report.kind is Kind.COMPLAINT
    assert report.feedback == {"AuthFailure": "auth-failure"}.get(
        told["feedback_type"], told["feedback_type"].lower()
    )
    named = told["original_rcpt_to"] or ""
    assert report.fates[0].address == named.strip("<>")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("550 5.1.1 unknown", "5.1.1"),
        ("host 5.6.7.8 said: 550-unknown", "5.0.0"),
        ("(#5.2.2)", "5.2.2"),
        ("421 later", "4.0.0"),
        ("nothing of 1550 things", ""),
        ("4.4.7.1", ""),
    ],
)
def test_codes_in_words(text, status):
    assert status_in(text) == status


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("rfc822;a@b.example", "a@b.example"),
        ("RFC822 ; <a@b.example>", "a@b.example"),
        ("a@b.example", "a@b.example"),
        (r"utf-8;\x{6D4B}@b.example", "\u6d4b@b.example"),
        (r"utf-8;a\x{0D}\x{0A}@b.example", "a@b.example"),
        (r"utf-8;\x{D800}@b.example", "@b.example"),
    ],
)
def test_typed_values(value, address):
    assert untyped(value) == address


def test_all_is_bounded():
    many = b"".join(
        b"Final-Recipient: rfc822; u%d@example.net\r\nAction: failed\r\n\r\n" % n for n in range(5000)
    )
    assert len(read_status(many)[1]) <= 201
    deep = (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
        + b"--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" * 9000
    )
    assert len(list(parts_of(Message.from_bytes(deep)))) <= 60
    wide = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 9000
    assert len(list(parts_of(Message.from_bytes(wide)))) <= 60


PIECES = [
    b"--A/1.2\r\n", b"--A/1.2--\r\n", b"\r\n", b"\r\n\r\n", b"Final-Recipient: rfc822; a@b.example\r\n", b"Action: failed\r\n",
    b"Content-Type: message/delivery-status\r\n", b"Content-Type: multipart/report; boundary=A/1.2\r\n", b"\xff\x00=",
    b"Feedback-Type: abuse\r\n", b"Content-Transfer-Encoding: base64\r\n", b"<a@b.example>: 550 5.1.1\r\n", b"Subject: failure notice\r\n",
    b"X-Failed-Recipients: <,>,a@b\r\n", b"<style>", b"<", b"Content-Type: text/html\r\n",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=40), st.booleans())
@settings(max_examples=300, deadline=None)
def test_no_octets_are_too_odd(pieces, null_sender):
    report = read(Message.from_bytes(b"".join(pieces)), null_sender=null_sender)
    assert report is None or all(
        len(fate.diagnosis) <= 1000 and len(fate.address) <= 320 and fate.diagnosis.isprintable()
        for fate in report.fates
    )
