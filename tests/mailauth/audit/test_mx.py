import pytest

from relayproxy.api import DnsStatus, fetch_from
from relayproxy.mailauth.audit.mx import audit_mx, audit_ptr, mx_hosts
from relayproxy.testing import FakeResolver

HERE = ("example.org", "MX")
GOOD = {("mx.example.org", "A"): "9.9.9.9", ("mx.example.org", "AAAA"): "2620:fe::9"}


async def audited(zone):
    lines = await audit_mx("example.org", fetch_from(FakeResolver(GOOD | zone)))
    assert {line.check for line in lines} == {"mx"}
    return [(line.level, line.name, line.text) for line in lines]


@pytest.mark.parametrize(
    ("zone", "level", "name", "text"),
    [
        ({HERE: [(10, "mx.example.org")]}, "ok", "mx.example.org", "9.9.9.9, 2620:fe::9"),
        ({HERE: [(0, "")]}, "ok", "example.org", "null MX"),
        ({HERE: [(0, ""), (10, "mx.example.org")]}, "error", "example.org", "null MX (.) stands beside"),
        ({HERE: [(10, "none.example.org")]}, "error", "none.example.org", "it has no address"),
        ({HERE: [(10, "192.0.2.1")]}, "error", "192.0.2.1", "must name a host"),
        ({HERE: [(10, "alias.example.org")]}, "error", "alias.example.org", "it is an alias"),
        ({HERE: [(10, "private.example.org")]}, "error", "private.example.org", "10.0.0.1 can't be reached"),
        ({HERE: [(10, "broken.example.org")]}, "error", "broken.example.org", "DNS gave no answer"),
        ({HERE: DnsStatus.TIMEOUT}, "error", "example.org", "timeout"),
        ({("example.org", "A"): "9.9.9.9"}, "warning", "example.org", "there is no MX record"),
        ({}, "error", "example.org", "neither MX nor address"),
    ],
)
async def test_mx(zone, level, name, text):
    more = {
        ("alias.example.org", "CNAME"): "mx.example.org",
        ("private.example.org", "A"): "10.0.0.1",
        ("broken.example.org", "*"): DnsStatus.SERVFAIL,
    }
    lines = await audited(more | zone)
    assert any((found, who) == (level, name) and text in said for found, who, said in lines), lines


async def test_hosts_come_best_first_and_once():
    zone = {HERE: [(20, "B.example."), (10, "a.example"), (30, "b.example"), (0, "")]}
    assert await mx_hosts("example.org", fetch_from(FakeResolver(zone))) == ("a.example", "b.example")


REVERSE = ("9.9.9.9.in-addr.arpa", "PTR")


@pytest.mark.parametrize(
    ("zone", "level", "text"),
    [
        ({REVERSE: "mx.example.org"}, "ok", "mx.example.org, and back"),
        ({REVERSE: ["other.example", "MX.example.org"]}, "ok", "and back"),
        (
            {REVERSE: "host.example.org", ("host.example.org", "A"): "9.9.9.9"},
            "warning",
            "EHLO says mx.example.org",
        ),
        ({REVERSE: "other.example"}, "error", "other.example doesn't lead back"),
        ({}, "error", "no reverse name"),
        ({REVERSE: DnsStatus.SERVFAIL}, "error", "DNS gave no answer"),
    ],
)
async def test_reverse_names(zone, level, text):
    line = await audit_ptr("9.9.9.9", "mx.example.org", fetch_from(FakeResolver(GOOD | zone)))
    assert (line.check, line.name, line.level) == ("ptr", "9.9.9.9", level)
    assert text in line.text
    wanted = ["9.9.9.9.in-addr.arpa. 3600 IN PTR mx.example.org."]
    assert [record.line() for record in line.publish] == wanted * (level != "ok" and "DNS" not in text)


async def test_a_private_address_is_not_asked_for():
    resolver = FakeResolver({})
    line = await audit_ptr("10.0.0.1", "mx.example.org", fetch_from(resolver))
    assert (line.level, resolver.asked) == ("warning", [])
