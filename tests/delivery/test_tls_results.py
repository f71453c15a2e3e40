"""What is told of TLS to a next hop, by each kind of next hop (RFC 8460 section 4.3)."""

import contextlib
import ssl
from dataclasses import replace

import pytest
from tests.delivery.harness import settings_for
from tests.servers.tls import Certificates, make_certificates

from relayproxy.delivery.connect import ConnectError, connect
from relayproxy.delivery.settings import Address
from relayproxy.testing.upstream import Capabilities, UpstreamSink


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("strangers"))


async def told(sink, policy, context, host="127.0.0.1"):
    """Return (result, version) of what is told of one connection."""
    events = []
    settings = replace(settings_for(sink, tls=policy, tls_context=context), on_tls=events.append)
    with contextlib.suppress(ConnectError):
        made = await connect(settings, Address(host, sink.port), None, ())
        made.wire.close()
    return [(event.result, event.version) for event in events]


def lax(certificates):
    context = certificates.client_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def test_each_end_has_its_type(certificates: Certificates, strangers: Certificates):
    async with UpstreamSink(Capabilities(starttls=certificates.server_context())) as sink:
        assert await told(sink, "verify", certificates.client_context()) == [("success", "TLSv1.3")]
        assert await told(sink, "opportunistic", lax(certificates)) == [("success", "TLSv1.3")]
        assert await told(sink, "verify", strangers.client_context()) == [("certificate-not-trusted", "")]
        assert await told(sink, "off", None) == []
    offered = Capabilities(starttls=certificates.server_context())
    async with UpstreamSink(offered, host="127.0.0.2") as sink:
        assert await told(sink, "verify", certificates.client_context(), "127.0.0.2") == [
            ("certificate-host-mismatch", "")
        ]
    async with UpstreamSink() as sink:
        assert await told(sink, "required", lax(certificates)) == [("starttls-not-supported", "")]
        assert await told(sink, "opportunistic", lax(certificates)) == [("starttls-not-supported", "")]


async def test_a_next_hop_that_cannot_be_reached_says_nothing_of_tls(certificates: Certificates):
    async with UpstreamSink() as sink:
        pass
    assert await told(sink, "verify", certificates.client_context()) == []
