"""Replay over the history: what is certain, what can't be told, and what is played whole."""

import json
import sqlite3

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tests.history.making import NO, NOON, kept, message
from tests.servers.client import Client

from relayproxy.cli.replay_rules import KNOWN, Rulebook
from relayproxy.cli.root import main
from relayproxy.history.messages import Kept
from relayproxy.model.finding import Finding
from relayproxy.rules.compiler import compile_rules
from relayproxy.rules.fact_table import FACTS
from relayproxy.rules.facts import World
from relayproxy.testing.upstream import UpstreamSink

SINCE = "2024-10-04"
SPF = Finding("spf", "fail", 1.0, {"smtp.mailfrom": "bad.example"}, by="spf")


def book(*rules, before=("spf",), lists=None, domains=()):
    ruleset, flaws = compile_rules(list(rules), lists)
    assert [flaw for flaw in flaws if flaw.severity == "error"] == []
    return Rulebook(ruleset, World(ruleset.table, frozenset(domains)), frozenset(before))


def a_message(**facts):
    values = {
        "at": float(NOON),
        "id": "m1",
        "outcome": "relayed",
        "listener": "inbound",
        "route": "store",
        "direction": "inbound",
        "ip": "192.0.2.1",
        "helo": "mx.bad.example",
        "login": "",
        "tls": "TLSv1.3",
        "sender": "a@bad.example",
        "campaign": "",
        "message_id": "",
        "size": 5000,
        "code": 250,
        "reply": "250 2.0.0 Ok",
        "reason": "",
        "score": 1.0,
        "seconds": 0.1,
        "recipients": (("b@example.net", "done", "250 2.0.0 Ok"),),
        "findings": (SPF,),
    }
    return Kept(**(values | facts))


def judged(*rules, asked=("spf", "rules"), to="b@example.net", facts=None, **options):
    found = book(*rules, **options).judge(a_message(**(facts or {})), to, frozenset(asked))
    return found.verdict.partition("  ")[0], found.points, [(one.rule.id, one.why) for one in found.open]


@pytest.mark.parametrize(
    "match",
    [
        {"client.ip": "192.0.2.0/24"},
        {"client.helo": {"under": "bad.example"}, "client.tls": True, "client.trusted": False},
        {"sender.domain": "bad.example", "recipient": "B@example.net", "size": {"above": "4 KB"}},
        {"spf": "fail", "finding.spf.smtp.mailfrom": "bad.example"},
        {"score": {"at_least": 1}},
        {"direction": "inbound", "listener": "inbound", "recipients.count": 1},
        {"time": {"between": ["11:00", "13:00"]}, "weekday": "fri"},
        # One that is not known may stand beside one that decides.
        {"any": [{"sender.domain": "bad.example"}, {"subject": "x"}]},
        {"not": {"all": [{"sender.domain": "good.example"}, {"subject": "x"}]}},
    ],
)
def test_what_the_history_knows_decides(match):
    assert judged({"id": "r", "match": match, "then": {"reject": "no"}}) == ("reject 550 5.7.1", 0, [])


@pytest.mark.parametrize(
    ("match", "why"),
    [
        ({"subject": "x"}, "subject"),
        ({"client.ptr": "x.example", "sender.domain": "bad.example"}, "client.ptr"),
        ({"header.list-id": "x"}, "header.list-id"),
        ({"attachments.count": 2}, "attachments.count"),
        ({"dkim": "pass"}, "dkim"),
        ({"finding.clamav": "hit"}, "finding.clamav"),
    ],
)
def test_what_it_does_not_know_is_named_and_not_guessed(match, why):
    verdict, _, undecided = judged({"id": "r", "match": match, "then": {"reject": "no"}})
    assert (verdict, undecided) == ("accept", [("r", why)])


def test_a_plugin_that_was_asked_and_found_nothing_is_known_to_have_found_nothing():
    rule = {"id": "r", "match": {"finding.clamav": "hit"}, "then": {"reject": "no"}}
    before = ("spf", "clamav")
    assert judged(rule, before=before) == ("accept", 0, [("r", "finding.clamav")])
    assert judged(rule, before=before, asked=("spf", "clamav", "rules")) == ("accept", 0, [])


def test_findings_of_plugins_behind_the_rules_are_not_seen_by_them():
    rule = {"id": "r", "match": {"spf": "fail"}, "then": {"reject": "no"}}
    verdict, _, _ = judged(rule, before=())
    assert verdict == "accept"


def test_what_hangs_on_an_undecided_rule_is_undecided():
    doubtful = {"id": "a", "match": {"subject": "x"}, "then": {"score": 5, "tag": "odd"}}
    high = {"id": "b", "match": {"score": {"above": 3}}, "then": {"reject": "no"}}
    tagged = {"id": "c", "match": {"tags": "odd"}, "then": {"defer": "odd"}}
    assert judged(doubtful, high, tagged) == (
        "accept",
        0,
        [("a", "subject"), ("b", "score"), ("c", "tags")],
    )
    sure = {"id": "s", "match": {"sender.domain": "bad.example"}, "then": {"score": 5, "tag": "odd"}}
    assert judged(sure, high)[:2] == ("reject 550 5.7.1", 5)


def test_rates_samples_lists_and_ends():
    everything = {"sender.domain": "bad.example"}
    limited = {"id": "r", "match": everything, "then": {"rate_limit": {"key": "{sender}", "rate": "5/m"}}}
    assert judged(limited)[2] == [("r", "how much mail there was (rate_limit)")]
    sampled = {"id": "r", "match": everything, "sample": 0.5, "then": {"reject": "no"}}
    assert judged(sampled)[2] == [("r", "the sample")]
    past = {"id": "r", "match": everything, "until": "2020-01-31", "then": {"reject": "no"}}
    assert judged(past) == ("accept", 0, [])
    observed = {"id": "r", "match": everything, "mode": "observe", "then": {"reject": "no"}}
    assert judged(observed)[0] == "accept"
    redirected = {"id": "r", "match": everything, "then": {"redirect": "c@example.net"}}
    after = {
        "id": "s",
        "match": {"recipient": "b@example.net", "size": {"above": 1}},
        "then": {"reject": "no"},
    }
    assert judged(redirected, after)[2] == [("s", "recipient")]
    zones = {"bl": {"type": "dns", "zone": "bl.example"}}
    listed = {"id": "r", "match": {"client.ip": {"in_list": "bl"}}, "then": {"reject": "no"}}
    assert judged(listed, lists=zones)[2] == [("r", "the DNS list bl")]


def test_every_known_fact_is_one():
    assert set(FACTS) >= KNOWN


condition = st.recursive(
    st.sampled_from(
        [
            {"sender.domain": "bad.example"},
            {"sender.domain": "good.example"},
            {"subject": "x"},
            {"client.ptr": "x.example"},
            {"spf": "fail"},
            {"size": {"above": 1}},
            {"dkim": "pass"},
        ]
    ),
    lambda inner: st.one_of(
        st.builds(lambda one: {"not": one}, inner),
        st.builds(lambda some: {"all": some}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda some: {"any": some}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=6,
)
_ANSWERS = {
    "sender.domain": lambda value: value == "bad.example",
    "spf": lambda _: True,
    "size": lambda _: True,
}


def possible(match, unknowns):
    """The answers that a condition can have, over all answers of what is not known."""
    (name, value), *_ = match.items()
    if name == "not":
        return not possible(value, unknowns)
    if name in ("all", "any"):
        return (all if name == "all" else any)([possible(one, unknowns) for one in value])
    return _ANSWERS[name](value) if name in _ANSWERS else unknowns[name]


@given(condition)
def test_whatever_is_asked_no_answer_is_wrong(match):
    verdict, _, undecided = judged({"id": "r", "match": match, "then": {"reject": "no"}})
    answers = {
        possible(match, {"subject": a, "client.ptr": b, "dkim": c})
        for a in (True, False)
        for b in (True, False)
        for c in (True, False)
    }
    if not undecided:
        assert answers == {verdict.startswith("reject")}


HEAD = """\
version: 1
hostname: mx.example.net
listeners: [{{name: inbound, listen: 127.0.0.1:2525}}]
relay: {{domains: [example.net]}}
upstreams: {{store: {{address: 127.0.0.1:2526}}}}
dns: {{servers: ["127.0.0.1:1"], timeout: 100ms}}
history: {{url: "sqlite://{folder}/h.db"}}
pipeline: [spf, rules]
"""
OLD = """\
rules:
  - {id: bad, match: {spf: fail}, then: {score: 3}}
"""
NEW = """\
rules:
  - {id: bad, match: {spf: fail}, then: {reject: "SPF says no"}}
  - {id: words, match: {subject: {contains: invoice}}, then: {defer: words}}
"""


@pytest.fixture
def replay(tmp_path):
    for name, rules in (("old", OLD), ("new", NEW)):
        (tmp_path / f"{name}.yaml").write_text(HEAD.format(folder=tmp_path) + rules)
    rule = Finding("rule", "hit", 3.0, {"id": "bad"}, by="rules")
    kept(
        tmp_path / "h.db",
        message(1, findings=(SPF, rule), sender="a@bad.example", to=("b@example.net", "c@example.net")),
        message(2, findings=(Finding("spf", "pass", by="spf"),)),
        message(3, findings=(SPF,), outcome="rejected", replies=[NO]),
    )

    def run(*arguments, code=0, new="new"):
        done = CliRunner().invoke(
            main,
            [
                *("replay", "--history", "-C", str(tmp_path / "old.yaml")),
                *("--with", str(tmp_path / f"{new}.yaml"), *arguments),
            ],
        )
        assert done.exit_code == code, done.output
        return done.output

    return run


def test_what_would_be_different_and_what_cannot_be_told(replay, tmp_path):
    lines = replay("--since", SINCE).splitlines()
    place = f"{tmp_path}/new.yaml"
    assert lines[:6] == [
        "m1",
        "  - accept",
        f"  + reject 550 5.7.1  (rule bad, {place}:10)",
        "  score of rules 3 -> 0",
        "  - rule bad: score +3",
        "  + rule bad: reject",
    ]
    assert lines[6:8] == ["m2", f"  ? + rule words ({place}:11) needs subject"]
    assert lines[-1] == "3 messages, 2 would end differently, 1 can't be told"
    assert replay("--since", SINCE, "--outcome", "rejected").splitlines()[-1].startswith("1 message, 1 would")
    replay("--since", SINCE, "--strict", code=1)
    value = json.loads(replay("--since", SINCE, "-o", "json"))
    assert (value["messages"], value["whole"]) == (3, 0)
    assert [one["message"] for one in value["changed"]] == ["m1", "m3"]
    assert [one["message"] for one in value["undecided"]] == ["m2"]


def test_the_same_configuration_changes_nothing(replay):
    assert replay("--since", SINCE, "--strict", new="old") == "3 messages, 0 would end differently\n"


def test_a_content_beside_it_is_played_whole(replay, tmp_path):
    folder = tmp_path / "mails"
    folder.mkdir()
    (folder / "m2.eml").write_bytes(b"From: a@example.org\nSubject: your invoice\n\nx\n")
    output = replay(str(folder), "--since", SINCE, "-o", "json")
    value = json.loads(output)
    assert (value["whole"], value["undecided"]) == (1, [])
    (changed,) = [one for one in value["changed"] if one["message"] == "m2"]
    assert "rule words" in " ".join(changed["changes"])


def test_what_does_not_fit_together(replay, tmp_path):
    assert "before it begins" in replay("--since", SINCE, "--until", "2020-01-01", code=2)
    base = ["replay", "-C", str(tmp_path / "old.yaml"), "--with", str(tmp_path / "new.yaml")]
    for more in ([], [str(tmp_path), "--login", "x"], [str(tmp_path), "--since", SINCE]):
        assert CliRunner().invoke(main, [*base, *more]).exit_code == 2
    with sqlite3.connect(tmp_path / "h.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "version 99" in replay(code=1)


async def test_a_held_message_is_played_whole(relay):
    """From a proxy that holds it: its history and its quarantine."""
    async with UpstreamSink() as sink:
        facts = {
            "relay": {"domains": ["example.net"]},
            "dns": {"servers": ["127.0.0.1:1"], "timeout": "100ms"},
            "history": {"url": f"sqlite://{relay.folder}/h.db"},
            "spool": {"url": f"sqlite://{relay.folder}/spool/s.db"},
            "pipeline": ["rules"],
        }
        (relay.folder / "spool").mkdir()
        hold = {"id": "words", "match": {"subject": {"contains": "invoice"}}, "then": {"hold": "words"}}
        relay.configure(sink.address, **facts, rules=[hold])
        await relay.start()
        async with await Client.open(relay.port) as client:
            content = b"From: a@a.example\r\nSubject: your invoice\r\n\r\nHi.\r\n"
            assert (await client.message(content, "a@a.example", ("b@example.net",))).code == 250
        await relay.finish()
        config = json.loads(relay.config_file.read_text())
        config["rules"] = [hold | {"match": {"subject": {"contains": "bill"}}}]
        other = relay.folder / "other.json"
        other.write_text(json.dumps(config))
        arguments = ("replay", "--history", "-C", str(relay.config_file), "-o", "json", "--with")
        status, output = await relay.output(*arguments, str(other))
        assert status == 0, output
        value = json.loads(output)
        assert (value["whole"], len(value["changed"]), value["undecided"]) == (1, 1, [])
        assert value["changed"][0]["changes"][0].startswith("- hold")
        status, output = await relay.output(*arguments, str(relay.config_file))
        assert json.loads(output)["changed"] == []
