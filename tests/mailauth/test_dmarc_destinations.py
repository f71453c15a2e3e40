"""Who gets reports: reading `rua`, and asking destinations outside of the domain (RFC 9990 section 4)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.api import DnsStatus, fetch_from
from relayproxy.mailauth.dmarc import organizational_domain
from relayproxy.mailauth.dmarc_destinations import read_destinations, verify
from relayproxy.mailauth.report_places import Destination, Refusal
from relayproxy.testing import FakeResolver


def read(rua):
    found, refused = read_destinations(f"v=DMARC1; p=none; rua={rua}; fo=1")
    return [(str(one), one.limit) for one in found], [one.uri for one in refused]


@pytest.mark.parametrize(
    ("rua", "found", "refused"),
    [
        ("mailto:a@example.org", [("a@example.org", 0)], []),
        ("mailto:a@example.org!10m", [("a@example.org", 10 << 20)], []),
        ("MAILTO:A@Example.ORG!2K", [("A@example.org", 2048)], []),
        ("mailto:a@example.org!500 , mailto:b@x.example!1g", [("a@example.org", 500), ("b@x.example", 1 << 30)], []),
        ("mailto:a@example.org,mailto:a@example.org!1k", [("a@example.org", 0)], []),
        ("mailto:a%2Bb%21@example.org", [("a+b!@example.org", 0)], []),
        ("mailto:a@example.org?subject=x", [("a@example.org", 0)], []),
        ("mailto:a@b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example", [], ["mailto:a@b\ufffdcher.example"]),
        ("https://example.org/x", [], ["https://example.org/x"]),
        ("mailto:a", [], ["mailto:a"]),
        ("mailto:a@localhost", [], ["mailto:a@localhost"]),
        ("mailto:a@[192.0.2.1]", [], ["mailto:a@[192.0.2.1]"]),
        ("mailto:a%0D%0ABcc:x@example.org", [], ["mailto:a%0D%0ABcc:x@example.org"]),
        ("mailto:%22a b%22@example.org", [], ["mailto:%22a b%22@example.org"]),
        ("mailto:a@example.org!10x", [], ["mailto:a@example.org!10x"]),
        ("", [], []),
    ],
)  # fmt: skip
def test_reading_rua(rua, found, refused):
    octets = f"v=DMARC1; p=none; rua={rua}; fo=1".encode("latin-1", "replace").decode("ascii", "replace")
    mailboxes, bad = read_destinations(octets)
    assert [(str(one), one.limit) for one in mailboxes] == found
    assert [one.uri for one in bad] == refused


def test_there_is_a_limit_to_destinations():
    found, refused = read(",".join(f"mailto:a{n}@example.org" for n in range(12)))
    assert len(found) == 10
    assert refused == ["mailto:a10@example.org", "mailto:a11@example.org"]


@given(st.text(alphabet="mailto:@%0aD.!kx\r\n <>\x00,?é", max_size=60))
def test_what_is_read_can_be_written_into_a_mail(rua):
    for one in read_destinations(f"v=DMARC1; rua={rua}")[0]:
        assert str(one).isascii()
        assert str(one).isprintable()
        assert not set(str(one)) & set(' <>,;:\\"()[]')


ZONE = {
    ("_dmarc.example.org", "TXT"): "v=DMARC1; p=none",
    ("_dmarc.reports.example", "TXT"): "v=DMARC1; p=none",
}
CONFIRM = ("example.org._report._dmarc.reports.example", "TXT")


async def ask(confirm=None, *, zone=None, policy_domain="example.org", to="a@reports.example"):
    resolver = FakeResolver(ZONE | ({CONFIRM: confirm} if confirm is not None else {}) | (zone or {}))
    local, _, domain = to.rpartition("@")
    found = await verify(Destination(local, domain), policy_domain, fetch_from(resolver))
    asked = [name for name, _ in resolver.asked if "_report" in name]
    if isinstance(found, Refusal):
        return ("later" if found.temporary else "no"), asked
    return [str(one) for one in found], asked


@pytest.mark.parametrize("to", ["a@example.org", "a@mail.example.org"])
async def test_within_one_organization_nobody_is_asked(to):
    assert await ask(to=to) == ([to], [])


async def test_a_policy_below_the_organization_may_report_to_it():
    assert await ask(policy_domain="news.example.org", to="a@example.org") == (["a@example.org"], [])


@pytest.mark.parametrize(
    ("confirm", "result"),
    [
        ("v=DMARC1", ["a@reports.example"]),
        ("v=DMARC1;", ["a@reports.example"]),
        (["nonsense", "v=DMARC1; p=none"], ["a@reports.example"]),
        (["v=DMARC1", "v=DMARC1;"], ["a@reports.example"]),
        ("v=DMARC1; rua=mailto:other@reports.example", ["other@reports.example"]),
        ("v=DMARC1; rua=mailto:x@reports.example!1k,mailto:y@reports.example", ["x@reports.example", "y@reports.example"]),
        # Handed on to another domain: neither of the two gets it.
        ("v=DMARC1; rua=mailto:victim@elsewhere.example", "no"),
        ("v=DMARC1; rua=mailto:a@reports.example,mailto:victim@elsewhere.example", "no"),
        ("v=DMARC1; rua=mailto:a@sub.reports.example", "no"),
        ("v=DMARC1; rua=https://reports.example", "no"),
        ("p=none; v=DMARC1", "no"),
        ("v=DMARC12", "no"),
        ("v=spf1 -all", "no"),
        ([], "no"),
        (None, "no"),
        (DnsStatus.NXDOMAIN, "no"),
        (DnsStatus.SERVFAIL, "later"),
        (DnsStatus.TIMEOUT, "later"),
    ],
)  # fmt: skip
async def test_a_destination_elsewhere_has_to_confirm(confirm, result):
    assert await ask(confirm) == (result, [CONFIRM[0]])


async def test_the_name_is_that_of_the_policy_domain_and_of_the_very_host():
    zone = {("sub.example.org._report._dmarc.in.reports.example", "TXT"): "v=DMARC1"}
    found = await ask(zone=zone, policy_domain="sub.example.org", to="a@in.reports.example")
    assert found == (["a@in.reports.example"], ["sub.example.org._report._dmarc.in.reports.example"])


async def test_a_name_that_dns_cannot_hold_is_no_confirmation():
    long = ".".join(["a" * 60] * 4)
    assert await ask(policy_domain=long) == ("no", [])


async def test_a_tree_that_cannot_be_walked_is_tried_later():
    zone = {("_dmarc.reports.example", "TXT"): DnsStatus.SERVFAIL}
    assert await ask("v=DMARC1", zone=zone) == ("later", [])


async def test_a_wildcard_confirms_any_domain():
    class Wildcard(FakeResolver):
        async def query(self, name, rdtype):
            name = (
                "*._report._dmarc.reports.example"
                if name.endswith("._report._dmarc.reports.example")
                else name
            )
            return await super().query(name, rdtype)

    resolver = Wildcard(ZONE | {("*._report._dmarc.reports.example", "TXT"): "v=DMARC1"})
    destination = Destination("a", "reports.example")
    for domain in ("example.org", "example.net"):
        assert await verify(destination, domain, fetch_from(resolver)) == (destination,)


@pytest.mark.parametrize(
    ("domain", "organization"),
    [("a.b.example.org", "example.org"), ("Example.ORG.", "example.org"), ("other.example", "other.example")],
)
async def test_the_organizational_domain_of_any_name(domain, organization):
    assert await organizational_domain(domain, fetch_from(FakeResolver(ZONE))) == organization
    assert await organizational_domain(domain, fetch_from(FakeResolver()), lambda _: "listed") == "listed"


async def test_the_organizational_domain_is_not_guessed_without_dns():
    resolver = FakeResolver({("_dmarc.example.org", "TXT"): DnsStatus.SERVFAIL})
    with pytest.raises(LookupError, match=r"_dmarc\.example\.org"):
        await organizational_domain("a.example.org", fetch_from(resolver))
