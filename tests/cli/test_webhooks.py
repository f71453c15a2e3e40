"""What waits in the outbox, from the command line."""

import json
import time

import pytest
from click.testing import CliRunner

from relayproxy.builtin._outbox import Filter, Outbox
from relayproxy.cli.root import main

CONFIG = """\
version: 1
hostname: mx.example.org
listeners:
  - {name: inbound, listen: "127.0.0.1:2525"}
relay: {networks: [127.0.0.0/8]}
upstreams:
  store: {address: "127.0.0.1:2526"}
pipeline:
  - webhooks: {url: "https://hooks.example/x", secret: {env: HOOKS}, file: out.db}
"""


@pytest.fixture
def outbox(tmp_path):
    made = Outbox(tmp_path / "out.db")
    for number, (event, to) in enumerate(
        [("delivered", "a@x.example"), ("failed", "b@x.example"), ("failed", "c@y.example")]
    ):
        body = {"id": f"e{number}", "event": event, "recipient": to}
        made.put([(f"e{number}", json.dumps(body))], time.time() - 3600 * (9 - 3 * number))
    yield made
    made.close()


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("HOOKS", "a secret that is long enough")
    (tmp_path / "relayproxy.yaml").write_text(CONFIG)

    def run(command, *words, code=0, given=None):
        where = ("-C", str(tmp_path / "relayproxy.yaml"))
        result = CliRunner().invoke(main, ["webhooks", command, *where, *words], input=given)
        assert result.exit_code == code, result.output
        return result

    return run


def test_what_waits(outbox, run):
    outbox.failed(9e9, "status 500\x1b[2J")
    told = json.loads(run("list", "--json").stdout)
    assert (told["count"], [one["id"] for one in told["events"]]) == (3, ["e0", "e1", "e2"])
    assert told["sending"]["failures"] == 1
    said = run("list", "--event", "failed", "--to", "*@X.example")
    assert [line.split()[0] for line in said.stdout.splitlines()] == ["e1"]
    assert "1 tries failed" in said.stderr
    assert "\x1b" not in said.stderr
    assert "3 found, 1 shown" in run("list", "--limit", "1").stderr
    assert json.loads(run("list", "--json", "--older", "4h").stdout)["count"] == 2
    run("list", "--older", "soon", code=2)


def test_one_event(outbox, run):
    assert json.loads(run("show", "e1").stdout)["recipient"] == "b@x.example"
    assert "no such event" in run("show", "e9", code=1).stderr


def test_trying_again(outbox, run):
    outbox.failed(9e9, "status 500")
    assert json.loads(run("retry", "--json").stdout) == {"waiting": 3}
    assert outbox.sending().due == 0


def test_dropping_is_counted_and_asked_about(outbox, run):
    said = run("drop", "--event", "failed", given="n\n", code=1)
    assert "2 found" in said.stderr
    assert outbox.waiting() == 3
    assert json.loads(run("drop", "--event", "failed", "--yes", "--json").stdout) == {
        "found": 2,
        "dropped": 2,
    }
    assert "nothing is found" in run("drop", "--yes", "e1", code=1).stderr
    assert "or say --all" in run("drop", "--yes", code=2).stderr
    assert run("drop", "--yes", "--all").stdout == "deleted: 1\n"


def test_without_an_outbox(run, tmp_path):
    assert "is not there" in run("list", code=1).stderr
    (tmp_path / "relayproxy.yaml").write_text(CONFIG.partition("  - webhooks")[0] + "  []\n")
    assert "not in the pipeline" in run("list", code=1).stderr


def test_a_pattern_means_no_more_than_stars_and_question_marks(outbox):
    assert outbox.waiting(Filter(recipient="[ab]@x.example")) == 0
    assert outbox.waiting(Filter(recipient="?@x.example")) == 2
