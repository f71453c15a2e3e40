from dataclasses import replace
from pathlib import Path

import pytest

from relayproxy.api import Action, App, DnsStatus
from relayproxy.builtin.spf import SpfPlugin, SpfSettings
from relayproxy.catalogue import hooks_of
from relayproxy.model.edits import apply_to_message
from relayproxy.testing import FakeClock, FakeResolver
from relayproxy.testing.mail import call, make_client, make_mail

ZONE = {
    ("example.org", "TXT"): "v=spf1 ip4:192.0.2.1 -all exp=why.example.org",
    ("why.example.org", "TXT"): "Ask\r\n250 OK postmaster",
    ("soft.example", "TXT"): "v=spf1 ~all",
    ("broken.example", "TXT"): "v=spf1 nonsense",
    ("down.example", "TXT"): DnsStatus.SERVFAIL,
    ("client.example.org", "TXT"): "v=spf1 a -all",
    ("client.example.org", "A"): "192.0.2.1",
}


def plugin(zone=ZONE, resolver=None, **settings):
    made = SpfPlugin(SpfSettings(**settings))
    made.startup(App("mx.example.com", resolver or FakeResolver(zone), FakeClock(), Path()))
    return made


def results(mail):
    return [(f.result, f.props.get("smtp.helo") or f.props["smtp.mailfrom"]) for f in mail.findings]


async def test_both_identities_are_noted_mail_from_last():
    mail = make_mail(sender="a@Example.org")
    assert await call(plugin(), "mail", mail=mail) is None
    assert results(mail) == [("pass", "client.example.org"), ("pass", "example.org")]
    latest = mail.finding("spf")
    assert dict(latest.props) == {
        "smtp.mailfrom": "example.org",
        "domain": "example.org",
        "mechanism": "ip4:192.0.2.1",
    }


async def test_the_null_sender_is_checked_as_helo():
    mail = make_mail(sender="", ip="192.0.2.2")
    assert await call(plugin(helo=False), "mail", mail=mail) is None
    assert results(mail) == [("fail", "client.example.org")]
    verdict = await call(plugin(fail="reject"), "mail", mail=make_mail(sender="", ip="192.0.2.2"))
    assert verdict.reply.text == "SPF HELO check failed: fail"


async def test_helo_can_be_left_out():
    mail = make_mail()
    await call(plugin(helo=False), "mail", mail=mail)
    assert results(mail) == [("pass", "example.org")]


async def test_nothing_is_known_about_a_client_without_an_address():
    mail = make_mail()
    mail.client = replace(mail.client, ip="")
    assert await call(plugin(), "mail", mail=mail) is None
    assert mail.findings == ()


async def test_facts_decide_nothing_by_default():
    for domain in ("example.org", "soft.example", "broken.example", "down.example", "none.example"):
        assert await call(plugin(), "mail", mail=make_mail(sender=f"a@{domain}", ip="192.0.2.9")) is None


@pytest.mark.parametrize(
    ("domain", "result", "setting", "action", "code", "status"),
    [
        ("example.org", "fail", "reject", Action.REJECT, 550, "5.7.23"),
        ("example.org", "fail", "defer", Action.DEFER, 451, "4.7.23"),
        ("soft.example", "softfail", "reject", Action.REJECT, 550, "5.7.23"),
        ("broken.example", "permerror", "reject", Action.REJECT, 550, "5.7.24"),
        ("broken.example", "permerror", "defer", Action.DEFER, 451, "4.7.24"),
        ("down.example", "temperror", "defer", Action.DEFER, 451, "4.7.24"),
    ],
)
async def test_refuses_what_it_is_told_to(domain, result, setting, action, code, status):
    mail = make_mail(sender=f"a@{domain}", ip="192.0.2.9")
    verdict = await call(plugin(**{result: setting}), "mail", mail=mail)
    assert (verdict.action, verdict.reply.code, verdict.reply.status) == (action, code, status)
    assert mail.finding("spf").result == result


async def test_a_temporary_error_can_not_be_made_permanent():
    with pytest.raises(ValueError):
        SpfSettings(temperror="reject")


async def test_a_fail_of_helo_alone():
    made = plugin(helo_fail="reject")
    assert await call(made, "mail", mail=make_mail(sender="a@soft.example")) is None
    verdict = await call(made, "mail", mail=make_mail(sender="a@soft.example", ip="192.0.2.9"))
    assert verdict.reply.text == "SPF HELO check failed: fail"


async def test_the_explanation_is_quoted_as_the_domain_s_words():
    mail = make_mail(sender="a@example.org", ip="192.0.2.9")
    verdict = await call(plugin(fail="reject"), "mail", mail=mail)
    assert bytes(verdict.reply) == (
        b"550-5.7.23 SPF MAIL FROM check failed: fail\r\n"
        b"550 5.7.23 The domain example.org explains: Ask??250 OK postmaster\r\n"
    )
    verdict = await call(plugin(fail="reject", explanation=False), "mail", mail=make_mail(ip="192.0.2.9"))
    assert "\n" not in verdict.reply.text


async def test_a_pass_that_is_worth_little_is_marked():
    mail = make_mail()
    await call(plugin({("example.org", "TXT"): "v=spf1 +all"}), "mail", mail=mail)
    assert mail.finding("spf").props["weak"] == "+all"


async def test_a_check_that_takes_too_long_is_a_temporary_error(monkeypatch):
    monkeypatch.setattr("relayproxy.builtin.spf._TIME_LIMIT", 0)
    clock = FakeClock()
    mail = make_mail()
    await call(plugin(resolver=FakeResolver(ZONE, clock=clock, delay=1)), "mail", mail=mail)
    assert [finding.result for finding in mail.findings] == ["temperror", "temperror"]
    assert mail.finding("spf").reason == "the check took too long"


async def test_both_checks_run_side_by_side():
    clock = FakeClock()
    made = plugin(resolver=FakeResolver(ZONE, clock=clock, delay=0.05))
    await clock.run(call(made, "mail", mail=make_mail()))
    assert clock.monotonic() == pytest.approx(0.1)


async def test_received_spf_is_added_if_wanted():
    made = plugin(received_spf=True)
    mail = make_mail(b"Subject: x\r\n\r\n")
    await call(made, "mail", mail=mail)
    changed = apply_to_message(mail.message, await call(made, "before_forward", mail=mail))
    assert [field.value.partition(" ")[0] for field in changed.all("Received-SPF")] == ["pass", "pass"]
    assert b"identity=mailfrom" in changed.fields[0].raw
    assert "before_forward" not in hooks_of("spf", plugin())


async def test_an_odd_client_is_no_accident():
    mail = make_mail(sender='"a b"@example.org')
    mail.client = make_client(helo="[192.0.2.1]")
    await call(plugin(), "mail", mail=mail)
    assert results(mail) == [("none", "[192.0.2.1]"), ("pass", "example.org")]
