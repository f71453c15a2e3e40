"""Which policy holds, whatever DNS and HTTPS do meanwhile."""

import pytest

from relayproxy.api import DnsStatus, fetch_from
from relayproxy.mailauth.mta_sts import Held, PolicyFile, current_policy, parse_policy
from relayproxy.testing import FakeResolver

NOW = 1_790_000_000.0
NAME = ("_mta-sts.example.org", "TXT")
TEXT = b"version: STSv1\nmode: enforce\nmx: mx.example.org\nmx: *.example.net\nmax_age: 1000\n"
OLD = Held(parse_policy(TEXT.replace(b"mx.example.org", b"old.example.org")), "1", NOW - 100)
GOOD = PolicyFile(200, TEXT, "text/plain")


async def found(held, record, file=GOOD, now=NOW):
    asked = []

    async def get(domain):
        asked.append(domain)
        return file

    zone = {NAME: record} if record is not None else {}
    result = await current_policy("example.org", held, fetch_from(FakeResolver(zone)), get, now)
    return result, asked


async def test_the_first_time():
    result, asked = await found(None, "v=STSv1; id=7;")
    assert asked == ["example.org"]
    assert result.held == Held(parse_policy(TEXT), "7", NOW)
    assert result.problem == ""
    assert result.held.holds(NOW + 999.9)
    assert not result.held.holds(NOW + 1000)


async def test_the_same_id_is_not_fetched_again_and_another_is():
    assert await found(OLD, "v=STSv1; id=1;") == ((await found(OLD, "v=STSv1; id=1;"))[0], [])
    assert (await found(OLD, "v=STSv1; id=1;"))[0].held is OLD
    result, asked = await found(OLD, "v=STSv1; id=2;")
    assert asked
    assert result.held.id == "2"


@pytest.mark.parametrize(
    ("record", "file", "problem"),
    [
        (None, GOOD, ""),
        ([], GOOD, ""),
        (DnsStatus.SERVFAIL, GOOD, "DNS gave no answer"),
        (DnsStatus.TIMEOUT, GOOD, "DNS gave no answer"),
        (["v=STSv1; id=2", "v=STSv1; id=3"], GOOD, "is broken"),
        ("v=STSv1;", GOOD, "is broken"),
        ("v=STSv1; id=2", PolicyFile(fault="certificate expired"), "certificate expired"),
        ("v=STSv1; id=2", PolicyFile(404), "status 404"),
        ("v=STSv1; id=2", PolicyFile(301, TEXT), "status 301"),
        ("v=STSv1; id=2", PolicyFile(200, b"<html>"), "version: STSv1 is missing"),
        ("v=STSv1; id=2", PolicyFile(200, TEXT + b" " * 70_000), "more than 65536 octets"),
        ("v=STSv1; id=2", PolicyFile(200, TEXT.replace(b"enforce", b"later")), "mode is not"),
    ],
)
async def test_what_is_missing_or_broken_never_ends_a_policy_that_holds(record, file, problem):
    kept, _ = await found(OLD, record, file)
    assert kept.held is OLD
    assert problem in kept.problem
    gone, _ = await found(OLD, record, file, now=NOW + 900)
    assert gone.held is None
    never, _ = await found(None, record, file)
    assert never.held is None


async def test_a_domain_can_end_it():
    result, _ = await found(
        OLD, "v=STSv1; id=2", PolicyFile(200, b"version: STSv1\nmode: none\nmax_age: 100\n")
    )
    assert result.held.policy.mode == "none"


@pytest.mark.parametrize(
    ("host", "covered"),
    [
        ("mx.example.org", True),
        ("MX.Example.ORG.", True),
        ("mx2.example.org", False),
        ("a.example.net", True),
        ("a.b.example.net", False),
        ("example.net", False),
    ],
)
def test_which_hosts_are_covered(host, covered):
    assert parse_policy(TEXT).covers(host) is covered
