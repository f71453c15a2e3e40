"""What each fact and operator says of a mail."""

import pytest
from tests.rules.asking import flaws_of, holds

from relayproxy.api import Direction, Finding, Recipient, TlsInfo
from relayproxy.testing.mail import make_address

TLS = TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256, "CN=mx.partner.example", "ab", verified=True)
HEADERS = (
    b"Received: from a\r\n\tby b\r\nReceived: by c\r\nFrom: =?utf-8?q?Jos=C3=A9?= <jose@mail.example.org>\r\n"
    b"Subject: Your\r\n  order\r\nList-Id: <news.example.org>\r\nX-Odd : blank before\r\n\r\nbody\r\n"
)
MULTIPART = (
    b"From: a@b.example\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nhello\r\n--x\r\n"
    b'Content-Type: application/pdf; name="=?utf-8?b?csOpc3Vtw6kucGRm?="\r\n\r\nx\r\n--x\r\n'
    b'Content-Type: application/zip\r\nContent-Disposition: attachment;\r\n filename*0="run";'
    b' filename*1=".EXE"\r\n\r\nx\r\n--x--\r\n'
)


@pytest.mark.parametrize(
    ("match", "mail"),
    [
        ({"sender": "A@EXAMPLE.org"}, {}),
        ({"sender": "<a@example.org>"}, {}),
        ({"sender": "<>"}, {"sender": ""}),
        ({"sender.domain": ["x.example", "example.org"]}, {}),
        ({"sender.domain": {"under": "example.org"}}, {"sender": "a@deep.mail.example.org"}),
        ({"sender.domain": {"under": "example.org"}}, {"sender": "a@example.org"}),
        ({"sender.domain": "münchen.example"}, {"sender": "a@xn--mnchen-3ya.example"}),
        ({"sender.local": {"starts_with": "news"}}, {"sender": "News-12@example.org"}),
        ({"recipient": "b@example.net"}, {}),
        ({"recipient.domain": "example.net", "recipient.local": "b"}, {}),
        ({"recipients.count": 2}, {"recipients": ("b@example.net", "c@example.net")}),
        ({"client.ip": "192.0.2.0/24"}, {}),
        ({"client.ip": ["10.0.0.0/8", "192.0.2.1"]}, {}),
        ({"client.ip": "2001:db8::/32"}, {"ip": "2001:db8::7"}),
        ({"client.ip": "192.0.2.0/24"}, {"ip": "::ffff:192.0.2.9"}),
        ({"client.port": 49152}, {}),
        ({"client.helo": {"regex": r"^client\.[a-z]+\.org$"}}, {}),
        ({"client.login": "ana", "client.authenticated": True, "client.trusted": True}, {"identity": "ana"}),
        (
            {"client.tls": True, "client.tls_version": "TLSv1.3", "client.tls_bits": {"at_least": 256}},
            {"tls": TLS},
        ),
        (
            {"client.certificate_verified": True, "client.certificate_subject": {"contains": "partner"}},
            {"tls": TLS},
        ),
        ({"client.tls_cipher": {"glob": "*GCM*"}}, {"tls": TLS}),
        ({"client.tls": False, "client.tls_bits": 0}, {}),
        ({"client.proto": "ESMTP", "listener": "inbound"}, {}),
        ({"direction": "internal"}, {"direction": Direction.INTERNAL}),
        ({"size": {"above": 10, "below": "1 kB"}}, {}),
        ({"declared_size": {"at_most": "1 KiB"}}, {}),
        ({"subject": "hello"}, {}),
        ({"subject": {"contains": ["lottery", "HELL"]}}, {}),
        ({"subject": {"ends_with": "lo"}}, {}),
        ({"subject": "your  order"}, {"raw": HEADERS}),
        ({"from": "jose@mail.example.org", "from.name": "josé"}, {"raw": HEADERS}),
        ({"from.domain": {"under": "example.org"}}, {"raw": HEADERS}),
        ({"header.received": {"contains": "by c"}}, {"raw": HEADERS}),
        ({"first_header.received": {"glob": "from a*by b"}}, {"raw": HEADERS}),
        ({"header_count.received": 2}, {"raw": HEADERS}),
        ({"header.list-id": {"exists": True}}, {"raw": HEADERS}),
        ({"header.X-Odd": "blank before"}, {"raw": HEADERS}),
        ({"header.received": {"every": {"contains": "by"}}}, {"raw": HEADERS}),
        ({"attachment.extension": "exe"}, {"raw": MULTIPART}),
        ({"attachment.name": "résumé.pdf"}, {"raw": MULTIPART}),
        ({"attachment.type": "application/zip", "attachments.count": 2}, {"raw": MULTIPART}),
        ({"part.type": "text/plain"}, {"raw": MULTIPART}),
        ({"spf": "fail"}, {"findings": [Finding("spf", "fail")]}),
        ({"dkim": "pass"}, {"findings": [Finding("dkim", "fail"), Finding("dkim", "pass")]}),
        (
            {"dkim.header.d": "example.org"},
            {"findings": [Finding("dkim", "pass", props={"header.d": "example.org"})]},
        ),
        ({"finding.rspamd.score": {"above": 3}}, {"findings": [Finding("rspamd", "hit", 4.0)]}),
        (
            {"finding.x.reason": {"contains": "why"}},
            {"findings": [Finding("x", "hit", reason="that is why")]},
        ),
        ({"finding.x.by": "plug"}, {"findings": [Finding("x", "hit", by="plug")]}),
        ({"score": {"at_least": 4}}, {"findings": [Finding("a", "hit", 1.5), Finding("b", "hit", 2.5)]}),
        ({"time": ["11:00", "13:00"]}, {"now": 43_200}),
        ({"time": {"between": ["22:00", "02:00"]}}, {"now": 3600}),
        ({"time": {"between": ["13:00", "14:00"], "zone": "Europe/Madrid"}}, {"now": 43_200}),
        ({"weekday": ["thu"]}, {"now": 0}),
        ({"weekday": {"is": "fri", "zone": "Asia/Tokyo"}}, {"now": 57_600}),
        ({"any": [{"subject": "x"}, {"size": {"above": 1}}]}, {}),
        ({"any": {"subject": "x", "sender": "a@example.org"}}, {}),
        ({"all": [{"subject": "hello"}, {"not": {"subject": "x"}}]}, {}),
        ({"not": {"any": [{"subject": "x"}, {"client.tls": True}]}}, {}),
        ({"subject": {"not": "x"}}, {}),
        ({"subject": {"not": {"contains": "x"}, "starts_with": "h"}}, {}),
    ],
)
def test_it_holds_and_its_opposite_does_not(match, mail):
    assert holds(match, **mail)
    assert not holds({"not": match}, **mail)


@pytest.mark.parametrize(
    "match",
    [
        {"sender.domain": {"under": "ample.org"}},
        {"sender.domain": {"glob": "example"}},
        {"client.ip": "198.51.100.0/24"},
        {"header.list-id": {"exists": True}},
        {"header.list-id": {"every": "x"}},
        {"client.ptr": {"exists": True}},
        {"spf": "fail"},
        {"attachment.name": {"glob": "*"}},
        {"subject": {"regex": "^ello"}},
        {"size": {"above": "1 MB"}},
        {"time": ["01:00", "02:00"]},
    ],
)
def test_it_does_not_hold(match):
    assert not holds(match)


def test_several_operators_are_about_the_same_value():
    raw = b"X-A: one two\r\nX-A: three\r\n\r\n"
    assert holds({"header.x-a": {"contains": "one", "ends_with": "two"}}, raw=raw)
    assert not holds({"header.x-a": {"contains": "one", "ends_with": "three"}}, raw=raw)


def test_from_that_names_several_is_nobody():
    assert not holds({"from": {"exists": True}}, raw=b"From: a@x.example, b@y.example\r\n\r\n")
    assert not holds({"from": {"exists": True}}, raw=b"From: a@x.example\r\nFrom: b@y.example\r\n\r\n")


def test_a_recipient_of_ours():
    ours = Recipient(make_address("x@sub.example.net"))
    assert holds({"recipient.is_local": True}, rcpt=ours, domains=frozenset({".example.net"}))
    assert not holds({"recipient.is_local": True}, rcpt=ours, domains=frozenset({"example.net"}))


@pytest.mark.parametrize(
    ("match", "code"),
    [
        ({"subject": {"regex": "(?P<a>x)(?P=a)"}}, "RP805"),
        ({"subject": {"regex": "x" * 1001}}, "RP805"),
        ({"subject": {"contains": ""}}, "RP811"),
        ({"client.tls": "true"}, "RP105"),
        ({"not": []}, "RP110"),
        ({"all": "x"}, "RP110"),
        ({"subject": {}}, "RP110"),
        ({"subject": {"exists": False}}, "RP110"),
        ({"subject": True}, "RP110"),
        ("x", "RP110"),
        ({"time": {"zone": "UTC"}}, "RP102"),
        ({"weekday": "noday"}, "RP202"),
        ({"weekday": {"above": 3}}, "RP802"),
        ({"header.x": {"every": {"not": "x"}}}, "RP804"),
        ({"sender": {"under": "x.example"}}, "RP804"),
        ({"sender.domain": {"under": "a@b"}}, "RP208"),
    ],
)
def test_what_is_refused(match, code):
    assert flaws_of({"id": "a", "match": match, "then": {"score": 1}}) == [code]


def test_nesting_has_an_end():
    match = {"subject": "x"}
    for _ in range(20):
        match = {"not": match}
    assert flaws_of({"id": "a", "match": match, "then": {"score": 1}}) == ["RP107"]
