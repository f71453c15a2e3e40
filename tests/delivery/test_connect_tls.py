"""TLS towards a next hop: what each policy does with each kind of next hop. No policy but one ever falls back."""

import asyncio
import ssl
from pathlib import Path

import pytest
from tests.delivery.harness import connected, settings_for
from tests.servers.tls import Certificates, make_certificates

from relayproxy.delivery.connect import ConnectError, connect
from relayproxy.delivery.settings import Address
from relayproxy.testing.upstream import (
    Capabilities,
    Disconnect,
    Fault,
    FaultPlan,
    Reset,
    Say,
    Step,
    UpstreamSink,
    answer,
)

POLICIES = ("off", "opportunistic", "required", "verify")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of a CA that nobody knows."""
    return make_certificates(tmp_path_factory.mktemp("strangers"))


def context_for(policy: str, certificates: Certificates) -> ssl.SSLContext | None:
    """As the composition root makes it: only `verify` and `implicit` look at the certificate."""
    if policy == "off":
        return None
    context = certificates.client_context()
    if policy in ("opportunistic", "required"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def outcome(sink: UpstreamSink, policy: str, certificates: Certificates) -> str:
    """The TLS version of the connection that came about, "clear", or "none"."""
    try:
        async with connected(sink, tls=policy, tls_context=context_for(policy, certificates)) as connection:
            assert "PIPELINING" in connection.capabilities
            assert sink.complaints == []
            return connection.tls or "clear"
    except ConnectError:
        assert sink.reached[Step.MAIL] == 0
        return "none"


@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
@pytest.mark.parametrize(
    ("policy", "plain", "good", "stranger", "other_name"),
    [
        ("off", "clear", "clear", "clear", "clear"),
        ("opportunistic", "clear", "TLSv1.3", "TLSv1.3", "TLSv1.3"),
        ("required", "none", "TLSv1.3", "TLSv1.3", "TLSv1.3"),
        ("verify", "none", "TLSv1.3", "none", "none"),
    ],
)
async def test_each_policy_with_each_certificate(
    certificates: Certificates,
    strangers: Certificates,
    policy: str,
    plain: str,
    good: str,
    stranger: str,
    other_name: str,
    lmtp: bool,
):
    async with UpstreamSink(lmtp=lmtp) as sink:
        assert await outcome(sink, policy, certificates) == plain
    async with UpstreamSink(Capabilities(starttls=certificates.server_context()), lmtp=lmtp) as sink:
        assert await outcome(sink, policy, certificates) == good
    async with UpstreamSink(Capabilities(starttls=strangers.server_context()), lmtp=lmtp) as sink:
        assert await outcome(sink, policy, certificates) == stranger
    # The certificate is for localhost and 127.0.0.1.
    offered = Capabilities(starttls=certificates.server_context())
    async with UpstreamSink(offered, host="127.0.0.2", lmtp=lmtp) as sink:
        assert await outcome(sink, policy, certificates) == other_name


FAILURES = {
    "454": answer(454, "4.7.0 not now"),
    "502": answer(502, "5.5.1 unknown"),
    "disconnect": Disconnect(),
    "reset": Reset(),
    "nonsense": Say(b"\x16\x03\x01\r\n"),
    "no handshake": Say(b"220 go\r\n250 not that I would\r\n", close=True),
}


@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("failure", FAILURES)
async def test_starttls_that_fails(certificates: Certificates, policy: str, failure: str, lmtp: bool):
    """Opportunistic goes on in the clear, on another connection; nobody else does."""
    plan = FaultPlan(Fault(Step.STARTTLS, FAILURES[failure], times=0))
    offered = Capabilities(starttls=certificates.server_context())
    async with UpstreamSink(offered, plan=plan, lmtp=lmtp) as sink:
        came = await outcome(sink, policy, certificates)
        assert came == ("clear" if policy in ("off", "opportunistic") else "none")
        assert sink.sessions == (2 if policy == "opportunistic" else 1)


@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
@pytest.mark.parametrize("policy", ["opportunistic", "required", "verify"])
async def test_a_handshake_that_fails(certificates: Certificates, policy: str, lmtp: bool):
    """The next hop asks for a certificate of ours, and we have none."""
    context = certificates.server_context(ask_client=True)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with UpstreamSink(Capabilities(starttls=context), lmtp=lmtp) as sink:
        assert await outcome(sink, policy, certificates) == ("clear" if policy == "opportunistic" else "none")


@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
@pytest.mark.parametrize("policy", ["opportunistic", "required", "verify"])
async def test_words_injected_before_the_handshake_are_not_heard_after_it(
    certificates: Certificates, policy: str, lmtp: bool
):
    """What comes in the clear behind 220 must not answer our EHLO inside of TLS."""
    injected = b"220 go\r\n250-evil.example\r\n250 XCLIENT ADDR\r\n"
    plan = FaultPlan(Fault(Step.STARTTLS, Say(injected)))
    offered = Capabilities(starttls=certificates.server_context())
    async with UpstreamSink(offered, plan=plan, lmtp=lmtp) as sink:
        try:
            async with connected(
                sink, tls=policy, tls_context=context_for(policy, certificates)
            ) as connection:
                assert "XCLIENT" not in connection.capabilities
                assert "PIPELINING" in connection.capabilities
                assert connection.tls or policy == "opportunistic"
        except ConnectError:
            assert policy != "opportunistic"


class TestImplicit:
    async def test_good(self, certificates: Certificates):
        async with UpstreamSink(tls=certificates.server_context()) as sink:
            assert await outcome(sink, "implicit", certificates) == "TLSv1.3"

    async def test_over_a_unix_socket_the_name_is_localhost(
        self, certificates: Certificates, short_folder: Path
    ):
        async with UpstreamSink(tls=certificates.server_context(), path=short_folder / "smtps") as sink:
            assert await outcome(sink, "implicit", certificates) == "TLSv1.3"

    async def test_lmtp(self, certificates: Certificates):
        async with UpstreamSink(tls=certificates.server_context(), lmtp=True) as sink:
            assert await outcome(sink, "implicit", certificates) == "TLSv1.3"

    async def test_a_stranger_a_wrong_name_and_no_tls_at_all(
        self, certificates: Certificates, strangers: Certificates
    ):
        for context, host in (
            (strangers.server_context(), "127.0.0.1"),
            (certificates.server_context(), "127.0.0.2"),
        ):
            # A sink would take a handshake that fails for a session; a bare server does for that.
            server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, 0, ssl=context)
            address = Address(host, server.sockets[0].getsockname()[1])
            settings = settings_for(
                addresses=(address,), tls="implicit", tls_context=certificates.client_context()
            )
            with pytest.raises(ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await connect(settings, address, None, ())
            server.close()
            await server.wait_closed()
        async with UpstreamSink(Capabilities(starttls=certificates.server_context())) as sink:
            assert await outcome(sink, "implicit", certificates) == "none"
            assert sink.reached[Step.EHLO] == 0


async def test_our_certificate_is_shown(certificates: Certificates):
    context = certificates.client_context(with_certificate=True)
    server = certificates.server_context(ask_client=True)
    async with UpstreamSink(Capabilities(starttls=server)) as sink:
        async with connected(sink, tls="verify", tls_context=context) as connection:
            await connection.wire.ask(b"MAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n", 3, 5)
            await connection.wire.ask(b"\r\n.\r\n", 1, 5)
        der = ssl.PEM_cert_to_DER_cert(certificates.client.read_text())
        assert sink.messages[0].peer.certificate == der
