import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.mailauth.from_header import ANOMALIES, Anomaly, parse_mailbox, read_author
from relayproxy.model.message import Message

SUITES = Path(os.environ.get("RELAYPROXY_SUITES", Path(__file__).parents[3] / "shared" / "suites"))
ESPOOFER = SUITES / "espoofer-cases" / "cases.json"

# What is wrong with From in each espoofer case; the others attack SPF or DKIM with a From that is in order.
ESPOOFER_ANOMALIES = {
    "server_a9": ("disguised-field",),
    "server_a11": ("disguised-field",),
    "server_a13": ("disguised-field", "missing"),
    "server_a15": ("several-mailboxes",),
    "server_a17": ("several-mailboxes",),
    "server_a19": ("text-after-address",),
    "client_a2": ("several-mailboxes",),
}


def author(*fields):
    return read_author(Message.from_bytes(b"".join(fields) + b"Subject: x\r\n\r\nbody"))


def espoofer():
    if not ESPOOFER.exists():
        return [pytest.param("", {}, marks=pytest.mark.skip(f"there is no {ESPOOFER}"))]
    return list(json.loads(ESPOOFER.read_text()).items())


@pytest.mark.parametrize(("name", "case"), espoofer())
def test_espoofer(name, case):
    data = case["data"]
    head = data["from_header"] + data["to_header"] + data["subject_header"] + data["other_headers"]
    found = read_author(Message.from_bytes(head.encode()))
    assert found.anomalies == ESPOOFER_ANOMALIES.get(name, ())
    assert bool(found.reason) == bool(found.anomalies)


# More of the same family, as the paper describes the even-numbered cases and its figures.
@pytest.mark.parametrize(
    ("fields", "anomalies"),
    [
        (
            [b"From : <a@first.example>\r\n", b"From: <b@second.example>\r\n"],
            ("blank-before-colon", "several-fields"),
        ),
        ([b"From\t: <a@first.example>\r\n"], ("blank-before-colon",)),
        ([b"From: <a@first.example>\r\n", b"FROM: <b@second.example>\r\n"], ("several-fields",)),
        ([b"From: a@x.example\r\n", b"From: a@x.example\r\n"], ("several-fields",)),
        ([b"\xa0From: <a@first.example>\r\n", b"From: a@x.example\r\n"], ("disguised-field",)),
        ([b"F\x0brom: <a@first.example>\r\n", b"From: a@x.example\r\n"], ("disguised-field",)),
        ([b"From\r\n\t: <a@first.example>\r\n", b"From: a@x.example\r\n"], ("disguised-field",)),
        ([b"From a@x Mon\r\n", b"From: a@x.example\r\n"], ()),
        ([b"X-Note: x\r\n From: b@y.example\r\n", b"From: a@x.example\r\n"], ()),
        ([b"Resent-From: a@x.example\r\n"], ("missing",)),
        ([], ("missing",)),
    ],
)
def test_fields_that_are_or_look_like_from(fields, anomalies):
    assert author(*fields).anomalies == anomalies


def test_the_domain_is_given_along_with_an_anomaly_of_the_place_only():
    assert author(b"From : <a@x.example>\r\n").domain == "x.example"
    assert author(b"From: <a@x.example>\r\n", b"From: <a@x.example>\r\n").domain == ""
    assert author(b"From: <a@x.example>,<a@x.example>\r\n").domain == ""


@pytest.mark.parametrize(
    ("value", "local", "domain"),
    [
        (b" a@example.org", "a", "example.org"),
        (b"a@example.org", "a", "example.org"),
        (b" <a@EXAMPLE.org>", "a", "example.org"),
        (b" < a@example.org >", "a", "example.org"),
        (b" Ann Example <a.b+c@example.org>", "a.b+c", "example.org"),
        (b' "Example, Ann (at work) <x@y>" <a@example.org>', "a", "example.org"),
        (b" John Q. Public <a@example.org>", "a", "example.org"),
        (b" [JIRA] Ann <a@example.org>", "a", "example.org"),
        (b" root@example.org (Cron Daemon)", "root", "example.org"),
        (b" (x) Ann (y (z) \\) ) <a@example.org> (c)", "a", "example.org"),
        (b" =?utf-8?B?w4Q=?= =?utf-8?q?x?= <a@example.org>", "a", "example.org"),
        (b" =?utf-8?Q?Doe,_John:?= <a@example.org>", "a", "example.org"),
        (b" J\xc3\xb6rg <a@example.org>", "a", "example.org"),
        (b" J\xf6rg <a@example.org>", "a", "example.org"),
        (b' "a b"@example.org', '"a b"', "example.org"),
        (b' <"a@b\\"c"@example.org>', '"a@b\\"c"', "example.org"),
        (b"\r\n Ann\r\n\t<a@example.org>", "a", "example.org"),
        (b" <j\xc3\xb6rg@ex\xc3\xa4mple.com>", "jörg", "xn--exmple-cua.com"),
        (b" a@EX\xc3\x84MPLE.com", "a", "xn--exmple-cua.com"),
        (b" a@xn--exmple-cua.com", "a", "xn--exmple-cua.com"),
        (b" a@my_host.example.org", "a", "my_host.example.org"),
        (b" root@localhost", "root", "localhost"),
        (b" O'Hara <o'hara@example.org>", "o'hara", "example.org"),
    ],
)
def test_one_mailbox(value, local, domain):
    found = author(b"From:" + value + b"\r\n")
    assert (found.local, found.domain, found.anomalies) == (local, domain, ())


@pytest.mark.parametrize(
    ("value", "anomaly"),
    [
        (b"", "empty"),
        (b" (nobody)", "empty"),
        (b" <a@x.example>, <b@y.example>", "several-mailboxes"),
        (b" a@x.example, b@y.example", "several-mailboxes"),
        (b" Doe, John <a@x.example>", "several-mailboxes"),
        (b" <a@x.example>,", "several-mailboxes"),
        (b" <a@x.example><b@y.example>", "several-mailboxes"),
        (b" <a@x.example>\\,<b@y.example>", "several-mailboxes"),
        (b" =?utf-8?B?PGFkbWluQGxlZ2l0aW1hdGUuY29tPg==?=,<b@y.example>", "several-mailboxes"),
        (b" Friends: a@x.example;", "group"),
        (b" Friends:;", "group"),
        (b" Friends: <a@x.example>;", "group"),
        (b" <a@x.example>;", "text-after-address"),
        (b" a@x.example;", "group"),
        (b" <@x.example,@y.example:a@z.example>", "source-route"),
        (b" <@x.example:a@z.example>", "source-route"),
        (b" a@x.example <b@y.example>", "unquoted-special"),
        (b" a\\ <b@y.example>", "unquoted-special"),
        (b" <a@x.example>b@y.example", "text-after-address"),
        (b" <a@x.example> Ann", "text-after-address"),
        (b" <a@x.example", "unbalanced"),
        (b" a@x.example>", "unbalanced"),
        (b" Ann> <a@x.example>", "unbalanced"),
        (b' "Ann <a@x.example>', "unbalanced"),
        (b" (Ann <a@x.example>", "unbalanced"),
        (b" Ann) <a@x.example>", "unbalanced"),
        (b" <<a@x.example>>", "text-after-address"),
        (b" Ann", "no-address"),
        (b" Ann <a>", "no-address"),
        (b" <>", "no-address"),
        (b" Ann a@x.example", "malformed"),
        (b" a @x.example", "malformed"),
        (b" a@ x.example", "malformed"),
        (b" <a(c)@x.example>", "malformed"),
        (b" <a@x(c).example>", "malformed"),
        (b" <(c)a@x.example>", "malformed"),
        (b" a@b@x.example", "malformed"),
        (b" <a@>", "malformed"),
        (b" @x.example", "malformed"),
        (b' "a" b@x.example', "malformed"),
        (b" a@[192.0.2.1]", "address-literal"),
        (b" <a@[IPv6:::1]>", "address-literal"),
        (b" .a@x.example", "bad-local-part"),
        (b" a..b@x.example", "bad-local-part"),
        (b" j\xf6rg@x.example", "bad-local-part"),
        (b' "j\xf6rg"@x.example', "bad-local-part"),
        (b" a@x.example.", "bad-domain"),
        (b" a@x..example", "bad-domain"),
        (b" a@.example", "bad-domain"),
        (b" a@-x.example", "bad-domain"),
        (b" a@x'y.example", "bad-domain"),
        (b" a@\xf6.example", "bad-domain"),
        (b" a@" + b"x" * 64 + b".example", "bad-domain"),
        (b" a@" + b"x." * 130 + b"example", "bad-domain"),
        (b" a@=?utf-8?q?x?=", "encoded-address"),
        (b" =?utf-8?q?a?=@x.example", "encoded-address"),
        (b" =?a@x.example", "encoded-address"),
        (b" =?utf-8?q?a=40x.example?=", "encoded-address"),
        (b" first@x.example\x00@y.example", "control-character"),
        (b" a@x.example\n b", "control-character"),
        (b" a@x.example\r\x0b", "control-character"),
        (b" \x1b[0m <a@x.example>", "control-character"),
        (b" " + b"x" * 9000 + b" <a@x.example>", "too-long"),
    ],
)
def test_everything_else_has_a_name(value, anomaly):
    found = author(b"From:" + value + b"\r\n")
    assert (found.domain, found.anomalies) == ("", (anomaly,))
    assert found.reason == ANOMALIES[anomaly]


# Properties


@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from([bytes([c]) for c in b'<>@,;:"\\()[]ab. =?'])).map(b"".join)
)
def test_a_value_is_one_mailbox_or_has_a_named_anomaly(value):
    try:
        local, domain = parse_mailbox(value)
    except Anomaly as anomaly:
        found = str(anomaly)
    else:
        found = ""
        assert value.count(b"@") >= 1
        assert local
        assert domain.isascii()
        assert not set(domain) & set('<>@,;:"\\()[] \r\n')
    assert found in {*ANOMALIES, ""}


@given(st.lists(st.sampled_from([b"From", b":", b" ", b"\r\n", b"a@x.example", b"\xa0", b"X"])).map(b"".join))
def test_no_header_block_is_an_accident(head):
    found = read_author(Message.from_bytes(head + b"\r\n\r\n"))
    assert set(found.anomalies) <= set(ANOMALIES)
    assert found.domain or found.anomalies


@pytest.mark.parametrize(
    "piece", [b"(", b"()", b'"', b'"" ', b"=?", b"<", b"a ", b"\\", b"@", b"a,", b"=?a?q?", b"\r\n "]
)
def test_long_values_are_read_in_one_pass(piece):
    for length in (8000, 1_000_000):
        found = author(b"From: " + piece * (length // len(piece)) + b"\r\n")
        assert found.anomalies


def test_a_million_fields_are_looked_at_once():
    found = author(b"From: a@x.example\r\n", b"X:\r\n" * 100_000, b"y\r\n" * 100_000)
    assert found.domain == "x.example"
