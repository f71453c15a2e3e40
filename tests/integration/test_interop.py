"""Other mail servers and clients than Postfix and Dovecot: Exim behind and in front, msmtp, OpenSMTPD's client."""

import asyncio
import subprocess
from collections.abc import AsyncIterator

import pytest
from tests.integration.test_queue import configure, until_empty
from tests.servers.client import Client
from tests.servers.compare import trace_above
from tests.servers.exim import PEERS, Exim
from tests.servers.process import do_without, need, wait_for
from tests.servers.relay import Relay

from relayproxy.testing.upstream import UpstreamSink

pytestmark = pytest.mark.servers

HEAD = b"From: a@example.org\r\nTo: ana@example.net\r\nDate: Tue, 24 Nov 2026 08:00:00 +0000\r\n"
MESSAGE = (
    HEAD + b"Message-ID: <1@example.org>\r\nSubject: odd\r\n  folded\r\n\r\n.a dot\r\n..two\r\n\r\nend\r\n"
)
EIGHT_BIT = MESSAGE + bytes(range(160, 256)) + b"\r\n"


@pytest.fixture
async def exim() -> AsyncIterator[Exim]:
    server = Exim()
    await server.start()
    yield server
    await server.stop()


async def _run(*command: str, data: bytes) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(data), 60)
    assert process.returncode == 0, output.decode("utf-8", "replace")


@pytest.mark.parametrize("delivery", ["pass-through", "queue"])
async def test_exim_behind(relay: Relay, exim: Exim, delivery: str):
    configure(relay, f"127.0.0.1:{exim.port}", route={"delivery": delivery})
    await relay.start()
    async with await Client.open(relay.port) as client:
        for content in (MESSAGE, EIGHT_BIT):
            heard = await client.message(
                content, recipients=("ana@example.net", "bob@example.net"), options="BODY=8BITMIME"
            )
            assert heard.code == 250, heard
        if delivery == "pass-through":
            assert "exim" in heard.text.lower() or "id=" in heard.text
            (_, refused) = await client.envelope(recipients=("nobody@example.net",))
            # Exim gives no enhanced code, so the text has one of ours in front.
            assert (refused.code, refused.text) == (550, "5.0.0 no such user here")
    for user in ("ana", "bob"):
        await wait_for(lambda user=user: len(exim.delivered(user)) == 2, "both messages")
        # Exim delivers each by a process of its own, in any order.
        arrived = sorted(exim.delivered(user), key=len)
        for received, sent in zip(arrived, (MESSAGE, EIGHT_BIT), strict=True):
            trace_above(received, sent)


async def test_exim_in_front(relay: Relay):
    """Exim takes mail and hands it to us, which queues it: its client's answer, ours, and the next hop's."""
    async with UpstreamSink() as sink:
        configure(relay, sink.address)
        await relay.start()
        front = Exim(upstream=relay.port)
        await front.start()
        try:
            async with await Client.open(front.port) as client:
                for number in range(20):
                    content = MESSAGE + b"%d\r\n" % number
                    assert (await client.message(content, recipients=("ana@example.net",))).code == 250
            await sink.until_messages(20)
            await until_empty(relay)
            bodies = {message.content.partition(b"\r\n\r\n")[2] for message in sink.messages}
            assert bodies == {(MESSAGE + b"%d\r\n" % n).partition(b"\r\n\r\n")[2] for n in range(20)}
            assert sink.complaints == []
        finally:
            await front.stop()


async def test_msmtp(relay: Relay):
    need("msmtp", root=False)
    async with UpstreamSink() as sink:
        configure(relay, sink.address)
        await relay.start()
        words = (
            "--host=127.0.0.1",
            f"--port={relay.port}",
            "--from=a@example.org",
        )
        await _run("msmtp", *words, "b@example.net", "c@example.net", data=MESSAGE.replace(b"\r\n", b"\n"))
        await sink.until_messages(1)
        (message,) = sink.messages
        trace_above(message.content, MESSAGE)
        assert message.recipients == ("b@example.net", "c@example.net")


async def test_the_client_of_opensmtpd(relay: Relay):
    program = PEERS / "usr/bin/smtp"
    if not program.exists():
        do_without(f"{program} is not there (see .ci/run)")
    async with UpstreamSink() as sink:
        configure(relay, sink.address)
        await relay.start()
        words = (
            "-s",
            f"smtp+notls://127.0.0.1:{relay.port}",
            "-F",
            "a@example.org",
            "-H",
            "client.example.org",
        )
        await _run(str(program), *words, "b@example.net", data=MESSAGE.replace(b"\r\n", b"\n"))
        await sink.until_messages(1)
        trace_above(sink.messages[0].content, MESSAGE)
