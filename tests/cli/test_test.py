"""`relayproxy test`: the verdict, the reply, the hooks, the findings and the changes of one message."""

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from relayproxy.cli.root import main
from relayproxy.testing.upstream import Fault, Step, UpstreamSink, answer

MESSAGE = (
    b"From: Ana <a@example.org>\r\nTo: b@example.net\r\nSubject: hello\r\nX-Spam: yes\r\n"
    b"Message-ID: <1@example.org>\r\n\r\nHello\r\n.dot\r\n"
)
PLUGIN = """\
from relayproxy.api import (
    AddHeader, Direction, Plugin, ReplaceBody, Settings, defer, discard, hold, hook, reject
)


class ProbeSettings(Settings):
    at: str = ""
    do: str = ""


ANSWERS = {
    "reject": reject("No", code=554), "defer": defer("Later"), "discard": discard(), "hold": hold(), "odd": "odd"
}


class Probe(Plugin[ProbeSettings]):
    settings = ProbeSettings

    def _act(self, stage):
        if stage != self.options.at:
            return None
        if self.options.do == "raise":
            raise RuntimeError("broken")
        return ANSWERS[self.options.do]

    @hook
    def startup(self):
        self._act("startup")

    @hook
    async def shutdown(self):
        self._act("shutdown")

    @hook
    def connect(self, client, note):
        note("probe", "hit", score=1.5, policy__at="connect")
        return self._act("connect")

    @hook
    def helo(self):
        return self._act("helo")

    @hook
    def auth(self):
        raise AssertionError("asked about a password that there isn't")

    @hook
    def mail(self, mail):
        mail.note("probe", "pass", reason="at MAIL")
        return self._act("mail")

    @hook
    def rcpt(self, rcpt):
        return self._act("rcpt") if rcpt.address.local == "b" else None

    @hook
    async def message(self):
        return self._act("message")

    @hook
    def before_forward(self):
        if self.options.do == "body":
            return ReplaceBody(b"Other\\r\\n")
        return AddHeader("X-Probe", "1") if self.options.do == "header" else None

    @hook
    def after_forward(self, outcomes):
        print("reported", *(outcome.state for outcome in outcomes))
"""


@pytest.fixture
def config(tmp_path):
    """Write a configuration with the probe plugin, told what to do where."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/probe.py").write_text(PLUGIN)

    def write(at="", do="", *, common="", **changes):
        options = ", ".join(f"{key}: {value}" for key, value in {"at": at, "do": do}.items() if value)
        options += common
        whole = {
            "version": 1,
            "hostname": "mx.example.net",
            "listeners": [{"name": "inbound", "listen": "127.0.0.1:0"}],
            "relay": {"domains": ["example.net"]},
            "upstreams": {"mailstore": {"address": "127.0.0.1:2526"}},
            "plugin_folders": ["plugins"],
            **changes,
        }
        text = json.dumps(whole)[:-1] + f', "pipeline": [{{probe: {{{options}}}}}]}}\n'
        path = tmp_path / "relayproxy.yaml"
        path.write_text(text)
        return path

    return write


def run(*arguments, data=MESSAGE):
    return CliRunner().invoke(main, ["test", "-", *map(str, arguments)], input=data)


def as_json(*arguments, data=MESSAGE):
    result = run("-o", "json", *arguments, data=data)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_without_a_configuration_the_pipeline_is_empty(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = as_json()
    assert found["verdict"] == "accept"
    assert found["reply"].startswith("250 2.0.0 ")
    assert found["findings"] == found["hooks"] == []
    assert [name for name, _ in found["headers"]] == [
        "Received",
        "From",
        "To",
        "Subject",
        "X-Spam",
        "Message-ID",
    ]
    assert found["edits"][:2] == ["--- received", "+++ forwarded"]
    assert [line[0] for line in found["edits"][3:]] == ["+", "+", "+", " "]
    assert found["recipients"] == [{"address": "b@example.net", "reply": "250 2.1.5 Ok"}]


@pytest.mark.parametrize(
    ("at", "do", "verdict", "reply", "asked"),
    [
        ("connect", "reject", "reject", "554 5.7.1 No", ["connect"]),
        ("connect", "defer", "defer", "421 4.7.1 Later", ["connect"]),
        ("helo", "reject", "reject", "554 5.7.1 No", ["connect", "helo"]),
        ("mail", "defer", "defer", "451 4.7.1 Later", ["connect", "helo", "mail"]),
        ("rcpt", "reject", "reject", "554 5.7.1 No", ["connect", "helo", "mail", "rcpt"]),
        ("message", "reject", "reject", "554 5.7.1 No id=", ["connect", "helo", "mail", "rcpt", "message"]),
        ("message", "defer", "defer", "451 4.7.1 Later id=", None),
        ("message", "discard", "discard", "250 2.0.0 Ok id=", None),
        ("connect", "raise", "defer", "421 4.3.0 ", ["connect"]),
        ("connect", "odd", "defer", "421 4.3.0 ", ["connect"]),
        ("message", "raise", "defer", "451 4.3.0 ", None),
        ("message", "odd", "defer", "451 4.3.0 ", None),
    ],
)
def test_the_verdict_is_what_the_client_would_hear(config, at, do, verdict, reply, asked):
    found = as_json("-C", config(at, do))
    assert found["verdict"] == verdict
    assert found["reply"].startswith(reply)
    steps = [(step["hook"], step["answer"]) for step in found["hooks"]]
    expected = {"raise": "defer", "odd": "defer"}.get(do, do)
    assert steps[-1] == (at, expected)
    assert asked is None or [hook for hook, _ in steps] == asked
    error = found["hooks"][-1]["error"]
    assert error.startswith({"raise": "RuntimeError: broken at ", "odd": "returned str"}.get(do, ""))
    assert bool(error) is (do in ("raise", "odd"))
    assert found["edits"] == found["headers"] == []


def test_hold_needs_a_place_to_keep_it(config, tmp_path):
    found = as_json("-C", config("message", "hold"))
    assert found["hooks"][-1]["answer"] == "hold"
    assert (found["verdict"], found["reply"][0]) == ("defer", "4")
    found = as_json("-C", config("message", "hold", spool={"url": f"sqlite://{tmp_path}/spool.db"}))
    assert (found["verdict"], found["reply"]) == (
        "hold",
        "250 2.0.0 Ok: held for review id=" + found["reply"].rpartition("id=")[2],
    )
    assert not (tmp_path / "spool.db").exists()


def test_findings_of_the_connection_and_of_the_mail_in_their_order(config):
    found = as_json("-C", config())
    assert found["findings"] == [
        {
            "method": "probe",
            "result": "hit",
            "score": 1.5,
            "by": "probe",
            "props": {"policy.at": "connect"},
            "reason": "",
        },
        {"method": "probe", "result": "pass", "score": 0.0, "by": "probe", "props": {}, "reason": "at MAIL"},
    ]
    assert found["score"] == 1.5
    assert found["direction"] == "inbound"
    assert all(set(step) == {"hook", "plugin", "seconds", "answer", "error"} for step in found["hooks"])


def test_findings_of_a_connection_that_was_refused(config):
    found = as_json("-C", config("connect", "reject"))
    assert [finding["props"] for finding in found["findings"]] == [{"policy.at": "connect"}]


def test_observe_says_would(config):
    found = as_json("-C", config("message", "reject", common=", mode: observe"))
    assert found["verdict"] == "accept"
    assert ("message", "would reject") in [(step["hook"], step["answer"]) for step in found["hooks"]]
    found = as_json("-C", config("connect", "reject", common=", mode: observe"))
    assert ("connect", "would reject") in [(step["hook"], step["answer"]) for step in found["hooks"]]
    found = as_json("-C", config("", "header", common=", mode: observe"))
    assert found["hooks"][-1]["answer"] == "would make 1 edit"
    assert "X-Probe" not in dict(found["headers"])


def test_edits_are_shown_and_reports_are_not_run(config):
    result = run("-o", "json", "-C", config("", "header"))
    assert "reported" not in result.stdout
    found = json.loads(result.stdout)
    assert "+X-Probe: 1" in found["edits"]
    assert dict(found["headers"])["X-Probe"] == "1"
    assert not any(line.endswith("Hello") for line in found["edits"])


def test_another_body_is_shown_line_by_line_or_in_sum(config):
    path = config("", "body")
    found = as_json("-C", path)
    assert {"-Hello", "-.dot", "+Other"} <= set(found["edits"])
    long = as_json("-C", path, data=MESSAGE + b"x\r\n" * 30_000)
    assert "@@ body @@ 90013 octets replaced by 7" in long["edits"]


def test_each_recipient_has_its_own_answer(config):
    arguments = ("--to", "b@example.net", "--to", "<c@example.net>", "--to", "d@elsewhere.example")
    found = as_json("-C", config("rcpt", "reject"), *arguments)
    assert found["verdict"] == "accept"
    assert [(one["address"], one["reply"][:3]) for one in found["recipients"]] == [
        ("b@example.net", "554"),
        ("c@example.net", "250"),
        ("d@elsewhere.example", "550"),
    ]
    text = run("-C", config("rcpt", "reject"), *arguments).output
    assert "recipient d@elsewhere.example is refused: 550 5.7.1 Relaying denied" in text


def test_a_stranger_is_not_relayed_and_a_login_is(config):
    path = config()
    assert as_json("-C", path, "--to", "x@elsewhere.example")["reply"] == "550 5.7.1 Relaying denied"
    found = as_json("-C", path, "--to", "x@elsewhere.example", "--login", "ana", "--tls")
    assert (found["verdict"], found["direction"]) == ("accept", "outbound")
    assert "with ESMTPSA" in dict(found["headers"])["Received"]


def test_the_listener_decides_about_tls_and_line_ends(config, tmp_path):
    listeners = [
        {"name": "strict", "listen": "127.0.0.1:0", "limits": {"message_size": 1000}},
        {"name": "lax", "listen": "127.0.0.1:0", "bare_newlines": "normalise", "protocol": "lmtp"},
    ]
    path = config(listeners=listeners)
    mixed = MESSAGE + b"bare\nLF\r\n"
    found = as_json("-C", path, data=mixed)
    assert (found["verdict"], found["reply"][:9]) == ("reject", "550 5.5.2")
    found = as_json("-C", path, "--listener", "lax", data=mixed)
    assert found["verdict"] == "accept"
    assert {"-bare", "+bare"} & set(found["edits"]) == set()
    assert as_json("-C", path, data=MESSAGE + b"\0\r\n")["reply"].startswith("550 5.5.2")
    assert as_json("-C", path, data=MESSAGE + b"x" * 1000)["reply"].startswith("552 5.3.4")
    unknown = run("-C", path, "--listener", "other")
    assert (unknown.exit_code, "there is strict, lax" in unknown.stderr) == (2, True)


def test_line_ends_are_made_crlf_and_it_says_so(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    lf = MESSAGE.replace(b"\r\n", b"\n").removesuffix(b"\n")
    text = run(data=lf)
    assert "(line ends were LF and were made CRLF)" in text.stdout
    assert "(the last line had no CRLF and was given one)" in text.stdout
    plain = run("-o", "json", data=lf)
    assert "made CRLF" in plain.stderr
    assert len(json.loads(plain.stdout)["edits"]) == len(as_json()["edits"])
    assert "made CRLF" not in run().output


def test_the_envelope_comes_from_the_header(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def first_line(*arguments, data):
        return run(*arguments, data=data).stdout.splitlines()[0]

    assert first_line(data=MESSAGE).startswith("from <a@example.org> to b@example.net  ")
    delivered = b"Return-Path: <>\r\nCc: =?utf-8?q?C?= <c@example.net>, b@example.net\r\n" + MESSAGE
    assert first_line(data=delivered).startswith("from <> to b@example.net, c@example.net  ")
    given = first_line("--from", "<x@example.com>", "--to", "y@example.net", data=MESSAGE)
    assert given.startswith("from <x@example.com> to y@example.net  ")
    bare = run(data=b"Subject: nobody\r\n\r\n")
    assert (bare.exit_code, "say --to" in bare.stderr) == (2, True)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--ip", "somewhere", "not an IP address"),
        ("--from", "a\r\nRCPT TO:<x@y>", "control characters"),
        ("--helo", "x\x00", "control characters"),
        ("--to", "host:port", "no valid port"),
        ("--expect", "maybe", "Invalid value"),
    ],
)
def test_values_that_will_not_do(option, value, words):
    result = run(option, value)
    assert result.exit_code == 2
    assert words in result.stderr


def test_expect_makes_it_a_check(config):
    path = config("message", "reject")
    assert run("-C", path, "--expect", "reject").exit_code == 0
    missed = run("-C", path, "--expect", "accept")
    assert (missed.exit_code, missed.stderr) == (1, "expected accept, got reject\n")


def test_a_bad_configuration_and_a_plugin_that_can_not_start_exit_78(config, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nlisteners: [\n")
    assert run("-C", bad).exit_code == 78
    broken = run("-C", config("startup", "raise"))
    assert (broken.exit_code, broken.stderr) == (
        78,
        "relayproxy: can't start: probe: RuntimeError: broken\n",
    )


def test_the_text_shows_hooks_findings_changes_and_the_reply(config):
    text = run("-C", config("", "header")).output.splitlines()
    assert any(line.startswith("message           ok            probe") for line in text)
    assert "  probe=hit  policy.at=connect  score +1.5  by probe" in text
    assert "+X-Probe: 1" in text
    assert text[-2].startswith("=> 250 2.0.0 ")
    assert text[-1].startswith("accept: it would go to the upstream")
    refused = run("-C", config("message", "reject")).output.splitlines()
    assert any(line.startswith("message           REJECT        probe") for line in refused)


def test_nothing_of_a_message_reaches_the_terminal_raw(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    nasty = b"X-A: \x1b]0;title\x07\xc2\x9b31m \xe2\x80\xae\r\n"
    path = b"X-Probe: 1\r\n"
    output = run("--from", "a@example.org", data=nasty + path + MESSAGE).output
    assert all(c.isprintable() or c == "\n" for c in output)
    assert "\\x1b]0;title\\x07\\x9b31m \\u202e" in output


def test_verbose_shows_the_log(config):
    result = run("-v", "-C", config("message", "raise"))
    events = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    assert [event["event"] for event in events] == ["plugin_fault", "message"]
    assert "Traceback" in events[0]["traceback"]


def test_a_plugin_that_fails_at_the_end_changes_nothing(config):
    result = run("-v", "-C", config("shutdown", "raise"))
    assert result.exit_code == 0
    assert '"hook": "shutdown"' in result.stderr
    assert result.stdout.splitlines()[-2].startswith("=> 250 ")


def test_a_file_is_read_too(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("message.eml").write_bytes(MESSAGE)
    result = CliRunner().invoke(main, ["test", "message.eml", "--expect", "accept"])
    assert result.exit_code == 0
    missing = CliRunner().invoke(main, ["test", "none.eml"])
    assert missing.exit_code == 2


async def test_a_real_upstream_gets_the_message_and_its_answer_is_the_answer(config):
    async with UpstreamSink() as sink:
        path = config("", "header")
        result = await asyncio.to_thread(run, "-C", path, "--to", "b@example.net", "--to", sink.address)
        assert result.exit_code == 0, result.output
        (sunk,) = sink.messages
        assert (sunk.sender, sunk.recipients) == ("a@example.org", ("b@example.net",))
        assert sunk.content.endswith(b"X-Probe: 1\r\n" + MESSAGE)
        assert "=> 250 2.0.0 Sunk as 1 id=" in result.output
        assert "accept: the upstream took it" in result.output
        assert "reported done" in result.output
        sink.plan.add(Fault(Step.RCPT, answer(550, "5.1.1 Unknown user")))
        found = await asyncio.to_thread(as_json, "-C", path, "--to", "b@example.net", "--to", sink.address)
        assert (found["verdict"], found["reply"]) == ("reject", "550 5.1.1 Unknown user")
        assert sink.complaints == []


async def test_an_upstream_that_is_not_there_defers(config):
    async with UpstreamSink() as sink:
        address = sink.address
    found = await asyncio.to_thread(as_json, "-C", config(), "--to", "b@example.net", "--to", address)
    assert (found["verdict"], found["reply"][:3]) == ("defer", "451")
