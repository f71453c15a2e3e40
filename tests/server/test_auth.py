"""AUTH on a connection (RFC 4954): PLAIN and LOGIN, every way to get them wrong, and what a login changes."""

import base64
from ipaddress import ip_network
from pathlib import Path

import bcrypt
import pytest
from tests.server.harness import MESSAGE, Witness, serving
from tests.servers.client import Answer, Client, HangUpError
from tests.servers.tls import Certificates

from relayproxy.api import Plugin, Settings, hook
from relayproxy.core.log import Log
from relayproxy.core.policy import Limits
from relayproxy.model.client import Client as Caller
from relayproxy.model.client import Credentials
from relayproxy.server.passwords import PasswordFile
from relayproxy.testing.upstream import UpstreamSink

OPEN = {"auth_mechanisms": ("PLAIN", "LOGIN"), "auth_require_tls": False}
PASSWORD = "pässword"


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def plain(login: str, password: str, authzid: str = "") -> str:
    return b64(f"{authzid}\0{login}\0{password}")


@pytest.fixture(scope="module")
def passwords(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("auth") / "passwords"
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    file.write_text(f"ana@example.org:{hashed}\nbob:{hashed}\n", "utf-8")
    return file


@pytest.fixture(scope="module")
def backend(passwords: Path) -> PasswordFile:
    return PasswordFile(passwords, Log(print, lambda: 0.0))


async def say_all(client: Client, first: str, *answers: str) -> Answer:
    """Say AUTH, and an answer to each challenge; return the last reply."""
    reply = await client.say(first)
    for answer in answers:
        assert reply.code == 334, reply
        reply = await client.say(answer)
    return reply


@pytest.mark.parametrize(
    "words",
    [
        (f"AUTH PLAIN {plain('bob', PASSWORD)}",),
        (f"auth plain {plain('bob', PASSWORD, 'bob')}",),
        ("AUTH PLAIN", plain("bob", PASSWORD)),
        ("AUTH LOGIN", b64("bob"), b64(PASSWORD)),
        (f"AUTH LOGIN {b64('bob')}", b64(PASSWORD)),
        (f"AUTH login {b64('bob')}", b64(PASSWORD)),
    ],
)
async def test_a_right_password(sink: UpstreamSink, backend: PasswordFile, words: tuple[str, ...]):
    witness = Witness()
    async with (
        serving(sink, authenticator=backend, plugins=[witness], **OPEN) as served,
        await served.client() as client,
    ):
        assert client.extensions["AUTH"] == "PLAIN LOGIN"
        reply = await say_all(client, *words)
        assert (reply.code, reply.enhanced) == (235, "2.7.0")
        assert (await client.say("AUTH PLAIN")).code == 503
        assert (await client.message(MESSAGE)).code == 250
    assert [caller.identity for caller in witness.callers] == ["bob"]
    assert b"with ESMTPA " in sink.messages[0].content
    assert served.counted("auth_total", "main", "ok") == 1


@pytest.mark.parametrize(
    ("words", "code", "enhanced"),
    [
        (("AUTH",), 501, "5.5.4"),
        (("AUTH PLAIN a b",), 501, "5.5.4"),
        (("AUTH CRAM-MD5",), 504, "5.5.4"),
        (("AUTH PLAIN", "*"), 501, "5.7.0"),
        (("AUTH LOGIN", "*"), 501, "5.7.0"),
        (("AUTH LOGIN", b64("bob"), "*"), 501, "5.7.0"),
        (("AUTH PLAIN !!!",), 501, "5.5.2"),
        (("AUTH PLAIN", "!!!"), 501, "5.5.2"),
        (("AUTH LOGIN !!!",), 501, "5.5.2"),
        (("AUTH LOGIN", b64("bob"), "x"), 501, "5.5.2"),
        (("AUTH LOGIN", "b\u00e4d"), 501, "5.5.2"),
        ((f"AUTH PLAIN {b64('bob')}",), 501, "5.5.2"),
        (("AUTH PLAIN =",), 501, "5.5.2"),
        (("AUTH PLAIN " + b64(b"\0bob\0\xff"),), 501, "5.5.2"),
        (("AUTH LOGIN", b64(b"\xff"), b64("x")), 501, "5.5.2"),
        ((f"AUTH PLAIN {plain('bob', 'wrong')}",), 535, "5.7.8"),
        ((f"AUTH PLAIN {plain('nobody', PASSWORD)}",), 535, "5.7.8"),
        ((f"AUTH PLAIN {plain('', '')}",), 535, "5.7.8"),
        (("AUTH LOGIN =", b64(PASSWORD)), 535, "5.7.8"),
        (("AUTH LOGIN", "", ""), 535, "5.7.8"),
    ],
)
async def test_every_way_to_fail(
    sink: UpstreamSink, backend: PasswordFile, words: tuple[str, ...], code: int, enhanced: str
):
    async with serving(sink, authenticator=backend, **OPEN) as served, await served.client() as client:
        reply = await say_all(client, *words)
        assert (reply.code, reply.enhanced) == (code, enhanced)
        assert PASSWORD not in str(served.log)
        assert (await client.say(f"AUTH PLAIN {plain('bob', PASSWORD)}")).code == 235
    assert served.counted("commands_total", "main", "AUTH", "5xx") == 1


async def test_a_login_may_send_anywhere_and_only_from_its_own(sink: UpstreamSink, backend: PasswordFile):
    senders = {"ana@example.org": ("ana@example.org", "shop.example"), "*": ("bob.example",)}
    xclient = (ip_network("127.0.0.0/8"),)
    async with serving(sink, authenticator=backend, senders=senders, xclient=xclient, **OPEN) as served:
        for login, codes in (("ana@example.org", (250, 250, 553, 250)), ("bob", (553, 553, 250, 250))):
            async with await served.client() as client:
                # The harness trusts loopback; a stranger may send to our own domain only.
                assert (await client.say("XCLIENT ADDR=192.0.2.1")).code == 220
                await client.ehlo()
                replies = await client.envelope(recipients=("x@far.example", "b@example.net"))
                assert [reply.code for reply in replies] == [250, 550, 250]
                await client.say("RSET")
                assert (await client.say(f"AUTH PLAIN {plain(login, PASSWORD)}")).code == 235
                for sender, code in zip(
                    ("ana@example.org", "x@shop.example", "z@bob.example", ""), codes, strict=True
                ):
                    reply = await client.say(f"MAIL FROM:<{sender}>")
                    assert reply.code == code
                    if code == 250:
                        assert (await client.say("RCPT TO:<x@far.example>")).code == 250
                    await client.say("RSET")


async def test_only_under_tls(sink: UpstreamSink, backend: PasswordFile, certificates: Certificates):
    async with (
        serving(
            sink,
            tls=certificates.server_context(),
            authenticator=backend,
            auth_mechanisms=("PLAIN",),
            auth_required=True,
        ) as served,
        await served.client() as client,
    ):
        assert "AUTH" not in client.extensions
        reply = await client.say(f"AUTH PLAIN {plain('bob', PASSWORD)}")
        assert (reply.code, reply.enhanced) == (538, "5.7.11")
        await client.start_tls(certificates.client_context())
        assert client.extensions["AUTH"] == "PLAIN"
        assert (await client.say("MAIL FROM:<a@example.org>")).code == 530
        assert (await client.say("AUTH LOGIN")).code == 504
        assert (await client.say(f"AUTH PLAIN {plain('bob', PASSWORD)}")).code == 235
        assert (await client.message(MESSAGE)).code == 250
    assert b"with ESMTPSA " in sink.messages[0].content


async def test_not_before_ehlo_not_in_a_transaction_not_where_there_is_none(
    sink: UpstreamSink, backend: PasswordFile
):
    async with serving(sink, authenticator=backend, **OPEN) as served, await served.client(helo="") as client:
        assert (await client.say("AUTH PLAIN")).code == 503
        await client.say("HELO c.example")
        assert (await client.say("AUTH PLAIN")).code == 503
        await client.ehlo()
        await client.envelope()
        assert (await client.say("AUTH PLAIN")).code == 503
    async with serving(sink) as served, await served.client() as client:
        assert "AUTH" not in client.extensions
        assert (await client.say("AUTH PLAIN")).code == 502


async def test_three_failures_end_the_session(sink: UpstreamSink, backend: PasswordFile):
    async with serving(sink, authenticator=backend, **OPEN) as served, await served.client() as client:
        for code in (535, 535, 421):
            assert (await client.say(f"AUTH PLAIN {plain('bob', 'wrong')}")).code == code
        with pytest.raises(HangUpError):
            await client.read()
    assert [event["login"] for event in served.events("auth_failed")] == ["bob"] * 3
    assert served.counted("auth_total", "main", "wrong") == 3


async def test_a_client_that_does_not_answer_the_challenge(sink: UpstreamSink, backend: PasswordFile):
    limits = Limits(command_timeout=0.1)
    async with serving(sink, limits=limits, authenticator=backend, **OPEN) as served:
        async with await served.client() as client:
            await client.say("AUTH LOGIN")
            assert (await client.read()).code == 421
            with pytest.raises(HangUpError):
                await client.read()
        client = await served.client()
        await client.say("AUTH LOGIN")
        client.abort()
        await served.until_empty()


async def test_an_answer_that_is_far_too_long(sink: UpstreamSink, backend: PasswordFile):
    async with serving(sink, authenticator=backend, **OPEN) as served, await served.client() as client:
        await client.say("AUTH PLAIN")
        await client.send(b"A" * 13_000)
        assert (await client.read()).code == 501
        await client.send(b"A" * 1_000 + b"\r\n")
        assert (await client.read()).code == 500
        assert (await client.say("NOOP")).code == 250


async def test_a_back_end_that_cannot_tell_is_a_454(sink: UpstreamSink, tmp_path: Path):
    events: list[str] = []
    missing = PasswordFile(tmp_path / "missing", Log(events.append, lambda: 0.0))
    async with serving(sink, authenticator=missing, **OPEN) as served, await served.client() as client:
        reply = await client.say(f"AUTH PLAIN {plain('bob', PASSWORD)}")
        assert (reply.code, reply.enhanced) == (454, "4.7.0")
    assert served.counted("auth_total", "main", "error") == 1
    assert len(events) == 1


async def test_a_plugin_is_asked_before_the_back_end(sink: UpstreamSink, backend: PasswordFile):
    seen: list[Credentials] = []

    class Guest(Plugin[Settings]):
        @hook
        async def auth(self, client: Caller, credentials: Credentials):
            seen.append(credentials)
            return "the guest" if credentials.login == "guest" else None

    witness = Witness()
    async with serving(sink, authenticator=backend, plugins=[Guest(Settings()), witness], **OPEN) as served:
        for login, password in (("guest", "any"), ("bob", PASSWORD)):
            async with await served.client() as client:
                assert (await client.say(f"AUTH PLAIN {plain(login, password)}")).code == 235
                await client.envelope()
    assert [caller.identity for caller in witness.callers] == ["the guest", "bob"]
    assert seen[0] == Credentials("PLAIN", "guest", "any")
