"""The log: levels, both styles, privacy, and what strangers write into it."""

import json
import logging

import pytest

from relayproxy.core.log import Bridge, Log

NOON = 1_800_014_400.25


def logged(style="json", fields=None, level="info", **options):
    """Return the lines that one event makes."""
    lines = []
    log = Log(lines.append, lambda: NOON, style=style, **options)
    getattr(log, level)("tested", **(fields or {}))
    return lines


def test_an_event_is_one_line_of_json_with_its_time_first():
    [line] = logged(fields={"id": "c0.1", "count": 2})
    assert line.endswith("}\n")
    assert list(json.loads(line).items()) == [
        ("time", "2027-01-15T12:00:00.250Z"),
        ("level", "info"),
        ("event", "tested"),
        ("id", "c0.1"),
        ("count", 2),
    ]


def test_people_read_words_and_nothing_empty():
    fields = {
        "id": "c0.1",
        "reply": "250 Ok",
        "none": None,
        "empty": "",
        "to": ["a@b", "c@d"],
        "hooks": {"spf.mail": 0.00123},
        "seconds": 1.23456,
    }
    [line] = logged("human", fields)
    assert line.startswith("2027-01-15T12:00:00.250Z info    tested  id=c0.1  ")
    assert line.endswith('  reply="250 Ok"  to=a@b,c@d  hooks=spf.mail:0.001  seconds=1.235\n')


@pytest.mark.parametrize("style", ["json", "human"])
@pytest.mark.parametrize(
    "text", ["a\nlevel=error", "a\r\nb", "\x1b[31m", "a\x00b", "\u2028", "\udcff", 2**70]
)
def test_nothing_that_a_stranger_writes_ends_a_line_or_reaches_the_terminal(style, text):
    [line] = logged(style, {"helo": text})
    assert line.count("\n") == 1
    assert line.removesuffix("\n").isprintable() or "\u2028" in line
    if style == "json":
        assert json.loads(line)["helo"] == text


@pytest.mark.parametrize(
    ("least", "written"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_only_what_is_grave_enough_is_written(least, written):
    lines = []
    log = Log(lines.append, lambda: NOON, level=least)
    for level in ("debug", "info", "warning", "error"):
        getattr(log, level)(level)
    assert [json.loads(line)["event"] for line in lines] == written


def test_the_journal_learns_the_level():
    starts = [logged(level=level, journal=True)[0][:3] for level in ("info", "warning", "error")]
    assert starts == ["<6>", "<4>", "<3>"]


@pytest.mark.parametrize(
    ("privacy", "sender", "recipients", "login"),
    [
        ("full", "ana@example.org", ["bob@example.net"], "ana"),
        ("mask", "a***@example.org", ["b***@example.net"], "a***"),
        ("hash", "24d4b96f58da@example.org", ["81b637d8fcd2@example.net"], "24d4b96f58da"),
    ],
)
def test_addresses_can_be_hidden_and_domains_stay(privacy, sender, recipients, login):
    fields = {"from": "ana@example.org", "to": ["bob@example.net"], "login": "ana", "ip": "192.0.2.1"}
    [line] = logged(fields=fields, privacy=privacy)
    shown = json.loads(line)
    assert (shown["from"], shown["to"], shown["login"]) == (sender, recipients, login)
    assert shown["ip"] == "192.0.2.1"


def test_the_null_sender_has_nothing_to_hide():
    [line] = logged(fields={"from": ""}, privacy="hash")
    assert json.loads(line)["from"] == ""


@pytest.mark.parametrize(
    ("number", "level"),
    [
        (logging.INFO, "info"),
        (logging.WARNING, "warning"),
        (logging.ERROR, "error"),
        (50, "error"),
        (35, "warning"),
    ],
)
def test_plugins_write_through_the_logging_module(number, level):
    lines = []
    bridge = Bridge(Log(lines.append, lambda: NOON))
    bridge.emit(logging.LogRecord("relayproxy.plugin.x", number, "f.py", 1, "seen %s", ("it",), None))
    event = json.loads(lines[0])
    assert (event["event"], event["level"], event["logger"]) == ("log", level, "relayproxy.plugin.x")
    assert event["message"] == "seen it"


def test_a_traceback_becomes_a_field():
    lines = []
    bridge = Bridge(Log(lines.append, lambda: NOON))
    error = RuntimeError("no model")
    told = (RuntimeError, error, None)
    bridge.emit(logging.LogRecord("relayproxy.plugin.x", logging.ERROR, "f.py", 1, "it failed", (), told))
    event = json.loads(lines[0])
    assert event["message"] == "it failed"
    assert "RuntimeError: no model" in event["exception"]
