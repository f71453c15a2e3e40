"""TLSA records by data: what DNS says, with and without anybody who vouches for it, and which certificates they describe."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.api import Answer, DnsStatus, fetch_from
from relayproxy.mailauth.dane import Dane, Standing, Tlsa, find, mismatch
from relayproxy.testing import FakeResolver

NOW = 1_790_000_000.0
HOST = "mx.example.org"
DIGEST = bytes(32)
EE = (3, 1, 1, DIGEST)


class Signed(FakeResolver):
    """Some names are vouched for and some aren't."""

    def __init__(self, zone, insecure=()):
        super().__init__(zone)
        self._unsigned = insecure

    async def query(self, name, rdtype):
        answer = await super().query(name, rdtype)
        secure = (
            not answer.failed and (name.lower(), rdtype) not in self._unsigned and name not in self._unsigned
        )
        return Answer(answer.status, answer.records, answer.ttl, secure)


async def asked(zone, insecure=(), port=25):
    resolver = Signed(zone, insecure)
    found = await find(HOST, port, fetch_from(resolver))
    return found, [question for question in resolver.asked if question[1] == "TLSA"]


ADDRESS = {(HOST, "A"): "192.0.2.1"}
PLACE = (f"_25._tcp.{HOST}", "TLSA")


async def test_records_to_go_by():
    found, _ = await asked(ADDRESS | {PLACE: [EE, (0, 0, 1, DIGEST)]})
    assert found == Dane(Standing.USABLE, (Tlsa(3, 1, 1, DIGEST),), (HOST,), base=HOST)
    found, questions = await asked(ADDRESS | {(f"_2525._tcp.{HOST}", "TLSA"): [EE]}, port=2525)
    assert found.standing is Standing.USABLE
    assert questions == [(f"_2525._tcp.{HOST}", "TLSA")]


@pytest.mark.parametrize(
    ("zone", "insecure", "standing"),
    [
        ({}, (), Standing.NONE),
        ({PLACE: []}, (), Standing.NONE),
        ({PLACE: DnsStatus.SERVFAIL}, (), Standing.UNKNOWN),
        ({PLACE: DnsStatus.TIMEOUT}, (), Standing.UNKNOWN),
        ({PLACE: [EE]}, (PLACE,), Standing.INSECURE),
        (
            {
                PLACE: [
                    (1, 0, 1, DIGEST),
                    (3, 2, 1, DIGEST),
                    (3, 1, 1, b"short"),
                    (3, 1, 7, DIGEST),
                    (2, 0, 0, b""),
                ]
            },
            (),
            Standing.UNUSABLE,
        ),
    ],
)
async def test_what_else_there_may_be(zone, insecure, standing):
    found, questions = await asked(ADDRESS | zone, insecure)
    assert found.standing is standing
    assert found.records == ()
    assert found.reason
    assert questions == [PLACE]


@pytest.mark.parametrize(
    ("zone", "insecure", "standing"),
    [
        (ADDRESS, (HOST,), Standing.INSECURE),
        ({(HOST, "A"): DnsStatus.SERVFAIL, (HOST, "AAAA"): DnsStatus.SERVFAIL}, (), Standing.UNKNOWN),
        (
            {(HOST, "A"): "192.0.2.1", (HOST, "AAAA"): DnsStatus.SERVFAIL},
            ((HOST, "A"), (HOST, "CNAME")),
            Standing.UNKNOWN,
        ),
        (ADDRESS | {(HOST, "CNAME"): DnsStatus.TIMEOUT}, (HOST,), Standing.UNKNOWN),
    ],
)
async def test_an_address_that_nobody_vouches_for_has_no_tlsa_that_counts(zone, insecure, standing):
    found, questions = await asked(zone | {PLACE: [EE]}, insecure)
    assert found.standing is standing
    assert questions == []


async def test_a_broken_ipv6_does_not_take_the_signed_ipv4_away():
    found, _ = await asked(ADDRESS | {(HOST, "AAAA"): DnsStatus.SERVFAIL, PLACE: [EE]})
    assert found.standing is Standing.USABLE


class TestAliases:
    ZONE: ClassVar = {(HOST, "CNAME"): "real.example.net", ("real.example.net", "A"): "192.0.2.1"}
    REAL = ("_25._tcp.real.example.net", "TLSA")

    async def test_the_real_name_comes_first(self):
        found, questions = await asked(self.ZONE | {self.REAL: [EE], PLACE: [(3, 0, 1, DIGEST)]})
        assert found == Dane(
            Standing.USABLE, (Tlsa(*EE),), (HOST, "real.example.net"), base="real.example.net"
        )
        assert questions == [self.REAL]

    async def test_then_the_name_that_was_asked_for(self):
        found, questions = await asked(self.ZONE | {PLACE: [EE]})
        assert found.standing is Standing.USABLE
        assert questions == [self.REAL, PLACE]

    async def test_into_an_unsigned_zone_only_the_first_name_counts(self):
        unsigned = ("real.example.net", self.REAL, (HOST, "A"), (HOST, "AAAA"))
        found, _ = await asked(self.ZONE | {self.REAL: [(3, 0, 1, DIGEST)], PLACE: [EE]}, unsigned)
        assert found.records == (Tlsa(*EE),)

    async def test_a_failure_at_the_real_name_is_not_passed_over(self):
        found, _ = await asked(self.ZONE | {self.REAL: DnsStatus.SERVFAIL, PLACE: [EE]})
        assert found.standing is Standing.UNKNOWN

    async def test_a_loop_ends(self):
        found, _ = await asked({(HOST, "CNAME"): "b.example.net", ("b.example.net", "CNAME"): HOST})
        assert found.standing in (Standing.UNKNOWN, Standing.NONE)


# -- certificates -----------------------------------------------------------------------------------------------


def certificate(name, issuer=None, *, ca=False, names=(), days=1):
    """A certificate and its key, valid around NOW."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer, signing = issuer or (None, key)
    start = datetime.fromtimestamp(NOW, UTC) - timedelta(days=2)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=2 + days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False
        )
    if ca:
        usage = dict.fromkeys(
            (
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "encipher_only",
                "decipher_only",
            ),
            False,
        )
        builder = builder.add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **usage), critical=True
        ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    else:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
    if signer:
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    return builder.sign(signing, hashes.SHA256()), key


CA = certificate("ca", ca=True)
MIDDLE = certificate("middle", CA, ca=True)
LEAF = certificate("leaf", MIDDLE, names=[HOST])
STALE = certificate("stale", MIDDLE, names=[HOST], days=-1)
ALONE = certificate("nobody", days=-1)
OTHER = certificate("other", ca=True)


def der(one):
    return one[0].public_bytes(Encoding.DER)


def key_octets(one):
    return one[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def record(usage, selector, mtype, one):
    octets = key_octets(one) if selector else der(one)
    digest = {
        0: lambda o: o,
        1: lambda o: hashlib.sha256(o).digest(),
        2: lambda o: hashlib.sha512(o).digest(),
    }[mtype]
    return Tlsa(usage, selector, mtype, digest(octets))


def wrong(records, chain, names=(HOST,)):
    return mismatch(Dane(Standing.USABLE, tuple(records), names), [der(one) for one in chain], NOW)


FORMS = [(selector, mtype) for selector in (0, 1) for mtype in (0, 1, 2)]


@pytest.mark.parametrize(("selector", "mtype"), FORMS)
def test_usage_3_takes_the_certificate_whatever_its_name_and_dates(selector, mtype):
    assert wrong([record(3, selector, mtype, ALONE)], [ALONE]) == ""
    assert wrong([record(3, selector, mtype, OTHER), record(3, selector, mtype, ALONE)], [ALONE]) == ""
    assert "no TLSA record describes" in wrong([record(3, selector, mtype, OTHER)], [ALONE])


def test_usage_3_is_about_the_first_certificate_alone():
    assert wrong([record(3, 1, 1, MIDDLE)], [LEAF, MIDDLE, CA])


@pytest.mark.parametrize(("selector", "mtype"), FORMS)
@pytest.mark.parametrize("anchor", [CA, MIDDLE], ids=["root", "intermediate"])
def test_usage_2_takes_what_an_anchor_has_issued(selector, mtype, anchor):
    assert wrong([record(2, selector, mtype, anchor)], [LEAF, MIDDLE, CA]) == ""


def test_usage_2_asks_for_name_dates_and_signature():
    anchored = [record(2, 1, 1, CA)]
    assert "not issued for other.example" in wrong(anchored, [LEAF, MIDDLE, CA], ("other.example",))
    assert wrong(anchored, [LEAF, MIDDLE, CA], ("other.example", HOST)) == ""
    assert "not issued for" in wrong(anchored, [STALE, MIDDLE, CA])
    assert "not issued for" in wrong(anchored, [LEAF, CA])
    assert "not issued for" in wrong([record(2, 1, 1, OTHER)], [LEAF, MIDDLE, CA, OTHER])
    assert wrong([record(2, 1, 1, LEAF)], [LEAF])


def test_a_whole_anchor_in_dns_need_not_be_shown():
    assert wrong([record(2, 0, 0, CA)], [LEAF, MIDDLE]) == ""
    assert wrong([record(2, 0, 1, CA)], [LEAF, MIDDLE])


def test_nothing_is_shown_or_readable():
    assert wrong([record(3, 1, 1, LEAF)], []) == "the server shows no certificate"
    assert "can't be read" in mismatch(Dane(Standing.USABLE, (record(3, 1, 1, LEAF),), (HOST,)), [b"x"], NOW)
    broken = Dane(Standing.USABLE, (Tlsa(2, 0, 0, b"x"),), (HOST,))
    assert "no TLSA record describes" in mismatch(broken, [der(LEAF)], NOW)
    assert wrong([Tlsa(2, 0, 0, b"x"), record(2, 1, 1, CA)], [LEAF, MIDDLE, CA]) == ""


@given(
    st.lists(
        st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=70)),
        max_size=5,
    )
)
def test_no_record_is_too_odd_and_none_matches_by_chance(records):
    usable = [one for one in (Tlsa(*record) for record in records) if one.usable]
    assert wrong(usable, [LEAF, MIDDLE, CA]) != ""
