"""What is counted for each rule."""

from collections import Counter
from pathlib import Path

import pytest
from tests.rules.asking import ruleset

from relayproxy.api import App
from relayproxy.builtin.rules import Rules, RulesSettings
from relayproxy.testing.mail import make_mail

RAW = b"From: a@example.org\r\nSubject: hello\r\n\r\nHi\r\n"
TRIAL = {"id": "trial", "mode": "observe", "match": {"subject": "hello"}, "then": {"reject": "no"}}
ACTS = {"id": "acts", "match": {"subject": "hello"}, "then": {"score": 1}}
OTHER = {"id": "other", "match": {"subject": "other"}, "then": {"score": 1}}
BROKEN = {"id": "broken", "match": {"subject": "hello"}, "on_error": "skip", "then": {"tag": "x"}}


def counted(*rules, broken=""):
    """Return what was counted by rule and outcome, those at nought included."""
    numbers = Counter()

    def counter(plugin, name, outcome):
        assert plugin == "rules"
        numbers[name, outcome] += 0

        def count():
            numbers[name, outcome] += 1

        return count

    plugin = Rules(RulesSettings().with_rules(ruleset(*rules)))
    plugin.startup(App("mx.example.net", None, None, Path(), counter=counter))
    if broken:
        rule = next(rule for rule in plugin.options.ruleset.rules if rule.id == broken)
        object.__setattr__(rule, "condition", None)
    plugin.message(make_mail(RAW))
    return dict(numbers)


def test_each_rule_by_what_came_of_it():
    assert counted(TRIAL, ACTS, OTHER) == {
        ("trial", "observed"): 1,
        ("trial", "error"): 0,
        ("acts", "enforced"): 1,
        ("acts", "error"): 0,
        ("other", "enforced"): 0,
        ("other", "error"): 0,
    }


@pytest.mark.parametrize("name", ["broken", "trial"])
def test_a_rule_that_could_not_be_asked(name):
    rule = BROKEN if name == "broken" else TRIAL
    mode = "enforced" if name == "broken" else "observed"
    assert counted(rule, ACTS, broken=name) == {
        (name, mode): 0,
        (name, "error"): 1,
        ("acts", "enforced"): 1,
        ("acts", "error"): 0,
    }
