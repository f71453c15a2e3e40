import pytest

from relayproxy.api import DnsStatus, fetch_from
from relayproxy.mailauth.iprev import ReverseName, check_iprev
from relayproxy.testing import FakeResolver

V4, V6 = "1.2.0.192.in-addr.arpa", "1." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa"
MANY = [f"h{number}.example.org" for number in range(1, 12)]


@pytest.mark.parametrize(
    ("ip", "zone", "result", "name"),
    [
        (
            "192.0.2.1",
            {(V4, "PTR"): "a.example", ("a.example", "A"): ["192.0.2.9", "192.0.2.1"]},
            "pass",
            "a.example",
        ),
        (
            "192.0.2.1",
            {(V4, "PTR"): ["b.example", "a.example"], ("a.example", "A"): "192.0.2.1"},
            "pass",
            "a.example",
        ),
        (
            "::ffff:192.0.2.1",
            {(V4, "PTR"): "a.example", ("a.example", "A"): "192.0.2.1"},
            "pass",
            "a.example",
        ),
        (
            "2001:DB8::1",
            {(V6, "PTR"): "a.example", ("a.example", "AAAA"): "2001:db8:0::1"},
            "pass",
            "a.example",
        ),
        (
            "192.0.2.1",
            {
                (V4, "CNAME"): "1.0-127.2.0.192.in-addr.arpa",
                ("1.0-127.2.0.192.in-addr.arpa", "PTR"): "www.example",
                ("www.example", "CNAME"): "a.example",
                ("a.example", "A"): "192.0.2.1",
            },
            "pass",
            "www.example",
        ),
        ("192.0.2.1", {(V4, "PTR"): "a.example", ("a.example", "A"): "192.0.2.9"}, "fail", ""),
        ("192.0.2.1", {(V4, "PTR"): "a.example"}, "fail", ""),
        ("192.0.2.1", {(V4, "PTR"): "a.example", ("a.example", "AAAA"): "2001:db8::1"}, "fail", ""),
        ("192.0.2.1", {}, "permerror", ""),
        ("192.0.2.1", {(V4, "TXT"): "x"}, "permerror", ""),
        ("192.0.2.1", {(V4, "PTR"): ""}, "permerror", ""),
        ("192.0.2.1", {(V4, "PTR"): DnsStatus.TIMEOUT}, "temperror", ""),
        ("192.0.2.1", {(V4, "PTR"): DnsStatus.SERVFAIL}, "temperror", ""),
        ("192.0.2.1", {(V4, "PTR"): "a.example", ("a.example", "A"): DnsStatus.TIMEOUT}, "temperror", ""),
        (
            "192.0.2.1",
            {
                (V4, "PTR"): ["b.example", "a.example"],
                ("b.example", "A"): DnsStatus.SERVFAIL,
                ("a.example", "A"): "192.0.2.1",
            },
            "pass",
            "a.example",
        ),
    ],
)
async def test_each_outcome(ip, zone, result, name):
    found = await check_iprev(ip, fetch_from(FakeResolver(zone)))
    assert (found.result, found.name) == (result, name)


@pytest.mark.parametrize(("good", "result"), [("h10.example.org", "pass"), ("h11.example.org", "fail")])
async def test_ten_names_are_followed_and_the_eleventh_is_not(good, result):
    resolver = FakeResolver({(V4, "PTR"): MANY, (good, "A"): "192.0.2.1"})
    found = await check_iprev("192.0.2.1", fetch_from(resolver))
    assert found.result == result
    assert found.claimed == tuple(MANY)
    assert len(resolver.asked) == 11


async def test_what_is_no_address_is_an_error_of_the_caller():
    with pytest.raises(ValueError):
        await check_iprev("unix", fetch_from(FakeResolver()))


def test_the_value_without_a_name():
    assert ReverseName("permerror") == ReverseName("permerror", "", (), "")
