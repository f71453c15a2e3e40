"""SPF against the set of the mail-auth library, whose evaluator was written apart from pyspf."""

import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from relayproxy.api import Address, DnsStatus, fetch_from
from relayproxy.mailauth.spf import Spf
from relayproxy.testing import FakeResolver

SUITES = Path(os.environ.get("RELAYPROXY_SUITES", Path(__file__).parents[3] / "shared" / "suites"))
FOLDER = SUITES / "mail-auth" / "resources" / "spf"

# Where the set departs from RFC 7208, by name of the case and address: our result.
DIFFERENT = {
    ("All test", "10.0.0.1", "test.org"): "permerror",  # 4.6: a syntax error counts wherever it stands
    ("DNS Lookup Limits", "172.168.0.1", "ok.test.org"): "permerror",  # 4.6.4: two void look-ups
    ("DNS Lookup Limits", "10.0.0.8", "mx.test.org"): "permerror",  # 4.6.4: eleven MX names
    ("Exists", "167.1.2.3", "ip6.test.org"): "fail",  # 5.7: A records, whatever the client's family
    ("IPv6 match", "10.1.2.3", "test.org"): "fail",  # 5.6: ip6 does not match a client of IPv4
    ("Macro expansion 2", "2001:db8::cb01", "mx.example.org"): "fail",  # 5.7 again
}


def add(zone, rdtype, name, value):
    """Add one line of records; the values of `mx` are the addresses of hosts that have no name there."""
    name = ip_address(name).reverse_pointer if rdtype == "ptr" else name
    if rdtype in ("spf", "exp", "txt"):
        zone.setdefault((name, "TXT"), []).append(value)
        return
    for number, item in enumerate(part.strip().rstrip(".") for part in value.split(",")):
        if rdtype == "mx":
            host = f"mx{number}.{name}"
            zone.setdefault((name, "MX"), []).append((number, host))
            zone[host, "AAAA" if ":" in item else "A"] = item
        else:
            zone.setdefault((name, rdtype.upper()), []).append(item)


def load():
    """Read the files with eyes of our own: they repeat keys, which YAML does not allow.

    What a test says holds for those after it until they say otherwise; each `expect` is a case.
    """
    if not FOLDER.exists():
        return [pytest.param(None, None, marks=pytest.mark.skip(f"there is no {FOLDER}"))]
    cases = []
    for path in sorted(FOLDER.glob("*.yml")):
        zone, case, name, part = {}, {}, "", ""
        for line in path.read_text().splitlines():
            key, _, value = line.strip().removeprefix("- ").partition(":")
            value = value.strip()
            if line.strip() == "---":
                zone, case = {}, {}
            elif line and not line.startswith(("#", " ")):
                part, name = key, value or name
            elif part == "records" and value:
                add(zone, key, *value.partition(" ")[::2])
            elif part == "tests" and key in ("spf", "a", "ptr"):
                own = {}
                add(own, key, *value.partition(" ")[::2])
                zone = {**zone, **own}
            elif part == "tests":
                case = {**case, "name": name, key: value}
                if key == "expect":
                    failing = {(f"_dns_error.{tld}", "*"): DnsStatus.SERVFAIL for tld in ("org", "test.org")}
                    cases.append(
                        pytest.param({**zone, **failing}, case, id=f"{path.stem}:{name}:{len(cases)}")
                    )
    return cases


@pytest.mark.parametrize(("zone", "case"), load())
async def test_suite(zone, case):
    spf = Spf(case["ip"], case["domain"], fetch_from(FakeResolver(zone)))
    local, _, domain = case["sender"].rpartition("@")
    of_helo = await spf.check_helo()
    found = of_helo if of_helo.result == "fail" else await spf.check_mail_from(Address(local, domain))
    result, _, explanation = case["expect"].partition(" ")
    result = DIFFERENT.get((case["name"], case["ip"], case["domain"]), result)
    assert found.result == result, found
    assert found.explanation == explanation
