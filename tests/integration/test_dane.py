"""DANE with a resolver that validates and zones that are signed, to a server with TLS."""

import hashlib
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.delivery.harness import settings_for
from tests.servers.client import Client
from tests.servers.relay import Relay
from tests.servers.signed import SignedUnbound
from tests.servers.tls import Certificates
from tests.servers.unbound import Unbound

from relayproxy.core.log import Log
from relayproxy.delivery.connect import ConnectError, connect
from relayproxy.delivery.settings import Address
from relayproxy.delivery.tls_policy import TlsPolicies
from relayproxy.testing.upstream import Capabilities, Step, UpstreamSink

pytestmark = pytest.mark.servers

CLOCK = SimpleNamespace(time=time.time, monotonic=time.monotonic)


@asynccontextmanager
async def running(server: Unbound) -> AsyncIterator[Unbound]:
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@pytest.fixture
async def sink(certificates: Certificates) -> AsyncIterator[UpstreamSink]:
    async with UpstreamSink(Capabilities(starttls=certificates.server_context())) as sink:
        yield sink


def zone_of(sink: UpstreamSink, certificates: Certificates, *, good: bool = True) -> str:
    certificate = x509.load_pem_x509_certificate(certificates.server.read_bytes())
    octets = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = hashlib.sha256(octets if good else b"another key").hexdigest()
    return f"@ 300 IN A 127.0.0.1\n_{sink.port}._tcp 300 IN TLSA 3 1 1 {digest}\n"


async def outcome(server: Unbound, sink: UpstreamSink) -> str:
    """The TLS version of a connection under `tls: dane`, or why there is none."""
    blind = ssl.create_default_context()
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE
    place = Address("localhost", sink.port)
    settings = settings_for(sink, addresses=(place,), tls="dane", tls_context=blind, unverified_context=blind)
    async with running(server):
        resolver = server.resolver(timeout=3.0)
        policies = TlsPolicies(resolver, clock=CLOCK, log=Log(lambda _: None, time.time))
        try:
            connection = await connect(settings, place, None, (), None, policies)
        except ConnectError as error:
            assert sink.reached[Step.MAIL] == 0
            return str(error)
        finally:
            await resolver.close()
    connection.wire.close()
    return connection.tls


async def test_signed_records_decide(certificates: Certificates, sink: UpstreamSink):
    good = SignedUnbound({"localhost": zone_of(sink, certificates)})
    assert await outcome(good, sink) == "TLSv1.3"
    other = SignedUnbound({"localhost": zone_of(sink, certificates, good=False)})
    assert "DANE: no TLSA record describes the certificate" in await outcome(other, sink)


async def test_a_signature_that_is_broken_ends_in_no_connection(
    certificates: Certificates, sink: UpstreamSink
):
    broken = SignedUnbound({"localhost": zone_of(sink, certificates)}, broken=("localhost",))
    assert "DNS gave no answer" in await outcome(broken, sink)
    assert sink.sessions == 0


async def test_records_that_nobody_vouches_for_do_not_count(certificates: Certificates, sink: UpstreamSink):
    unsigned = SignedUnbound({"localhost": zone_of(sink, certificates)}, unsigned=("localhost",))
    assert "is not secured by DNSSEC" in await outcome(unsigned, sink)
    assert sink.sessions == 0


async def test_a_signed_zone_without_records(certificates: Certificates, sink: UpstreamSink):
    bare = SignedUnbound({"localhost": "@ 300 IN A 127.0.0.1\n"})
    assert "there are no TLSA records" in await outcome(bare, sink)


async def test_the_whole_proxy(relay: Relay, certificates: Certificates, sink: UpstreamSink):
    """From a client through relayproxy, with the resolver of the configuration, to a server whose CA nobody knows."""
    server = SignedUnbound({"localhost": zone_of(sink, certificates)})
    async with running(server):
        relay.configure(
            "",
            upstreams={"sink": {"address": f"localhost:{sink.port}", "tls": "dane"}},
            dns={"servers": [f"127.0.0.1:{server.port}"]},
        )
        await relay.start()
        async with await Client.open(relay.port) as client:
            answer = await client.message(b"Subject: sealed\r\n\r\nHello\r\n", recipients=("b@example.net",))
        assert answer.code == 250
    assert sink.messages[0].peer.tls == "TLSv1.3"
