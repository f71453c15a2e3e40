import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.api import DnsStatus, fetch_from
from relayproxy.mailauth.audit.transport import audit_policy, audit_tls_reports, sts_record
from relayproxy.mailauth.mta_sts import MOST_OCTETS, PolicyFile, parse_policy
from relayproxy.testing import FakeResolver

POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mx.example.org\r\nmx: *.example.net\r\nmax_age: 604800\r\n"
HOSTS = ("mx.example.org",)


@pytest.mark.parametrize(
    ("answer", "state", "text"),
    [
        ("v=STSv1; id=20260101T000000;", "there", "id 20260101T000000"),
        ("v=STSv1;id=1", "there", "id 1"),
        ([], "none", "there is no MTA-STS"),
        ("v=spf1 -all", "none", "there is no MTA-STS"),
        (["v=STSv1; id=1", "v=STSv1; id=2"], "broken", "there are 2 records"),
        ("v=STSv1;", "broken", "id= is missing"),
        ("v=STSv1; id=2026-01-01", "broken", "id= is missing"),
        ("v=STSv1; id=" + "1" * 33, "broken", "id= is missing"),
        (DnsStatus.SERVFAIL, "unknown", "servfail"),
    ],
)
async def test_the_record(answer, state, text):
    resolver = FakeResolver({("_mta-sts.example.org", "TXT"): answer})
    found, line = await sts_record("example.org", fetch_from(resolver))
    assert (found, line.check, line.name) == (state, "mta-sts", "_mta-sts.example.org")
    assert line.level == {"there": "ok", "none": "warning"}.get(state, "error")
    assert text in line.text


@pytest.mark.parametrize(
    ("facts", "level", "text"),
    [
        ({}, "ok", "mode enforce, max_age 604800"),
        ({"hosts": ("a.example.net", "MX.example.org.")}, "ok", "mode enforce"),
        ({"hosts": ("a.b.example.net",)}, "error", "covers a.b.example.net: senders deliver nothing there"),
        ({"hosts": ("example.net",)}, "error", "covers example.net"),
        ({"text": POLICY.replace(b"enforce", b"testing")}, "warning", "mode testing protects nothing"),
        ({"text": b"version: STSv1\nmode: none\nmax_age: 604800\n"}, "warning", "mode none protects nothing"),
        ({"text": POLICY.replace(b"604800", b"3600")}, "warning", "max_age 3600 is short"),
        ({"text": POLICY.replace(b"604800", b"99999999")}, "error", "max_age is not"),
        ({"text": POLICY.replace(b"604800", b"a week")}, "error", "max_age is not"),
        ({"text": POLICY.replace(b"STSv1", b"STSv2")}, "error", "version: STSv1 is missing"),
        ({"text": POLICY.replace(b"enforce", b"strict")}, "error", "mode is not"),
        ({"text": POLICY.replace(b"mx:", b"host:")}, "error", "there is no mx: line"),
        ({"text": POLICY.replace(b"*.", b"*")}, "error", "mx: *example.net is no name"),
        ({"text": POLICY + b"nonsense"}, "error", "'nonsense' has no colon"),
        ({"text": POLICY + b" " * MOST_OCTETS}, "error", "more than 65536 octets"),
        ({"media_type": "text/html"}, "warning", "its type is text/html"),
        ({"status": 301}, "error", "status 301: senders follow no redirect"),
        ({"status": 404}, "error", "status 404"),
        ({"fault": "certificate verify failed"}, "error", "certificate verify failed"),
    ],
)
def test_the_policy(facts, level, text):
    hosts = facts.pop("hosts", HOSTS) if "hosts" in facts else HOSTS
    file = PolicyFile(**({"status": 200, "text": POLICY, "media_type": "text/plain"} | facts))
    lines = audit_policy("example.org", file, hosts)
    assert {line.name for line in lines} == {"https://mta-sts.example.org/.well-known/mta-sts.txt"}
    assert any(line.level == level and text in line.text for line in lines), lines


@given(st.binary(max_size=300))
def test_any_text_is_read(text):
    assert isinstance(parse_policy(text).faults, tuple)
    assert parse_policy(POLICY + b"x: " + text.replace(b"\n", b"").replace(b"\r", b"")).mode == "enforce"


@pytest.mark.parametrize(
    ("answer", "level", "text"),
    [
        ("v=TLSRPTv1; rua=mailto:a@example.org", "ok", "reports go to mailto:a@example.org"),
        ("v=TLSRPTv1;rua=https://x.example/y,mailto:a@example.org", "ok", "https://x.example/y, mailto:"),
        ([], "warning", "nobody tells you"),
        ("v=TLSRPTv1;", "error", "it has no rua="),
        ("v=TLSRPTv1; rua=a@example.org", "error", "a@example.org is neither"),
        (["v=TLSRPTv1; rua=mailto:a@b.example"] * 2, "error", "2 records"),
        (DnsStatus.TIMEOUT, "error", "timeout"),
    ],
)
async def test_tls_reports(answer, level, text):
    resolver = FakeResolver({("_smtp._tls.example.org", "TXT"): answer})
    line = await audit_tls_reports("example.org", fetch_from(resolver))
    assert (line.check, line.name, line.level) == ("tls-rpt", "_smtp._tls.example.org", level)
    assert text in line.text
