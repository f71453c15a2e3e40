from dataclasses import replace
from pathlib import Path

import pytest

from relayproxy.api import App, DnsStatus, Finding
from relayproxy.builtin.compliance import Compliance, ComplianceSettings
from relayproxy.builtin.dkim_sign import DkimSign, DkimSignSettings
from relayproxy.mailauth.dkim_keys import new_ed25519_key
from relayproxy.testing import FakeClock, FakeResolver
from relayproxy.testing.mail import call, make_mail
from relayproxy.testing.session import SessionDriver

NOW = 1_790_000_000.0  # Mon, 21 Sep 2026 14:13:20 UTC
ADDRESS = "198.51.100.5"
ZONE = {
    ("_dmarc.example.org", "TXT"): "v=DMARC1; p=none",
    ("example.org", "TXT"): f"v=spf1 ip4:{ADDRESS} -all",
    ("5.100.51.198.in-addr.arpa", "PTR"): ["out.example.org"],
    ("out.example.org", "A"): [ADDRESS],
}
GOOD = (
    b"From: A <a@news.example.org>\r\nTo: b@example.net\r\nSubject: Hello\r\n"
    b"Date: Mon, 21 Sep 2026 14:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n\r\nHi\r\n"
)
ONE_CLICK = (
    b"List-Unsubscribe: <mailto:u@example.org>, <https://example.org/u?id=1>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
)
COVERS = "from list-unsubscribe list-unsubscribe-post"
PROMISE = Finding("dkim_sign", "pass", props={"domains": "example.org", "covers": COVERS})


def plugin(zone=ZONE, unencrypted=(), **settings):
    made = Compliance(ComplianceSettings(**{"addresses": [ADDRESS], **settings}))
    app = App(
        "out.example.org", FakeResolver(zone), FakeClock(NOW), Path(), unencrypted=frozenset(unencrypted)
    )
    made.startup(app)
    return made


def outbound(raw=GOOD, promise=PROMISE, **facts):
    return make_mail(raw, direction="outbound", findings=(promise,) if promise else (), **facts)


async def broken(raw=GOOD, promise=PROMISE, zone=ZONE, sender="a@example.org", unencrypted=(), **settings):
    """Return the checks that find something, with reason."""
    mail = outbound(raw, promise, sender=sender)
    assert await call(plugin(zone, unencrypted, **settings), "message", mail=mail) is None
    return {f.props["check"]: (f.result, f.reason) for f in mail.findings if "check" in f.props}


def with_zone(**changes):
    return {**ZONE, **{tuple(key.split("__")): value for key, value in changes.items()}}


async def test_what_keeps_all_rules_is_one_pass():
    mail = outbound()
    assert await call(plugin(), "message", mail=mail) is None
    assert [(f.method, f.result) for f in mail.findings[1:]] == [("compliance", "pass")]


@pytest.mark.parametrize(
    ("old", "new", "check", "reason"),
    [
        (b"From: A <a@news.example.org>", b"From: a@x.example, b@x.example", "from", "more than one mailbox"),
        (b"From: A <a@news.example.org>\r\n", b"", "from", "there is no From"),
        (b"a@news.example.org", b"a@gmail.com", "from", "From is at gmail.com"),
        (b"Subject: Hello", b"Subject: Hello\r\nSubject: Again", "singletons", "Subject occurs 2 times"),
        (b"To: b@example.net", b"To: b@example.net\r\nTo: c@example.net", "singletons", "To occurs 2 times"),
        (b"Message-ID: <1@example.org>\r\n", b"", "message_id", "there is no Message-ID"),
        (b"<1@example.org>", b"1@example.org", "message_id", "not of the form"),
        (b"<1@example.org>", b"<1 2@example.org>", "message_id", "not of the form"),
        (b"Date: Mon, 21 Sep 2026 14:00:00 +0000\r\n", b"", "date", "there is no Date"),
        (b"Mon, 21 Sep 2026", b"Sunday the first", "date", "malformed"),
        (b"21 Sep 2026", b"13 Sep 2026", "date", "192 hours old"),
        (b"21 Sep 2026", b"23 Sep 2026", "date", "47 hours in the future"),
        (b"To: b", b"Precedence: very high\r\nTo: b", "automatic", "nobody understands"),
    ],
)
async def test_a_rule_for_the_header_that_is_broken(old, new, check, reason):
    assert old in GOOD
    found = await broken(GOOD.replace(old, new, 1))
    assert found[check][0] == "fail"
    assert reason in found[check][1]


@pytest.mark.parametrize(
    ("changes", "check", "result", "reason"),
    [
        ({"_dmarc.example.org__TXT": []}, "dmarc", "fail", "news.example.org has no DMARC record"),
        ({"_dmarc.example.org__TXT": "v=DMARC1; p=nonsense"}, "dmarc", "fail", "no valid policy"),
        ({"_dmarc.example.org__TXT": DnsStatus.SERVFAIL}, "dmarc", "temperror", "can't be had"),
        ({"example.org__TXT": "v=spf1 -all"}, "spf", "fail", f"SPF of example.org says fail for {ADDRESS}"),
        ({"example.org__TXT": []}, "spf", "fail", "says none"),
        ({"example.org__TXT": DnsStatus.TIMEOUT}, "spf", "temperror", "says temperror"),
        ({"out.example.org__A": ["198.51.100.6"]}, "ptr", "fail", "no reverse name leads back"),
        ({"5.100.51.198.in-addr.arpa__PTR": []}, "ptr", "fail", "there is no reverse name"),
        ({"5.100.51.198.in-addr.arpa__PTR": DnsStatus.SERVFAIL}, "ptr", "temperror", "failed"),
    ],
)
async def test_a_rule_for_dns_that_is_broken(changes, check, result, reason):
    found = await broken(zone=with_zone(**changes))
    assert list(found) == [check]
    assert found[check][0] == result
    assert reason in found[check][1]


async def test_the_null_sender_is_checked_by_the_name_in_ehlo_and_has_to_say_that_it_is_automatic():
    found = await broken(sender="")
    assert found["spf"] == ("fail", f"SPF of out.example.org says none for {ADDRESS}")
    assert "Auto-Submitted" in found["automatic"][1]
    zone = with_zone(**{"mta.example.org__TXT": f"v=spf1 ip4:{ADDRESS} -all"})
    raw = b"Auto-Submitted: auto-replied\r\n" + GOOD
    assert await broken(raw, zone=zone, sender="", helo="mta.example.org") == {}


@pytest.mark.parametrize("domains", ["example.com", "other.example"])
async def test_a_signature_of_somebody_else_is_not_aligned(domains):
    promise = replace(PROMISE, props={"domains": domains, "covers": COVERS})
    assert list(await broken(promise=promise)) == ["dkim"]
    assert "dkim" in await broken(promise=promise, zone=with_zone(**{"_dmarc.example.org__TXT": []}))


async def test_strict_alignment_is_taken_at_its_word():
    zone = with_zone(**{"_dmarc.example.org__TXT": "v=DMARC1; p=none; adkim=s"})
    assert list(await broken(zone=zone)) == ["dkim"]


async def test_a_message_that_nobody_signs():
    found = await broken(promise=None)
    assert found == {"dkim": ("fail", "there is no DKIM signature, and none will be made")}


async def test_a_signature_that_is_there_counts():
    raw = b"DKIM-Signature: v=1; a=rsa-sha256; d=news.example.org; s=s; h=from; bh=YQ==; b=YQ==\r\n" + GOOD
    assert await broken(raw, promise=None) == {}
    assert "dkim" in await broken(raw.replace(b"v=1", b"v=2"), promise=None)


async def test_the_upstream_without_tls():
    found = await broken(unencrypted=["smarthost"])
    assert found == {"tls": ("fail", "mail leaves without TLS by the upstream smarthost")}


async def test_a_message_that_is_too_large():
    assert list(await broken(size=len(GOOD))) == []
    assert list(await broken(size=len(GOOD) - 1)) == ["size"]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"a" * 998, []),
        (b"a" * 998 + b"\r\n" + b"b" * 998 + b"\r\n", []),
        (b"a" * 999, ["lines"]),
        (b"a" * 999 + b"\r\n", ["lines"]),
        (b"a\r\n" * 300_000, []),
        (b"a\r\n" * 300_000 + b"b" * 999 + b"\r\n", ["lines"]),
    ],
)
async def test_long_lines(body, found):
    assert list(await broken(GOOD + body)) == found


async def test_bulk_mail_offers_one_click():
    assert await broken(ONE_CLICK + GOOD) == {}


@pytest.mark.parametrize("mark", [b"List-Id: <l.example.org>", b"Feedback-ID: a:b:c", b"Precedence: bulk"])
async def test_what_says_that_it_is_bulk_has_to_offer_it(mark):
    raw = mark + b"\r\n" + GOOD
    assert await broken(raw) == {"unsubscribe": ("fail", "there is no List-Unsubscribe")}
    assert await broken(raw, bulk="never") == {}


async def test_all_mail_can_be_bulk():
    assert list(await broken(bulk="always")) == ["unsubscribe"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"<https://example.org/u?id=1>", b"<http://example.org/u>", "no https address"),
        (b"<https://example.org/u?id=1>", b"https://example.org/u", "no https address"),
        (b"<https://example.org/u?id=1>", b"<https://example.org/ u>", "no https address"),
        (b"=One-Click", b"=Two-Clicks", "List-Unsubscribe-Post is not"),
        (b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n", b"", "List-Unsubscribe-Post is not"),
        (b"List-Unsubscribe-Post", b"List-Unsubscribe: <https://x.example/>\r\nList-Unsubscribe-Post", "more than once"),
        (b"<mailto", b"<mailto:" + b"x\r\n " * 600 + b"@example.org>, <mailto", "too long"),
    ],
)  # fmt: skip
async def test_one_click_as_rfc_8058_wants_it(old, new, reason):
    found = await broken(ONE_CLICK.replace(old, new, 1) + GOOD)
    assert list(found) == ["unsubscribe"]
    assert reason in found["unsubscribe"][1]


async def test_one_click_is_worth_nothing_without_a_signature_over_both_fields():
    promise = replace(PROMISE, props={"domains": "example.org", "covers": "from list-unsubscribe"})
    assert "not under a DKIM signature" in (await broken(ONE_CLICK + GOOD, promise))["unsubscribe"][1]


async def test_rules_can_be_left_out_and_then_cost_nothing():
    made = plugin(skip=["dkim", "dmarc", "spf", "ptr", "message_id"])
    mail = outbound(GOOD.replace(b"Message-ID", b"X-ID"), None)
    await call(made, "message", mail=mail)
    assert mail.finding("compliance").result == "pass"
    assert made._app.resolver.asked == []


async def test_without_addresses_nothing_is_said_about_them():
    assert await broken(zone=with_zone(**{"example.org__TXT": "v=spf1 -all"}), addresses=[]) == {}


async def test_what_dns_is_asked_takes_as_long_as_the_longest_chain():
    clock = FakeClock(NOW)
    made = plugin(addresses=[ADDRESS, "198.51.100.6"])
    made.startup(App("out.example.org", FakeResolver(ZONE, clock=clock, delay=0.05), clock, Path()))
    began = clock.monotonic()
    await clock.run(call(made, "message", mail=outbound()))
    assert clock.monotonic() - began == pytest.approx(0.1)


async def verdict(raw=GOOD, zone=ZONE, promise=PROMISE, **settings):
    return await call(plugin(zone, **settings), "message", mail=outbound(raw, promise))


@pytest.mark.parametrize(
    ("enforce", "promise", "reply"),
    [
        ({"dkim": "reject"}, None, "550 5.7.20 This would be refused by large receivers: there is no DKIM signature, and none will be made"),
        ({"dkim": "defer"}, None, "451 4.7.20 This would be refused by large receivers: there is no DKIM signature, and none will be made"),
    ],
)  # fmt: skip
async def test_a_rule_that_is_enforced(enforce, promise, reply):
    assert str((await verdict(promise=promise, enforce=enforce)).reply) == reply


async def test_a_rule_that_is_not_enforced_stops_nothing():
    assert await verdict(promise=None, enforce={"spf": "reject"}) is None


async def test_the_strongest_counts():
    raw = GOOD.replace(b"Message-ID", b"X-ID")
    found = await verdict(raw, promise=None, enforce={"message_id": "defer", "dkim": "reject"})
    assert found.reply.code == 550
    assert found.reason == "compliance: dkim"


async def test_what_dns_does_not_tell_defers_and_never_rejects():
    zone = with_zone(**{"_dmarc.example.org__TXT": DnsStatus.SERVFAIL})
    found = await verdict(zone=zone, enforce={"dmarc": "reject"})
    assert str(found.reply).startswith("451 4.4.3 ")


async def test_a_message_that_is_too_large_gets_its_own_code():
    assert str((await verdict(size=10, enforce={"size": "reject"})).reply).startswith("552 5.3.4 ")


async def test_dkim_sign_says_beforehand_what_it_will_sign(tmp_path):
    folder = tmp_path / "example.org"
    folder.mkdir()
    (folder / "s.key").write_bytes(new_ed25519_key().pem())
    (folder / "s.key").chmod(0o600)
    signer = DkimSign(DkimSignSettings(keys=str(tmp_path)))
    talk = SessionDriver(
        signer,
        Compliance(
            ComplianceSettings(addresses=[ADDRESS], enforce={"dkim": "reject", "unsubscribe": "reject"})
        ),
        networks=("192.0.2.0/24",),
        resolver=FakeResolver(ZONE),
        clock=FakeClock(NOW),
    )
    delivery = await talk.deliver(ONE_CLICK + GOOD, recipients=("b@far.example",))
    assert delivery.reply.ok
    assert b"DKIM-Signature" in delivery.sent.data + delivery.sent.lead
    assert delivery.mail.finding("compliance").result == "pass"
