"""Trace fields."""

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.api import Client, TlsInfo
from relayproxy.smtp.received import count_hops, protocol_keyword, received_field, rfc5322_date

TLS = TlsInfo("TLSv1.3", "X", 256)


@given(st.integers(0, 4 * 10**9))
def test_dates(seconds):
    assert rfc5322_date(seconds) == email.utils.formatdate(seconds).replace("-0000", "+0000")


@pytest.mark.parametrize(
    ("proto", "tls", "identity", "utf8", "keyword"),
    [
        ("SMTP", None, "", False, "SMTP"),
        ("ESMTP", None, "", False, "ESMTP"),
        ("ESMTP", TLS, "", False, "ESMTPS"),
        ("ESMTP", None, "ana", False, "ESMTPA"),
        ("ESMTP", TLS, "ana", False, "ESMTPSA"),
        ("LMTP", TLS, "", False, "LMTPS"),
        ("ESMTP", TLS, "", True, "UTF8SMTPS"),
        ("LMTP", None, "", True, "UTF8LMTP"),
    ],
)
def test_keywords_of_rfc_3848(proto, tls, identity, utf8, keyword):
    client = Client("i", "l", "192.0.2.1", proto=proto, tls=tls, identity=identity)
    assert protocol_keyword(client, smtputf8=utf8) == keyword


@given(st.text(max_size=40))
def test_a_helo_name_never_ends_the_field(helo):
    line = received_field(Client("i", "l", "192.0.2.1", helo=helo), by="mx", id="1", when=0.0)
    assert line.count(b"\r\n") == 3
    assert line.endswith(b"+0000\r\n")
    assert all(fold[:1] == b"\t" for fold in line.split(b"\r\n")[1:-1])


def test_hops_are_counted_whatever_their_case():
    head = b"Received: a\r\nX: received: b\r\nRECEIVED: c\r\n\td\r\nreceived: e\r\n\r\n"
    assert count_hops(head.lower()) == 3
