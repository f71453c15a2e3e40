"""TLS on a connection: STARTTLS forgets what was said, tickets serve all, client certificates are facts."""

import asyncio
import hashlib
import socket
import ssl

import pytest
from tests.server.harness import MESSAGE, Witness, received, serving
from tests.servers.client import Client, HangUpError
from tests.servers.client import _Wire as Words
from tests.servers.process import wait_for
from tests.servers.tls import Certificates

from relayproxy.core.policy import Limits
from relayproxy.testing.upstream import UpstreamSink


@pytest.fixture
def context(certificates: Certificates) -> ssl.SSLContext:
    """As a listener with `client_ca` has it: certificates are asked for, not demanded."""
    context = certificates.server_context()
    context.load_verify_locations(certificates.ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


async def test_starttls_and_the_facts_of_it(sink: UpstreamSink, context, certificates: Certificates):
    witness = Witness()
    async with (
        serving(sink, tls=context, plugins=[witness]) as served,
        await served.client() as client,
    ):
        assert "STARTTLS" in client.extensions
        await client.message(MESSAGE)
        assert witness.callers[0].tls is None
        await client.start_tls(certificates.client_context())
        assert "STARTTLS" not in client.extensions
        assert (await client.message(MESSAGE)).code == 250
        tls = witness.callers[1].tls
        assert tls is not None
        assert (tls.version, tls.bits, tls.subject, tls.fingerprint, tls.verified) == (
            "TLSv1.3",
            256,
            "",
            "",
            False,
        )
        assert (await client.say("STARTTLS")).code == 503
    assert b"with ESMTPS " in sink.messages[1].content
    assert b"with ESMTP " in sink.messages[0].content


async def test_a_client_certificate(sink: UpstreamSink, context, certificates: Certificates):
    witness = Witness()
    async with serving(sink, tls=context, plugins=[witness]) as served, await served.client() as client:
        await client.start_tls(certificates.client_context(with_certificate=True))
        assert (await client.message(MESSAGE)).code == 250
    tls = witness.callers[0].tls
    der = ssl.PEM_cert_to_DER_cert(certificates.client.read_text())
    assert tls is not None
    assert (tls.subject, tls.verified) == ("client.example.org", True)
    assert tls.fingerprint == hashlib.sha256(der).hexdigest()


async def test_a_certificate_that_no_ca_of_ours_vouches_for_ends_the_handshake(
    sink: UpstreamSink, certificates
):
    """A listener's own CA list knows the server's issuer only; a self-made one is nobody's."""
    strict = certificates.server_context()
    strict.verify_mode = ssl.CERT_OPTIONAL
    async with serving(sink, tls=strict) as served, await served.client() as client:
        # With TLS 1.3 the client's side of the handshake is over before its certificate is judged.
        with pytest.raises((HangUpError, OSError)):
            await client.start_tls(certificates.client_context(with_certificate=True))
        await served.until_empty()
    assert served.became("tls_failed") == 1
    assert served.events("tls_failed")


async def test_what_was_said_before_tls_is_forgotten(sink: UpstreamSink, context, certificates: Certificates):
    witness = Witness()
    async with (
        serving(sink, tls=context, plugins=[witness]) as served,
        await served.client(helo="") as client,
    ):
        await client.ehlo("liar.example")
        assert (await client.say("STARTTLS")).code == 220
        transport = await served.shared.loop.start_tls(
            client.transport, client._wire, certificates.client_context(), server_hostname="localhost"
        )
        client.transport = transport
        reply = await client.say("MAIL FROM:<a@example.org>")
        assert (reply.code, reply.enhanced) == (503, "5.5.1")
        await client.ehlo("honest.example")
        assert (await client.message(MESSAGE)).code == 250
    assert witness.callers[0].helo == "honest.example"


async def test_not_in_a_transaction_not_with_an_argument_not_without_a_context(sink: UpstreamSink, context):
    async with serving(sink, tls=context) as served, await served.client() as client:
        await client.envelope()
        assert (await client.say("STARTTLS")).code == 503
        assert (await client.say("STARTTLS now")).code == 501
        await client.say("RSET")
        assert (await client.say("STARTTLS now")).code == 501
    async with serving(sink) as served, await served.client() as client:
        assert "STARTTLS" not in client.extensions
        assert (await client.say("STARTTLS")).code == 502


async def test_tls_may_be_demanded(sink: UpstreamSink, context, certificates: Certificates):
    async with serving(sink, tls=context, tls_required=True) as served, await served.client() as client:
        reply = await client.say("MAIL FROM:<a@example.org>")
        assert (reply.code, reply.enhanced) == (530, "5.7.0")
        await client.start_tls(certificates.client_context())
        assert (await client.message(MESSAGE)).code == 250


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_is_resumed_on_another_connection(
    sink: UpstreamSink, context, certificates: Certificates, version: ssl.TLSVersion
):
    """Workers are forked with one context, so that a ticket of one is good at all; two listeners stand for two workers."""
    speaks = certificates.client_context()
    speaks.maximum_version = version
    async with serving(sink, tls=context) as one, serving(sink, tls=context) as other:
        session, reused = await _blocking(one.port, speaks, None)
        assert not reused
        assert session is not None
        _, reused = await _blocking(other.port, speaks, session)
        assert reused


async def _blocking(port: int, speaks: ssl.SSLContext, session: ssl.SSLSession | None):
    """One conversation by a plain blocking client, as asyncio can't offer a session; (its session, was it reused)."""

    def talk():
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            for line, answer in ((b"", b"220"), (b"EHLO c.example\r\n", b"250"), (b"STARTTLS\r\n", b"220")):
                sock.sendall(line)
                assert sock.recv(4096).startswith(answer)
            with speaks.wrap_socket(sock, server_hostname="localhost", session=session) as tls:
                tls.sendall(b"EHLO c.example\r\n")
                assert tls.recv(4096).startswith(b"250")
                return tls.session, tls.session_reused

    return await asyncio.to_thread(talk)


class TestImplicit:
    async def test_it_begins_with_tls(self, sink: UpstreamSink, context, certificates: Certificates):
        witness = Witness()
        async with (
            serving(sink, tls=context, implicit=True, plugins=[witness]) as served,
            await served.client(
                tls=certificates.client_context(with_certificate=True), host="localhost"
            ) as client,
        ):
            assert "STARTTLS" not in client.extensions
            assert (await client.say("STARTTLS")).code == 503
            assert (await client.message(MESSAGE)).code == 250
        tls = witness.callers[0].tls
        assert tls is not None
        assert tls.verified
        assert received(sink) == [MESSAGE]

    async def test_over_a_unix_socket(self, sink: UpstreamSink, context, certificates, short_folder):
        path = str(short_folder / "s.sock")
        async with serving(sink, tls=context, implicit=True, path=path) as served:
            reader, writer = await _open_unix(path, certificates)
            assert (await reader.readline()).startswith(b"220 ")
            writer.close()
            await writer.wait_closed()
            await served.until_empty()

    async def test_a_client_that_speaks_no_tls_is_let_go(self, sink: UpstreamSink, context):
        async with serving(sink, tls=context, implicit=True, limits=Limits(handshake_timeout=0.2)) as served:
            for words in (b"EHLO c.example\r\n", b""):
                with pytest.raises((HangUpError, AssertionError, ConnectionError)):
                    await _plain(served.port, words)
            assert served.connections == []


async def _open_unix(path: str, certificates: Certificates):
    return await asyncio.open_unix_connection(
        path, ssl=certificates.client_context(), server_hostname="localhost"
    )


async def _plain(port: int, words: bytes) -> None:
    transport, wire = await asyncio.get_running_loop().create_connection(Words, "127.0.0.1", port)
    transport.write(words)
    await Client(transport, wire).read()


async def test_a_handshake_that_does_not_come(sink: UpstreamSink, context):
    async with (
        serving(sink, tls=context, limits=Limits(handshake_timeout=0.2)) as served,
        await served.client() as client,
    ):
        assert (await client.say("STARTTLS")).code == 220
        with pytest.raises((HangUpError, AssertionError)):
            await client.read()
        await served.until_empty()
    assert served.became("tls_failed") == 1


@pytest.mark.parametrize("words", [b"EHLO c.example\r\n", b"\x16\x03\x01\x00\x05hello"])
async def test_a_handshake_of_nonsense(sink: UpstreamSink, context, words: bytes):
    async with serving(sink, tls=context) as served, await served.client() as client:
        assert (await client.say("STARTTLS")).code == 220
        await client.send(words)
        await served.until_empty()
    assert served.became("tls_failed") == 1


async def test_a_client_that_goes_during_the_handshake(sink: UpstreamSink, context):
    async with serving(sink, tls=context) as served, await served.client() as client:
        assert (await client.say("STARTTLS")).code == 220
        await wait_for(lambda: served.connections[0]._waiter is None, "the handshake to begin")
        client.abort()
        await served.until_empty()
