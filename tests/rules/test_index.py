"""The index leaves out only what can't match; patterns end in time that grows with the text alone."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.rules.asking import ruleset

from relayproxy.rules.facts import Facts, Phase, World
from relayproxy.rules.lists import Holder, dns_name
from relayproxy.rules.networks import Networks, parse_network
from relayproxy.rules.patterns import PatternError, Patterns, check, from_glob
from relayproxy.testing.mail import make_mail

WORD = st.sampled_from(["a", "b", "ab", "ba", "a.b", "b.a.b", ""])
DOMAIN = st.sampled_from(["a.example", "b.a.example", "example", "x.b.a.example"])
TEXT = st.one_of(
    WORD,
    st.builds(lambda w: {"contains": w}, WORD.filter(bool)),
    st.builds(lambda w: {"starts_with": w}, WORD.filter(bool)),
    st.builds(lambda w: {"glob": f"*{w}?"}, WORD),
    st.builds(lambda w: {"regex": f"{w}*b"}, WORD.filter(bool)),
    st.builds(lambda w: {"not": w}, WORD),
)
FACT = st.one_of(
    st.builds(lambda v: {"subject": v}, TEXT),
    st.builds(lambda v: {"header.x": v}, TEXT),
    st.builds(lambda v: {"sender.domain": v}, DOMAIN),
    st.builds(lambda v: {"sender.domain": {"under": v}}, DOMAIN),
    st.builds(lambda n: {"client.ip": f"192.0.{n}.0/{24 if n % 2 else 23}"}, st.integers(0, 6)),
    st.builds(
        lambda op, n: {"size": {op: n}},
        st.sampled_from(["above", "below", "at_least", "at_most"]),
        st.integers(0, 90),
    ),
    st.builds(lambda v: {"client.tls": v}, st.booleans()),
    st.builds(lambda n: {"score": {"above": n}}, st.integers(0, 3)),
)
CONDITION = st.recursive(
    FACT,
    lambda inner: st.one_of(
        st.builds(lambda items: {"all": items}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda items: {"any": items}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda item: {"not": item}, inner),
    ),
    max_leaves=6,
)


@given(
    st.lists(CONDITION, min_size=1, max_size=8),
    st.sampled_from(["a", "ab", "bab", "a.b", "", "aab b"]),
    st.lists(st.sampled_from(["a", "b", "ab"]), max_size=3),
    DOMAIN,
    st.integers(0, 6),
)
def test_every_rule_that_matches_is_a_candidate(conditions, subject, extra, domain, net):
    rules = [{"id": f"r{n}", "match": one, "then": {"score": 1}} for n, one in enumerate(conditions)]
    from relayproxy.rules.compiler import compile_rules

    made, flaws = compile_rules(rules)
    assert [flaw for flaw in flaws if flaw.severity == "error"] == []
    raw = "".join(f"X: {value}\r\n" for value in extra) + f"Subject: {subject}\r\n\r\n"
    mail = make_mail(raw.encode(), sender=f"x@{domain}", ip=f"192.0.{net}.7")
    world = World(made.table)
    stage = made.stages[Phase.MESSAGE]
    found = set(stage.index.candidates(Facts(mail, None, world, 0.0)))
    matching = {
        n for n, rule in enumerate(stage.rules) if rule.condition.holds(Facts(mail, None, world, 0.0))
    }
    changing = {n for n, rule in enumerate(stage.rules) if "score" in rule.condition.facts}
    assert matching - changing <= found
    assert changing & matching <= found


def test_most_rules_are_no_candidates():
    made = ruleset(
        *({"id": f"r{n}", "match": {"subject": f"word {n}"}, "then": {"score": 1}} for n in range(100))
    )
    facts = Facts(make_mail(b"Subject: Word 7\r\n\r\n"), None, World(made.table), 0.0)
    assert list(made.stages[Phase.MESSAGE].index.candidates(facts)) == [7]


@given(st.text(alphabet="ab*?[]!-\\.x", max_size=12), st.text(alphabet="abx.-", max_size=8))
def test_a_glob_is_always_a_pattern(glob, text):
    try:
        check(from_glob(glob))
    except PatternError:
        return  # an empty or backward range
    Patterns([from_glob(glob)]).found(text)


@pytest.mark.parametrize(
    ("glob", "text", "fits"),
    [
        ("*.example", "a.example", True),
        ("*.example", "a.example.org", False),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("[ab]x", "bx", True),
        ("[!ab]x", "bx", False),
        ("a.c", "abc", False),
        ("[x", "[x", True),
    ],
)
def test_globs(glob, text, fits):
    assert bool(Patterns([from_glob(glob)]).found(text)) is fits


def test_a_pattern_that_hangs_others_ends():
    assert Patterns([r"(a|a)*b$", r"(a+)+$", r"^(([a-z])+.)+[A-Z]([a-z])+$"]).found("a" * 60_000 + "!") == []


def test_more_patterns_than_fit_into_one_set():
    patterns = Patterns([f"^word{n}$" for n in range(1000)])
    assert patterns.found("word777") == [777]


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(8, 32)), max_size=20), st.integers(0, 2**32 - 1)
)
def test_networks_are_found_as_by_looking_at_each(pairs, number):
    import ipaddress

    networks = [ipaddress.ip_network((base, length), strict=False) for base, length in pairs]
    ip = ip_address(number)
    found = Networks((network, place) for place, network in enumerate(networks)).found(ip)
    assert sorted(found) == [place for place, network in enumerate(networks) if ip in network]


def test_a_network_with_host_bits_names_the_network():
    with pytest.raises(ValueError, match=r"the network is 192\.0\.2\.0/24"):
        parse_network("192.0.2.7/24")


@pytest.mark.parametrize(
    ("kind", "items", "inside", "outside"),
    [
        ("domain", ["example.org", ".example.net"], "example.org", "a.example.org"),
        ("domain", [".example.net"], "a.b.example.net", "example.net"),
        ("address", ["a@example.org", "example.net"], "x@example.net", "b@example.org"),
        ("text", ["Ana"], "ana", "an"),
        ("glob", ["news*"], "newsletter", "the news"),
        ("regex", ["l[ou]tt"], "the lottery", "lot"),
        ("cidr", ["192.0.2.0/24"], ip_address("192.0.2.9"), ip_address("192.0.3.9")),
    ],
)
def test_what_a_list_holds(kind, items, inside, outside):
    holder = Holder(kind, items)
    assert holder.holds(inside)
    assert not holder.holds(outside)


def test_the_names_that_dns_lists_are_asked():
    assert dns_name(ip_address("192.0.2.1"), "bl.example") == "1.2.0.192.bl.example"
    assert dns_name(ip_address("2001:db8::1"), "bl.example").startswith("1.0.0.0.0.0")
    assert dns_name("mx.example.org", "bl.example") == "mx.example.org.bl.example"
    assert dns_name("", "bl.example") == dns_name(None, "bl.example") == ""


@pytest.mark.parametrize(
    "pattern",
    [r"\pL{1000}", r"(\pL|\pN){900}", r"((x{30}){30}){2}", "(a" * 300 + ")" * 300, "[" + "é-ü" * 300 + "]"],
)
def test_large_patterns_are_refused_or_work(pattern):
    try:
        check(pattern)
    except PatternError:
        return
    assert Patterns([pattern]).found("a" * 2000) in ([], [0])


def test_patterns_that_are_large_only_together_are_cut_up():
    patterns = [rf"\pL{{20}}{n}$" for n in range(150)]
    assert Patterns(patterns).found("x" * 100 + "149") == [149]
