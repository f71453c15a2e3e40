"""SPF against the published suites, and the traps that they leave out."""

import os
from pathlib import Path

import pytest
import spf
import yaml
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.api import Address, Answer, DnsStatus, fetch_from
from relayproxy.mailauth.lookup import Memory
from relayproxy.mailauth.spf import Spf
from relayproxy.testing import FakeClock, FakeResolver

SUITES = Path(os.environ.get("RELAYPROXY_SUITES", Path(__file__).parents[3] / "shared" / "suites"))


def address(text):
    local, at, domain = text.rpartition("@")
    return Address(local, domain) if at else Address("", text)


async def check(zone, sender, ip="192.0.2.1", helo="mail.example.net", **options):
    resolver = zone if isinstance(zone, FakeResolver) else FakeResolver(zone)
    spf = Spf(ip, helo, fetch_from(resolver), **options)
    return await spf.check_mail_from(address(sender) if sender else Address("", ""))


# The suites


def suite_zone(data):
    """Turn the suites' zone data into a zone: SPF stands for TXT where there is no TXT (see their preface)."""
    zone = {}
    for name, items in data.items():
        for item in items:
            if item == "TIMEOUT":
                zone[name, "*"] = DnsStatus.TIMEOUT
                continue
            ((rdtype, value),) = item.items()
            if rdtype == "SPF" and any("TXT" in other for other in items if other != "TIMEOUT"):
                continue
            key = name, "TXT" if rdtype == "SPF" else rdtype
            if value == "TIMEOUT":
                zone[key] = DnsStatus.TIMEOUT
            elif rdtype in ("SPF", "TXT"):
                if value != "NONE":
                    text = "".join(value) if isinstance(value, list) else value
                    zone.setdefault(key, []).append(text.encode("utf-8"))
            else:
                zone.setdefault(key, []).append(tuple(value) if rdtype == "MX" else value)
    return zone


# The two cases of pyspf's lax and harsh modes, which are not used: RFC 7208 section 6 ignores what it does not know.
MODES = {"default-modifier": "neutral", "default-modifier-harsh": "neutral"}


def suite(name):
    path = SUITES / "spf-rfc7208" / "test" / name
    if not path.exists():
        return [pytest.param(None, None, None, marks=pytest.mark.skip(f"there is no {path}"))]
    return [
        pytest.param(
            suite_zone(scenario["zonedata"]),
            case,
            MODES.get(case_id, case["result"]),
            id=f"{path.stem}:{case_id}",
        )
        for scenario in yaml.safe_load_all(path.read_text())
        for case_id, case in (scenario.get("tests") or {}).items()
    ]


@pytest.mark.parametrize(
    ("zone", "case", "wanted"),
    [*suite("rfc7208-tests.yml"), *suite("rfc4408-tests.yml"), *suite("test.yml")],
)
async def test_suite(zone, case, wanted):
    found = await check(zone, case["mailfrom"], case["host"], case["helo"], receiver=case.get("receiver", ""))
    assert found.result in (wanted if isinstance(wanted, list) else [wanted]), found
    explanation = case.get("explanation")
    if explanation is not None and found.result == "fail":
        assert found.explanation == ("" if explanation == "DEFAULT" else explanation)


# The traps


async def both(zone, sender, ip="192.0.2.1", helo="mail.example.net"):
    spf = Spf(ip, helo, fetch_from(FakeResolver(zone)))
    return await spf.check_mail_from(sender), await spf.check_helo()


async def test_the_null_sender_is_postmaster_at_helo():
    zone = {
        ("mail.example.net", "TXT"): "v=spf1 exists:%{l}.%{o}.x -all",
        ("postmaster.mail.example.net.x", "A"): "127.0.0.1",
    }
    assert (await check(zone, "")).result == "pass"
    of_sender, of_helo = await both(zone, Address("", ""))
    assert of_sender == of_helo


@pytest.mark.parametrize(
    "helo", ["[192.0.2.1]", "[IPv6:2001:db8::1]", "localhost", "", "a..b", ".", "a.b c", "a" * 64 + ".b"]
)
async def test_a_helo_that_is_no_domain_has_no_result(helo):
    everything = {(helo, "TXT"): "v=spf1 -all", (helo.rstrip("."), "TXT"): "v=spf1 -all"}
    assert (await check(everything, "", helo=helo)).result == "none"


async def test_both_identities_have_their_own_result():
    zone = {("example.org", "TXT"): "v=spf1 -all", ("mail.example.net", "TXT"): "v=spf1 +all"}
    of_sender, of_helo = await both(zone, Address("a", "example.org"))
    assert (of_sender.result, of_sender.domain) == ("fail", "example.org")
    assert (of_helo.result, of_helo.domain) == ("pass", "mail.example.net")


@pytest.mark.parametrize(
    "domain", ["exämple.com", "EXÄMPLE.com", "xn--exmple-cua.com", "XN--EXMPLE-CUA.com."]
)
async def test_domains_are_compared_as_a_labels(domain):
    zone = {("xn--exmple-cua.com", "TXT"): "v=spf1 ip4:192.0.2.1 -all"}
    assert (await check(zone, f"u@{domain}")).result == "pass"
    assert (await check(zone, "", helo=domain)).domain == "xn--exmple-cua.com"


async def test_a_local_part_that_is_not_ascii_matches_nothing():
    zone = {("example.org", "TXT"): "v=spf1 exists:%{l}.x.example -all", ("ü.x.example", "A"): "127.0.0.1"}
    assert (await check(zone, "ü@example.org")).result == "fail"


async def test_a_quoted_local_part_may_hold_an_at_sign():
    zone = {("example.org", "TXT"): "v=spf1 ip4:192.0.2.1 -all", ("evil.example", "TXT"): "v=spf1 -all"}
    assert (await check(zone, '"a@evil.example"@example.org')).result == "pass"


@pytest.mark.parametrize(
    "address", ["any@legitimate.com(a.attack.com", "@legitimate.com,@any.com:'any@attack.com"]
)
async def test_odd_senders_are_checked_for_the_domain_after_the_last_at(address):
    zone = {("legitimate.com", "TXT"): "v=spf1 +all", ("attack.com", "TXT"): "v=spf1 +all"}
    assert (await check(zone, address)).domain in ("attack.com", "legitimate.com(a.attack.com")


@pytest.mark.parametrize(
    ("record", "ip", "result"),
    [
        ("v=spf1 ip4:192.0.2.1 -all", "::ffff:192.0.2.1", "pass"),
        ("v=spf1 ip6:::ffff:192.0.2.1 -all", "::ffff:192.0.2.1", "fail"),
        ("v=spf1 a:a.example/24//64 -all", "192.0.2.99", "pass"),
        ("v=spf1 a:a.example/24//64 -all", "192.0.3.99", "fail"),
        ("v=spf1 a:a.example/24//64 -all", "2001:db8::99", "pass"),
        ("v=spf1 a:a.example/24//64 -all", "2001:db8:0:1::99", "fail"),
        ("v=spf1 a:a.example/24 -all", "2001:db8::1", "pass"),
        ("v=spf1 a:a.example/24 -all", "2001:db8::99", "fail"),
    ],
)
async def test_families_and_prefix_lengths(record, ip, result):
    zone = {
        ("example.org", "TXT"): record,
        ("a.example", "A"): "192.0.2.1",
        ("a.example", "AAAA"): "2001:db8::1",
    }
    assert (await check(zone, "a@example.org", ip)).result == result


@pytest.mark.parametrize(
    ("record", "result"),
    [
        ("v=spf1 a:n1.example a:n2.example +all", "pass"),
        ("v=spf1 a:n1.example a:n2.example a:n3.example +all", "permerror"),
        ("v=spf1 a:n1.example include:void.example +all", "permerror"),
        ("v=spf1 exists:n1.example exists:n2.example mx:n3.example +all", "permerror"),
    ],
)
async def test_two_void_look_ups_are_allowed_and_includes_share_the_count(record, result):
    zone = {("example.org", "TXT"): record, ("void.example", "TXT"): "v=spf1 a:n2.example a:n3.example ?all"}
    assert (await check(zone, "a@example.org")).result == result


async def test_names_in_the_client_s_own_reverse_zone_are_not_counted_as_void():
    zone = {
        ("example.org", "TXT"): "v=spf1 ptr -all",
        ("1.2.0.192.in-addr.arpa", "PTR"): [f"n{number}.example" for number in range(10)],
    }
    assert (await check(zone, "a@example.org")).result == "fail"


@pytest.mark.parametrize(
    ("zone", "result"),
    [
        ({("1.2.0.192.in-addr.arpa", "PTR"): DnsStatus.TIMEOUT}, "fail"),
        (
            {
                ("1.2.0.192.in-addr.arpa", "PTR"): ["bad.example.org", "good.example.org"],
                ("bad.example.org", "A"): DnsStatus.SERVFAIL,
                ("good.example.org", "A"): "192.0.2.1",
            },
            "pass",
        ),
    ],
)
async def test_errors_behind_ptr_skip_a_name(zone, result):
    assert (
        await check({("example.org", "TXT"): "v=spf1 ptr -all", **zone}, "a@example.org")
    ).result == result


@pytest.mark.parametrize("status", [DnsStatus.SERVFAIL, DnsStatus.TIMEOUT])
@pytest.mark.parametrize(
    "question", [("example.org", "TXT"), ("i.example", "TXT"), ("a.example", "A"), ("m.example", "MX")]
)
async def test_no_answer_is_a_temporary_error_and_never_none(status, question):
    zone = {
        ("example.org", "TXT"): "v=spf1 include:i.example a:a.example mx:m.example ?all",
        ("i.example", "TXT"): "v=spf1 -all",
        ("a.example", "A"): "192.0.2.9",
        ("m.example", "MX"): [(0, "a.example")],
        question: status,
    }
    found = await check(zone, "a@example.org")
    assert found.result == "temperror"
    assert status.value in found.reason


@pytest.mark.parametrize(
    ("text", "explanation"),
    [
        ("See %{c} and %{r} at %{t}", "See 192.0.2.1 and mx.example.com at 1700000000"),
        (b"a\r\n250 OK\x1b[0m\x7f", "a??250 OK?[0m?"),
        ("x" * 2048, "x" * 200),
        (b"caf\xc3\xa9", ""),
        ("%{w}", ""),
        ("%{l}" * 100, ""),
        (["two", "of them"], ""),
        (DnsStatus.SERVFAIL, ""),
        ([], ""),
    ],
)
async def test_an_explanation_is_made_harmless(text, explanation):
    zone = {("example.org", "TXT"): "v=spf1 -all exp=e.example", ("e.example", "TXT"): text}
    found = await check(zone, "a@example.org", receiver="mx.example.com", now=1_700_000_000.5)
    assert (found.result, found.explanation) == ("fail", explanation)


@pytest.mark.parametrize(
    "record",
    ["v=spf1 +all exp=e.example", "v=spf1 ?all exp=e.example", "v=spf1 include:f.example exp=e.example -all"],
)
async def test_an_explanation_is_fetched_only_for_a_fail(record):
    zone = {
        ("example.org", "TXT"): record,
        ("f.example", "TXT"): "v=spf1 +all exp=g.example",
        ("e.example", "TXT"): "x",
    }
    resolver = FakeResolver(zone)
    assert (await check(resolver, "a@example.org")).explanation == ""
    assert not {("e.example", "TXT"), ("g.example", "TXT")} & set(resolver.asked)


@pytest.mark.parametrize(
    ("record", "ip", "weak"),
    [
        ("v=spf1 +all", "192.0.2.1", ("+all",)),
        ("v=spf1 include:open.example -all", "192.0.2.1", ("+all",)),
        ("v=spf1 ip4:0.0.0.0/0 -all", "192.0.2.1", ("ip4/0",)),
        ("v=spf1 ip4:128.0.0.0/1 -all", "192.0.2.1", ("ip4/1",)),
        ("v=spf1 ip4:192.0.2.1 ip6:::/0 -all", "192.0.2.1", ()),
        ("v=spf1 ip6:::/0 -all", "2001:db8::1", ("ip6/0",)),
        ("v=spf1 a:a.example/0 -all", "192.0.2.1", ("a/0",)),
        ("v=spf1 ip4:192.0.2.1 ptr -all", "192.0.2.1", ("+ptr",)),
        ("v=spf1 ip4:192.0.2.0/24 ?all", "192.0.2.1", ()),
        ("v=spf1 ?all", "192.0.2.1", ()),
    ],
)
async def test_what_makes_a_pass_worth_little_is_named(record, ip, weak):
    zone = {
        ("example.org", "TXT"): record,
        ("open.example", "TXT"): "v=spf1 +all",
        ("a.example", "A"): "203.0.113.1",
    }
    assert (await check(zone, "a@example.org", ip)).weak == weak


@pytest.mark.parametrize(
    "record",
    [
        "v=spf1 a:x.example/" + "9" * 5000,
        "v=spf1 " + "ip4:192.0.2.9 " * 800 + "+all",
        "v=spf1 " + "exists:%{l}.example " * 70,
        "v=spf1 exists:" + "%{d}" * 65 + ".x",
    ],
)
async def test_records_beyond_all_measure_are_broken(record):
    assert (await check({("example.org", "TXT"): record}, "a@example.org")).result == "permerror"


async def test_what_pyspf_stumbles_over_is_the_record_s_fault(monkeypatch):
    monkeypatch.setattr("spf.query.check0", lambda *_: {}["x"])
    found = await check({("example.org", "TXT"): "v=spf1 -all"}, "a@example.org")
    assert (found.result, found.reason) == ("permerror", "the record can't be evaluated (KeyError)")


# What it asks, and when


async def test_independent_questions_go_out_together():
    clock = FakeClock()
    zone = {
        ("example.org", "TXT"): "v=spf1 include:a.example include:b.example a mx -all",
        ("a.example", "TXT"): "v=spf1 ip4:203.0.113.0/24 -all",
        ("b.example", "TXT"): "v=spf1 ip4:203.0.113.0/24 -all",
        ("example.org", "A"): "203.0.113.1",
        ("example.org", "MX"): [(10, "m1.example"), (20, "m2.example"), (0, "")],
        ("m1.example", "A"): "203.0.113.1",
        ("m2.example", "A"): "192.0.2.1",
    }
    resolver = FakeResolver(zone, clock=clock, delay=0.05)
    found = await clock.run(check(resolver, "a@example.org"))
    assert (found.result, found.mechanism, found.lookups) == ("pass", "mx", 4)
    assert clock.monotonic() == pytest.approx(0.15)
    assert len(resolver.asked) == len(set(resolver.asked)) == 7


async def test_the_identities_share_what_was_looked_up():
    resolver = FakeResolver({("example.org", "TXT"): "v=spf1 a -all", ("example.org", "A"): "192.0.2.1"})
    spf = Spf("192.0.2.1", "example.org", fetch_from(resolver))
    assert (await spf.check_mail_from(Address("a", "example.org"))).result == "pass"
    assert (await spf.check_helo()).result == "pass"
    assert len(resolver.asked) == 2


async def test_what_is_known_is_not_asked():
    zone = {("example.org", "TXT"): "v=spf1 a -all", ("example.org", "A"): "192.0.2.1"}
    known, resolver = FakeResolver(zone), FakeResolver()
    found = await check(resolver, "a@example.org", peek=known._answer)
    assert (found.result, resolver.asked) == ("pass", [])


async def test_a_record_can_not_make_us_ask_much():
    names = [f"n{number}.example" for number in range(300)]
    zone = {("example.org", "TXT"): "v=spf1 " + " ".join(f"a:{name}" for name in names)}
    zone |= {(name, "A"): "203.0.113.1" for name in names}
    resolver = FakeResolver(zone)
    assert (await check(resolver, "a@example.org")).result == "permerror"
    assert len(resolver.asked) <= 31
    deep = {(f"e{number}.example", "TXT"): f"v=spf1 include:e{number + 1}.example" for number in range(20)}
    resolver = FakeResolver(deep)
    assert (await check(resolver, "a@e0.example")).result == "permerror"
    assert len(resolver.asked) <= 31


# Properties

TERMS = st.sampled_from(
    [
        "a",
        "mx",
        "ptr",
        "all",
        "-all",
        "?all",
        "a:%{d}",
        "mx:x.example",
        "include:i.example",
        "redirect=i.example",
        "exp=%{l}.x",
        "ip4:192.0.2.1",
        "ip6:::1",
        "exists:%{ir}.%{v}.x",
        "a/24//64",
        "a//129",
        "unknown",
        "unknown=%{s}",
        "%{",
        "%",
        "%%",
        "include:",
        "all.all",
        "ip4:1.2.3.4/33",
        "\\010",
        "exists:%{d0}",
        "exists:%{p}.%{h}",
        "a:a..b",
    ]
)
RECORDS = st.lists(TERMS, max_size=8).map(lambda terms: " ".join(["v=spf1", *terms]).encode()) | st.binary(
    max_size=60
).map(lambda junk: b"v=spf1 " + junk)
RESULTS = {"none", "neutral", "pass", "fail", "softfail", "temperror", "permerror"}


@given(RECORDS, RECORDS, st.text(max_size=20), st.sampled_from(["192.0.2.1", "2001:db8::1"]))
async def test_no_record_is_an_accident(record, included, local, ip):
    zone = {
        ("example.org", "TXT"): [record],
        ("i.example", "TXT"): [included],
        ("x.example", "MX"): [(0, "a.example")],
        ("a.example", "A"): "192.0.2.1",
        ("1.2.0.192.in-addr.arpa", "PTR"): ["example.org", "a.example"],
    }
    resolver = FakeResolver(zone)
    found = await check(resolver, f"{local}@example.org", ip)
    assert found.result in RESULTS
    assert found.explanation.isascii()
    assert found.explanation.isprintable() or not found.explanation
    assert len(resolver.asked) < 60


@given(RECORDS, st.sampled_from(["192.0.2.1", "2001:db8::1"]))
async def test_the_result_is_pyspf_s_own(record, ip):
    zone = {
        ("example.org", "TXT"): [record],
        ("i.example", "TXT"): "v=spf1 a:a.example ~all",
        ("x.example", "MX"): [(0, "a.example")],
        ("a.example", "A"): "192.0.2.1",
        ("1.2.0.192.in-addr.arpa", "PTR"): "a.example",  # names that lead nowhere are counted differently
    }
    resolver = FakeResolver(zone)

    def look_up(name, qtype, strict, timeout):
        records = resolver._answer(name.lower(), qtype).records
        return [((name, qtype), (record,) if qtype == "TXT" else record) for record in records]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spf.DNSLookup", look_up)
        try:
            result, _, _ = spf.query(ip, "u@example.org", "mail.example.net").check()
        except (ValueError, LookupError, TypeError):
            return  # the fence is tested above
    assert (await check(resolver, "u@example.org", ip)).result == result


class _Cache:
    """Answers that are known without waiting, counted."""

    def __init__(self, zone):
        self.known = {key: Answer(DnsStatus.OK, (text,), 60) for key, text in zone.items()}
        self.peeked = 0

    def peek(self, name, rdtype):
        self.peeked += 1
        return self.known.get((name, rdtype), NO_NAME)

    async def fetch(self, questions):
        return [self.peek(*question) for question in questions]


NO_NAME = Answer(DnsStatus.NXDOMAIN)


async def _remembering(cache, memory, ip="192.0.2.1", sender="a@example.org", helo="mx.example.org"):
    checks = Spf(ip, helo, cache.fetch, peek=cache.peek, memory=memory)
    local, _, domain = sender.rpartition("@")
    return await checks.check_mail_from(Address(local, domain))


async def test_what_the_same_answers_led_to_is_not_evaluated_again():
    memory = Memory()
    cache = _Cache(
        {
            ("example.org", "TXT"): b"v=spf1 include:a.example.org -all",
            ("a.example.org", "TXT"): b"v=spf1 ip4:192.0.2.1 -all",
        }
    )
    first = await _remembering(cache, memory)
    assert first.result == "pass"
    assert await _remembering(cache, memory, sender="b@example.org") is first
    assert (await _remembering(cache, memory, ip="192.0.2.2")).result == "fail"
    cache.known["a.example.org", "TXT"] = Answer(DnsStatus.OK, (b"v=spf1 -all",), 60)
    assert (await _remembering(cache, memory)).result == "fail"


@pytest.mark.parametrize(
    "record", [b"v=spf1 exists:%{l}.example.org -all", b"v=spf1 exists:%{h}.example.org -all"]
)
async def test_what_depends_on_a_macro_is_evaluated_every_time(record):
    memory = Memory()
    cache = _Cache({("example.org", "TXT"): record, ("a.example.org", "A"): "192.0.2.9"})
    assert (await _remembering(cache, memory, helo="a")).result == "pass"
    assert (await _remembering(cache, memory, sender="b@example.org", helo="b")).result == "fail"
    assert (await _remembering(cache, memory, helo="a")).result == "pass"


async def test_an_explanation_with_a_macro_is_made_every_time():
    memory = Memory()
    cache = _Cache(
        {("example.org", "TXT"): b"v=spf1 -all exp=why.example.org", ("why.example.org", "TXT"): b"not %{l}"}
    )
    first = await _remembering(cache, memory)
    second = await _remembering(cache, memory, sender="b@example.org")
    assert [one.explanation for one in (first, second)] == ["not a", "not b"]
