"""The tables are the language: what is in them is compiled, shown and in the schema."""

from pathlib import Path

import pytest
from tests.rules.asking import ruleset

from relayproxy.config import yaml
from relayproxy.config.load import load
from relayproxy.rules.action_table import ACTIONS
from relayproxy.rules.action_table import MEANT as ACTION_MEANT
from relayproxy.rules.conditions import GROUPS
from relayproxy.rules.fact_table import FACTS, FAMILIES
from relayproxy.rules.lists import TYPES
from relayproxy.rules.operators import MEANT, OPERATORS
from relayproxy.rules.schema import definitions, rules_schema

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
WORDS = {"in_list", "not", "every", "between", "zone"}


def keys_and_texts(value):
    for path, item in yaml.walk(value):
        yield from path
        if isinstance(item, str):
            yield item


def test_the_example_shows_every_fact_operator_action_and_list():
    document = yaml.read(EXAMPLE.read_text("utf-8")).value
    shown = set(keys_and_texts(document["rules"])) | set(keys_and_texts(document["lists"]))
    # A bare value is `is`.
    assert {*FACTS, *OPERATORS, *WORDS, *ACTIONS, *TYPES, *GROUPS} - {"is"} - shown == set()
    for family in FAMILIES:
        assert any(str(name).startswith(family.prefix) for name in shown), family.prefix


def test_words_of_other_languages_lead_to_words_of_ours():
    assert set(MEANT.values()) <= {*OPERATORS, *WORDS}
    assert set(ACTION_MEANT.values()) <= set(ACTIONS)
    assert not set(MEANT) & set(OPERATORS)
    assert not set(ACTION_MEANT) & set(ACTIONS)


def test_the_schema_has_every_row():
    known = definitions()["RuleCondition"]["properties"]
    assert set(FACTS) <= set(known)
    actions = rules_schema()["items"]["properties"]["then"]["anyOf"][0]["properties"]
    assert set(actions) == set(ACTIONS)


@pytest.mark.parametrize("name", list(ACTIONS))
def test_the_phase_of_each_action(name):
    arguments = {
        "score": 1,
        "tag": "x",
        "add_header": {"X": "y"},
        "replace_header": {"X": "y"},
        "remove_header": "X",
        "prefix_subject": "[x]",
        "rewrite_recipient": {"local": "x"},
        "redirect": "a@example.org",
        "route": "store",
        "add_recipient": "a@example.org",
        "rate_limit": {"key": "{sender}", "rate": "1/s", "count": "recipients"},
    }
    made = ruleset(
        {"id": "a", "match": {"sender": "a@example.org"}, "then": {name: arguments.get(name, True)}},
        abilities=frozenset({"hold"}),
        routes=("store",),
    )
    assert made.rules[0].phase is ACTIONS[name].phase


def test_a_file_of_250_kb_is_taken(tmp_path):
    rules = [
        f"  - id: r{n}\n    description: rule number {n} of very many\n"
        f"    match: {{sender.domain: {{under: d{n}.example}}, subject: {{contains: word{n}}}}}\n"
        f"    then: {{score: {n % 9}, tag: t{n}}}\n"
        for n in range(1500)
    ]
    text = (
        "version: 1\nlisteners: [{name: a, listen: 127.0.0.1:1}]\nrelay: {domains: [example.net]}\n"
        "upstreams: {a: {address: 127.0.0.1:2}}\npipeline: [rules]\nrules:\n" + "".join(rules)
    )
    assert len(text) > 250_000
    path = tmp_path / "relayproxy.yaml"
    path.write_text(text)
    loaded = load(path, environ={})
    assert [problem.render() for problem in loaded.problems] == []
    assert (
        loaded.choices[0][2]
        .ruleset.rules[-1]
        .where.endswith(f":{text[: text.rindex('- id')].count(chr(10)) + 1}")
    )
