"""Tests beside the rules: the mail that they describe, and what they find wrong."""

from pathlib import Path

import pytest
from tests.rules.asking import ruleset

from relayproxy.config.rules import Trial, run_cases
from relayproxy.rules.cases import read_cases

RULES = ruleset(
    {
        "id": "big",
        "match": {"size": {"above": "1 MB"}},
        "then": {"reject": {"code": 552, "status": "5.3.4", "text": "Big"}},
    },
    {
        "id": "tagged",
        "match": {"subject": {"contains": "sale"}},
        "then": [{"tag": ["ad", "sale"]}, {"score": 2}],
    },
    {"id": "listed", "match": {"client.ip": {"in_list": "bl"}}, "then": {"defer": "Listed"}},
    {"id": "moved", "match": {"recipient.local": "old"}, "then": {"redirect": "new@example.net"}},
    {"id": "marked", "match": {"score": {"above": 1}}, "then": {"prefix_subject": "[ad]"}},
    {
        "id": "rate",
        "match": {"client.login": {"exists": True}},
        "then": {"rate_limit": {"key": "{client.login}", "rate": "3/h"}},
    },
    lists={"bl": {"type": "dns", "zone": "bl.example"}},
)


def said(given, expect):
    """Return what a test complains about."""
    cases, flaws = read_cases([{"given": given, "expect": expect}], [rule.id for rule in RULES.rules])
    assert flaws == []
    return [flaw.message for flaw in run_cases(cases, Trial(RULES, Path()))]


@pytest.mark.parametrize(
    ("given", "expect"),
    [
        ({}, {"verdict": "accept", "score": 0, "code": 250, "status": "2.0.0"}),
        (
            {"size": "2 MB"},
            {"verdict": "reject", "code": 552, "status": "5.3.4", "text": "Big", "rule": "big"},
        ),
        (
            {"headers": {"Subject": "Sale"}},
            {
                "tags": ["sale", "ad"],
                "score": 2,
                "rule": ["tagged", "marked"],
                "headers": {"Subject": "[ad] Sale"},
            },
        ),
        (
            {"message": "Subject: big sale\nX-A: 1\n\nHi\n"},
            {"rule": "tagged", "headers": {"X-A": 1, "X-B": None}},
        ),
        ({"listed": "bl"}, {"verdict": "defer", "rule": "listed"}),
        ({"recipients": ["old@example.net"]}, {"recipients": "new@example.net"}),
        ({"client": {"login": "ana"}, "repeat": 2}, {"verdict": "accept"}),
        ({"client": {"login": "ana"}, "repeat": 3}, {"verdict": "defer", "code": 450}),
    ],
)
def test_what_holds(given, expect):
    assert said(given, expect) == []


@pytest.mark.parametrize(
    ("expect", "complaint"),
    [
        ({"verdict": "reject"}, "verdict is accept, expected reject"),
        ({"code": 550}, "code is 250, expected 550"),
        ({"status": "5.7.1"}, "status is 2.0.0, expected 5.7.1"),
        ({"text": "x"}, "text is '', expected x"),
        ({"rule": ["big", "tagged"]}, "rule is none, expected big, tagged"),
        ({"score": 1}, "score is 0, expected 1"),
        ({"tags": "ad"}, "tags is none, expected ad"),
        ({"recipients": "x@example.net"}, "recipients is ana@example.net, expected x@example.net"),
        ({"headers": {"Subject": "x"}}, "headers is Subject: test, expected {'Subject': 'x'}"),
    ],
)
def test_what_does_not(expect, complaint):
    assert said({}, expect) == [f"test 'test 0' fails: {complaint}"]


@pytest.mark.parametrize(
    ("test", "code"),
    [
        ("x", "RP816"),
        ({"expect": {}}, "RP816"),
        ({"expect": {"verdict": "reject"}, "given": {"client": {"age": 3}}}, "RP101"),
        ({"expect": {"verdict": "reject"}, "given": {"sender": "nobody"}}, "RP822"),
        ({"expect": {"verdict": "reject"}, "given": {"recipients": [3]}}, "RP110"),
        ({"expect": {"verdict": "reject"}, "given": {"direction": "up"}}, "RP202"),
        ({"expect": {"verdict": "reject"}, "given": {"time": "noon"}}, "RP210"),
        ({"expect": {"verdict": "reject"}, "given": {"findings": {"spf": "bad"}}}, "RP202"),
        ({"expect": {"verdict": "reject"}, "given": {"findings": {"spf": {"score": "x"}}}}, "RP110"),
        ({"expect": {"verdict": "reject"}, "given": {"findings": "spf"}}, "RP816"),
        ({"expect": {"verdict": "reject"}, "given": {"size": "huge"}}, "RP204"),
        ({"expect": {"verdict": "reject"}, "given": {"size": "65 MiB"}}, "RP204"),
        ({"expect": {"verdict": "reject"}, "given": {"repeat": -1}}, "RP203"),
        ({"expect": {"verdict": "reject"}, "given": {"headers": []}}, "RP816"),
        ({"expect": {"verdict": "reject"}, "given": {"message": 3}}, "RP110"),
        ({"name": 3, "expect": {"verdict": "reject"}}, "RP110"),
    ],
)
def test_what_is_no_test(test, code):
    assert [flaw.code for flaw in read_cases([test], [])[1]] == [code]
