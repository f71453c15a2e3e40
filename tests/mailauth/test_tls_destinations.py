"""Who gets reports on TLS: the record at _smtp._tls (RFC 8460 section 3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.api import DnsStatus, fetch_from
from relayproxy.mailauth.tls_destinations import Endpoint, look_up, read_record
from relayproxy.testing import FakeResolver


@pytest.mark.parametrize(
    ("rua", "found", "refused"),
    [
        ("mailto:a@example.org", ["a@example.org"], 0),
        (" mailto:a@x.example , https://x.example/r?v=1 ", ["a@x.example", "https://x.example/r?v=1"], 0),
        ("mailto:a%2Cb%21@x.example,mailto:a@x.example,mailto:a@x.example", ["a@x.example"], 1),
        ("http://x.example/", [], 1),
        ("https://user:pw@x.example/", [], 1),
        ("https:///x", [], 1),
        ("https://x.example:99999/", [], 1),
        ("ftp://x.example,", [], 1),
        (",".join(f"mailto:a{n}@x.example" for n in range(12)), [f"a{n}@x.example" for n in range(10)], 2),
        ("", [], 0),
    ],
)
def test_destinations(rua, found, refused):
    wanted = read_record(f"v=TLSRPTv1; rua={rua}; more=x".encode())
    assert [str(one) for one in wanted.places] == found
    assert len(wanted.refused) == refused


def test_where_reports_are_posted_to():
    (place,) = read_record(b"v=TLSRPTv1;rua=https://Reports.example:8443/v1/a?k=v").places
    assert place == Endpoint("reports.example", 8443, "/v1/a?k=v", "https://Reports.example:8443/v1/a?k=v")


@given(st.binary(max_size=200))
def test_whatever_is_published_it_is_read(octets):
    for one in read_record(b"v=TLSRPTv1; rua=" + octets).places:
        assert str(one).isascii()


async def test_there_is_one_record_or_none():
    resolver = FakeResolver()
    good = b"v=TLSRPTv1; rua=mailto:a@x.example"
    resolver.set("_smtp._tls.one.example", "TXT", [good, b"v=spf1 -all"])
    resolver.set("_smtp._tls.two.example", "TXT", [good, good + b"x"])
    resolver.set("_smtp._tls.down.example", "TXT", DnsStatus.SERVFAIL)
    fetch = fetch_from(resolver)
    assert [str(one) for one in (await look_up("one.example", fetch)).places] == ["a@x.example"]
    assert (await look_up("two.example", fetch)).places == ()
    assert (await look_up("none.example", fetch)).refused == ()
    (refusal,) = (await look_up("down.example", fetch)).refused
    assert refusal.temporary
