"""More of the promises of the design: sizes, signatures, and set-ups that test_promises.py leaves out."""

import asyncio
import base64
import hashlib
import shutil
from pathlib import Path

import dkim
import pytest
from tests.servers.client import Client, HangUpError, wire_form
from tests.servers.compare import relays_named, trace_above
from tests.servers.process import free_port
from tests.servers.relay import Relay

from relayproxy.testing.upstream import (
    Step,
    UpstreamSink,
)

FAULTY = Path(__file__).parents[1] / "servers" / "faulty.py"
HEAD = b"From: a@example.org\r\nTo: b@example.net\r\nSubject: promised\r\nMessage-ID: <1@example.org>\r\n"
MESSAGE = HEAD + b"\r\nbody\r\n"


async def test_promise_1_truth_when_there_is_no_upstream(relay: Relay):
    relay.configure(f"127.0.0.1:{free_port()}")
    await relay.start()
    async with await Client.open(relay.port) as client:
        reply = await client.message(MESSAGE)
    assert reply.kind == 4


async def test_promise_2_bytes_of_50_megabytes(relay: Relay):
    line = bytes(range(128, 256)) + b".more of the same, and then some\r\n.\tdot\r\n"
    content = HEAD + b"\r\n" + line * (50_000_000 // len(line))
    async with UpstreamSink() as sink:
        relay.configure(sink.address)
        await relay.start()
        async with await Client.open(relay.port) as client:
            await client.envelope(options=f"BODY=8BITMIME SIZE={len(content)}")
            assert (await client.say("DATA")).code == 354
            await client.send(wire_form(content))
            assert (await client.read(120)).code == 250
        (sunk,) = sink.messages
        received = sunk.content
    above = len(received) - len(content)
    assert 0 < above < 2000
    assert hashlib.sha256(received[above:]).digest() == hashlib.sha256(content).digest()


async def test_promise_2_a_signature_still_verifies(relay: Relay):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    record = b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)
    async with UpstreamSink() as sink:
        relay.configure(sink.address)
        await relay.start()
        async with await Client.open(relay.port) as client:
            for canonical in ((b"simple", b"simple"), (b"relaxed", b"relaxed")):
                plain = HEAD + b"\r\n body  with \tblanks \r\n.\r\n\r\n\r\n"
                signed = dkim.sign(plain, b"s", b"example.org", private, canonicalize=canonical) + plain
                assert (await client.message(signed)).code == 250
                received = sink.messages[-1].content
                trace_above(received, signed)
                assert dkim.verify(received, dnsfunc=lambda *_, **__: record)


async def test_promise_3_closed_without_any_configuration_of_relaying(relay: Relay):
    async with UpstreamSink() as sink:
        relay.configure(sink.address, relay={})
        await relay.start()
        for source in ("127.0.0.1", "127.0.0.2"):
            async with await Client.open(relay.port, source=source) as client:
                assert (await client.message(MESSAGE)).kind == 5
        assert sink.reached[Step.RCPT] == 0


async def test_promise_3_closed_with_no_file_at_all(relay: Relay):
    """`run --listen --to` serves this machine's own clients and nobody else."""
    async with UpstreamSink() as sink:
        listen = f"127.0.0.1:{relay.port}"
        await relay.start_with("run", "--listen", listen, "--to", sink.address)
        async with await Client.open(relay.port) as client:
            assert (await client.message(MESSAGE)).code == 250
        assert relays_named(trace_above(sink.messages[0].content, MESSAGE)) == 1


async def test_promise_4_unless_the_admin_wrote_skip(relay: Relay):
    folder = relay.folder / "plugins"
    folder.mkdir()
    shutil.copy(FAULTY, folder)
    async with UpstreamSink() as sink:
        relay.configure(
            sink.address,
            plugin_folders=[str(folder)],
            pipeline=[{"faulty": {"timeout": "300ms", "on_error": "skip"}}],
        )
        await relay.start()
        async with await Client.open(relay.port) as client:
            for how in ("raises", "hangs", "nonsense"):
                assert (await client.message(MESSAGE, f"{how}@message.example")).code == 250
        assert len(sink.messages) == 3
    relay.expect_tracebacks()


async def test_promise_5_bounded_memory_and_budget(relay: Relay):
    """Ten messages of 10 MB in flight cost no 150 MB; beyond the budget of octets the client hears 452."""
    content = HEAD + b"\r\n" + (b"x" * 76 + b"\r\n") * (10_000_000 // 78)
    async with UpstreamSink() as sink:
        relay.configure(sink.address, limits={"bytes_in_flight": "120 MB"})
        await relay.start()
        clients = [await Client.open(relay.port) for _ in range(10)]
        for client in clients:
            await client.envelope()
            await client.send(b"BDAT %d\r\n" % len(content) + content)
            assert (await client.read()).code == 250  # so it has been read to the end
        assert relay.memory() < 150_000_000
        async with await Client.open(relay.port) as late:
            reply = await late.message(content * 3)
            assert (reply.code, reply.enhanced) == (452, "4.3.1")
        for client in clients:
            await client.send(b"BDAT 0 LAST\r\n")
        assert [(await client.read(60)).code for client in clients] == [250] * 10
        assert relay.memory() < 150_000_000
        for client in clients:
            await client.close()
        assert [sunk.content.endswith(content) for sunk in sink.messages] == [True] * 10


async def test_promise_6_one_grammar_in_commands_and_around_starttls(relay: Relay, certificates):
    async with UpstreamSink() as sink:
        tls = {"cert": str(certificates.server), "key": str(certificates.server_key)}
        relay.configure(
            sink.address,
            listeners=[{"name": "main", "listen": f"127.0.0.1:{relay.port}", "tls": tls}],
        )
        await relay.start()
        async with await Client.open(relay.port) as client:
            await client.send(b"MAIL FROM:<a@example.org>\nRCPT TO:<b@example.net>\n")
            reply = await client.read()
            assert (reply.code, reply.enhanced) == (500, "5.5.2")
        async with await Client.open(relay.port) as client:
            await client.send(b"STARTTLS\r\nMAIL FROM:<injected@example.org>\r\n")
            with pytest.raises((HangUpError, OSError)):
                await _until_hang_up(client, certificates)
        assert sink.reached[Step.MAIL] == 0


async def _until_hang_up(client: Client, certificates) -> None:
    """Go on with the handshake if the server lets us, and wait for its hanging up."""
    reply = await client.read()
    if reply.code == 220:
        loop = asyncio.get_running_loop()
        wire = asyncio.Protocol()
        await loop.start_tls(
            client.transport, wire, certificates.client_context(), server_hostname="localhost"
        )
    await client.read()
