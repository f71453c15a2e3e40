"""Whatever is written under rules, lists and tests: flaws, never an exception, each with a path that can be shown."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relayproxy.config.codes import CODES
from relayproxy.config.rules import Trial, run_cases
from relayproxy.rules.action_table import ACTIONS
from relayproxy.rules.action_table import MEANT as ACTION_MEANT
from relayproxy.rules.cases import CLIENT, EXPECT, GIVEN, read_cases
from relayproxy.rules.compiler import compile_rules
from relayproxy.rules.fact_table import FACTS
from relayproxy.rules.facts import CHECKS
from relayproxy.rules.lists import KEYS as LIST_KEYS
from relayproxy.rules.lists import TYPES
from relayproxy.rules.operators import MEANT, OPERATORS
from relayproxy.rules.reader import KEYS

WORDS = [
    *KEYS,
    *ACTIONS,
    *ACTION_MEANT,
    *FACTS,
    *CHECKS,
    *OPERATORS,
    *MEANT,
    *GIVEN,
    *EXPECT,
    *CLIENT,
    *LIST_KEYS,
    *TYPES,
]
WORDS += [
    "all",
    "any",
    "not",
    "every",
    "in_list",
    "zone",
    "between",
    "code",
    "status",
    "text",
    "key",
    "rate",
    "burst",
]
WORDS += [
    "header.x",
    "finding.x",
    "finding.",
    "header.",
    "spf.score",
    "local",
    "domain",
    "skip",
    "add",
    "symbol",
    "result",
]
SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from(WORDS),
    st.sampled_from(
        [
            "{",
            "}",
            "{sender}",
            "{nope}",
            "a@b.example",
            "<>",
            "10 MB",
            "5/m",
            "192.0.2.0/24",
            "(",
            "\\1",
            "é",
            "\0",
            "",
        ]
    ),
    st.sampled_from(
        ["l", "22:00", "2031-01-31", "Europe/Madrid", "../../etc/passwd", "5.7.1", "550", "*", "x" * 2000]
    ),
    st.text(max_size=6),
)
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=12,
)
RULE = st.fixed_dictionaries(
    {"id": st.one_of(st.sampled_from(["a", "b"]), SCALAR), "then": st.one_of(st.just("reject"), VALUE)},
    optional={
        "match": st.dictionaries(st.sampled_from(WORDS), VALUE, max_size=3),
        "until": SCALAR,
        "sample": SCALAR,
        "mode": SCALAR,
    },
)
RULES = st.one_of(VALUE, st.lists(st.one_of(RULE, VALUE), max_size=4))
LISTS = st.one_of(VALUE, st.dictionaries(st.sampled_from(["l", "m"]), VALUE, max_size=2))
CASE = st.fixed_dictionaries(
    {"expect": st.dictionaries(st.sampled_from(list(EXPECT)), VALUE, max_size=3)},
    optional={"given": st.dictionaries(st.sampled_from(list(GIVEN)), VALUE, max_size=4), "name": SCALAR},
)
CASES = st.one_of(VALUE, st.lists(st.one_of(CASE, VALUE), max_size=3))


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(RULES, LISTS, st.one_of(st.none(), st.lists(st.sampled_from(["spf", "rules", "dmarc"]), max_size=3)))
def test_rules(rules, lists, pipeline):
    made, flaws = compile_rules(rules, lists, listeners=["inbound"], pipeline=pipeline)
    for flaw in flaws:
        assert flaw.code in CODES
        assert flaw.message
        assert flaw.message.isprintable()
        assert flaw.path[0] in ("rules", "lists")
    assert len(made) <= (len(rules) if isinstance(rules, list) else 0)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(CASES)
def test_cases(cases):
    made, _ = compile_rules(
        [{"id": "a", "match": {"subject": {"contains": "x"}}, "then": {"score": 1, "tag": "t"}}]
    )
    read, flaws = read_cases(cases, ["a"])
    for flaw in (*flaws, *run_cases(read, Trial(made, Path()))):
        assert flaw.code in CODES
        assert flaw.path[0] == "tests"
