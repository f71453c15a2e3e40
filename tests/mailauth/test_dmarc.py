import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.api import DnsStatus, fetch_from
from relayproxy.mailauth.dmarc import Identifier, evaluate, walk_names
from relayproxy.mailauth.psl import organizational_domain
from relayproxy.testing import FakeClock, FakeResolver

SUITES = Path(os.environ.get("RELAYPROXY_SUITES", Path(__file__).parents[3] / "shared" / "suites"))
TREEWALK = SUITES / "dmarc-rfc9989" / "treewalk.yml"


async def check(zone, author, *identifiers, **options):
    resolver = zone if isinstance(zone, FakeResolver) else FakeResolver(zone)
    return await evaluate(author, identifiers, fetch_from(resolver), **options)


def records(**zone):
    """`records(example_org="v=DMARC1; p=reject")`, one underscore for each dot."""
    return {(f"_dmarc.{name.replace('_', '.')}", "TXT"): record for name, record in zone.items()}


def vectors():
    if not TREEWALK.exists():
        return [pytest.param(None, marks=pytest.mark.skip(f"there is no {TREEWALK}"))]
    return [pytest.param(case, id=case["id"]) for case in yaml.safe_load(TREEWALK.read_text())]


@pytest.mark.parametrize("case", vectors())
async def test_tree_walk_vectors(case):
    zone = {
        (name, "*" if found == "SERVFAIL" else "TXT"): DnsStatus.SERVFAIL if found == "SERVFAIL" else found
        for name, found in case["zone"].items()
    }
    zone |= {(name, "A"): [] for name in case.get("exists", [])}
    zone |= {(name, "*"): DnsStatus.NXDOMAIN for name in case.get("nxdomain", [])}
    identifiers = [Identifier("dkim", domain) for domain in case.get("dkim_pass", [])]
    if "spf_pass" in case:
        identifiers.append(Identifier("spf", case["spf_pass"]))
    if case.get("mail_from") == "":
        identifiers.append(Identifier("spf", case["spf_helo"]["domain"], case["spf_helo"]["result"]))
    resolver = FakeResolver(zone)
    found = await check(resolver, case["author"], *identifiers)
    expected = dict(case["expect"])
    expected.pop("note", None)
    if "queries" in expected:
        assert [name for name, rdtype in resolver.asked if rdtype == "TXT"] == expected.pop("queries")
    names = {"org": "organization"}
    assert {name: getattr(found, names.get(name, name)) for name in expected} == expected


@pytest.mark.parametrize(
    ("domain", "count"),
    [
        ("com", 1),
        ("example.com", 2),
        ("a.b.c.d.e.f.com", 7),
        ("a.b.c.d.e.f.g.com", 8),
        ("a.b.c.d.e.f.g.h.com", 8),
    ],
)
def test_a_walk_has_at_most_eight_names(domain, count):
    names = walk_names(domain)
    assert len(names) == len(set(names)) == count
    assert names[0] == domain
    assert names[-1] == "com"


async def test_p_is_for_the_domain_of_the_record_and_sp_for_those_below():
    zone = {**records(example_org="v=DMARC1; p=reject; sp=none"), ("sub.example.org", "A"): "192.0.2.1"}
    assert (await check(zone, "example.org")).policy == "reject"
    assert (await check(zone, "sub.example.org")).policy == "none"


async def test_np_is_for_names_that_do_not_exist():
    zone = records(example_org="v=DMARC1; p=none; sp=quarantine; np=reject")
    assert (await check(zone, "ghost.example.org")).policy == "reject"
    below = {**zone, ("a.ghost.example.org", "A"): "192.0.2.1"}
    assert (await check(below, "ghost.example.org")).policy == "quarantine"
    found = await check({**zone, ("ghost.example.org", "A"): DnsStatus.TIMEOUT}, "ghost.example.org")
    assert (found.result, found.reason) == ("temperror", "the look-up of ghost.example.org failed")


async def test_the_name_is_looked_up_only_if_that_matters():
    resolver = FakeResolver(records(example_org="v=DMARC1; p=none; np=reject"))
    await check(resolver, "ghost.example.org", Identifier("dkim", "example.org"))
    await check(resolver, "example.org")
    assert all(rdtype == "TXT" for _, rdtype in resolver.asked)


@pytest.mark.parametrize(
    ("modes", "spf", "dkim", "result"),
    [
        ("", "bounce.example.org", "other.example", "pass"),
        ("aspf=s", "bounce.example.org", "other.example", "fail"),
        ("aspf=s", "example.org", "other.example", "pass"),
        ("aspf=s", "other.example", "mail.example.org", "pass"),
        ("adkim=s", "other.example", "mail.example.org", "fail"),
        ("adkim=s", "other.example", "Example.ORG.", "pass"),
        ("", "notexample.org", "example.org.evil.org", "fail"),
        ("", "org", "com", "fail"),
    ],
)
async def test_alignment(modes, spf, dkim, result):
    zone = records(example_org=f"v=DMARC1; p=reject; {modes}")
    found = await check(zone, "example.org", Identifier("spf", spf), Identifier("dkim", dkim))
    assert found.result == result
    assert (found.spf_aligned or found.dkim_aligned) == (result == "pass")


async def test_only_a_pass_vouches():
    zone = records(example_org="v=DMARC1; p=reject")
    results = ["none", "neutral", "policy", "fail", "softfail", "permerror"]
    found = await check(
        zone, "example.org", *(Identifier("dkim", "example.org", result) for result in results)
    )
    assert found.result == "fail"
    assert (await check(zone, "example.org", Identifier("arc", "example.org"))).result == "fail"


async def test_a_policy_of_the_public_suffix():
    zone = records(bank_example="v=DMARC1; p=reject; psd=y; np=reject; sp=none")
    found = await check(zone, "a.mega.bank.example", Identifier("dkim", "b.mega.bank.example"))
    assert (found.result, found.organization, found.policy_domain) == (
        "pass",
        "mega.bank.example",
        "bank.example",
    )
    found = await check(zone, "mega.bank.example", Identifier("dkim", "giga.bank.example"))
    assert (found.result, found.policy) == ("fail", "reject")
    found = await check(zone, "bank.example", Identifier("dkim", "bank.example"))
    assert (found.result, found.policy_domain) == ("pass", "bank.example")
    found = await check(zone, "bank.example", Identifier("dkim", "mega.bank.example"))
    assert (found.result, found.organization) == ("fail", "bank.example")


async def test_each_identifier_has_a_walk_of_its_own():
    zone = records(
        example_org="v=DMARC1; p=reject",
        own_example_org="v=DMARC1; p=none; psd=n",
        x_own_example_org="v=DMARC1; p=none",
    )
    found = await check(zone, "example.org", Identifier("dkim", "x.own.example.org"))
    assert (found.result, found.organization) == ("fail", "example.org")
    found = await check(zone, "x.own.example.org", Identifier("dkim", "own.example.org"))
    assert (found.result, found.organization) == ("pass", "own.example.org")


async def test_the_nearest_policy_and_the_farthest_organization():
    zone = records(
        org="v=spf1 -all", example_org="v=DMARC1; p=reject", mail_example_org="v=DMARC1; p=quarantine"
    )
    found = await check(zone, "mail.example.org", Identifier("spf", "www.example.org"))
    assert (found.result, found.policy_domain, found.organization) == (
        "pass",
        "mail.example.org",
        "example.org",
    )
    found = await check(zone, "a.mail.example.org")
    assert (found.policy_domain, found.policy) == ("example.org", "reject")


@pytest.mark.parametrize("status", [DnsStatus.SERVFAIL, DnsStatus.TIMEOUT])
async def test_a_failure_is_neither_pass_nor_fail(status):
    zone = {**records(example_org="v=DMARC1; p=reject"), ("_dmarc.sub.example.org", "TXT"): status}
    found = await check(zone, "sub.example.org")
    assert (found.result, found.reason) == ("temperror", "the look-up of _dmarc.sub.example.org failed")
    # The author's record is there, but where the identifier belongs can't be told.
    found = await check(zone, "example.org", Identifier("dkim", "sub.example.org"))
    assert found.result == "temperror"
    # Another identifier settles it.
    vouching = Identifier("dkim", "sub.example.org"), Identifier("spf", "example.org")
    assert (await check(zone, "example.org", *vouching)).result == "pass"


async def test_a_failure_beyond_the_end_of_the_walk_does_not_matter():
    zone = {
        **records(example_org="v=DMARC1; p=reject; psd=n"),
        ("_dmarc.org", "TXT"): DnsStatus.SERVFAIL,
    }
    assert (await check(zone, "a.example.org", Identifier("dkim", "example.org"))).result == "pass"


async def test_an_aligned_identifier_without_a_result_keeps_the_question_open():
    zone = records(example_org="v=DMARC1; p=reject")
    unknown = Identifier("dkim", "mail.example.org", "temperror")
    found = await check(zone, "example.org", unknown)
    assert (found.result, found.reason) == (
        "temperror",
        "the result of dkim for mail.example.org is not known",
    )
    assert (await check(zone, "example.org", unknown, Identifier("spf", "example.org"))).result == "pass"
    assert (await check(zone, "example.org", Identifier("spf", "other.org", "temperror"))).result == "fail"


async def test_no_record_and_no_valid_policy_are_none():
    assert (await check({}, "example.org", Identifier("dkim", "example.org"))).result == "none"
    found = await check(records(example_org="v=DMARC1; p=bogus"), "example.org")
    assert (found.result, found.reason) == ("none", "the record of example.org has no valid policy")


async def test_questions_that_do_not_depend_on_each_other_go_out_together():
    clock = FakeClock()
    zone = records(example_org="v=DMARC1; p=reject; np=reject")
    resolver = FakeResolver(zone, clock=clock, delay=0.05)
    found = await clock.run(
        check(resolver, "a.b.example.org", *(Identifier("dkim", f"d{n}.example.org") for n in range(5)))
    )
    assert found.result == "pass"
    assert clock.monotonic() == pytest.approx(0.15)
    assert len(resolver.asked) == len(set(resolver.asked)) == 9


async def test_a_message_can_not_make_us_ask_much():
    resolver = FakeResolver(records(example_org="v=DMARC1; p=reject"))
    signed = [Identifier("dkim", f"a.b.c.d.e.f.g.h.x{number}.org") for number in range(1000)]
    assert (await check(resolver, "example.org", *signed)).result == "fail"
    assert len(resolver.asked) < 100


# The list of public suffixes instead of the tree


async def test_discovery_by_the_list():
    zone = records(
        example_co_uk="v=DMARC1; p=reject; sp=none", co_uk="v=DMARC1; p=none", uk="v=DMARC1; p=none"
    )
    resolver = FakeResolver(zone)
    found = await check(
        resolver,
        "a.b.example.co.uk",
        Identifier("spf", "c.example.co.uk"),
        organization=organizational_domain,
    )
    assert (found.result, found.policy, found.policy_domain) == ("pass", "none", "example.co.uk")
    assert found.organization == "example.co.uk"
    assert [name for name, _ in resolver.asked] == ["_dmarc.a.b.example.co.uk", "_dmarc.example.co.uk"]
    found = await check(
        zone, "other.co.uk", Identifier("spf", "example.co.uk"), organization=organizational_domain
    )
    assert found.result == "none"
    failing = {("_dmarc.example.co.uk", "TXT"): DnsStatus.SERVFAIL}
    assert (await check(failing, "example.co.uk", organization=organizational_domain)).result == "temperror"


LABELS = st.lists(st.sampled_from(["a", "b", "mail"]), max_size=2)


@given(LABELS, LABELS, st.sampled_from(["example.org", "example.co.uk", "example.com.br"]))
async def test_tree_and_list_agree_where_organizations_publish(author, signer, organization):
    zone = {(f"_dmarc.{organization}", "TXT"): "v=DMARC1; p=reject"}
    names = [".".join([*labels, organization]) for labels in (author, signer)]
    by_tree = await check(zone, names[0], Identifier("dkim", names[1]))
    by_list = await check(zone, names[0], Identifier("dkim", names[1]), organization=organizational_domain)
    assert by_tree.result == by_list.result == "pass"
    assert by_tree.policy_domain == by_list.policy_domain == organization


@given(st.text(max_size=80), st.text(max_size=80), st.binary(max_size=30))
async def test_no_domain_is_an_accident(author, signer, record):
    zone = {("_dmarc.example.org", "TXT"): [record], ("_dmarc.org", "TXT"): [b"v=DMARC1; p=reject; psd=y"]}
    found = await check(
        zone, f"{author}.example.org", Identifier("dkim", signer), Identifier("spf", "example.org")
    )
    assert found.result in ("none", "pass", "fail")
