"""`relayproxy rules`, `replay` and `test` with rules: what is shown, and where each rule stands."""

import json

import pytest
from click.testing import CliRunner

from relayproxy.cli.root import main

HEAD = """\
version: 1
hostname: mx.example.net
listeners: [{name: inbound, listen: 127.0.0.1:2525}]
relay: {domains: [example.net]}
upstreams: {store: {address: 127.0.0.1:2526}}
dns: {servers: ["127.0.0.1:1"], timeout: 100ms}
pipeline: [spf, rules]
"""
RULES = """\
rules:
  - id: boss
    description: The boss takes no hello
    match: {recipient: boss@example.net, subject: hello}
    then: {reject: "Busy, {sender}"}
  - id: stranger
    match: {sender.domain: {under: bad.example}}
    sample: 0.5
    until: 2031-01-31
    then: {rate_limit: {key: "{sender}", rate: 5/m, count: recipients}, reject: {code: 554, text: Enough}}
  - id: spf
    mode: observe
    match: {spf: fail}
    then: {score: 4}
"""


def run(*arguments):
    done = CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "relayproxy.yaml"
    path.write_text(HEAD + RULES)
    return path


def test_the_list_shows_the_phase_and_the_place(config):
    code, out, _ = run("rules", "list", "-C", config)
    assert code == 0
    rows = [line.split() for line in out.splitlines()[1:]]
    assert [row[:2] for row in rows] == [["message", "boss"], ["rcpt", "stranger"], ["message", "spf"]]
    assert rows[0][-1] == f"{config}:9"
    assert "would score +4" in out


def test_the_list_as_json(config):
    code, out, _ = run("rules", "list", "-C", config, "-o", "json")
    first = json.loads(out)[0]
    assert (code, first["id"], first["phase"], first["facts"]) == (
        0,
        "boss",
        "message",
        ["recipient", "subject"],
    )
    assert first["why"] == "it asks about subject"


def test_one_rule_is_explained(config):
    code, out, _ = run("rules", "explain", "stranger", "-C", config)
    assert code == 0
    for said in (
        "asked at RCPT",
        "replies 554 5.7.1",
        "5 in 60 s",
        "for 50% of the mail",
        "until 2031-01-31",
    ):
        assert said in out
    code, out, _ = run("rules", "explain", "boss", "-C", config)
    assert "it asks about subject" in out
    assert "come apart" in out


def test_a_rule_that_is_not_there(config):
    code, _, err = run("rules", "explain", "bos", "-C", config)
    assert (code, "did you mean 'boss'?" in err) == (1, True)


def test_a_configuration_without_rules(tmp_path):
    path = tmp_path / "relayproxy.yaml"
    path.write_text(HEAD)
    assert run("rules", "list", "-C", path)[0] == 78


def test_the_test_command_names_the_rule_and_its_place(config, tmp_path):
    message = tmp_path / "a.eml"
    message.write_bytes(b"From: a@example.org\r\nTo: boss@example.net\r\nSubject: Hello\r\n\r\n")
    _, out, _ = run("test", message, "-C", config)
    assert f'rule reject                         "boss"  {config}:9  The boss takes no hello' in out
    assert "=> 550 5.7.1 Busy, a@example.org" in out


@pytest.fixture
def mails(tmp_path):
    folder = tmp_path / "mails"
    folder.mkdir()
    (folder / "a.eml").write_bytes(b"From: a@example.org\nTo: boss@example.net\nSubject: hello\n\nx\n")
    (folder / "b.eml").write_bytes(b"From: a@example.org\nTo: ana@example.net\nSubject: x\n\nx\n")
    known = {
        "sender": "",
        "ip": "198.51.100.1",
        "findings": [{"method": "spf", "result": "fail", "by": "spf"}],
    }
    (folder / "b.json").write_text(json.dumps(known))
    return folder


def test_replay_shows_what_would_end_differently(config, mails, tmp_path):
    new = tmp_path / "new.yaml"
    text = RULES.replace("subject: hello", "subject: hallo").replace("mode: observe\n    ", "")
    new.write_text(HEAD + text)
    code, out, _ = run("replay", mails, "-C", config, "--with", new)
    assert code == 0
    lines = out.splitlines()
    assert lines[:3] == [
        "a.eml",
        f"  - reject: 550 5.7.1 Busy, a@example.org  (rule boss, {config}:9)",
        "  + accept: 250 2.0.0 Ok, a stand-in for the upstream took it",
    ]
    assert "b.eml" in lines
    assert "  score 0 -> 4" in lines
    assert lines[-1] == "2 messages, 2 would end differently"
    code, out, _ = run("replay", mails, "-C", config, "--with", new, "--strict", "-o", "json")
    assert (code, json.loads(out)["messages"]) == (1, 2)


def test_replay_of_the_same_changes_nothing(config, mails):
    code, out, _ = run("replay", mails, "-C", config, "--with", config, "--strict")
    assert (code, out) == (0, "2 messages, 0 would end differently\n")


@pytest.mark.parametrize(
    "beside", ["[1]", "{", '{"form": 1}', '{"findings": [{"method": "x", "result": "y"}]}']
)
def test_replay_says_what_it_can_not_read(config, mails, beside):
    (mails / "b.json").write_text(beside)
    code, _, err = run("replay", mails, "-C", config, "--with", config)
    assert (code, "b.json" in err) == (2, True)


def test_a_failing_test_is_a_failing_check(config):
    text = (
        config.read_text()
        + "tests:\n  - given: {recipients: boss@example.net}\n    expect: {verdict: reject}\n"
    )
    config.write_text(text)
    code, _, err = run("check", "-C", config)
    assert code == 78
    assert f"{config}:{text.count(chr(10))}:23: error[RP815]" in err
    assert "no rule matched" in err


def test_an_expression_is_checked_tested_and_explained(tmp_path):
    pytest.importorskip("cel")
    path = tmp_path / "relayproxy.yaml"
    path.write_text(
        HEAD
        + """\
rules:
  - id: large
    match: {direction: inbound}
    when: |
      size > 10 &&
      subject == 'hello'
    then: {reject: "Too large"}
tests:
  - given: {headers: {Subject: hello}}
    expect: {rule: large, code: 550}
"""
    )
    assert run("check", "-C", path)[0] == 0
    code, said, _ = run("rules", "explain", "large", "-C", path)
    assert code == 0
    assert "  evaluates size > 10 && subject == 'hello'\n" in said
    assert "  asks about size: octets of the message\n" in said
    message = tmp_path / "m.eml"
    message.write_bytes(b"From: a@example.org\r\nSubject: hello\r\n\r\nHi\r\n")
    _, said, _ = run("test", message, "-C", path, "--to", "b@example.net")
    assert f"{path}:9" in said
    path.write_text(path.read_text().replace("subject == 'hello'\n    then", "subject == 5\n    then"))
    code, said, problems = run("check", "-C", path)
    assert code == 78
    assert 'large" > when' in problems, problems
