"""Questions to the history from the command line."""

import json

import pytest
from click.testing import CliRunner
from tests.history.making import LATER, NO, NOON, OK, kept, message

from relayproxy.cli.root import main
from relayproxy.model.event import NoteEvent, TlsEvent
from relayproxy.model.finding import Finding
from relayproxy.testing.mail import make_address

SINCE = "2024-10-04"


@pytest.fixture
def ask(tmp_path):
    """Run `relayproxy history ...`; returns what it prints, or the value where it is JSON."""
    rule = Finding("rule", "hit", 2.0, {"id": "no-invoices"}, by="rules")
    spring = Finding("campaign", "hit", props={"name": "spring"})
    kept(
        tmp_path / "h.db",
        message(1, identity="ana", findings=(spring, rule), seconds=0.25),
        message(2, outcome="rejected", replies=[NO], findings=(rule,), reason="because"),
        message(3, outcome="deferred", replies=[LATER], reason="\x1b[2Jgone"),
        NoteEvent(NOON + 9, "attempt", "m1", make_address("b@example.net"), OK, "far", {"seconds_queued": 9}),
        TlsEvent(NOON, "far", "example.net", "mx.example.net", 25, "verify", "success", "TLSv1.3"),
    )
    config = tmp_path / "c.yaml"
    config.write_text(
        "version: 1\nlisteners: [{name: a, listen: 127.0.0.1:2525}]\n"
        f"upstreams: {{u: {{address: 127.0.0.1:2526}}}}\nhistory: {{url: 'sqlite://{tmp_path}/h.db'}}\n"
    )

    def run(command, *arguments, period=True, code=0):
        times = ("--since", SINCE) if period else ()
        done = CliRunner().invoke(main, ["history", command, "-C", str(config), *times, *arguments])
        assert done.exit_code == code, done.output
        return json.loads(done.output) if "--json" in arguments else done.output

    return run


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        ("day", ["2024-10-04"]),
        ("recipient_domain", ["example.net"]),
        ("route", ["mailstore"]),
        ("rule", ["no-invoices"]),
        ("campaign", ["", "spring"]),
        ("login", ["", "ana"]),
    ],
)
def test_totals_and_latencies_by_each_key(ask, by, keys):
    assert [row["key"] for row in ask("totals", "--by", by, "--json")] == keys
    (row,) = ask("latency", "--by", by, "--json")
    assert (row["p50"], row["p99"]) == (0.25, 0.25)


def test_a_table_is_printed_for_people(ask):
    lines = ask("totals").splitlines()
    assert lines[0].split() == [
        *("key", "messages", "relayed", "queued", "deferred", "rejected"),
        *("discarded", "held", "resent", "octets"),
    ]
    assert lines[1].split() == ["2024-10-04", "3", "1", "0", "1", "1", "0", "0", "0", "3000"]
    assert ask("totals", "--until", "2024-10-04T01") == "nothing in this period\n"


def test_other_numbers(ask):
    (row,) = ask("deliveries", "--by", "campaign", "--json")
    assert (row["key"], row["delivered"], row["p95"]) == ("spring", 1, 9)
    (row,) = ask("findings", "--method", "rule", "--property", "id", "--json")
    assert (row["key"], row["messages"], row["score"]) == ("no-invoices", 2, 4)
    assert {row["status"] for row in ask("failures", "--json")} == {"5.7.1", "4.2.1"}
    assert ask("refusals", "--json") == []
    (row,) = ask("tls", "--json")
    assert (row["domain"], row["result"], row["connections"]) == ("example.net", "success", 1)


def test_messages_are_listed_and_told(ask):
    output = ask("list", "--to", "b@*", "--outcome", "rejected")
    assert "m2  rejected" in output
    assert output.endswith("1 message\n")
    assert [one["id"] for one in ask("list", "--rule", "no-invoices", "--json")] == ["m2", "m1"]
    output = ask("show", "m1", period=False)
    assert output.index("message  relayed") < output.index("attempt  done")
    assert "rules: rule=hit  +2" in output
    assert "reason: because" in ask("show", "m2", period=False)
    assert len(ask("show", "m1", "--json", period=False)) == 2
    assert "knows no m9" in ask("show", "m9", period=False, code=1)


def test_what_keeps_it_from_answering(ask, tmp_path):
    assert "before it begins" in ask("totals", "--until", "2020-01-01", code=2)
    (tmp_path / "h.db").unlink()
    assert "h.db" in ask("totals", code=1)
    config = tmp_path / "c.yaml"
    config.write_text(config.read_text().partition("history:")[0])
    assert "keeps no history" in ask("totals", code=78)


def test_what_strangers_wrote_does_not_act_on_a_terminal(ask):
    printed = ask("show", "m3", period=False)
    assert "\ufffd[2Jgone" in printed
    assert "\x1b" not in printed
