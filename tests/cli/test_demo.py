"""`relayproxy demo`, as a whole and in its parts."""

import asyncio
import json
import re
import signal
import smtplib
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.servers.client import Client
from tests.servers.process import PATIENCE, Process, free_port

from relayproxy.cli.demo import demo_choices, demo_plan
from relayproxy.cli.demo_http import Answer, PageServer
from relayproxy.cli.demo_page import STYLE, list_page, message_page, text
from relayproxy.cli.demo_plugins import (
    SHOWN,
    DemoRecorder,
    DemoRecorderSettings,
    DemoWords,
    DemoWordsSettings,
)
from relayproxy.cli.demo_samples import SAMPLES
from relayproxy.cli.demo_store import HookLine, Seen, Store
from relayproxy.cli.demo_upstream import DemoUpstream, wish
from relayproxy.model.mail import Step
from relayproxy.testing.mail import make_client, make_mail, run_hook

CONTENT = b"From: you@demo.example\r\nSubject: %s\r\nMessage-ID: <t@demo.example>\r\n\r\nHello\r\n"


class Demo(Process):
    """The command as a process, its temporary folder inside `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__("relayproxy demo", folder / "log")
        self.folder = folder
        self.port, self.page = free_port(), free_port()

    async def start(self, *arguments: str) -> None:
        command = str(Path(sys.executable).with_name("relayproxy"))
        ports = () if arguments else ("--port", str(self.port), "--page", str(self.page))
        self.spawn(
            command, "demo", *ports, *arguments, env={"TMPDIR": str(self.folder), "PYTHONUNBUFFERED": "1"}
        )
        await self.until_logged("make the upstream misbehave")
        self.port, self.page = map(int, re.findall(r"127\.0\.0\.1:(\d+)", self.log)[:2])
        await self.until_logged("<> -> ana@demo.example")  # the last of the samples

    def left(self) -> list[Path]:
        return list(self.folder.glob("relayproxy-demo-*"))

    async def get(self, path: str = "/", **headers: str) -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{self.page}{path}", headers=headers)

        def fetch() -> str:
            with urllib.request.urlopen(request, timeout=10) as response:
                assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
                return response.read().decode()

        return await asyncio.to_thread(fetch)

    async def row(self, words: str) -> str:
        """The row of the list with these words, once it is there."""
        async with asyncio.timeout(PATIENCE):
            while True:
                rows = [row for row in (await self.get()).split("<tr>") if words in row]
                if rows:
                    return rows[0]

    async def message(self, words: str) -> str:
        found = re.search(r'href="(/message/[^"]+)"', await self.row(words))
        return await self.get(found[1])


@pytest.fixture
async def demo(short_folder):
    demo = Demo(short_folder)
    yield demo
    if demo.popen is not None and demo.popen.poll() is None:
        await demo.end()


async def test_it_shows_what_became_of_its_samples_and_of_mail_that_is_sent(demo):
    await demo.start()
    page = await demo.get()
    assert page.count("/message/") >= len(SAMPLES)
    assert f"127.0.0.1:{demo.port}" in page
    assert 'class="rejected">rejected</td><td>550 5.7.1' in await demo.row("You won the lottery")
    assert 'class="deferred">deferred</td><td>451 4.7.1' in await demo.row("Read this later")
    assert "bob+5xx@example.net (refused)" in await demo.row("To two mailboxes")
    assert "450 4.2.1" in await demo.row("dora+4xx@example.net")
    assert "Grüße &lt;b&gt;und mehr&lt;/b&gt;" in page
    signed = await demo.message("Minutes of Monday")
    assert "<ins>+DKIM-Signature:" in signed
    assert "a=rsa-sha256" in signed
    assert "event=" not in demo.log, "the first thing that a user sees is no warning"
    assert "<ins>+X-Demo: " in signed
    refused = await demo.message("You won the lottery")
    assert "<td>message</td><td>demo_words</td><td>reject</td>" in refused
    assert "Header as received" in refused
    hostile = b"<script>alert(1)</script> \x1b[31m"
    async with await Client.open(demo.port) as client:
        answer = await client.message(CONTENT % hostile, "you@demo.example", ("bob@example.net",))
        assert answer.code == 250
    page = await demo.message("&lt;script&gt;alert(1)&lt;/script&gt;")
    assert "<script" not in page
    assert "\x1b" not in page
    assert await demo.get("/style.css") == STYLE
    with pytest.raises(urllib.error.HTTPError, match="404"):
        await demo.get("/message/../../etc/passwd")
    with pytest.raises(urllib.error.HTTPError, match="421"):
        await demo.get(Host="elsewhere.example")
    assert await demo.end() == 0
    assert demo.left() == []
    assert "Traceback" not in demo.log
    assert "\x1b" not in demo.log


async def test_the_upstream_misbehaves_when_asked_to(demo):
    await demo.start("--port", str(demo.port), "--page", str(demo.page), "--workers", "2")

    def send(*to: str) -> dict[str, tuple[int, bytes]]:
        with smtplib.SMTP("127.0.0.1", demo.port) as client:
            return client.sendmail("you@demo.example", to, CONTENT % b"chaos")

    refused = await asyncio.to_thread(
        send, "bob@example.net", "bob+4xx@example.net", "bob+5xx@example.net", "bob+other@example.net"
    )
    assert {to: code for to, (code, _) in refused.items()} == {
        "bob+4xx@example.net": 450,
        "bob+5xx@example.net": 550,
    }
    with pytest.raises(smtplib.SMTPDataError, match="451"):
        await asyncio.to_thread(send, "bob+drop@example.net")
    slow = asyncio.create_task(asyncio.to_thread(send, "bob+slow@example.net"))
    async with asyncio.timeout(PATIENCE):
        assert await slow == {}
    assert "ms" in demo.log.partition("-> bob+slow@example.net")[2].splitlines()[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_takes_free_ports_and_ends_when_told_to(demo, number):
    with socket.create_server(("127.0.0.1", demo.port)), socket.create_server(("127.0.0.1", demo.page)):
        taken = demo.port, demo.page
        await demo.start("--port", str(demo.port), "--page", str(demo.page))
        assert f"port {taken[0]} is in use: taking {demo.port}" in demo.log
        assert f"port {taken[1]} is in use: taking {demo.page}" in demo.log
        assert not {demo.port, demo.page} & set(taken)
        assert len(demo.left()) == 1
        demo.signal(number)
        assert await demo.until_ended() == 0
    assert demo.left() == []
    for port in (demo.port, demo.page):
        with socket.create_server(("127.0.0.1", port)):
            pass


async def test_a_mail_in_progress_still_finds_its_upstream_at_the_end(demo):
    await demo.start()
    async with await Client.open(demo.port) as client:
        await client.envelope("you@demo.example", ("bob@example.net",))
        demo.signal(signal.SIGTERM)
        assert (await client.data(CONTENT % b"last")).code == 250
    assert await demo.until_ended() == 0


# -- its parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("bob@x.example", ""),
        ("bob+4XX@x.example", "4xx"),
        ("b+slow+4xx@x", "slow+4xx"),
        ("", ""),
        ("bob+4xx", ""),
    ],
)
def test_a_wish_stands_behind_the_plus(address, wanted):
    assert wish(address) == wanted


async def test_the_upstream_hands_on_what_it_took_and_forgets_it(short_folder):
    taken = []
    async with DemoUpstream(short_folder / "s", taken.append, slow=0.0) as upstream:
        for to in ("a@x.example", "a+slow@x.example"):
            reader, writer = await asyncio.open_unix_connection(str(upstream.path))
            writer.write(
                b"EHLO c\r\nMAIL FROM:<s@x.example>\r\nRCPT TO:<%b>\r\nDATA\r\nHi\r\n.\r\nQUIT\r\n"
                % to.encode()
            )
            assert b"354" in (answer := await reader.read())
            assert answer.endswith(b"221 2.0.0 Bye\r\n")
            writer.close()
        assert [sunk.content for sunk in taken] == [b"Hi\r\n", b"Hi\r\n"]
        assert [sunk.content for sunk in upstream.arrived] == [b"", b""]


@pytest.mark.parametrize(
    ("subject", "verdict"),
    [("You won the Lottery", "reject"), ("read LATER", "defer"), ("hello", None), ("laterally", None)],
)
def test_words_in_the_subject_decide(subject, verdict):
    mail = make_mail(b"Subject: %b\r\n\r\n" % subject.encode())
    found = run_hook(DemoWords(DemoWordsSettings()), "message", mail=mail)
    assert (found.action.name.lower() if found else None) == verdict
    assert mail.finding("demo_words").result == ("hit" if verdict else "miss")


def test_the_recorder_writes_what_came_and_what_was_said(tmp_path):
    recorder = DemoRecorder(DemoRecorderSettings(folder=tmp_path))
    mail = make_mail(b"Subject: x\r\n\r\n" + b"y" * SHOWN)
    run_hook(recorder, "message", mail=mail)
    assert (tmp_path / "test.1.eml").read_bytes() == bytes(mail.message)[:SHOWN]
    assert not (tmp_path / "test.1.json").exists()
    mail.trace.append(Step("message", "late", 0.25, "reject"))
    run_hook(recorder, "session_closed", client=make_client())
    record = json.loads((tmp_path / "test.1.json").read_text())
    assert record == {"trace": [["message", "late", 0.25, "reject", ""]], "findings": []}
    assert recorder._last == {}


def test_the_recorder_takes_the_findings_of_mail_that_went_on(tmp_path):
    recorder = DemoRecorder(DemoRecorderSettings(folder=tmp_path))
    mail = make_mail(b"Subject: x\r\n\r\n")
    run_hook(recorder, "message", mail=mail)
    mail.findings = (mail.note("spf", "pass", smtp__mailfrom="x"),)
    run_hook(recorder, "after_forward", mail=mail, outcomes=())
    record = json.loads((tmp_path / "test.1.json").read_text())
    assert record["findings"] == [["spf", "pass", 0.0, {"smtp.mailfrom": "x"}, "", ""]]
    run_hook(recorder, "session_closed", client=make_client())
    assert recorder._last == {}


def _event(id_="0a.1", **changes):
    return {
        "event": "message",
        "time": "2026-11-24T10:00:00.123Z",
        "id": id_,
        "ip": "127.0.0.1",
        "from": "a@x.example",
        "to": ["b@x.example"],
        "size": 9,
        "outcome": "relayed",
        "reply": "250 2.0.0 Ok",
        "seconds": 0.5,
        "hooks": {"a.b.message": 0.25},
        "findings": ["spf=pass"],
        **changes,
    }


def test_the_store_knows_a_message_by_its_event(tmp_path):
    store = Store(tmp_path)
    store.take_event(_event())
    (seen,) = store
    assert (seen.sender, seen.recipients, seen.verdict, seen.seconds) == (
        "a@x.example",
        ["b@x.example"],
        "accepted",
        0.5,
    )
    assert seen.hooks == (HookLine("message", "a.b", 0.25),)
    assert seen.findings == ("spf=pass",)
    (tmp_path / "0a.1.eml").write_bytes(b"Subject: =?utf-8?q?=C3=BC?=\r\n\r\nbody")
    (tmp_path / "0a.1.json").write_text(
        json.dumps(
            {"trace": [["message", "p", 0.1, "ok", ""]], "findings": [["m", "hit", 1, {"k": "v"}, "r", "p"]]}
        )
    )
    store.take_forwarded(b"Received: from x\r\n\tby y (relayproxy) with ESMTP id 0a.1;\r\n\tnow\r\n\r\n")
    seen = store.find("0a.1")
    assert seen.subject == "ü"
    assert seen.hooks == (HookLine("message", "p", 0.1, "ok"),)
    assert seen.findings == ("m=hit k=v score +1 (r) by p",)
    assert seen.forwarded.startswith(b"Received: ")
    (tmp_path / "0a.1.json").write_text('{"trace": [')
    assert store.find("0a.1").hooks == (HookLine("message", "p", 0.1, "ok"),)


def test_refusals_belong_to_their_message(tmp_path):
    store = Store(tmp_path)
    store.take_event(
        {"event": "refused", "id": "0a.1", "from": "", "to": "c@x.example", "reply": "450 4.2.1 Busy"}
    )
    (seen,) = store
    assert (seen.verdict, seen.reply, seen.refused) == (
        "deferred",
        "450 4.2.1 Busy",
        [("c@x.example", "450 4.2.1 Busy")],
    )
    store.take_event(_event())
    (seen,) = store
    assert (seen.verdict, seen.reply, len(seen.refused)) == ("accepted", "250 2.0.0 Ok", 1)


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"event": "ready"},
        {"event": "message"},
        _event("../x"),
        _event("0a.1/.."),
        _event("0A.1"),
        _event("0a"),
    ],
)
def test_other_events_are_no_messages(tmp_path, event):
    store = Store(tmp_path)
    assert store.take_event(event) is None
    assert len(store) == 0


def test_the_oldest_go_with_their_files(tmp_path):
    store = Store(tmp_path, kept=2)
    for number in range(4):
        store.take_event(_event(f"0a.{number}"))
        (tmp_path / f"0a.{number}.eml").write_bytes(b"")
        (tmp_path / f"0a.{number}.json").write_bytes(b"")
    assert [seen.id for seen in store] == ["0a.3", "0a.2"]
    assert store.find("0a.0") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0a.2.eml",
        "0a.2.json",
        "0a.3.eml",
        "0a.3.json",
    ]


@given(st.text())
def test_no_text_becomes_markup_or_steers_the_reader(value):
    shown = text(value)
    assert not set("<>\"'") & set(shown)
    assert shown.isprintable()
    assert "&" not in re.sub(r"&(?:amp|lt|gt|quot|#x27);", "", shown)


@given(st.text(), st.text(), st.binary())
def test_pages_hold_no_markup_of_the_message(subject, reply, octets):
    seen = Seen("0a.1", subject=subject, reply=reply, sender=subject, recipients=[reply])
    seen.refused = [(subject, reply)]
    seen.hooks = (HookLine(subject, reply, -1.0, subject, reply),)
    seen.findings = (subject,)
    seen.received, seen.forwarded = octets, b"<p>" + octets + b"\r\n"
    for page in (list_page([seen], subject), message_page(seen)):
        tags = set(re.findall(r"<(/?[a-z0-9!]+)", page.decode()))
        assert tags <= {
            *(
                "!doctype",
                "html",
                "/html",
                "head",
                "/head",
                "meta",
                "title",
                "/title",
                "link",
                "body",
                "/body",
            ),
            *("h1", "/h1", "h2", "/h2", "p", "/p", "a", "/a", "code", "/code", "pre", "/pre", "ins", "/ins"),
            *(
                "del",
                "/del",
                "table",
                "/table",
                "thead",
                "/thead",
                "tbody",
                "/tbody",
                "tr",
                "/tr",
                "th",
                "/th",
            ),
            *("td", "/td", "ul", "/ul", "li", "/li"),
        }


def test_the_page_shows_the_header_before_and_after():
    received = b"A: 1\r\nB: 2\r\n folded\r\n\r\nbody"
    seen = Seen("0a.1", received=received, forwarded=b"R: 0\r\nA: 1\r\n\r\nbody")
    page = message_page(seen).decode()
    assert "<ins>+R: 0</ins>\n A: 1\n<del>-B: 2</del>\n<del>- folded</del>" in page
    same = message_page(Seen("0a.1", received=received, forwarded=received)).decode()
    assert "<pre> A: 1\n B: 2\n  folded</pre>" in same


class _Wire:
    """A transport that keeps what is written."""

    def __init__(self):
        self.data = b""
        self.closed = False

    def write(self, data):
        self.data += data

    def close(self):
        self.closed = True

    abort = close

    def is_closing(self):
        return self.closed


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (b"GET /x?y HTTP/1.1\r\nHost: localhost:1\r\n\r\n", 200, b"/x y"),
        (b"HEAD /x HTTP/1.1\r\nHost: localhost:1\r\n\r\n", 200, b""),
        (b"POST /x HTTP/1.1\r\nHost: localhost:1\r\nContent-Length: 0\r\n\r\n", 405, b"GET only\n"),
        (b"GET /x HTTP/1.1\r\nHost: evil.example:1\r\n\r\n", 421, b"not under this name\n"),
        (b"GET /x HTTP/1.0\r\n\r\n", 421, b"not under this name\n"),
        (b"nonsense\r\n\r\n", 400, b"bad request\n"),
        (b"GET /" + b"x" * 20_000, 400, b"bad request\n"),
    ],
)
async def test_the_server_answers_get_under_its_own_name_only(request_, status, body):
    server = PageServer(
        lambda path, query: Answer(200, f"{path} {query}".encode()), frozenset({b"localhost:1"})
    )
    wire = _Wire()
    server.connection_made(wire)
    server.data_received(request_)
    server.connection_lost(None)
    head, _, got = wire.data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert got == body
    assert b"Content-Security-Policy: default-src 'none'; style-src 'self'" in head
    assert b"X-Content-Type-Options: nosniff" in head
    assert wire.closed


async def test_a_browser_that_says_nothing_is_not_waited_for_for_ever():
    server = PageServer(lambda *_: Answer(200, b""), frozenset())
    wire = _Wire()
    server.connection_made(wire)
    assert server._timer.when() - asyncio.get_running_loop().time() <= 10
    server._timer._run()
    assert wire.closed
    server.connection_lost(None)


def test_the_plan_relays_for_this_machine_only(tmp_path):
    plan = demo_plan(tmp_path, 2525, 3)
    config = plan.config
    assert [str(listener.listen) for listener in config.listeners] == ["127.0.0.1:2525"]
    assert [str(network) for network in config.relay.networks] == ["127.0.0.0/8"]
    assert config.relay.domains == ()
    assert config.workers == 3
    assert [entry.name for entry, _, _ in plan.choices] == [
        "demo_recorder",
        "demo_words",
        "headers",
        "dkim_sign",
    ]


def test_the_key_is_new_each_time_and_nobody_elses(tmp_path):
    keys = []
    for name in ("one", "two"):
        demo_choices(tmp_path / name)
        (path,) = (tmp_path / name).rglob("*.key")
        assert path.stat().st_mode & 0o077 == 0
        keys.append(path.read_bytes())
    assert keys[0] != keys[1]


def test_the_samples_are_proper_messages():
    for sample in SAMPLES:
        assert sample.content.count(b"\r\n") == sample.content.count(b"\n") == sample.content.count(b"\r")
        assert sample.content.startswith(b"From: ")
        assert all("@" in recipient for recipient in sample.recipients)
