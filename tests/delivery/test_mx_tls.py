"""TLS towards mail servers found by MX: real handshakes, DNS from a dict; nothing goes out with less than was asked for."""

import asyncio
import hashlib
import json
import ssl
import time
from contextlib import asynccontextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.delivery.harness import LEAD, MESSAGE, QUICK, a_mail, an_envelope
from tests.servers.tls import Certificates, make_certificates

from relayproxy.api import DnsStatus
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.outbox import Outbox
from relayproxy.delivery.mx import MxHop
from relayproxy.delivery.ratchet import Ratchet
from relayproxy.delivery.settings import UpstreamSettings
from relayproxy.delivery.tls_policy import TlsPolicies
from relayproxy.mailauth.mta_sts import PolicyFile
from relayproxy.state.memory import MemoryState
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.resolver import FakeResolver
from relayproxy.testing.upstream import Capabilities, Step, UpstreamSink

NOW = time.time()
MX = {
    ("example.net", "MX"): [(10, "localhost")],
    ("localhost", "A"): "127.0.0.1",
    (".", "SOA"): ". . 1 1 1 1 1",
}
STS = {("_mta-sts.example.net", "TXT"): "v=STSv1; id=1", ("mta-sts.example.net", "A"): "127.0.0.1"}


@pytest.fixture(scope="module")
def strangers(tmp_path_factory) -> Certificates:
    """Of a CA that nobody knows."""
    return make_certificates(tmp_path_factory.mktemp("strangers"))


class World:
    """One MX hop with its DNS, clock, policy file, log, state and results of TLS."""

    def __init__(self, zone, *, trusted, port, secure=True, mode="enforce", mx="localhost", **settings):
        self.resolver = FakeResolver(MX | zone, secure=secure)
        self.clock = FakeClock(NOW)
        self.log, self.told = [], []
        self.file = PolicyFile(
            200, f"version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 86400\n".encode(), "text/plain"
        )
        self.state = MemoryState(self.clock.time)
        self.metrics = Metrics()
        self.port = port
        self.logging = Log(lambda line: self.log.append(json.loads(line)), self.clock.time)
        blind = ssl.create_default_context()
        blind.check_hostname = False
        blind.verify_mode = ssl.CERT_NONE
        usual = {"tls": "opportunistic", "timeouts": QUICK, "on_tls": self.told.append}
        self.settings = UpstreamSettings(
            "internet",
            (),
            "relay.test",
            tls_context=trusted.client_context(),
            unverified_context=blind,
            **(usual | settings),
        )
        self.restart()

    def restart(self):
        """Begin anew; only the state remains."""
        ratchet = Ratchet(self.state, clock=self.clock, log=self.logging, metrics=self.metrics)
        policies = TlsPolicies(
            self.resolver,
            clock=self.clock,
            log=self.logging,
            get=self.get,
            state=self.state,
            ratchet=ratchet,
        )
        self.hop = MxHop(
            self.settings,
            self.resolver,
            port=self.port,
            log=self.logging,
            metrics=self.metrics,
            monotonic=self.clock.monotonic,
            policies=policies,
            outbox=Outbox(asyncio.get_running_loop().call_soon),
        )

    async def get(self, domain, addresses):
        assert (domain, addresses) == ("example.net", ["127.0.0.1"])
        return self.file

    def events(self, name):
        return [event for event in self.log if event["event"] == name]

    async def deliver(self, **options):
        """Send one message; return the last reply as text."""
        envelope = an_envelope(**options)
        transaction = self.hop.begin(a_mail(envelope=envelope), 0)
        replies = await transaction.recipients(envelope.recipients)
        if replies[0].ok:
            replies = await transaction.send(LEAD, MESSAGE)
        transaction.abort()
        self.hop.close()
        return str(replies[0])


@asynccontextmanager
async def a_sink(certificates, **offered):
    context = certificates.server_context() if certificates else None
    async with UpstreamSink(Capabilities(starttls=context, **offered)) as sink:
        yield sink
        await sink.until(lambda: sink.open_sessions == 0)


def tlsa(sink, certificates, usage=3, host="localhost"):
    file = certificates.ca if usage == 2 else certificates.server
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    octets = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {(f"_{sink.port}._tcp.{host}", "TLSA"): [(usage, 1, 1, hashlib.sha256(octets).digest())]}


def sent(sink):
    """By which TLS each message came."""
    return [message.peer.tls for message in sink.messages]


class TestOpportunistic:
    async def test_whatever_is_offered_will_do(self, certificates, strangers):
        async with a_sink(strangers) as sink:
            world = World({}, trusted=certificates, port=sink.port)
            assert (await world.deliver()).startswith("250")
            assert sent(sink) == ["TLSv1.3"]
        async with a_sink(None) as sink:
            world = World({}, trusted=certificates, port=sink.port)
            assert (await world.deliver()).startswith("250")
            assert sent(sink) == [""]
            assert [(e.domain, e.host, e.result) for e in world.told] == [
                ("example.net", "localhost", "starttls-not-supported")
            ]

    @pytest.mark.parametrize("tls", ["required", "verify"])
    async def test_what_the_admin_insists_on(self, certificates, strangers, tls):
        async with a_sink(None) as sink:
            world = World({}, trusted=certificates, port=sink.port, tls=tls)
            assert "451 4.7.5" in await world.deliver()
            assert world.events("tls_put_off")
        async with a_sink(strangers) as sink:
            world = World({}, trusted=certificates, port=sink.port, tls=tls)
            assert ("250" if tls == "required" else "451 4.7.5") in await world.deliver()
        async with a_sink(certificates) as sink:
            world = World({}, trusted=certificates, port=sink.port, tls=tls)
            assert "250" in await world.deliver()
            assert sent(sink) == ["TLSv1.3"]

    async def test_off_asks_nobody_and_takes_no_mail_that_needs_tls(self, certificates):
        async with a_sink(certificates) as sink:
            world = World(STS | tlsa(sink, certificates), trusted=certificates, port=sink.port, tls="off")
            assert "250" in await world.deliver()
            assert sent(sink) == [""]
            assert {kind for _, kind in world.resolver.asked} == {"MX", "A", "AAAA"}
            for demand in ({"tls_onward": True}, {"requiretls": True}):
                assert "451 4.7.5" in await world.deliver(**demand)
            assert "REQUIRETLS" not in world.hop.capabilities

    async def test_a_plugin_that_wants_tls(self, certificates, strangers):
        async with a_sink(None) as sink:
            world = World({}, trusted=certificates, port=sink.port)
            assert "451 4.7.5" in await world.deliver(tls_onward=True)
            assert sink.messages == []
        async with a_sink(strangers) as sink:
            world = World({}, trusted=certificates, port=sink.port)
            assert "250" in await world.deliver(tls_onward=True)


class TestDane:
    async def test_the_right_certificate_though_no_ca_is_known(self, certificates, strangers):
        async with a_sink(strangers) as sink:
            world = World(tlsa(sink, strangers), trusted=certificates, port=sink.port)
            assert "250" in await world.deliver()
            assert [(e.policy, e.result) for e in world.told] == [("tlsa", "success")]
            ((usage, selector, mtype, octets),) = tlsa(sink, strangers).popitem()[1]
            strings = (f"{usage} {selector} {mtype} {octets.hex().upper()}",)
            assert world.told[0].policy_strings == strings

    async def test_another_certificate_or_none(self, certificates, strangers):
        for shown in (certificates, None):
            async with a_sink(shown) as sink:
                world = World(tlsa(sink, strangers), trusted=certificates, port=sink.port)
                assert "451 4.7.5" in await world.deliver()
                assert sink.reached[Step.MAIL] == 0

    async def test_the_certificate_may_have_the_name_that_mail_is_addressed_to(
        self, certificates, strangers, tmp_path
    ):
        chain = tmp_path / "chain.pem"
        chain.write_bytes(strangers.server.read_bytes() + strangers.ca.read_bytes())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, strangers.server_key)
        cases = (
            ("mta-sts.example.org", "250"),
            ("alias.example.org", "250"),
            ("example.net", "451 4.7.5"),
        )
        for domain, answer in cases:
            async with UpstreamSink(Capabilities(starttls=context)) as sink:
                zone = {
                    ("alias.example.org", "CNAME"): "mta-sts.example.org",
                    ("mta-sts.example.org", "MX"): [(10, "mail.test")],
                    ("example.net", "MX"): [(10, "mail.test")],
                    ("mail.test", "A"): "127.0.0.1",
                }
                zone |= tlsa(sink, strangers, 2, "mail.test")
                world = World(zone, trusted=certificates, port=sink.port)
                envelope = an_envelope(f"b@{domain}")
                transaction = world.hop.begin(a_mail(envelope=envelope), 0)
                replies = await transaction.recipients(envelope.recipients)
                assert str(replies[0]).startswith(answer)
                transaction.abort()
                world.hop.close()
                await sink.until(lambda sink=sink: sink.open_sessions == 0)

    async def test_an_alias_is_asked_for_by_the_name_of_its_records(self, certificates, strangers):
        async with a_sink(strangers) as sink:
            zone = {
                ("example.net", "MX"): [(10, "alias.test")],
                ("alias.test", "CNAME"): "localhost",
            } | tlsa(sink, strangers)
            world = World(zone, trusted=certificates, port=sink.port)
            assert "250" in await world.deliver()

    async def test_records_that_nobody_vouches_for_do_not_count(self, certificates, strangers):
        async with a_sink(strangers) as sink:
            world = World(tlsa(sink, certificates), trusted=certificates, port=sink.port, secure=False)
            assert "250" in await world.deliver()
            assert not [kind for _, kind in world.resolver.asked if kind == "TLSA"]

    async def test_records_that_can_not_be_used_still_say_that_there_is_tls(self, certificates, strangers):
        for shown, answer in ((strangers, "250"), (None, "451 4.7.5")):
            async with a_sink(shown) as sink:
                place = (f"_{sink.port}._tcp.localhost", "TLSA")
                world = World({place: [(1, 1, 1, b"x" * 32)]}, trusted=certificates, port=sink.port)
                assert (await world.deliver()).startswith(answer)
                assert world.told[0].result == "tlsa-invalid"

    async def test_no_answer_puts_that_host_off_and_the_next_has_it(self, certificates, strangers):
        async with a_sink(strangers) as sink:
            zone = {(f"_{sink.port}._tcp.localhost", "TLSA"): DnsStatus.SERVFAIL}
            world = World(zone, trusted=certificates, port=sink.port)
            assert "DNS gave no answer" in await world.deliver()
            assert sink.sessions == 0
            assert [(e.domain, e.policy, e.result) for e in world.told] == [
                ("example.net", "tlsa", "dnssec-invalid")
            ]
            world.resolver.set("example.net", "MX", [(10, "localhost"), (20, "second.test")])
            world.resolver.set("second.test", "A", "127.0.0.1")
            assert "250" in await world.deliver()

    async def test_insisted_on(self, certificates, strangers):
        async with a_sink(certificates) as sink:
            world = World({}, trusted=certificates, port=sink.port, tls="dane", consult=frozenset())
            assert "there are no TLSA records" in await world.deliver()
            world = World({}, trusted=certificates, port=sink.port, tls="dane", secure=False)
            assert "no name server that validates is asked" in await world.deliver()
            assert sink.sessions == 0

    async def test_left_aside_by_the_admin(self, certificates, strangers):
        async with a_sink(certificates) as sink:
            world = World(tlsa(sink, strangers), trusted=certificates, port=sink.port, consult=frozenset())
            assert "250" in await world.deliver()

    async def test_the_log_says_that_the_resolver_does_not_validate(self, certificates):
        silent = {(".", "SOA"): DnsStatus.TIMEOUT}
        for secure, zone, count in ((True, {}, 0), (False, {}, 1), (False, silent, 0)):
            world = World(zone, trusted=certificates, port=25, secure=secure)
            await world.hop.announce()
            assert len(world.events("dns_not_validating")) == count


class TestMtaSts:
    async def test_enforced(self, certificates, strangers):
        for shown, answer in ((certificates, "250"), (strangers, "451 4.7.5"), (None, "451 4.7.5")):
            async with a_sink(shown) as sink:
                world = World(STS, trusted=certificates, port=sink.port, secure=False)
                assert (await world.deliver()).startswith(answer)
                assert sent(sink) == (["TLSv1.3"] if answer == "250" else [])
                assert {event.policy for event in world.told} == {"sts"}

    async def test_only_hosts_that_the_policy_names(self, certificates):
        async with a_sink(certificates) as sink:
            world = World(STS, trusted=certificates, port=sink.port, secure=False, mx="other.test")
            assert "doesn't name the host localhost" in await world.deliver()
            assert sink.sessions == 0

    async def test_testing_delivers_and_tells(self, certificates, strangers):
        for shown, result in ((strangers, "certificate-not-trusted"), (None, "starttls-not-supported")):
            async with a_sink(shown) as sink:
                world = World(STS, trusted=certificates, port=sink.port, secure=False, mode="testing")
                assert "250" in await world.deliver()
                assert [(e.policy, e.result) for e in world.told] == [("sts", result)]
                strings = world.file.text.decode().strip().split("\n")
                assert world.told[0].policy_strings == tuple(strings)
                assert world.told[0].mx_patterns == ("localhost",)
        async with a_sink(certificates) as sink:
            world = World(STS, trusted=certificates, port=sink.port, mode="testing", mx="other.test")
            assert "250" in await world.deliver()
            assert "doesn't name" in world.events("tls_policy_testing")[0]["problem"]
            assert [e.result for e in world.told] == ["validation-failure", "success"]

    async def test_a_policy_outlives_an_outage_and_a_restart(self, certificates, strangers):
        async with a_sink(strangers) as sink:
            world = World(STS, trusted=certificates, port=sink.port, secure=False)
            assert "451 4.7.5" in await world.deliver()
            world.file = PolicyFile(fault="no answer")
            world.resolver.set("_mta-sts.example.net", "TXT", DnsStatus.SERVFAIL)
            for _ in range(2):
                world.restart()
                assert "451 4.7.5" in await world.deliver()
                world.clock.advance(3600)
            world.clock.advance(86_400)
            assert "250" in await world.deliver()

    @pytest.mark.parametrize(
        ("file", "result"),
        [
            (PolicyFile(503), "sts-policy-fetch-error"),
            (PolicyFile(200, b"version: STSv1\n", "text/plain"), "sts-policy-invalid"),
            (PolicyFile(fault="[SSL: CERTIFICATE_VERIFY_FAILED]"), "sts-webpki-invalid"),
        ],
    )
    async def test_a_policy_that_can_not_be_had_is_told_of(self, certificates, file, result):
        async with a_sink(certificates) as sink:
            world = World(STS, trusted=certificates, port=sink.port, secure=False)
            world.file = file
            assert "250" in await world.deliver()
            assert [(e.domain, e.host, e.policy, e.result) for e in world.told] == [
                ("example.net", "mta-sts.example.net", "sts", result),
                ("example.net", "localhost", "opportunistic", "success"),
            ]

    async def test_records_take_the_place_of_the_policy(self, certificates, strangers):
        async with a_sink(strangers) as sink:
            world = World(STS | tlsa(sink, strangers), trusted=certificates, port=sink.port, mx="other.test")
            assert "250" in await world.deliver()
        async with a_sink(certificates) as sink:
            world = World(STS | tlsa(sink, strangers), trusted=certificates, port=sink.port)
            assert "451 4.7.5" in await world.deliver()

    async def test_no_policy(self, certificates):
        async with a_sink(None) as sink:
            for mode in ("none", "broken"):
                world = World(STS, trusted=certificates, port=sink.port, mode=mode)
                assert "250" in await world.deliver()
            world = World({}, trusted=certificates, port=sink.port, tls="mta-sts")
            assert "has no MTA-STS policy that holds" in await world.deliver()


class TestTheSender:
    """REQUIRETLS and TLS-Required: No (RFC 8689)."""

    async def test_passed_on_over_verified_tls(self, certificates, strangers):
        async with a_sink(certificates, requiretls=True) as sink:
            world = World({}, trusted=certificates, port=sink.port)
            assert "250" in await world.deliver(requiretls=True)
            assert b" REQUIRETLS" in sink.messages[0].mail
        async with a_sink(strangers, requiretls=True) as sink:
            world = World(tlsa(sink, strangers), trusted=certificates, port=sink.port)
            assert "250" in await world.deliver(requiretls=True)
            assert b" REQUIRETLS" in sink.messages[0].mail

    async def test_no_verified_tls_puts_it_off(self, certificates, strangers):
        async with a_sink(strangers, requiretls=True) as sink:
            world = World({}, trusted=certificates, port=sink.port)
            assert "451 4.7.5" in await world.deliver(requiretls=True)
            assert sink.messages == []

    async def test_nobody_takes_it(self, certificates):
        for shown in (certificates, None):
            async with a_sink(shown) as sink:
                world = World({}, trusted=certificates, port=sink.port)
                assert "550 5.7.30" in await world.deliver(requiretls=True)
                assert sink.reached[Step.MAIL] == 0

    async def test_a_missing_starttls_is_not_believed_where_it_is_promised(self, certificates):
        async with a_sink(None) as sink:
            world = World(STS, trusted=certificates, port=sink.port)
            assert "451 4.7.5" in await world.deliver(requiretls=True)

    async def test_the_next_server_may_take_it(self, certificates):
        async with a_sink(certificates) as first:
            offered = Capabilities(starttls=certificates.server_context(), requiretls=True)
            async with UpstreamSink(offered, host="127.0.0.2", port=first.port) as second:
                zone = {("localhost", "A"): ["127.0.0.1", "127.0.0.2"]}
                world = World(zone, trusted=certificates, port=first.port)
                assert "250" in await world.deliver(requiretls=True)
                assert (len(first.messages), len(second.messages)) == (0, 1)
                await second.until(lambda: second.open_sessions == 0)

    async def test_a_kept_connection_is_for_its_demand_only(self, certificates, strangers):
        async with a_sink(strangers, requiretls=True) as sink:
            world = World({}, trusted=certificates, port=sink.port)
            envelope = an_envelope()
            transaction = world.hop.begin(a_mail(envelope=envelope), 0)
            await transaction.recipients(envelope.recipients)
            await transaction.send(LEAD, MESSAGE)
            assert "451 4.7.5" in await world.deliver(requiretls=True)

    async def test_tls_that_is_no_condition(self, certificates, strangers):
        async with a_sink(strangers) as sink:
            zone = STS | tlsa(sink, certificates)
            world = World(zone, trusted=certificates, port=sink.port)
            assert "250" in await world.deliver(tls_optional=True)
            assert "451 4.7.5" in await world.deliver(tls_optional=True, requiretls=True)
            world = World(zone, trusted=certificates, port=sink.port, tls="verify")
            assert "451 4.7.5" in await world.deliver(tls_optional=True)
            world = World(zone, trusted=certificates, port=sink.port, tls="dane")
            assert "451 4.7.5" in await world.deliver(tls_optional=True)


class TestRatchet:
    """What was seen secure does not become less."""

    async def seen(self, certificates, strangers, mode, first, then, **more):
        """What becomes of a message to a host that was seen with one certificate and has another now."""
        async with a_sink(first) as sink:
            world = World({}, trusted=certificates, port=sink.port, ratchet=mode, **more)
            assert "250" in await world.deliver()
            port = sink.port
        world.restart()
        context = then.server_context() if then else None
        async with UpstreamSink(Capabilities(starttls=context), port=port) as sink:
            heard = await world.deliver()
            await sink.until(lambda: sink.open_sessions == 0)
            return world, heard, sent(sink)

    @pytest.mark.parametrize("stripped", [True, False])
    async def test_enforced(self, certificates, strangers, stripped):
        then = None if stripped else strangers
        world, heard, messages = await self.seen(certificates, strangers, "enforce", certificates, then)
        assert messages == []
        assert "451 4.7.5" in heard
        (event,) = world.events("tls_weaker")
        assert (event["host"], event["refused"]) == ("localhost", True)
        assert world.metrics.cell("tls_ratchet_total", "refused").value == 1

    async def test_warned(self, certificates, strangers):
        world, heard, messages = await self.seen(certificates, strangers, "warn", strangers, None)
        assert "250" in heard
        assert messages == [""]
        assert [event["refused"] for event in world.events("tls_weaker")] == [False]

    async def test_off_remembers_nothing(self, certificates, strangers):
        world, heard, messages = await self.seen(certificates, strangers, "off", certificates, None)
        assert (heard[:3], messages, world.events("tls_weaker")) == ("250", [""], [])

    async def test_what_was_never_good_stays_welcome(self, certificates, strangers):
        _, heard, messages = await self.seen(certificates, strangers, "enforce", strangers, strangers)
        assert (heard[:3], messages) == ("250", ["TLSv1.3"])
        _, heard, messages = await self.seen(certificates, strangers, "enforce", None, None)
        assert (heard[:3], messages) == ("250", [""])

    async def test_it_ends(self, certificates):
        async with a_sink(certificates) as sink:
            world = World({}, trusted=certificates, port=sink.port, ratchet="enforce", ratchet_expire=60.0)
            assert "250" in await world.deliver()
            port = sink.port
        world.clock.advance(61)
        async with UpstreamSink(port=port) as sink:
            assert "250" in await world.deliver()
            await sink.until(lambda: sink.open_sessions == 0)
