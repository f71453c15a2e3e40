import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.api import DnsStatus, fetch_from
from relayproxy.mailauth.audit.dmarc import audit_dmarc
from relayproxy.testing import FakeResolver

HERE = ("_dmarc.example.org", "TXT")
MX = {("example.org", "MX"): [(10, "mx.example.org")]}
RUA = "rua=mailto:a@example.org"


async def audited(zone, domain="example.org"):
    lines = await audit_dmarc(domain, fetch_from(FakeResolver(MX | zone)))
    assert {line.check for line in lines} == {"dmarc"}
    return [(line.level, line.text) for line in lines]


@pytest.mark.parametrize(
    ("record", "level", "text"),
    [
        (f"v=DMARC1; p=reject; {RUA}", "ok", "policy reject"),
        (f"v=DMARC1; p=none; {RUA}", "warning", "p=none keeps nobody"),
        (f"v=DMARC1; p=reject; t=y; {RUA}", "warning", "weakens the policy to quarantine"),
        ("v=DMARC1; p=reject", "warning", "no rua="),
        (f"v=DMARC1; p=reject; pct=50; {RUA}", "warning", "pct= is ignored"),
        (f"v=DMARC1; p=reject; foo=1; {RUA}", "warning", "foo= is no tag"),
        (f"v=DMARC1; p=reject; p=none; {RUA}", "warning", "p= is there twice"),
        (f"v=DMARC1; p=reject; sp=none; np=quarantine; {RUA}", "warning", "sp=none and np=quarantine leaves"),
        ("v=DMARC1; p=nonsense", "error", "it has no p="),
        ("v=DMARC1", "error", "it has no p="),
        ("v=spf1 -all", "error", "no DMARC record: it must begin"),
        ([f"v=DMARC1; p=none; {RUA}", f"v=DMARC1; p=reject; {RUA}"], "error", "there are 2 DMARC records"),
        (DnsStatus.SERVFAIL, "error", "DNS gave no answer"),
        ("v=DMARC1; p=reject; rua=https://example.org/x", "warning", "no address that reports are sent to"),
        ("v=DMARC1; p=reject; rua=mailto:a@null.example", "error", "takes no mail"),
        ("v=DMARC1; p=reject; rua=mailto:a@nowhere.example.org", "error", "neither MX nor address"),
        ("v=DMARC1; p=reject; rua=mailto:a@broken.example", "error", "DNS gave no answer"),
    ],
)
async def test_a_record(record, level, text):
    zone = {HERE: record, ("null.example", "MX"): [(0, "")], ("broken.example", "*"): DnsStatus.SERVFAIL}
    lines = await audited(zone)
    assert any(found == level and text in said for found, said in lines), lines


async def test_without_a_record_it_says_what_to_publish():
    (line,) = await audit_dmarc("example.org", fetch_from(FakeResolver({})))
    assert (line.level, line.name) == ("error", "_dmarc.example.org")
    assert line.publish[0].value == "v=DMARC1; p=none; rua=mailto:dmarc-reports@example.org"


async def test_a_policy_from_above_is_said_to_be_so():
    lines = await audited({HERE: f"v=DMARC1; p=reject; sp=quarantine; {RUA}"}, "news.example.org")
    assert lines[0] == ("ok", "policy quarantine, from _dmarc.example.org")


async def test_reports_to_another_organization_need_its_word():
    zone = {HERE: "v=DMARC1; p=reject; rua=mailto:a@reports.example,mailto:b@sub.example.org"}
    zone |= {("reports.example", "MX"): [(1, "mx.reports.example")], ("sub.example.org", "A"): "192.0.2.1"}
    lines = await audit_dmarc("example.org", fetch_from(FakeResolver(zone)))
    assert [line.level for line in lines] == ["ok", "error"]
    assert lines[1].publish[0].line() == (
        'example.org._report._dmarc.reports.example. 3600 IN TXT ( "v=DMARC1;" )'
    )
    name = ("example.org._report._dmarc.reports.example", "TXT")
    assert (await audited(zone | {name: "v=DMARC1"}))[1] == ("ok", "reports.example takes the reports")
    assert (await audited(zone | {name: DnsStatus.TIMEOUT}))[1][0] == "error"


@given(st.binary(max_size=200))
async def test_nothing_that_is_published_raises(text):
    assert await audited({HERE: b"v=DMARC1; p=none; " + text})
    assert await audited({HERE: text})
