"""Rules by data: what providers say, what a rule file may hold, and texts without what varies."""

from pathlib import Path

import pytest
from tests.bounces.samples import SAMPLES

from relayproxy.bounces.report import Fate, Kind, Report
from relayproxy.bounces.rules import UNKNOWN, Judgement, Rule, RuleFault, classify, normal_form, rules_of
from relayproxy.config import yaml

FILE = Path(__file__).parents[2] / "src/relayproxy/bounces/rules.yaml"


@pytest.fixture(scope="module")
def rules() -> tuple[Rule, ...]:
    document = yaml.read(FILE.read_text())
    assert document.faults == []
    return rules_of(document.value)


def report_of(fate: Fate, kind: Kind = Kind.DSN, feedback: str = "") -> Report:
    return Report(kind, (fate,), feedback=feedback)


@pytest.mark.parametrize(
    ("status", "words", "class_", "action"), SAMPLES, ids=[one[1][:40] for one in SAMPLES]
)
def test_what_providers_say(rules, status, words, class_, action):
    fate = Fate("gone@example.net", "failed", status, words)
    judged = classify(rules, report_of(fate), fate)
    assert (judged.class_, judged.action) == (class_, action), judged.rule


def test_there_are_enough_samples_and_every_action_is_among_them():
    assert len(SAMPLES) >= 40
    assert {action for *_, action in SAMPLES} == {"suppress", "count", "none"}


@pytest.mark.parametrize(
    ("feedback", "class_", "action"),
    [
        ("abuse", "complaint", "suppress"),
        ("fraud", "complaint", "suppress"),
        ("opt-out", "unsubscribe", "suppress"),
        ("not-spam", "not-spam", "none"),
        ("auth-failure", "auth", "none"),
    ],
)
def test_complaints(rules, feedback, class_, action):
    fate = Fate("a@example.net", "failed", "", "550 user unknown")
    judged = classify(rules, report_of(fate, Kind.COMPLAINT, feedback), fate)
    assert (judged.class_, judged.action) == (class_, action)


@pytest.mark.parametrize(
    ("said", "class_"), [("delivered", "delivered"), ("relayed", "delivered"), ("delayed", "delayed")]
)
def test_what_did_not_fail_suppresses_nobody(rules, said, class_):
    fate = Fate("a@example.net", said, "5.1.1", "550 user unknown")
    assert classify(rules, report_of(fate), fate).action == "none"
    assert classify(rules, report_of(fate), fate).class_ == class_


def test_without_rules_everything_is_unknown():
    fate = Fate("a@example.net", "failed", "5.1.1", "550 user unknown")
    assert classify((), report_of(fate), fate) == UNKNOWN == Judgement("unknown", "none")


def test_all_conditions_must_hold_and_the_first_rule_decides():
    rules = rules_of(
        {
            "version": 1,
            "rules": [
                {
                    "name": "both",
                    "class": "hard",
                    "action": "suppress",
                    "days": 3,
                    "status": "5.1.*",
                    "text": ["no", "gone"],
                },
                {"name": "bare", "class": "soft", "action": "none", "status": "none"},
            ],
        }
    )
    both = Fate("a@b", "failed", "5.1.7", "it is GONE")
    assert classify(rules, report_of(both), both) == Judgement("hard", "suppress", 3, "both")
    half = Fate("a@b", "failed", "5.2.1", "it is gone")
    assert classify(rules, report_of(half), half) == UNKNOWN
    bare = Fate("a@b")
    assert classify(rules, report_of(bare), bare).rule == "bare"


OK = {"name": "a", "class": "hard", "action": "none"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "version: 1"),
        ({"version": 2, "rules": []}, "version: 1"),
        ({"version": 1, "rules": [], "more": 1}, "there is no key 'more'"),
        ({"version": 1, "rules": [{"class": "hard"}]}, "rule 1 has no name"),
        ({"version": 1, "rules": [OK, OK]}, "two rules are called 'a'"),
        ({"version": 1, "rules": [OK | {"class": "nonsense"}]}, "rule 'a': `class` is one of hard"),
        ({"version": 1, "rules": [OK | {"action": "drop"}]}, "`action` is one of suppress, count, none"),
        ({"version": 1, "rules": [OK | {"status": ["5.1"]}]}, "'5.1' is no status"),
        ({"version": 1, "rules": [OK | {"status": [5.1]}]}, "`status` is a text or a list of texts"),
        ({"version": 1, "rules": [OK | {"text": "("}]}, "is not a regular expression"),
        ({"version": 1, "rules": [OK | {"days": -1}]}, "`days` is a number"),
        ({"version": 1, "rules": [OK | {"kind": "mail"}]}, "`kind` 'mail' is none of dsn"),
        ({"version": 1, "rules": [OK | {"txt": "a"}]}, "there is no key 'txt'"),
        ({"version": 1, "rules": [OK] * 2001}, "more than 2000"),
    ],
)
def test_a_bad_rule_file_says_why(value, message):
    with pytest.raises(RuleFault) as caught:
        rules_of(value)
    assert message in str(caught.value)


def test_the_normal_form_is_the_same_for_two_recipients():
    one = normal_form(
        "550 mail to <a@example.net> refused, id 8f3k2x91, see https://x.example/?a=1 [192.0.2.7] 12345"
    )
    two = normal_form(
        "550 mail to <bob@example.com> refused, id 77qq2x9z, see https://x.example/?b=2 [192.0.2.8] 99999"
    )
    assert one == two == "550 mail to * refused, id *, see * * *"
