"""From the queue to mail servers found by MX, with DNSSEC and policy files that are real: nothing goes out in the clear.

A resolver that validates, zones that are signed, an HTTPS server, and whoever takes STARTTLS out or shows another certificate.
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.integration.test_queue import MESSAGE, configure, send, until_empty
from tests.servers.client import Client
from tests.servers.policy_file import a_policy_host
from tests.servers.process import wait_for
from tests.servers.relay import LISTENER, Relay
from tests.servers.signed import SignedUnbound
from tests.servers.tls import Certificates, make_certificates

from relayproxy.testing.upstream import Capabilities, UpstreamSink

pytestmark = pytest.mark.servers

HERE = "@ 300 IN A 127.0.0.1\n"


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of a CA that nobody knows."""
    return make_certificates(tmp_path_factory.mktemp("strangers"))


@asynccontextmanager
async def names(zones: dict[str, str], **kinds: Any) -> AsyncIterator[SignedUnbound]:
    server = SignedUnbound(zones, **kinds)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def by_mx(relay: Relay, server: SignedUnbound, port: int, **changes: Any) -> None:
    upstream = {"mx": True, "mx_port": port, **changes.pop("upstream", {})}
    configure(
        relay,
        "",
        upstreams={"sink": upstream},
        dns={"servers": [f"127.0.0.1:{server.port}"]},
        **changes,
    )


def tlsa(port: int, certificates: Certificates) -> str:
    certificate = x509.load_pem_x509_certificate(certificates.server.read_bytes())
    octets = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"_{port}._tcp 300 IN TLSA 3 1 1 {hashlib.sha256(octets).hexdigest()}\n"


def sink_with(certificates: Certificates | None, **more: Any) -> UpstreamSink:
    context = certificates.server_context() if certificates else None
    requiretls = more.pop("requiretls", False)
    return UpstreamSink(Capabilities(starttls=context, requiretls=requiretls), **more)


def put_off(relay: Relay) -> list[str]:
    return [event["problem"] for event in relay.events if event["event"] == "tls_put_off"]


async def waits(relay: Relay, sink: UpstreamSink, problem: str) -> None:
    """It is tried twice for the reason, and nothing has gone out."""
    await wait_for(lambda: len(put_off(relay)) >= 2, "two attempts")
    assert problem in put_off(relay)[-1]
    assert sink.messages == []


class TestDane:
    async def test_the_certificate_that_the_records_describe(self, relay: Relay, strangers: Certificates):
        async with sink_with(strangers) as sink:
            zones = {
                "localhost": HERE + tlsa(sink.port, strangers),
                "example.net": "@ 300 IN MX 10 localhost.\n",
            }
            async with names(zones) as server:
                by_mx(relay, server, sink.port)
                await relay.start()
                assert (await send(relay)).code == 250
                await sink.until_messages(1)
                assert sink.messages[0].peer.tls == "TLSv1.3"
                await until_empty(relay)

    @pytest.mark.parametrize(
        ("shown", "broken", "problem"),
        [
            ("another", (), "no TLSA record describes the certificate"),
            ("none", (), "STARTTLS"),
            ("right", ("localhost",), "DNS gave no answer"),
        ],
    )
    async def test_an_attack_ends_in_no_delivery(
        self,
        relay: Relay,
        certificates: Certificates,
        strangers: Certificates,
        shown: str,
        broken: tuple[str, ...],
        problem: str,
    ):
        context = {"another": certificates, "none": None, "right": strangers}[shown]
        async with sink_with(context) as sink:
            zones = {
                "localhost": HERE + tlsa(sink.port, strangers),
                "example.net": "@ 300 IN MX 10 localhost.\n",
            }
            async with names(zones, broken=broken) as server:
                by_mx(relay, server, sink.port)
                await relay.start(env={"SSL_CERT_FILE": str(certificates.ca)})
                assert (await send(relay)).code == 250
                await waits(relay, sink, problem)

    async def test_mx_records_with_a_broken_signature(self, relay: Relay, strangers: Certificates):
        async with sink_with(strangers) as sink:
            zones = {
                "localhost": HERE + tlsa(sink.port, strangers),
                "example.net": "@ 300 IN MX 10 localhost.\n",
            }
            async with names(zones, broken=("example.net",)) as server:
                by_mx(relay, server, sink.port)
                await relay.start()
                assert (await send(relay)).code == 250
                await wait_for(lambda: relay.log.count("can't be looked up now") >= 2, "two attempts")
                assert sink.sessions == 0

    async def test_an_unsigned_zone_is_served_as_ever(
        self, relay: Relay, certificates: Certificates, strangers: Certificates
    ):
        async with sink_with(certificates) as sink:
            zones = {
                "localhost": HERE + tlsa(sink.port, strangers),
                "example.net": "@ 300 IN MX 10 localhost.\n",
            }
            async with names(zones, unsigned=("example.net",)) as server:
                by_mx(relay, server, sink.port)
                await relay.start()
                assert (await send(relay)).code == 250
                await sink.until_messages(1)


class TestMtaSts:
    @pytest.mark.parametrize(
        ("shown", "mode", "mx", "problem"),
        [
            ("good", "enforce", "localhost", ""),
            ("good", "enforce", "other.example.org", "doesn't name the host localhost"),
            ("stranger", "enforce", "localhost", "CERTIFICATE_VERIFY_FAILED"),
            ("none", "enforce", "localhost", "STARTTLS"),
            ("stranger", "testing", "localhost", ""),
        ],
    )
    async def test_what_the_policy_says(
        self,
        relay: Relay,
        certificates: Certificates,
        strangers: Certificates,
        shown: str,
        mode: str,
        mx: str,
        problem: str,
    ):
        policy = f"version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 86400\n"
        context = {"good": certificates, "stranger": strangers, "none": None}[shown]
        async with a_policy_host(policy, certificates) as host, sink_with(context) as sink:
            zones = {
                "localhost": HERE,
                "example.org": "@ 300 IN MX 10 localhost.\n"
                '_mta-sts 300 IN TXT "v=STSv1; id=1"\n'
                f"mta-sts 300 IN A {host.address}\n",
            }
            async with names(zones, unsigned=("localhost", "example.org")) as server:
                by_mx(relay, server, sink.port)
                await relay.start(env={"SSL_CERT_FILE": str(certificates.ca)})
                heard = await send(relay, sender="", recipients=("b@example.org",))
                assert heard.code == 250
                if problem:
                    await waits(relay, sink, problem)
                else:
                    await sink.until_messages(1)
                    assert sink.messages[0].peer.tls == "TLSv1.3"
                assert host.asked == 1

    async def test_a_policy_outlives_a_restart_and_its_file(
        self, relay: Relay, certificates: Certificates, strangers: Certificates
    ):
        policy = "version: STSv1\nmode: enforce\nmx: localhost\nmax_age: 86400\n"
        async with sink_with(strangers) as sink:
            async with a_policy_host(policy, certificates) as host:
                zones = {
                    "localhost": HERE,
                    "example.org": "@ 300 IN MX 10 localhost.\n"
                    '_mta-sts 300 IN TXT "v=STSv1; id=1"\n'
                    f"mta-sts 300 IN A {host.address}\n",
                }
                async with names(zones, unsigned=("localhost", "example.org")) as server:
                    state = {"url": f"sqlite://{relay.folder}/state.db"}
                    by_mx(relay, server, sink.port, state=state)
                    await relay.start(env={"SSL_CERT_FILE": str(certificates.ca)})
                    assert (await send(relay, sender="", recipients=("b@example.org",))).code == 250
                    await waits(relay, sink, "CERTIFICATE_VERIFY_FAILED")
                    await relay.finish()
            zones["example.org"] = "@ 300 IN MX 10 localhost.\n"
            async with names(zones, unsigned=("localhost", "example.org")) as server:
                by_mx(relay, server, sink.port, state=state)
                before = len(put_off(relay))
                await relay.start(env={"SSL_CERT_FILE": str(certificates.ca)})
                await wait_for(lambda: len(put_off(relay)) > before, "an attempt after the restart")
                assert sink.messages == []


def with_tls(relay: Relay, certificates: Certificates) -> dict[str, Any]:
    tls = {"mode": "starttls", "cert": str(certificates.server), "key": str(certificates.server_key)}
    return {"listeners": [{"name": LISTENER, "listen": f"127.0.0.1:{relay.port}", "tls": tls}]}


class TestRequireTls:
    async def submit(self, relay: Relay, certificates: Certificates, recipient: str, **more: Any) -> int:
        async with await Client.open(relay.port) as client:
            assert "REQUIRETLS" not in client.extensions
            await client.start_tls(certificates.client_context())
            assert "REQUIRETLS" in client.extensions
            answer = await client.message(
                MESSAGE, sender="ana@example.com", recipients=(recipient,), options="REQUIRETLS"
            )
            return answer.code

    async def test_kept_and_passed_on(
        self, relay: Relay, certificates: Certificates, strangers: Certificates
    ):
        async with sink_with(strangers, requiretls=True) as sink:
            zones = {
                "localhost": HERE + tlsa(sink.port, strangers),
                "example.net": "@ 300 IN MX 10 localhost.\n",
            }
            async with names(zones) as server:
                by_mx(relay, server, sink.port, **with_tls(relay, certificates))
                await relay.start()
                assert await self.submit(relay, certificates, "b@example.net") == 250
                await sink.until_messages(1)
                assert b" REQUIRETLS" in sink.messages[0].mail
                assert sink.messages[0].peer.tls == "TLSv1.3"

    async def test_returned_over_tls_where_it_is_not_taken(
        self, relay: Relay, certificates: Certificates, strangers: Certificates
    ):
        async with (
            sink_with(strangers) as sink,
            sink_with(strangers, requiretls=True, host="127.0.0.3", port=sink.port) as home,
        ):
            zones = {
                "localhost": HERE + tlsa(sink.port, strangers),
                "example.net": "@ 300 IN MX 10 localhost.\n",
                "example.com": "@ 300 IN A 127.0.0.3\n" + tlsa(sink.port, strangers),
            }
            async with names(zones) as server:
                by_mx(relay, server, sink.port, **with_tls(relay, certificates))
                await relay.start()
                assert await self.submit(relay, certificates, "b@example.net") == 250

                await home.until_messages(1)
                (bounce,) = home.messages
                assert bounce.recipients == ("ana@example.com",)
                assert b" REQUIRETLS" in bounce.mail
                assert b"Status: 5.7.30\r\n" in bounce.content
                assert b"text/rfc822-headers" in bounce.content
                assert MESSAGE.partition(b"\r\n\r\n")[2] not in bounce.content
                assert sink.messages == []
                await until_empty(relay)

    async def test_not_offered_where_tls_is_off(self, relay: Relay, certificates: Certificates):
        async with sink_with(certificates, requiretls=True) as sink, names({"localhost": HERE}) as server:
            by_mx(relay, server, sink.port, upstream={"tls": "off"}, **with_tls(relay, certificates))
            await relay.start()
            async with await Client.open(relay.port) as client:
                await client.start_tls(certificates.client_context())
                assert "REQUIRETLS" not in client.extensions

    async def test_tls_that_is_no_condition(
        self, relay: Relay, certificates: Certificates, strangers: Certificates
    ):
        async with sink_with(certificates) as sink:
            zones = {
                "localhost": HERE + tlsa(sink.port, strangers),
                "example.net": "@ 300 IN MX 10 localhost.\n",
            }
            async with names(zones) as server:
                by_mx(relay, server, sink.port)
                await relay.start()
                assert (await send(relay, content=b"TLS-Required: No\r\n" + MESSAGE)).code == 250
                await sink.until_messages(1)


class TestRatchet:
    async def test_a_host_that_was_seen_with_tls_gets_nothing_without_until_an_admin_says_so(
        self, relay: Relay, certificates: Certificates
    ):
        async with names({"localhost": HERE, "example.net": "@ 300 IN MX 10 localhost.\n"}) as server:
            async with sink_with(certificates) as sink:
                ratchet = {"tls_ratchet": "enforce"}
                state = {"url": f"sqlite://{relay.folder}/state.db"}
                by_mx(relay, server, sink.port, upstream=ratchet, state=state)
                await relay.start(env={"SSL_CERT_FILE": str(certificates.ca)})
                assert (await send(relay)).code == 250
                await sink.until_messages(1)
                await until_empty(relay)
            async with UpstreamSink(port=sink.port) as stripped:
                assert (await send(relay, content=MESSAGE + b"another\r\n")).code == 250
                await waits(relay, stripped, "was seen with TLS")
                arguments = ("queue", "tls", "localhost", "--forget", "-C", str(relay.config_file))
                status, said = await relay.output(*arguments)
                assert status == 0, said
                await stripped.until_messages(1)
                await until_empty(relay)
