import dns.zone
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.api import fetch_from
from relayproxy.mailauth.audit.dkim import audit_keys
from relayproxy.mailauth.audit.dmarc import audit_dmarc
from relayproxy.mailauth.audit.mx import audit_mx, audit_ptr
from relayproxy.mailauth.audit.records import Facts, policy_text, records_for, spf_value
from relayproxy.mailauth.audit.report import Line, Record, worst
from relayproxy.mailauth.audit.spf import audit_spf
from relayproxy.mailauth.audit.transport import audit_policy, audit_tls_reports, sts_record
from relayproxy.mailauth.dkim_keys import new_ed25519_key, new_rsa_key
from relayproxy.mailauth.mta_sts import PolicyFile
from relayproxy.testing import FakeResolver

RSA, ED25519 = new_rsa_key(4096), new_ed25519_key()
FACTS = Facts(
    "example.org",
    "mx.example.org",
    ("9.9.9.9", "2620:fe::9"),
    (("a._domainkey.example.org", RSA), ("b._domainkey.example.org", ED25519)),
    ("mx.example.org",),
)


def published(records):
    """Load the lines as a name server does, and return them as a zone for the resolver."""
    lines = "\n".join(record.line() for record in records)
    zone = dns.zone.from_text(f"$TTL 60\n@ IN SOA . . 1 1 1 1 1\n@ IN NS .\n{lines}\n", ".", relativize=False)
    found = {}
    for name, _, data in zone.iterate_rdatas():
        rdtype = data.rdtype.name
        forms = {
            "TXT": lambda data: b"".join(data.strings),
            "MX": lambda data: (data.preference, data.exchange.to_text(omit_final_dot=True)),
            "PTR": lambda data: data.target.to_text(omit_final_dot=True),
        }
        if rdtype in forms:
            found.setdefault((name.to_text(omit_final_dot=True), rdtype), []).append(forms[rdtype](data))
    return found


async def test_whoever_publishes_them_has_no_error():
    zone = published(records_for(FACTS))
    zone |= {("mx.example.org", "A"): "9.9.9.9", ("mx.example.org", "AAAA"): "2620:fe::9"}
    fetch = fetch_from(FakeResolver(zone))
    lines = [
        *await audit_spf("example.org", fetch, addresses=FACTS.addresses),
        *await audit_spf("mx.example.org", fetch, addresses=FACTS.addresses),
        *await audit_keys(FACTS.keys, fetch),
        *await audit_dmarc("example.org", fetch),
        *await audit_mx("example.org", fetch),
        (await sts_record("example.org", fetch))[1],
        *audit_policy(
            "example.org", PolicyFile(200, policy_text(FACTS.hosts).encode(), "text/plain"), FACTS.hosts
        ),
        await audit_tls_reports("example.org", fetch),
        *[await audit_ptr(ip, FACTS.hostname, fetch) for ip in FACTS.addresses],
    ]
    assert {line.text.partition(" ")[0] for line in lines if line.level != "ok"} == {"p=none", "mode"}


def test_every_record_says_why():
    assert all(record.why for record in records_for(FACTS))


def test_without_addresses_the_host_is_named():
    facts = Facts("example.org", "mx.example.org")
    assert spf_value(facts) == "v=spf1 a:mx.example.org ~all"
    assert [(record.name, record.type) for record in records_for(facts)] == [
        ("example.org", "TXT"),
        ("mx.example.org", "TXT"),
        ("_dmarc.example.org", "TXT"),
        ("_smtp._tls.example.org", "TXT"),
    ]


def test_a_host_that_is_the_domain_or_has_no_dot_gets_no_record_of_its_own():
    for hostname in ("example.org", "mx"):
        records = records_for(Facts("example.org", hostname, ("9.9.9.9",)))
        assert [record.name for record in records if "spf1" in record.value] == ["example.org"]


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=700))
def test_a_text_comes_out_of_a_zone_file_as_it_was(text):
    line = Record("x.example", text).line()
    ((_, _, data),) = [
        one
        for one in dns.zone.from_text(
            f"$TTL 60\n@ IN SOA . . 1 1 1 1 1\n@ IN NS .\n{line}\n", ".", relativize=False
        ).iterate_rdatas()
        if one[2].rdtype.name == "TXT"
    ]
    assert b"".join(data.strings) == text.encode()


def test_the_worst_level_counts():
    lines = [Line("spf", "x", level, "") for level in ("ok", "warning", "error")]
    assert [worst(lines[:n]) for n in range(4)] == ["ok", "ok", "warning", "error"]
