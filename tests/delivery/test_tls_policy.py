"""TLS as DNS and policies demand it: real handshakes, DNS from a dict, the strictest wins and nothing missing weakens it."""

import hashlib
import json
import ssl
import time
from contextlib import asynccontextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.delivery.harness import settings_for
from tests.servers.tls import Certificates, make_certificates

from relayproxy.api import DnsStatus
from relayproxy.core.log import Log
from relayproxy.delivery.connect import ConnectError, connect
from relayproxy.delivery.demand import Demand
from relayproxy.delivery.settings import Address
from relayproxy.delivery.tls_policy import TlsPolicies
from relayproxy.mailauth.dane import Dane, Standing, Tlsa
from relayproxy.mailauth.mta_sts import PolicyFile
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.resolver import FakeResolver
from relayproxy.testing.upstream import Capabilities, Fault, FaultPlan, Step, UpstreamSink, answer

NOW = time.time()
ADDRESS = {("localhost", "A"): "127.0.0.1", (".", "SOA"): ". . 1 1 1 1 1"}
RECORD = {("_mta-sts.example.org", "TXT"): "v=STSv1; id=1", ("mta-sts.example.org", "A"): "127.0.0.1"}


@pytest.fixture(scope="module")
def strangers(tmp_path_factory) -> Certificates:
    """Of a CA that nobody knows."""
    return make_certificates(tmp_path_factory.mktemp("strangers"))


class World:
    """One resolver, one clock, one policy file that can be changed."""

    def __init__(self, zone, *, secure=True, mode="enforce", mx="localhost", file=None):
        self.resolver = FakeResolver(ADDRESS | zone, secure=secure)
        self.clock = FakeClock(NOW)
        self.log = []
        self.file = file or self.policy(mode, mx)
        self.fetched = 0
        log = Log(lambda line: self.log.append(json.loads(line)), self.clock.time)
        self.policies = TlsPolicies(self.resolver, clock=self.clock, log=log, get=self.get)

    @staticmethod
    def policy(mode, mx="localhost"):
        return PolicyFile(
            200, f"version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 86400\n".encode(), "text/plain"
        )

    async def get(self, domain, addresses):
        assert (domain, addresses) == ("example.org", ["127.0.0.1"])
        self.fetched += 1
        return self.file

    def events(self, name):
        return [event for event in self.log if event["event"] == name]


@asynccontextmanager
async def a_sink(certificates, **more):
    context = certificates.server_context() if certificates else None
    async with UpstreamSink(Capabilities(starttls=context), **more) as sink:
        yield sink


def settings_of(world, sink, tls, certificates, **changes):
    blind = ssl.create_default_context()
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE
    usual = {
        "tls": tls,
        "addresses": (Address("localhost", sink.port),),
        "tls_context": certificates.client_context(),
        "unverified_context": blind,
        "policy_domain": "example.org",
    }
    return settings_for(sink, **(usual | changes))


async def outcome(world, sink, tls, trusted, **changes):
    """The TLS version of the connection that came about, or why there is none."""
    settings = settings_of(world, sink, tls, trusted, **changes)
    try:
        connection = await connect(settings, settings.addresses[0], None, (), None, world.policies)
    except ConnectError as error:
        assert sink.reached[Step.MAIL] == 0
        await sink.until(lambda: sink.open_sessions == 0)
        return str(error)
    assert "PIPELINING" in connection.capabilities
    connection.wire.close()
    await sink.until(lambda: sink.open_sessions == 0)
    return connection.tls


def tlsa(sink, certificates, usage=3, data=None):
    certificate = x509.load_pem_x509_certificate(
        (certificates.ca if usage == 2 else certificates.server).read_bytes()
    )
    octets = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {
        (f"_{sink.port}._tcp.localhost", "TLSA"): [(usage, 1, 1, data or hashlib.sha256(octets).digest())]
    }


class TestDane:
    @pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
    async def test_the_right_certificate_though_no_ca_is_known(self, certificates, strangers, lmtp):
        async with a_sink(strangers, lmtp=lmtp) as sink:
            world = World(tlsa(sink, strangers))
            assert await outcome(world, sink, "dane", certificates) == "TLSv1.3"

    @pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
    async def test_another_certificate_though_its_ca_is_known(self, certificates, strangers, lmtp):
        async with a_sink(certificates, lmtp=lmtp) as sink:
            world = World(tlsa(sink, strangers))
            assert "DANE: no TLSA record describes" in await outcome(world, sink, "dane", certificates)

    async def test_an_issuer_that_is_shown(self, certificates, strangers, tmp_path):
        chain = tmp_path / "chain.pem"
        chain.write_bytes(strangers.server.read_bytes() + strangers.ca.read_bytes())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, strangers.server_key)
        async with UpstreamSink(Capabilities(starttls=context)) as sink:
            world = World(tlsa(sink, strangers, usage=2))
            assert await outcome(world, sink, "dane", certificates) == "TLSv1.3"
        async with a_sink(strangers) as sink:
            world = World(tlsa(sink, strangers, usage=2))
            assert "DANE: no TLSA" in await outcome(world, sink, "dane", certificates)

    @pytest.mark.parametrize(
        ("zone", "secure", "reason"),
        [
            ({}, True, "there are no TLSA records"),
            ({("_{port}._tcp.localhost", "TLSA"): DnsStatus.SERVFAIL}, True, "DNS gave no answer"),
            ({("_{port}._tcp.localhost", "TLSA"): [(3, 1, 1, b"short")]}, True, "can be used"),
            (
                {},
                False,
                "is not secured by DNSSEC, as no name server that validates is asked: see dns.servers",
            ),
        ],
    )
    async def test_what_is_missing_ends_in_no_connection(self, certificates, zone, secure, reason):
        async with a_sink(certificates) as sink:
            world = World(
                {(name.format(port=sink.port), kind): value for (name, kind), value in zone.items()},
                secure=secure,
            )
            assert reason in await outcome(world, sink, "dane", certificates)
            assert sink.sessions == 0

    async def test_no_starttls_or_a_broken_one(self, certificates):
        async with a_sink(None) as sink:
            world = World(tlsa(sink, certificates))
            assert "STARTTLS" in await outcome(world, sink, "dane", certificates)
        plan = FaultPlan(Fault(Step.STARTTLS, answer(454, "4.7.0 not now"), times=0))
        async with a_sink(certificates, plan=plan) as sink:
            world = World(tlsa(sink, certificates))
            assert "454" in await outcome(world, sink, "dane", certificates)
            assert sink.sessions == 1

    async def test_no_password_before_the_certificate_is_known(self, certificates, strangers):
        login = {"login": "me", "password": "a password of ours"}
        async with a_sink(strangers) as sink:
            world = World(tlsa(sink, certificates))
            assert "DANE" in await outcome(world, sink, "dane", certificates, **login)
            assert sink.reached[Step.AUTH] == 0
        context = strangers.server_context()
        async with UpstreamSink(Capabilities(starttls=context, auth={"me": "a password of ours"})) as sink:
            world = World(tlsa(sink, strangers))
            assert await outcome(world, sink, "dane", certificates, **login) == "TLSv1.3"
            assert sink.reached[Step.AUTH] == 1

    async def test_an_address_has_no_records(self, certificates):
        async with a_sink(certificates) as sink:
            at = Address("127.0.0.1", sink.port)
            said = await outcome(World({}), sink, "dane", certificates, addresses=(at,))
            assert "needs the name of a host" in said


class TestMtaSts:
    async def test_enforced(self, certificates, strangers):
        async with a_sink(certificates) as sink:
            assert await outcome(World(RECORD, secure=False), sink, "mta-sts", certificates) == "TLSv1.3"
        async with a_sink(strangers) as sink:
            said = await outcome(World(RECORD, secure=False), sink, "mta-sts", certificates)
            assert "CERTIFICATE_VERIFY_FAILED" in said
            assert sink.reached[Step.EHLO] == 1
        async with a_sink(None) as sink:
            assert "STARTTLS" in await outcome(World(RECORD, secure=False), sink, "mta-sts", certificates)

    async def test_a_host_that_the_policy_does_not_name(self, certificates):
        async with a_sink(certificates) as sink:
            world = World(RECORD, mx="*.localhost")
            assert "doesn't name the host localhost" in await outcome(world, sink, "mta-sts", certificates)
            assert sink.sessions == 0

    async def test_testing_says_what_enforcing_would_refuse_and_keeps_tls(self, certificates, strangers):
        async with a_sink(strangers) as sink:
            world = World(RECORD, mode="testing", mx="other.example")
            assert await outcome(world, sink, "mta-sts", certificates) == "TLSv1.3"
            problems = [event["problem"] for event in world.events("tls_policy_testing")]
            assert len(problems) == 2
            assert "doesn't name the host" in problems[0]
            assert "CERTIFICATE_VERIFY_FAILED" in problems[1]
        async with a_sink(None) as sink:
            said = await outcome(World(RECORD, mode="testing"), sink, "mta-sts", certificates)
            assert "STARTTLS" in said

    async def test_testing_sends_no_password_to_strangers(self, certificates, strangers):
        async with UpstreamSink(
            Capabilities(starttls=strangers.server_context(), auth={"me": "a password of ours"})
        ) as sink:
            world = World(RECORD, mode="testing")
            login = {"login": "me", "password": "a password of ours"}
            said = await outcome(world, sink, "mta-sts", certificates, **login)
            assert "CERTIFICATE_VERIFY_FAILED" in said
            assert sink.reached[Step.AUTH] == 0

    @pytest.mark.parametrize(
        ("zone", "mode"),
        [
            ({}, "enforce"),
            (RECORD | {("_mta-sts.example.org", "TXT"): DnsStatus.SERVFAIL}, "enforce"),
            (
                RECORD
                | {
                    ("mta-sts.example.org", "*"): DnsStatus.SERVFAIL,
                    ("mta-sts.example.org", "A"): DnsStatus.SERVFAIL,
                },
                "enforce",
            ),
            (RECORD, "none"),
            (RECORD, "broken"),
        ],
    )
    async def test_without_a_policy_nothing_is_sent(self, certificates, zone, mode):
        async with a_sink(certificates) as sink:
            world = World(zone, mode=mode)
            assert "has no MTA-STS policy that holds" in await outcome(world, sink, "mta-sts", certificates)
            assert sink.sessions == 0

    async def test_a_policy_is_kept_when_it_can_not_be_had_any_more(self, certificates, strangers):
        async with a_sink(strangers) as sink:
            world = World(RECORD)
            await outcome(world, sink, "mta-sts", certificates)
            world.resolver.set("_mta-sts.example.org", "TXT", DnsStatus.SERVFAIL)
            said = await outcome(world, sink, "mta-sts", certificates)
            assert "CERTIFICATE_VERIFY_FAILED" in said
            world.resolver.set("_mta-sts.example.org", "TXT", "v=STSv1; id=2")
            world.file = PolicyFile(fault="no answer")
            world.clock.advance(400)
            assert "CERTIFICATE_VERIFY_FAILED" in await outcome(world, sink, "mta-sts", certificates)
            assert [event["kept"] for event in world.events("mta_sts_problem")] == [True, True]
            fetched = world.fetched
            await outcome(world, sink, "mta-sts", certificates)
            assert world.fetched == fetched
            world.clock.advance(86_400)
            assert "has no MTA-STS policy" in await outcome(world, sink, "mta-sts", certificates)

    async def test_a_policy_that_could_not_be_had_is_asked_for_again_soon(self, certificates):
        async with a_sink(certificates) as sink:
            world = World(RECORD)
            good, world.file = world.file, PolicyFile(503)
            for _ in range(2):
                assert "has no MTA-STS policy" in await outcome(world, sink, "mta-sts", certificates)
            assert world.fetched == 1
            world.file = good
            world.clock.advance(31)
            assert await outcome(world, sink, "mta-sts", certificates) == "TLSv1.3"

    async def test_tlsa_records_count_beside_the_policy(self, certificates, strangers):
        async with a_sink(certificates) as sink:
            world = World(RECORD | tlsa(sink, strangers))
            assert "DANE: no TLSA" in await outcome(world, sink, "mta-sts", certificates)
            world = World(RECORD | tlsa(sink, certificates))
            assert await outcome(world, sink, "mta-sts", certificates) == "TLSv1.3"
            place = (f"_{sink.port}._tcp.localhost", "TLSA")
            world = World(RECORD | {place: DnsStatus.TIMEOUT})
            assert "DNS gave no answer" in await outcome(world, sink, "mta-sts", certificates)
            world = World(RECORD | tlsa(sink, strangers), secure=False)
            assert await outcome(world, sink, "mta-sts", certificates) == "TLSv1.3"


class TestRatchet:
    """To see whether a certificate is good takes nothing away from what `tls` asks for."""

    @pytest.mark.parametrize("tls", ["opportunistic", "required"])
    async def test_a_certificate_that_nobody_has_to_vouch_for(self, certificates, strangers, tls):
        told = []
        more = {"ratchet": "warn", "on_tls": told.append, "login": "me", "password": "a password of ours"}
        auth = {"me": "a password of ours"}
        async with UpstreamSink(Capabilities(starttls=strangers.server_context(), auth=auth)) as sink:
            assert await outcome(World({}), sink, tls, certificates, **more) == "TLSv1.3"
            assert sink.reached[Step.AUTH] == 1
        assert [(event.policy, event.result) for event in told] == [(tls, "success")]

    async def test_no_password_in_the_clear(self, certificates):
        plan = FaultPlan(Fault(Step.STARTTLS, answer(454, "4.7.0 not now"), times=0))
        more = {"ratchet": "warn", "login": "me", "password": "a password of ours"}
        async with a_sink(certificates, plan=plan) as sink:
            assert "454" in await outcome(World({}), sink, "opportunistic", certificates, **more)
            assert sink.reached[Step.AUTH] == 0

    async def test_records_that_nobody_could_compare(self, certificates):
        async with a_sink(certificates) as sink:
            found = Dane(Standing.USABLE, (Tlsa(3, 1, 1, b"x" * 32),), ("localhost",), base="localhost")
            settings = settings_of(World({}), sink, "opportunistic", certificates, demand=Demand(dane=found))
            with pytest.raises(ConnectError, match="nobody can tell"):
                await connect(settings, settings.addresses[0], None, ())
            assert sink.sessions == 0
