import json
import os
from pathlib import Path

import pytest

from relayproxy.api import Action, App, DnsStatus, Finding, Setup
from relayproxy.builtin.dmarc import Dmarc, DmarcSettings
from relayproxy.builtin.spf import SpfPlugin, SpfSettings
from relayproxy.testing import FakeClock, FakeResolver
from relayproxy.testing.mail import call, make_mail

SUITES = Path(os.environ.get("RELAYPROXY_SUITES", Path(__file__).parents[3] / "shared" / "suites"))
ESPOOFER = SUITES / "espoofer-cases" / "cases.json"

ZONE = {
    ("_dmarc.reject.example", "TXT"): "v=DMARC1; p=reject",
    ("_dmarc.quarantine.example", "TXT"): "v=DMARC1; p=quarantine",
    ("_dmarc.none.example", "TXT"): "v=DMARC1; p=none",
    ("_dmarc.down.example", "TXT"): DnsStatus.SERVFAIL,
}


def plugin(zone=ZONE, **settings):
    made = Dmarc(DmarcSettings.model_validate(settings))
    made.startup(App("mx.example.com", FakeResolver(zone), FakeClock(), Path()))
    return made


def message(domain, *fields, **options):
    head = "".join(f"{field}\r\n" for field in (f"From: a@{domain}", *fields))
    return make_mail(head.encode() + b"\r\nbody\r\n", **options)


def spf(domain, result="pass", **props):
    return Finding("spf", result, props={"smtp.mailfrom": domain, "domain": domain, **props})


def dkim(domain, result="pass"):
    return Finding("dkim", result, props={"header.d": domain})


async def judge(mail, **settings):
    verdict = await call(plugin(**settings), "message", mail=mail)
    return verdict, mail.finding("dmarc")


# The findings of others are what it rests on


@pytest.mark.parametrize(
    ("findings", "result", "aligned"),
    [
        ([spf("reject.example")], "pass", "spf"),
        ([spf("bounce.reject.example")], "pass", "spf"),
        ([dkim("other.example", "fail"), dkim("mail.reject.example")], "pass", "dkim"),
        ([spf("reject.example"), dkim("reject.example")], "pass", "spf dkim"),
        ([Finding("spf", "pass", props={"smtp.mailfrom": "b@reject.example"})], "pass", "spf"),
        ([spf("reject.example", "softfail"), dkim("other.example")], "fail", ""),
        (
            [Finding("spf", "pass", props={"smtp.helo": "reject.example", "domain": "reject.example"})],
            "fail",
            "",
        ),
        ([Finding("dkim", "pass")], "fail", ""),
        ([], "fail", ""),
    ],
)
async def test_aligned_results_make_a_pass(findings, result, aligned):
    verdict, finding = await judge(message("reject.example", findings=findings))
    assert verdict is None
    assert (finding.result, finding.props["aligned"]) == (result, aligned)
    assert finding.props["header.from"] == finding.props["policy_domain"] == "reject.example"
    assert finding.props["policy"] == finding.props["policy.dmarc"] == "reject"


async def test_helo_counts_for_the_null_sender_only():
    helo = Finding("spf", "pass", props={"smtp.helo": "mail.reject.example", "domain": "mail.reject.example"})
    _, finding = await judge(message("reject.example", sender="", findings=[helo]))
    assert finding.result == "pass"


async def test_without_a_policy_there_is_nothing_to_say():
    _, finding = await judge(message("nothing.example"))
    assert (finding.result, dict(finding.props)) == ("none", {"header.from": "nothing.example"})


# What follows


@pytest.mark.parametrize(
    ("domain", "settings", "action", "status"),
    [
        ("reject.example", {}, None, ""),
        ("reject.example", {"on_fail": "follow-policy"}, Action.REJECT, "5.7.26"),
        ("quarantine.example", {"on_fail": "follow-policy"}, Action.HOLD, ""),
        ("quarantine.example", {"on_fail": "follow-policy", "quarantine": "accept"}, None, ""),
        ("quarantine.example", {"on_fail": "follow-policy", "quarantine": "reject"}, Action.REJECT, "5.7.26"),
        ("none.example", {"on_fail": "follow-policy"}, None, ""),
        ("nothing.example", {"on_fail": "follow-policy"}, None, ""),
        ("reject.example", {"on_fail": "score"}, None, ""),
        ("sub.reject.example", {"domains": {"reject.example": "follow-policy"}}, Action.REJECT, "5.7.26"),
        ("reject.example", {"on_fail": "follow-policy", "domains": {"Reject.Example.": "observe"}}, None, ""),
        ("reject.example", {"domains": {"example": "follow-policy", "reject.example": "observe"}}, None, ""),
        ("down.example", {}, None, ""),
        ("down.example", {"on_temperror": "defer"}, Action.DEFER, "4.7.24"),
        ("down.example", {"on_fail": "follow-policy"}, Action.DEFER, "4.7.24"),
        ("down.example", {"on_fail": "follow-policy", "on_temperror": "accept"}, None, ""),
    ],
)
async def test_a_fail_leads_to_what_the_settings_say(domain, settings, action, status):
    verdict, finding = await judge(message(domain, findings=[spf("other.example")]), **settings)
    assert (verdict.action if verdict else None) == action
    if status:
        assert verdict.reply.status == status
    assert finding.score == (8.0 if settings.get("on_fail") == "score" else 0.0)


async def test_a_pass_is_let_through_whatever_the_settings():
    mail = message("reject.example", findings=[dkim("reject.example")])
    assert (await judge(mail, on_fail="follow-policy"))[0] is None
    assert (await judge(message("reject.example", findings=[dkim("reject.example")]), on_fail="score"))[
        1
    ].score == 0


async def test_a_domain_can_be_left_alone():
    verdict, finding = await judge(
        message("reject.example"), on_fail="follow-policy", domains={"reject.example": "ignore"}
    )
    assert (verdict, finding) == (None, None)


async def test_scores_can_be_set():
    _, finding = await judge(message("quarantine.example"), on_fail="score", scores={"quarantine": 2.5})
    assert finding.score == 2.5


async def test_an_unfinished_check_of_the_domain_defers_rather_than_refuses():
    mail = message("reject.example", findings=[dkim("reject.example", "temperror")])
    verdict, finding = await judge(mail, on_fail="follow-policy")
    assert (verdict.action, finding.result) == (Action.DEFER, "temperror")


async def test_the_list_of_public_suffixes_can_be_used():
    zone = {("_dmarc.example.co.uk", "TXT"): "v=DMARC1; p=reject"}
    mail = message("a.example.co.uk", findings=[spf("b.example.co.uk")])
    made = plugin(zone, discovery="public-suffix-list")
    await call(made, "message", mail=mail)
    assert mail.finding("dmarc").props["org"] == "example.co.uk"


# From


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"Subject: x\r\n\r\n", "there is no From"),
        (b"From: a@x.example\r\nFrom: a@x.example\r\n\r\n", "more than one From"),
        (b"From: a@x.example, b@y.example\r\n\r\n", "more than one mailbox"),
        (b"From : a@x.example\r\n\r\n", "a blank between From and its colon"),
    ],
)
async def test_a_from_that_names_no_one_author_is_refused(raw, word):
    verdict, finding = await judge(make_mail(raw))
    assert (verdict.action, verdict.reply.code, verdict.reply.status) == (Action.REJECT, 550, "5.7.1")
    assert word in verdict.reply.text
    assert finding.result == "permerror"
    verdict, finding = await judge(make_mail(raw), bad_from="accept")
    assert (verdict, finding.result) == (None, "permerror")


async def test_single_defects_can_be_tolerated():
    raw = b"From : a@reject.example\r\n\r\n"
    _, finding = await judge(make_mail(raw), tolerate=["blank-before-colon"])
    assert finding.result == "fail"
    verdict, finding = await judge(make_mail(b"From: x\r\n\r\n"), tolerate=["no-address"])
    assert (verdict, finding.result) == (None, "permerror")
    with pytest.raises(ValueError, match="none of"):
        DmarcSettings(tolerate=["nonsense"])


# Forwarders

SEALED = "ARC-Authentication-Results: i=2; lists.example; {}"


@pytest.mark.parametrize(
    ("seen", "trusted", "excused"),
    [
        ("dmarc=pass header.from=reject.example", "yes", True),
        ("dmarc=pass header.from=Reject.Example", "yes", True),
        ("spf=pass smtp.mailfrom=a@reject.example", "yes", True),
        ("spf=fail smtp.mailfrom=a@x.example; dkim=pass header.d=mail.reject.example", "yes", True),
        ("dkim=pass header.i=@reject.example", "yes", True),
        ("dmarc=pass header.from=reject.example", "", False),
        ("dmarc=pass header.from=reject.example", "no", False),
        ("dmarc=pass header.from=other.example", "yes", False),
        ("dmarc=fail header.from=reject.example; dkim=pass header.d=reject.example", "yes", False),
        ("spf=pass smtp.helo=reject.example", "yes", False),
        ("none", "yes", False),
        ("broken (", "yes", False),
    ],
)
async def test_only_a_trusted_sealer_that_saw_a_pass_excuses_a_fail(seen, trusted, excused):
    first = "ARC-Authentication-Results: i=1; unknown.example; dmarc=pass header.from=reject.example"
    arc = Finding("arc", "pass", props={"trusted": trusted})
    mail = message("reject.example", first, SEALED.format(seen), findings=[arc])
    verdict, finding = await judge(mail, on_fail="follow-policy")
    assert (verdict is None) == excused
    assert finding.result == "fail"
    assert finding.props["policy.dmarc"] == ("none" if excused else "reject")
    assert ("override" in finding.props) == excused
    assert ("lists.example" in finding.reason) == excused


@pytest.mark.parametrize(
    ("findings", "settings"),
    [
        ([], {}),
        ([Finding("arc", "fail", props={"trusted": "yes"})], {}),
        ([Finding("arc", "pass", props={"trusted": "yes"})], {"trusted_forwarders": False}),
    ],
)
async def test_without_a_trusted_seal_nothing_is_excused(findings, settings):
    mail = message(
        "reject.example", SEALED.format("dmarc=pass header.from=reject.example"), findings=findings
    )
    verdict, _ = await judge(mail, on_fail="follow-policy", **settings)
    assert verdict.action is Action.REJECT


async def test_no_header_that_anybody_can_add_excuses_a_fail():
    lines = (
        "List-Id: <l.lists.example>",
        "Precedence: list",
        "X-Original-Authentication-Results: x; dmarc=pass",
    )
    verdict, _ = await judge(message("reject.example", *lines), on_fail="follow-policy")
    assert verdict.action is Action.REJECT


async def test_a_seal_without_results_excuses_nothing():
    mail = message("reject.example", findings=[Finding("arc", "pass", props={"trusted": "yes"})])
    assert (await judge(mail, on_fail="follow-policy"))[0].action is Action.REJECT


@pytest.mark.parametrize(("setting", "result"), [("report", "pass"), ("distrust", "fail")])
async def test_an_spf_pass_lent_by_a_forwarder_is_reported(setting, result):
    said = "Received-SPF: softfail client-ip=198.51.100.1; envelope-from=a@reject.example"
    mail = message("reject.example", said, findings=[spf("reject.example")])
    _, finding = await judge(mail, upgraded_spf=setting)
    assert finding.result == result
    upgrade = mail.finding("spf_upgrade")
    assert (upgrade.result, upgrade.props["domain"]) == ("hit", "reject.example")


# espoofer: the attacker's own domains pass SPF, as they would; what DKIM finds in A3 is a broken selector


def espoofer():
    if not ESPOOFER.exists():
        return [pytest.param("", {}, marks=pytest.mark.skip(f"there is no {ESPOOFER}"))]
    return list(json.loads(ESPOOFER.read_text()).items())


@pytest.mark.parametrize(("name", "case"), espoofer())
async def test_no_espoofer_case_passes_for_the_spoofed_domain(name, case):
    allowed = "v=spf1 +all"
    attacker = ["attack.com", "helo.attack.com", "33.attack.com", "legitimate.com(a.attack.com", case["helo"]]
    zone = {(domain, "TXT"): allowed for domain in attacker}
    zone |= {
        ("legitimate.com", "TXT"): "v=spf1 ip4:203.0.113.1 -all",
        ("_dmarc.legitimate.com", "TXT"): "v=DMARC1; p=reject",
        ("example.com", "TXT"): allowed,
        ("_dmarc.example.com", "TXT"): "v=DMARC1; p=reject",
    }
    data = case["data"]
    head = data["from_header"] + data["to_header"] + data["subject_header"] + data["other_headers"]
    findings = (
        [Finding("dkim", "permerror", props={"header.d": "legitimate.com"})] if "dkim_para" in case else []
    )
    mail = make_mail((head + data["body"]).encode(), sender=case["mailfrom"].strip("<>"), findings=findings)
    app = App("mx.example.com", FakeResolver(zone), FakeClock(), Path())
    checks = [SpfPlugin(SpfSettings()), Dmarc(DmarcSettings(on_fail="follow-policy"))]
    for check in checks:
        check.startup(app)
    await call(checks[0], "mail", mail=mail)
    verdict = await call(checks[1], "message", mail=mail)
    assert verdict.action is Action.REJECT
    assert mail.finding("dmarc").result in ("fail", "permerror")


# What reports are made of


RECORD = "v=DMARC1; p=quarantine; sp=reject; t=y; fo=1; rua=mailto:a@tested.example!10m"


@pytest.mark.parametrize(
    ("record", "settings", "disposition"),
    [
        (RECORD, {"on_fail": "follow-policy"}, "none"),  # t=y
        (RECORD.replace("t=y", "t=n"), {"on_fail": "follow-policy"}, "quarantine"),
        (RECORD.replace("t=y", "t=n"), {"on_fail": "follow-policy", "quarantine": "reject"}, "reject"),
        (RECORD.replace("t=y", "t=n"), {"on_fail": "follow-policy", "quarantine": "accept"}, "none"),
        (RECORD.replace("t=y", "t=n"), {}, "none"),
        ("v=DMARC1; p=reject", {"on_fail": "follow-policy"}, "reject"),
    ],
)
async def test_a_finding_carries_the_record_and_what_was_asked_for(record, settings, disposition):
    mail = message("tested.example", findings=[spf("other.example")])
    await call(plugin({("_dmarc.tested.example", "TXT"): record}, **settings), "message", mail=mail)
    props = mail.finding("dmarc").props
    assert (props["record"], props["disposition"], props["discovery"]) == (record, disposition, "treewalk")


async def test_a_record_that_is_too_long_is_not_carried_in_part():
    zone = {("_dmarc.tested.example", "TXT"): f"v=DMARC1; p=none; rua=mailto:{'a' * 5000}@tested.example"}
    mail = message("tested.example", findings=[spf("tested.example")])
    await call(plugin(zone), "message", mail=mail)
    assert mail.finding("dmarc").result == "pass"
    assert mail.finding("dmarc").props["record"] == ""


# What is wrong with the configuration around it


@pytest.mark.parametrize(
    ("settings", "setup", "warnings"),
    [
        ({}, {"plugins": {"spf", "dkim_verify", "dmarc"}}, []),
        ({}, {"plugins": {"spf", "dmarc"}}, ["without 'dkim_verify'"]),
        ({}, {"plugins": {"dmarc"}}, ["without 'spf'", "without 'dkim_verify'"]),
        ({"on_fail": "follow-policy"}, {"plugins": {"spf", "dkim_verify"}}, ["no spool"]),
        ({"domains": {"a.example": "follow-policy"}}, {"plugins": {"spf", "dkim_verify"}}, ["no spool"]),
        ({"on_fail": "follow-policy"}, {"plugins": {"spf", "dkim_verify"}, "can_hold": True}, []),
        ({"on_fail": "follow-policy", "quarantine": "accept"}, {"plugins": {"spf", "dkim_verify"}}, []),
    ],
)
def test_a_pipeline_that_gives_it_too_little_is_warned_of(settings, setup, warnings):
    found = list(Dmarc(DmarcSettings.model_validate(settings)).check(Setup(Path(), **setup)))
    assert all(mistake.warning for mistake in found)
    assert len(found) == len(warnings)
    assert all(words in mistake.message for words, mistake in zip(warnings, found, strict=True))
