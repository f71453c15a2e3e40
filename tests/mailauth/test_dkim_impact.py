import base64
from hashlib import sha256

import pytest

from relayproxy.mailauth.dkim_impact import MOST, broken_by_body, broken_by_fields
from relayproxy.model.message import Message

BODY = b"Hello  there\r\n\r\n"


def signature(domain, body, tags="", field="DKIM-Signature", names="from:subject:list-unsubscribe"):
    digest = base64.b64encode(sha256(body).digest()).decode()
    return f"{field}: v=1; a=rsa-sha256; d={domain}; s=s; h={names}; bh={digest}; b=YQ=={tags}\r\n".encode()


def message(*fields, body=BODY):
    return Message(b"".join((*fields, b"From: a@example.org\r\n\r\n")), body)


RELAXED = signature("relaxed.example", b"Hello there\r\n", "; c=relaxed/relaxed")
SIMPLE = signature("simple.example", b"Hello  there\r\n")
LENGTH = signature("length.example", b"Hello", "; c=relaxed/relaxed; l=5")
ARC = signature("arc.example", b"Hello there\r\n", "; c=relaxed/relaxed; i=1", "ARC-Message-Signature")
BROKEN = signature("broken.example", b"another")


@pytest.mark.parametrize(
    ("body", "broken"),
    [
        (BODY, ()),
        (b"Hello  there\r\n\r\n\r\n", ()),
        (b"Hello there\r\n", ("simple.example",)),
        (b"Hello  there\r\nfooter\r\n", ("relaxed.example", "simple.example", "arc.example")),
        (b"Goodbye\r\n", ("relaxed.example", "simple.example", "length.example", "arc.example")),
    ],
)
def test_another_body(body, broken):
    mail = message(RELAXED, SIMPLE, LENGTH, ARC, BROKEN, b"DKIM-Signature: nonsense\r\n")
    assert broken_by_body(mail, body) == broken


def test_without_signatures_nothing_breaks():
    assert broken_by_body(message(), b"another\r\n") == ()
    assert broken_by_fields(message(BROKEN), ["Subject"]) == ()


def test_fields_that_are_covered_or_whose_lack_is():
    mail = message(SIMPLE, signature("other.example", b"Hello  there\r\n", names="from"))
    assert broken_by_fields(mail, ["List-Unsubscribe"]) == ("simple.example",)
    assert broken_by_fields(mail, ["From", "X-Mine"]) == ("simple.example", "other.example")
    assert broken_by_fields(mail, ["X-Mine"]) == ()


@pytest.mark.parametrize("tags", ["; c=odd", "; l=x", "; bh=!", "; d=second.example"])
def test_what_is_no_signature_is_passed_over(tags):
    assert broken_by_body(message(SIMPLE[:-2] + tags.encode() + b"\r\n"), b"x\r\n") == ()


def test_a_domain_that_can_not_be_read():
    mail = message(SIMPLE.replace(b"simple.example", b"-"))
    assert broken_by_body(mail, b"x\r\n") == ("a domain that can't be read",)


def test_the_signatures_that_are_looked_at_are_limited():
    mail = message(*[BROKEN] * MOST, SIMPLE)
    assert broken_by_body(mail, b"x\r\n") == ()
