import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.api import DnsStatus, fetch_from
from relayproxy.mailauth.audit.spf import audit_spf
from relayproxy.mailauth.audit.spf_terms import is_record, read_terms
from relayproxy.mailauth.spf import Spf
from relayproxy.model.address import Address
from relayproxy.testing import FakeResolver

HERE = ("example.org", "TXT")
ADDRESSES = {("a.example", "A"): "192.0.2.1", ("b.example", "MX"): [(10, "a.example")]}


async def audited(zone, **facts):
    lines = await audit_spf("example.org", fetch_from(FakeResolver(zone)), **facts)
    assert {line.check for line in lines} == {"spf"}
    return [(line.level, line.text) for line in lines]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("v=spf1 -all", ("ok", "0 look-ups of 10")),
        ("V=SPF1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ~all", ("ok", "0 look-ups of 10")),
        ("v=spf1 a:a.example mx:b.example//64 a:a.example/24//64 ~all", ("ok", "3 look-ups of 10")),
        ("v=spf1 exists:%{i}._spf.%{d2} include:%{d}.x.example -all", ("ok", "2 look-ups of 10")),
        ("v=spf1 a:a.example ?all", ("warning", "?all says nothing")),
        ("v=spf1 +all", ("error", "+all lets everybody pass")),
        ("v=spf1 all", ("error", "+all lets everybody pass")),
        ("v=spf1 ip4:192.0.2.1", ("warning", "it has no all")),
        ("v=spf1 ptr -all", ("warning", "ptr is slow")),
        ("v=spf1 ip4:0.0.0.0/0 -all", ("error", "lets a large part")),
        ("v=spf1 ip6:2000::/3 -all", ("error", "lets a large part")),
        ("v=spf1 -all ip4:192.0.2.1", ("warning", "behind all is ignored")),
        ("v=spf1 -all redirect=a.example", ("warning", "redirect= is ignored")),
        ("v=spf1 a:nowhere.example -all", ("warning", "a:nowhere.example finds nothing")),
        ("v=spf1 include:nowhere.example -all", ("error", "nowhere.example has no SPF record")),
        ("v=spf1 include:example.org -all", ("error", "leads in a circle")),
        ("v=spf1 redirect=a.example redirect=b.example", ("error", "redirect= is there twice")),
        (f"v=spf1 {' '.join(f'ip4:192.0.2.{n}' for n in range(40))} -all", ("warning", "octets")),
        (f"v=spf1 {'a ' * 4096}-all", ("error", "receivers read no such record")),
        ("v=spf1 ipv4:192.0.2.1 -all", ("error", "ipv4:192.0.2.1 is no mechanism")),
        ("v=spf1 ip4=192.0.2.1 -all", ("warning", "is no modifier that is known")),
        ("v=spf1 ip4:192.0.2.256 -all", ("error", "is no address")),
        ("v=spf1 ip4:192.0.2.1/33 -all", ("error", "prefix length")),
        ("v=spf1 a:a.example/33 -all", ("error", "prefix length")),
        ("v=spf1 ip6:192.0.2.1 -all", ("error", "is no address")),
        ("v=spf1 include: -all", ("error", "names no domain")),
        ("v=spf1 include -all", ("error", "names no domain")),
        ("v=spf1 include:%{q}.example -all", ("error", "macro that is none")),
        ("v=spf1 -all:x", ("error", "takes no argument")),
        ("v=spf1 -redirect=a.example", ("error", "takes no qualifier")),
        ("v=spf1 ipv4:192.0.2.1, -all", ("error", "is no mechanism")),
        ("v=spf1 \u2013all", ("error", "is no term")),
    ],
)
async def test_a_record(record, said):
    lines = await audited(ADDRESSES | {HERE: record.encode()})
    assert any(level == said[0] and said[1] in text for level, text in lines), lines


async def test_without_a_record_it_says_what_to_publish():
    (line,) = await audit_spf("example.org", fetch_from(FakeResolver({})), suggestion="v=spf1 a ~all")
    assert (line.level, line.text) == ("error", "there is no SPF record")
    assert [record.line() for record in line.publish] == ['example.org. 3600 IN TXT ( "v=spf1 a ~all" )']


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (["v=spf1 -all", "v=spf1 ~all"], "there are 2 SPF records"),
        ("spf1 -all", "must begin with v=spf1"),
        (DnsStatus.TIMEOUT, "DNS gave no answer (timeout)"),
    ],
)
async def test_no_record_that_counts(answer, text):
    ((level, said),) = await audited({HERE: answer})
    assert level == "error"
    assert text in said


async def test_look_ups_are_counted_through_includes():
    zone = {HERE: "v=spf1 include:x.example include:y.example -all"}
    zone |= {("x.example", "TXT"): "v=spf1 " + "a:a.example " * 7 + "-all"}
    zone |= {("y.example", "TXT"): "v=spf1 -all"}
    assert await audited(ADDRESSES | zone) == [("ok", "9 look-ups of 10")]
    zone |= {("y.example", "TXT"): "v=spf1 a:a.example -all"}
    assert await audited(ADDRESSES | zone) == [("warning", "it takes 10 look-ups, and more are not allowed")]
    zone |= {("y.example", "TXT"): "v=spf1 a:a.example redirect=z.example"}
    zone |= {("z.example", "TXT"): "v=spf1 -all"}
    ((level, text),) = await audited(ADDRESSES | zone)
    assert level == "error"
    assert text.startswith("it takes 11 look-ups, 10 are allowed")


async def test_a_mistake_of_somebody_else_is_named():
    zone = {HERE: "v=spf1 include:x.example -all", ("x.example", "TXT"): "v=spf1 foo:bar -all"}
    (line,) = await audit_spf("example.org", fetch_from(FakeResolver(zone)))
    assert (line.name, line.level) == ("x.example", "error")
    assert line.text == "foo:bar is no mechanism in the record of x.example"


async def test_void_look_ups_and_failures_are_told():
    zone = {HERE: "v=spf1 a:x.example a:y.example mx:z.example a:broken.example -all"}
    lines = await audited(zone | {("broken.example", "*"): DnsStatus.SERVFAIL})
    assert ("error", "DNS gave no answer (servfail) for a:broken.example") in lines
    assert any(text.startswith("3 look-ups find nothing, 2 are allowed") for _, text in lines)


async def test_an_mx_with_many_hosts_is_an_error():
    hosts = [(n, f"h{n}.example") for n in range(11)]
    lines = await audited({HERE: "v=spf1 mx:m.example -all", ("m.example", "MX"): hosts})
    assert lines == [("error", "mx:m.example has 11 hosts, 10 are allowed")]


async def test_our_own_addresses_have_to_pass():
    zone = {HERE: "v=spf1 ip4:192.0.2.1 -all"}
    lines = await audit_spf(
        "example.org", fetch_from(FakeResolver(zone)), addresses=["192.0.2.1", "2001:db8::1"]
    )
    assert [(line.level, line.text) for line in lines] == [
        ("ok", "0 look-ups of 10"),
        ("ok", "mail from 192.0.2.1 passes by ip4:192.0.2.1"),
        ("error", "mail from 2001:db8::1 gets fail"),
    ]
    assert lines[2].publish[0].value == "v=spf1 ip6:2001:db8::1 ip4:192.0.2.1 -all"


async def test_includes_without_end_come_to_an_end():
    zone = {(f"x{n}.example", "TXT"): f"v=spf1 include:x{n + 1}.example -all" for n in range(200)}
    resolver = FakeResolver(zone | {HERE: "v=spf1 include:x0.example -all"})
    lines = await audit_spf("example.org", fetch_from(resolver))
    assert any("look-ups, 10 are allowed" in line.text for line in lines)
    assert len(resolver.asked) < 100


TERMS = st.sampled_from(
    [
        "a",
        "mx",
        "ptr",
        "all",
        "include:x.example",
        "exists:%{i}.x.example",
        "redirect=x.example",
        "ip4:192.0.2.1",
        "ip4:300.1.1.1",
        "ip6:::1/129",
        "a:/24",
        "a//64",
        "-all",
        "foo",
        "exp=x.example",
        "a:%{z}.x",
        "+",
        "x=1",
    ]
)


@given(st.lists(TERMS, max_size=8) | st.lists(st.text(max_size=20), max_size=4))
async def test_what_the_evaluator_calls_a_permanent_error_is_never_called_right(terms):
    """Differential: pyspf on a client that nothing matches sees all terms, up to the first mistake."""
    record = f"v=spf1 {' '.join(terms)}".encode()
    zone = {HERE: record, ("x.example", "TXT"): "v=spf1 -all", ("x.example", "A"): "192.0.2.9"}
    zone |= {("example.org", "A"): "192.0.2.9", ("example.org", "MX"): [(1, "x.example")]}
    fetch = fetch_from(FakeResolver(zone))
    lines = await audit_spf("example.org", fetch)
    result = await Spf("198.51.100.1", "h.example", fetch).check_mail_from(Address("a", "example.org"))
    if result.result == "permerror":
        assert "ok" not in {line.level for line in lines}


@given(st.binary(max_size=300))
def test_reading_never_raises(text):
    assert all(term.text for term in read_terms(b"v=spf1 " + text))
    assert is_record(b"v=spf1 " + text)
