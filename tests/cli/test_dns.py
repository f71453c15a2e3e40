import asyncio
import json
import re

import pytest
from click.testing import CliRunner
from tests.cli.name_server import NameServer

from relayproxy.api import DnsStatus, fetch_from
from relayproxy.cli.dns import dns
from relayproxy.cli.dns_check import ORDER, Probes, examine
from relayproxy.mailauth.audit.records import Facts
from relayproxy.mailauth.audit.report import Line
from relayproxy.mailauth.dkim_keys import read_key
from relayproxy.mailauth.mta_sts import PolicyFile
from relayproxy.testing import FakeClock, FakeResolver

# Ed25519 of RFC 8463 appendix A: its record is short enough to read.
SEED = b"nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=\n"
KEY = read_key(SEED)

CONFIG = """\
version: 1
hostname: mx.example.org
listeners: [{name: in, listen: "9.9.9.9:25"}, {name: local, listen: 127.0.0.1:2525}]
relay: {domains: [example.org], networks: [127.0.0.0/8]}
upstreams: {out: {address: 127.0.0.1:2526, source_address: "2620:fe::9"}}
dns: {servers: ["127.0.0.1:%d"]}
pipeline:
  - dkim_sign: {keys: keys}
"""

GOOD = {
    ("example.org", "TXT"): "v=spf1 ip4:9.9.9.9 ip6:2620:fe::9 -all",
    ("example.org", "MX"): "10 mx.example.org.",
    ("mx.example.org", "A"): "9.9.9.9",
    ("mx.example.org", "AAAA"): "2620:fe::9",
    ("9.9.9.9.in-addr.arpa", "PTR"): "mx.example.org.",
    ("9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.e.f.0.0.0.2.6.2.ip6.arpa", "PTR"): "mx.example.org.",
    ("s._domainkey.example.org", "TXT"): KEY.record(),
    ("_dmarc.example.org", "TXT"): "v=DMARC1; p=reject; rua=mailto:a@example.org",
    ("_smtp._tls.example.org", "TXT"): "v=TLSRPTv1; rua=mailto:a@example.org",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key = tmp_path / "keys/example.org/s.key"
    key.parent.mkdir(parents=True)
    key.write_bytes(SEED)
    key.chmod(0o600)
    (tmp_path / "relayproxy.yaml").write_text(CONFIG % 53)
    return tmp_path


def run(*arguments, code=0):
    done = CliRunner().invoke(dns, arguments)
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


# -- check ------------------------------------------------------------------------------------------------------


def check(folder, zone, *arguments, code=0):
    with NameServer(zone) as server:
        (folder / "relayproxy.yaml").write_text(CONFIG % server.port)
        return run("check", *arguments, code=code)


def test_a_domain_where_all_is_well(folder):
    assert check(folder, GOOD, "Example.org").splitlines() == [
        "ok       spf      example.org  0 look-ups of 10",
        "ok       spf      example.org  mail from 2620:fe::9 passes by ip6:2620:fe::9",
        "ok       spf      example.org  mail from 9.9.9.9 passes by ip4:9.9.9.9",
        "ok       dkim     s._domainkey.example.org  ed25519, 256 bits, and it is the key that signs",
        "ok       dmarc    _dmarc.example.org  policy reject",
        "ok       mx       mx.example.org  9.9.9.9, 2620:fe::9",
        "warning  mta-sts  _mta-sts.example.org  there is no MTA-STS: senders can be kept from using TLS",
        "ok       tls-rpt  _smtp._tls.example.org  reports go to mailto:a@example.org",
        "ok       ptr      2620:fe::9  mx.example.org, and back",
        "ok       ptr      9.9.9.9  mx.example.org, and back",
    ]
    check(folder, GOOD, "example.org", "--strict", code=1)


def test_a_domain_that_publishes_nothing(folder):
    assert check(folder, {}, "example.org", "--ip", "9.9.9.9", code=1).splitlines() == [
        "error    spf      example.org  there is no SPF record",
        '         publish  example.org. 3600 IN TXT ( "v=spf1 ip4:9.9.9.9 ~all" )',
        "error    dkim     s._domainkey.example.org  there is no record for this key: what it signs fails",
        f'         publish  s._domainkey.example.org. 3600 IN TXT ( "{KEY.record()}" )',
        "error    dmarc    _dmarc.example.org  no DMARC record applies: anybody may use this domain in From",
        (
            "         publish  _dmarc.example.org. 3600 IN TXT "
            '( "v=DMARC1; p=none; rua=mailto:dmarc-reports@example.org" )'
        ),
        (
            "error    mx       example.org  there is neither MX nor address, so mail can't be answered; "
            "a domain without mail says so with MX 0 ."
        ),
        "warning  mta-sts  _mta-sts.example.org  there is no MTA-STS: senders can be kept from using TLS",
        "warning  tls-rpt  _smtp._tls.example.org  nobody tells you about failing TLS",
        (
            "         publish  _smtp._tls.example.org. 3600 IN TXT "
            '( "v=TLSRPTv1; rua=mailto:tls-reports@example.org" )'
        ),
        "error    ptr      9.9.9.9  it has no reverse name, and large receivers refuse it",
        "         publish  9.9.9.9.in-addr.arpa. 3600 IN PTR mx.example.org.",
    ]


def test_several_domains_and_json(folder):
    found = json.loads(check(folder, GOOD, "sub.example.org", "example.org", "-o", "json", code=1))
    assert [(one["domain"], one["level"]) for one in found] == [
        ("sub.example.org", "error"),
        ("example.org", "warning"),
    ]
    by_check = {one["check"]: one for one in found[0]["checks"]}
    assert by_check["dkim"]["name"] == "s._domainkey.example.org"
    assert by_check["dmarc"]["text"] == "policy reject, from _dmarc.example.org"
    assert by_check["spf"]["publish"] == [
        {
            "name": "sub.example.org",
            "type": "TXT",
            "value": "v=spf1 ip6:2620:fe::9 ip4:9.9.9.9 ~all",
            "line": 'sub.example.org. 3600 IN TXT ( "v=spf1 ip6:2620:fe::9 ip4:9.9.9.9 ~all" )',
        }
    ]
    text = check(folder, GOOD, "sub.example.org", "example.org", code=1).splitlines()
    assert [line for line in text if " " not in line] == ["sub.example.org", "example.org"]


def test_a_policy_that_can_not_be_fetched(folder):
    zone = GOOD | {("_mta-sts.example.org", "TXT"): "v=STSv1; id=1"}
    assert "mta-sts.example.org has no address" in check(folder, zone, "example.org", code=1)


def test_without_a_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with NameServer(GOOD) as server:
        at = ("check", "example.org", "--server", server.place)
        said = run(*at)
        assert "no key of it is known here" in said
        assert "the addresses that send are not known" in said
        said = run(*at, "--selector", "s", "--ip", "9.9.9.9", "--hostname", "mx.example.org")
        assert "ok       dkim     s._domainkey.example.org  ed25519, 256 bits\n" in said
        assert "ok       ptr      9.9.9.9" in said


def test_a_key_that_can_not_be_read_is_an_error(folder):
    (folder / "keys/example.org/s.key").write_bytes(b"")
    assert re.search(
        r"error    dkim     s\._domainkey\.example\.org  .*32 octets",
        check(folder, GOOD, "example.org", code=1),
    )
    (folder / "keys/x.key").write_bytes(SEED)
    assert "is not DOMAIN/SELECTOR.key" in check(folder, GOOD, "example.org", code=1)


@pytest.mark.parametrize(
    "arguments",
    [
        ("check",),
        ("check", "a..b"),
        ("check", ""),
        ("check", "x" * 64 + ".org"),
        ("check", "example.org", "--ip", "x"),
        ("check", "example.org", "--server", "x"),
        ("check", "example.org", "--timeout", "0"),
        ("records",),
        ("records", "-"),
    ],
)
def test_wrong_usage(folder, arguments):
    run(*arguments, code=2)


# -- the audits together ----------------------------------------------------------------------------------------


async def no_policy(domain, addresses):
    return PolicyFile(fault=f"{domain} {addresses}")


def facts(domain="example.org"):
    return Facts(domain, "mx.example.org", ("9.9.9.9",), (("s._domainkey.example.org", KEY),))


@pytest.mark.parametrize(
    "status", [DnsStatus.SERVFAIL, DnsStatus.TIMEOUT, DnsStatus.NXDOMAIN, DnsStatus.NODATA]
)
async def test_every_check_has_a_line_whatever_dns_does(status):
    class Failing(FakeResolver):
        def _answer(self, name, rdtype):
            self.set(name, rdtype, status)
            return super()._answer(name, rdtype)

    ((_, lines),) = await examine([facts()], fetch_from(Failing()), Probes(no_policy))
    assert {line.check for line in lines} == set(ORDER)
    assert all(line.level != "ok" for line in lines)


async def test_odd_records_and_faults_are_lines():
    class Odd(FakeResolver):
        async def query(self, name, rdtype):
            if rdtype == "MX":
                raise RuntimeError("a bug")
            return await super().query(name, rdtype)

    ((_, lines),) = await examine([facts()], fetch_from(Odd()), Probes(no_policy))
    assert ("mx", "error", "this could not be examined: RuntimeError") in {
        (line.check, line.level, line.text) for line in lines
    }


async def test_an_address_that_is_not_known_is_not_taken_for_none():
    zone = {
        ("_mta-sts.example.org", "TXT"): "v=STSv1; id=1",
        ("mta-sts.example.org", "*"): DnsStatus.SERVFAIL,
    }
    ((_, lines),) = await examine([facts()], fetch_from(FakeResolver(zone)), Probes(no_policy))
    assert "DNS gave no answer for the address of mta-sts.example.org" in {line.text for line in lines}


async def test_it_ends_in_time():
    class Hanging(FakeResolver):
        async def query(self, name, rdtype):
            await asyncio.Event().wait()

    reports = await examine(
        [facts("a.example"), facts("b.example")], fetch_from(Hanging()), Probes(no_policy), patience=0.05
    )
    for _, lines in reports:
        assert {line.check for line in lines} == set(ORDER)
        assert {line.text for line in lines} == {"there was no result within 0.05 s"}


async def test_questions_of_all_checks_go_out_side_by_side():
    clock = FakeClock()
    resolver = FakeResolver(clock=clock, delay=1)
    await clock.run(
        examine([facts(f"{n}.example") for n in range(8)], fetch_from(resolver), Probes(no_policy))
    )
    assert clock.monotonic() <= 4


async def test_mx_hosts_are_connected_to_and_policies_fetched_only_where_there_are_any():
    asked = []

    async def policy(domain, addresses):
        asked.append((domain, addresses))
        return PolicyFile(404)

    async def connected(host):
        return Line("mx", host, "ok", "connected")

    zone = {
        ("example.org", "MX"): [(10, "b.example"), (5, "a.example")],
        ("_mta-sts.example.org", "TXT"): "v=STSv1; id=1",
        ("mta-sts.example.org", "A"): "9.9.9.9",
        ("null.example", "MX"): [(0, "")],
    }
    reports = await examine(
        [facts(), facts("null.example")], fetch_from(FakeResolver(zone)), Probes(policy, connected)
    )
    assert [line.name for line in reports[0][1] if line.text == "connected"] == ["a.example", "b.example"]
    assert asked == [("example.org", ["9.9.9.9"])]
    assert "mta-sts" not in {line.check for line in reports[1][1]}


# -- records ----------------------------------------------------------------------------------------------------


def test_records_for_this_configuration(folder):
    lines = run("records", "example.org").splitlines()
    assert re.fullmatch(r'_mta-sts\.example\.org\. 3600 IN TXT \( "v=STSv1; id=[0-9]{14}" \)', lines[13])
    del lines[13]
    assert lines == [
        "; MX: who takes the domain's mail",
        "example.org. 3600 IN MX 10 mx.example.org.",
        "; SPF: these send mail of the domain; add others that do",
        'example.org. 3600 IN TXT ( "v=spf1 ip6:2620:fe::9 ip4:9.9.9.9 ~all" )',
        "; SPF of the name in EHLO, which receivers check for bounces (RFC 7208 section 2.3)",
        'mx.example.org. 3600 IN TXT ( "v=spf1 ip6:2620:fe::9 ip4:9.9.9.9 -all" )',
        "; DKIM: the ed25519 key that dkim_sign signs with",
        f's._domainkey.example.org. 3600 IN TXT ( "{KEY.record()}" )',
        "; DMARC: reports only; when they show no mail of yours failing, p=quarantine, then p=reject",
        '_dmarc.example.org. 3600 IN TXT ( "v=DMARC1; p=none; rua=mailto:dmarc-reports@example.org" )',
        "; TLS-RPT: who failed to reach your MX over TLS, and why",
        '_smtp._tls.example.org. 3600 IN TXT ( "v=TLSRPTv1; rua=mailto:tls-reports@example.org" )',
        (
            "; MTA-STS: there is a policy at https://mta-sts.example.org/.well-known/mta-sts.txt; "
            "a new id for each change"
        ),
        (
            "; reverse name of 2620:fe::9, in the zone of whoever owns the address; "
            "mx.example.org must lead back to it"
        ),
        "9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.e.f.0.0.0.2.6.2.ip6.arpa. 3600 IN PTR mx.example.org.",
        "; reverse name of 9.9.9.9, in the zone of whoever owns the address; mx.example.org must lead back to it",
        "9.9.9.9.in-addr.arpa. 3600 IN PTR mx.example.org.",
        "; the policy file https://mta-sts.example.org/.well-known/mta-sts.txt:",
        ";   version: STSv1",
        ";   mode: testing",
        ";   mx: mx.example.org",
        ";   max_age: 604800",
    ]


def test_records_as_json_and_without_a_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (found,) = json.loads(run("records", "example.org", "--ip", "9.9.9.9", "-o", "json"))
    assert found["domain"] == "example.org"
    assert found["mta_sts_policy"] == ""
    assert found["records"][0] == {
        "name": "example.org",
        "type": "TXT",
        "value": "v=spf1 ip4:9.9.9.9 ~all",
        "line": 'example.org. 3600 IN TXT ( "v=spf1 ip4:9.9.9.9 ~all" )',
        "why": "SPF: these send mail of the domain; add others that do",
    }
    assert "are not known: name them with --ip" in run("records", "example.org")


def test_records_without_a_key_that_can_not_be_read(folder):
    (folder / "keys/example.org/s.key").write_bytes(b"")
    said = run("records", "example.org", code=1)
    assert "32 octets" in said
    assert "_domainkey" not in said
