import json
import logging

import pytest

from relayproxy.api import Outcome, Recipient, Reply, State
from relayproxy.testing.mail import call, make_address, make_mail

DONE = Outcome(
    Recipient(make_address("b@example.net")), State.DONE, Reply(250, "2.0.0", "queued as 4X1"), "store"
)
FAILED = Outcome(
    Recipient(make_address("c@example.net")), State.FAILED, Reply(550, "5.1.1", "No such user"), "store"
)


@pytest.fixture
def report(load, app):
    """Start the plugin, report outcomes, end it; what it has written is on disk then."""

    async def about(*outcomes, file="outcomes.jsonl"):
        plugin = load("outcome_log", file=file)
        await call(plugin, "startup", app=app)
        for some in outcomes:
            await call(plugin, "after_forward", mail=make_mail(b"A: b\r\n\r\n"), outcomes=some)
        await call(plugin, "shutdown")

    return about


async def test_a_line_for_each_recipient(report, tmp_path):
    await report((DONE, FAILED))
    lines = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "time": 1_800_000_000.0,
        "id": "test.1",
        "ip": "192.0.2.1",
        "from": "a@example.org",
        "size": 8,
        "to": "b@example.net",
        "route": "store",
        "state": "done",
        "reply": "250 2.0.0 queued as 4X1",
    }
    assert [(line["to"], line["state"]) for line in lines] == [
        ("b@example.net", "done"),
        ("c@example.net", "failed"),
    ]


async def test_lines_are_appended_in_order(report, tmp_path):
    (tmp_path / "outcomes.jsonl").write_text("before\n")
    await report((DONE,), (FAILED,), (DONE,))
    before, *lines = (tmp_path / "outcomes.jsonl").read_text().splitlines()
    assert before == "before"
    assert [json.loads(line)["state"] for line in lines] == ["done", "failed", "done"]


async def test_a_file_that_can_not_be_written_is_logged_and_stops_nothing(report, caplog):
    with caplog.at_level(logging.WARNING):
        await report((DONE,), (FAILED,), file="absent/outcomes.jsonl")
    assert [record.name for record in caplog.records] == ["relayproxy.plugin.outcome_log"] * 2
    assert "No such file" in caplog.text


async def test_a_writer_that_does_not_keep_up_costs_lines_and_no_time(load, app, caplog):
    plugin = load("outcome_log", file="outcomes.jsonl")
    await call(plugin, "startup", app=app)
    await call(plugin, "shutdown")  # nobody takes anything out of the queue from here on
    for _ in range(10_001):
        plugin.after_forward(make_mail(b"A: b\r\n\r\n"), (DONE,))
    assert [record.getMessage().endswith("test.1 is not in it") for record in caplog.records] == [True]
