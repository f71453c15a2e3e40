from dataclasses import replace
from pathlib import Path

import pytest

from relayproxy.api import Action, App, DnsStatus, Mail, Verdict
from relayproxy.builtin.iprev import Iprev, IprevSettings
from relayproxy.testing import FakeClock, FakeResolver
from relayproxy.testing.mail import call, make_client, make_mail

PTR = "1.2.0.192.in-addr.arpa"
ZONES = {
    "pass": {(PTR, "PTR"): "mx.example.org", ("mx.example.org", "A"): "192.0.2.1"},
    "fail": {(PTR, "PTR"): "mx.example.org"},
    "permerror": {},
    "temperror": {(PTR, "PTR"): DnsStatus.TIMEOUT},
}


def plugin(zone, clock=None, delay=0.0, **settings):
    made = Iprev(IprevSettings(**settings))
    clock = clock or FakeClock()
    made.startup(App("mx.example.com", FakeResolver(zone, clock=clock, delay=delay), clock, Path()))
    return made


async def connect(made, client=None) -> tuple[Verdict | None, Mail]:
    mail = make_mail()
    verdict = await call(made, "connect", client=client or make_client(), note=mail.note)
    return verdict, mail


@pytest.mark.parametrize("result", ZONES)
async def test_notes_the_fact_and_decides_nothing(result):
    verdict, mail = await connect(plugin(ZONES[result]))
    assert verdict is None
    (finding,) = mail.noted
    assert (finding.method, finding.result) == ("iprev", result)
    assert finding.props["policy.iprev"] == "192.0.2.1"
    assert finding.props["name"] == ("mx.example.org" if result == "pass" else "")
    assert bool(finding.reason) == (result != "pass")


@pytest.mark.parametrize(
    ("result", "setting", "action", "status"),
    [
        ("fail", "reject", Action.REJECT, "5.7.25"),
        ("fail", "defer", Action.DEFER, "4.7.25"),
        ("permerror", "reject", Action.REJECT, "5.7.25"),
        ("temperror", "defer", Action.DEFER, "4.7.25"),
    ],
)
async def test_refuses_where_told_to(result, setting, action, status):
    verdict, _ = await connect(plugin(ZONES[result], **{result: setting}))
    assert (verdict.action, verdict.reply.status) == (action, status)
    assert (await connect(plugin(ZONES["pass"], **{result: setting})))[0] is None


@pytest.mark.parametrize(
    "client",
    [
        make_client(ip=""),
        make_client(ip="127.0.0.1"),
        make_client(ip="::1"),
        replace(make_client(), trusted=True),
    ],
)
async def test_clients_of_ours_are_not_looked_up(client):
    verdict, mail = await connect(plugin(ZONES["fail"], fail="reject"), client)
    assert (verdict, mail.noted) == (None, [])


async def test_the_addresses_of_all_names_are_asked_for_at_once():
    clock = FakeClock()
    names = [f"h{number}.example.org" for number in range(10)]
    made = plugin({(PTR, "PTR"): names}, clock, delay=0.05)
    await clock.run(connect(made))
    assert clock.monotonic() == 0.1
