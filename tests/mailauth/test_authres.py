import contextlib
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.mailauth.authres import (
    METHODS,
    AuthenticationResults,
    MethodResult,
    forged,
    header_value,
    parse,
    parse_arc,
    quote,
)
from relayproxy.model.edits import apply_to_message, header_line
from relayproxy.model.finding import Finding
from relayproxy.model.message import Message

HOST = "mx.example.com"


def message(*lines):
    return Message.from_bytes(
        "".join(f"{line}\r\n" for line in (*lines, "From: a@example.org", "", "x")).encode()
    )


def left(msg, host=HOST, **options):
    """The fields that are still there once forged ones are gone."""
    return [field.raw for field in apply_to_message(msg, forged(msg, host, **options)).fields[:-1]]


# Writing


def test_one_line_for_each_result():
    findings = [
        Finding("spf", "pass", props={"smtp.mailfrom": "a@example.org", "domain": "example.org"}),
        Finding("dnsbl", "hit", props={"dns.zone": "zen.example"}),
        Finding("dkim", "fail", reason="body hash", props={"header.d": "example.org", "header.b": "a/b+c="}),
        Finding("iprev", "miss"),
    ]
    assert header_value(HOST, findings) == (
        "mx.example.com;\r\n\tspf=pass smtp.mailfrom=a@example.org;\r\n\t"
        'dkim=fail reason="body hash" header.d=example.org header.b="a/b+c="'
    )


def test_nothing_to_publish_is_no_field():
    assert header_value(HOST, []) == ""
    assert header_value(HOST, [Finding("rules", "pass")]) == ""


def test_long_results_are_folded():
    props = {f"header.x{number}": "y" * 60 for number in range(4)}
    value = header_value(HOST, [Finding("dkim", "pass", props=props)])
    assert max(len(line) for line in value.split("\r\n")) <= 78
    assert parse(value).results[0].props == props


def test_a_field_has_a_bounded_length():
    props = {"smtp.mailfrom": "x" * 100_000}
    value = header_value(HOST, [Finding("spf", "pass", reason="y" * 100_000, props=props)] * 1000)
    assert len(value) < 50 * 700


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("example.org", "example.org"),
        ("a+b@example.org", "a+b@example.org"),
        ("@example.org", "@example.org"),
        ("", '""'),
        ("a b", '"a b"'),
        ('"a b"@example.org', r'"\"a b\"@example.org"'),
        ("any@legit.com(a.attack.com", '"any@legit.com(a.attack.com"'),
        ("<@legit.com,@any.com:'any@attack.com>", '"<@legit.com,@any.com:\'any@attack.com>"'),
        ("a@x; dkim=pass header.d=y", '"a@x; dkim=pass header.d=y"'),
        ("a\r\nTo: b@x", '"a??To: b@x"'),
        ("a\x00b\x7f", '"a?b?"'),
        ("back\\slash", r'"back\\slash"'),
        ("ü@exämple.com", "?@xn--exmple-cua.com"),
        ("exämple.com", "xn--exmple-cua.com"),
        ("☃" * 300 + "@x", '"' + "?" * 256 + '"'),
    ],
)
def test_foreign_text_can_only_be_a_value(text, written):
    assert quote(text) == written
    (result,) = parse(f"{HOST}; spf=pass smtp.mailfrom={quote(text)}").results
    assert result.method == "spf"
    assert list(result.props) == ["smtp.mailfrom"]


# Reading


@pytest.mark.parametrize(
    ("value", "results"),
    [
        ("example.com; none", []),
        ("example.com 1; none", []),
        ("example.com;none;", []),
        ("example.com; spf=pass", [("spf", "pass", "", {})]),
        (
            "example.com;\r\n\tSPF=Pass smtp.mailFrom=example.net",
            [("spf", "pass", "", {"smtp.mailfrom": "example.net"})],
        ),
        (
            (
                "example.com; auth=pass (cleartext; a=b) smtp.auth=sender@example.net;\r\n"
                " spf=pass smtp.mailfrom=example.net"
            ),
            [
                ("auth", "pass", "", {"smtp.auth": "sender@example.net"}),
                ("spf", "pass", "", {"smtp.mailfrom": "example.net"}),
            ],
        ),
        (
            (
                "foo.example.net (foobar) 1 (baz);\r\n dkim (Because I like it) / 1 (One yay) = (wait for it) fail\r\n"
                " policy (A dot can go here) . (like that) expired\r\n (this surprised me) = (as I wasn't expecting it) 1362471462"
            ),
            [("dkim", "fail", "", {"policy.expired": "1362471462"})],
        ),
        (
            '"mx one"; dkim=fail reason="a \\"b\\" ; c" header.b=ab+/c==',
            [
                ("dkim", "fail", 'a "b" ; c', {"header.b": "ab+/c=="}),
            ],
        ),
        (
            'm; spf=pass smtp.mailfrom="a b"@example.org',
            [("spf", "pass", "", {"smtp.mailfrom": "a b@example.org"})],
        ),
        ("m; spf=pass (nested (comment) with \\) and \\( ) reason=x", [("spf", "pass", "x", {})]),
    ],
)
def test_reads_what_the_rfc_allows(value, results):
    found = parse(value)
    assert [(r.method, r.result, r.reason, dict(r.props)) for r in found.results] == results


@pytest.mark.parametrize(
    "value",
    [
        "",
        "example.com",
        "; spf=pass",
        "spf=pass smtp.mailfrom=x; dkim=pass",
        "example.com; spf",
        "example.com; spf=",
        "example.com; =pass",
        "example.com; spf=pass foo=bar",
        "example.com; spf=pass smtp.a mailfrom=x y",
        "example.com; spf=pass (unfinished",
        'example.com; spf=pass smtp.mailfrom="unfinished',
        "example.com; spf=pass )",
        'example.com; "spf"=pass',
        "a b; none",
        "=?utf-8?q?a?=; none",
        "x; spf=" + "p" * 70_000,
    ],
)
def test_refuses_what_it_does_not(value):
    with pytest.raises(ValueError):
        parse(value)


def test_reads_the_results_of_an_arc_set():
    assert parse_arc(" i=2; lists.example.org; spf=fail") == (
        2,
        AuthenticationResults("lists.example.org", (MethodResult("spf", "fail", "", {}),)),
    )
    with pytest.raises(ValueError, match="instance"):
        parse_arc("lists.example.org; spf=fail")


# Taking out forgeries


@pytest.mark.parametrize(
    "field",
    [
        "Authentication-Results: mx.example.com; spf=pass",
        "authentication-RESULTS: MX.Example.COM; spf=pass",
        "Authentication-Results : mx.example.com; spf=pass",
        "Authentication-Results:mx.example.com;spf=pass",
        "Authentication-Results:\r\n\tmx.example.com;\r\n\tspf=pass",
        "Authentication-Results: mx.example.com 1; spf=pass",
        "Authentication-Results: mx.example.com.; spf=pass",
        "Authentication-Results: (hello) mx.example.com (there) 1 (you); spf=pass",
        "Authentication-Results: (a (nested) \\) one) mx.example.com; spf=pass",
        'Authentication-Results: "mx.example.com"; spf=pass',
        'Authentication-Results: "mx.\\example.com"; spf=pass',
        "Authentication-Results: mx.example.com",
        "Authentication-Results: mx.example.com; none",
        "Authentication-Results: mx.example.com; garbage ((",
        "Authentication-Results: mx.example.com spf=pass",
        "Authentication-Results: mx(x).example.com; spf=pass",
        "Authentication-Results: mx.example.com/1; spf=pass",
        "Authentication-Results: =?utf-8?q?mx.example.com?=; spf=pass",
        "Authentication-Results: example.com; spf=pass",
        "Authentication-Results: ; spf=pass",
        "Authentication-Results: spf=pass smtp.mailfrom=x",
        "Authentication-Results:",
        'Authentication-Results: "mx.example.com; spf=pass',
        "Authentication-Results: (mx.example.com; spf=pass",
        "X-Authentication-Results: mx.example.com; spf=pass",
        "Authentication-Results\r\n : mx.example.com; spf=pass",
        "Authentication-Results\x0b: other.example; spf=pass",
        "\u00a0Authentication-Results: other.example; spf=pass",
        "Received-SPF: pass (x) client-ip=192.0.2.1; receiver=MX.example.com; identity=mailfrom",
        'Received-SPF: pass receiver = "mx.example.com"',
        "BIMI-Indicator: PHN2Zz4=",
        "BIMI-Location: v=BIMI1; l=https://example.org/logo.svg",
    ],
)
def test_what_claims_to_be_ours_goes(field):
    msg = message("Received: from x", field, "Subject: y")
    assert left(msg) == [b"Received: from x\r\n", b"Subject: y\r\n"]


@pytest.mark.parametrize(
    "field",
    [
        "Authentication-Results: mx.example.net; spf=pass",
        "Authentication-Results: notexample.com; spf=pass",
        "Authentication-Results: com; spf=pass",
        "Authentication-Results: out.mx.example.com; spf=pass",
        "Authentication-Results: mx.example.net; broken (",
        "ARC-Authentication-Results: i=1; mx.example.com; spf=pass",
        "X-Original-Authentication-Results: mx.example.com; spf=pass",
        "Received-SPF: pass client-ip=192.0.2.1; receiver=mx.example.net",
        "Received-SPF: pass",
        "BIMI-Selector: v=BIMI1; s=logo",
        "Not a field authentication",
    ],
)
def test_what_others_say_stays(field):
    msg = message(field)
    assert forged(msg, HOST) == ()
    assert apply_to_message(msg, forged(msg, HOST)) is msg


def test_an_id_that_takes_too_long_to_read_goes():
    assert left(message(f"Authentication-Results: {'a' * 254}; none")) == []
    assert len(left(message(f"Authentication-Results: {'a' * 253}; none"))) == 1
    foreign = message(*(f"Authentication-Results: b\u00fccher{n}.example; none" for n in range(25)))
    assert len(left(foreign)) == 20


def test_what_is_longer_than_any_honest_field_can_not_be_read():
    with pytest.raises(ValueError, match="too long"):
        parse("mx.example; spf=pass" + " " * 16_384)


def test_only_forged_ones_of_several_go():
    mine, other = "Authentication-Results: mx.example.com; a=b", "Authentication-Results: b.example; a=b"
    msg = message(mine, other, mine.upper(), "Authentication-Results\r\n : x", other, "Junk", mine)
    assert left(msg) == [f"{other}\r\n".encode()] * 2 + [b"Junk\r\n"]


def test_other_names_of_ours_and_unicode_names_count():
    msg = message("Authentication-Results: old.example; a=b", "Authentication-Results: mx.exämple.com; a=b")
    assert left(msg, "mx.xn--exmple-cua.com", also=["Old.Example"]) == []
    assert left(msg, "mx.exämple.com", also=["old.example."]) == []


# Properties

words = st.text(alphabet=string.ascii_lowercase + string.digits, min_size=1, max_size=8)
prop_names = st.builds("{}.{}".format, st.sampled_from(["smtp", "header", "body", "policy"]), words)
findings = st.builds(
    Finding,
    st.sampled_from(sorted(METHODS)),
    st.sampled_from(["none", "pass", "fail", "softfail", "neutral", "policy", "temperror", "permerror"]),
    props=st.dictionaries(prop_names, st.text(max_size=300), max_size=4),
    reason=st.text(max_size=300),
)


@given(st.lists(findings, min_size=1, max_size=5))
def test_what_is_written_reads_back(noted):
    value = header_value(HOST, noted)
    assert re.fullmatch(rb"[\x20-\x7e\r\n\t]+", header_line("Authentication-Results", value))
    read = parse(value)
    assert read.authserv_id == HOST
    assert len(read.results) == len(noted)
    for finding, result in zip(noted, read.results, strict=True):
        assert (result.method, result.result) == (finding.method, finding.result)
        assert bool(result.reason) == bool(finding.reason)
        assert set(result.props) == set(finding.props)
        for name, text in finding.props.items():
            if text.isascii() and text.isprintable():
                assert result.props[name] == text[:256]


@given(st.lists(findings, min_size=1, max_size=5))
def test_what_is_written_would_be_stripped_as_ours(noted):
    msg = Message(header_line("Authentication-Results", header_value(HOST, noted)) + b"\r\n")
    assert len(forged(msg, HOST)) == 1
    assert forged(msg, "mx.example.net") == ()


@given(st.text(alphabet=st.sampled_from('ab.;="()\\ \t/1-\u00e4'), max_size=60) | st.text(max_size=60))
def test_no_value_is_an_accident(value):
    try:
        read = parse(value)
    except ValueError:
        return
    assert read.authserv_id is not None


@given(st.binary(max_size=80))
def test_no_header_is_an_accident(value):
    msg = Message(b"Authentication-Results: " + value + b"\r\n\r\n")
    once = apply_to_message(msg, forged(msg, HOST))
    assert forged(once, HOST) == ()


@pytest.mark.parametrize(
    "piece", ["(", "\\", '"', ";", "=", "a=b ", 'a="', ". ", "()", "((", "a.", '""', "(\\"]
)
def test_long_garbage_is_read_or_refused_in_one_pass(piece):
    for value in (piece * (60_000 // len(piece)), piece * 1_000_000, f"x; a=b {piece * 10_000}"):
        assert len(forged(Message(b"Authentication-Results: " + value.encode() + b"\r\n\r\n"), HOST)) <= 1
        with contextlib.suppress(ValueError):
            assert parse(value).authserv_id == "x"
