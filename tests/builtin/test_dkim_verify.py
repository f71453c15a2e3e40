import threading

import pytest
from pydantic import ValidationError
from tests.mailauth.dkim_craft import ED25519, NAME, NOW, RAW, RSA, craft

from relayproxy.api import Action, App, Direction, DnsStatus
from relayproxy.builtin.dkim_verify import DkimVerify, DkimVerifySettings
from relayproxy.mailauth import canonical
from relayproxy.mailauth.authres import header_value, parse
from relayproxy.testing import FakeClock, FakeResolver
from relayproxy.testing.mail import call, make_mail

ZONE = {
    (NAME, "TXT"): RSA.record(),
    ("s2._domainkey.example.org", "TXT"): ED25519.record(),
    ("down._domainkey.example.org", "TXT"): DnsStatus.SERVFAIL,
    ("slow._domainkey.example.org", "TXT"): DnsStatus.TIMEOUT,
}


def plugin(tmp_path, zone=ZONE, resolver=None, **settings):
    made = DkimVerify(DkimVerifySettings(**settings))
    made.startup(App("mx.example.com", resolver or FakeResolver(zone), FakeClock(NOW), tmp_path))
    return made


def results(mail):
    return [(finding.method, finding.result) for finding in mail.findings]


async def test_each_signature_is_noted(tmp_path):
    mail = make_mail(craft(craft(more=" i=joe@example.org;"), ED25519, s="s2"))
    assert await call(plugin(tmp_path), "message", mail=mail) is None
    assert results(mail) == [("dkim", "pass"), ("dkim", "pass")]
    props = dict(mail.findings[1].props)
    assert len(props.pop("header.b")) == 8
    assert props == {
        "header.d": "example.org",
        "header.i": "joe@example.org",
        "header.s": "s1",
        "header.a": "rsa-sha256",
        "bits": "2048",
    }


async def test_the_results_make_a_field(tmp_path):
    mail = make_mail(craft(craft(), s="down"))
    await call(plugin(tmp_path), "message", mail=mail)
    found = parse(header_value("mx.example.com", mail.findings))
    assert [(one.method, one.result, one.props["header.s"]) for one in found.results] == [
        ("dkim", "temperror", "down"),
        ("dkim", "pass", "s1"),
    ]


async def test_an_unsigned_message_is_none(tmp_path):
    mail = make_mail(RAW)
    resolver = FakeResolver(ZONE)
    assert await call(plugin(tmp_path, resolver=resolver), "message", mail=mail) is None
    assert results(mail) == [("dkim", "none")]
    assert resolver.asked == []


async def test_a_change_is_noted_with_its_reason_and_decides_nothing(tmp_path):
    mail = make_mail(b"Reply-To: x@example.com\r\n" + craft().replace(b"Hi.", b"Ho."))
    assert await call(plugin(tmp_path, temperror="defer"), "message", mail=mail) is None
    finding = mail.finding("dkim")
    assert (finding.result, finding.reason) == ("fail", "the body was changed")
    assert finding.props["uncovered"] == "reply-to"


async def test_what_can_not_be_read_is_noted_without_a_domain(tmp_path):
    mail = make_mail(craft(d="legitimate.com('.attack.com"))
    await call(plugin(tmp_path), "message", mail=mail)
    finding = mail.finding("dkim")
    assert finding.result == "permerror"
    assert "header.d" not in finding.props


async def test_a_domain_that_is_testing_is_marked(tmp_path):
    mail = make_mail(craft())
    await call(plugin(tmp_path, {(NAME, "TXT"): RSA.record() + "; t=y"}), "message", mail=mail)
    assert mail.finding("dkim").props["testing"] == "y"


@pytest.mark.parametrize("selector", ["down", "slow"])
async def test_a_key_that_can_not_be_had_may_defer(tmp_path, selector):
    mail = make_mail(craft(s=selector))
    assert await call(plugin(tmp_path), "message", mail=mail) is None
    assert results(mail) == [("dkim", "temperror")]
    verdict = await call(plugin(tmp_path, temperror="defer"), "message", mail=make_mail(craft(s=selector)))
    assert (verdict.action, str(verdict.reply)[:9]) == (Action.DEFER, "451 4.7.2")
    both = make_mail(craft(craft(), s=selector))
    assert await call(plugin(tmp_path, temperror="defer"), "message", mail=both) is None


async def test_the_number_of_signatures_and_of_questions_is_limited(tmp_path):
    raw = RAW
    for number in range(8):
        raw = craft(raw, s=f"x{number}")
    for settings, expected in (({}, 5), ({"signatures": 2}, 2)):
        resolver = FakeResolver(ZONE)
        mail = make_mail(raw)
        await call(plugin(tmp_path, resolver=resolver, **settings), "message", mail=mail)
        assert len(mail.findings) == len(resolver.asked) == expected


@pytest.mark.parametrize(
    "settings", [{"signatures": 0}, {"signatures": 21}, {"temperror": "reject"}, {"x": 1}]
)
def test_bad_settings(settings):
    with pytest.raises(ValidationError):
        DkimVerifySettings(**settings)


async def test_keys_are_asked_for_side_by_side(tmp_path):
    clock = FakeClock(NOW)
    resolver = FakeResolver(ZONE, clock=clock, delay=0.05)
    mail = make_mail(craft(craft(), ED25519, s="s2"))
    await clock.run(call(plugin(tmp_path, resolver=resolver), "message", mail=mail))
    assert results(mail) == [("dkim", "pass")] * 2
    assert clock.monotonic() == 0.05


async def test_what_the_resolver_knows_is_not_asked_for(tmp_path):
    class Remembering(FakeResolver):
        def peek(self, name, rdtype):
            return self._answer(name, rdtype) if name == NAME else None

    resolver = Remembering(ZONE)
    mail = make_mail(craft(craft(), ED25519, s="s2"))
    await call(plugin(tmp_path, resolver=resolver), "message", mail=mail)
    assert results(mail) == [("dkim", "pass")] * 2
    assert resolver.asked == [("s2._domainkey.example.org", "TXT")]


async def test_a_large_body_is_hashed_in_another_thread(tmp_path, monkeypatch):
    threads = []
    once = canonical.canonical_body

    def watched(pieces, *, relaxed):
        threads.append(threading.current_thread())
        return once(pieces, relaxed=relaxed)

    monkeypatch.setattr(canonical, "canonical_body", watched)
    for lines, off_the_loop in ((10, False), (10_000, True)):
        threads.clear()
        mail = make_mail(craft(RAW + b"words and words\r\n" * lines))
        await call(plugin(tmp_path), "message", mail=mail)
        assert results(mail) == [("dkim", "pass")]
        assert [thread is not threading.main_thread() for thread in threads] == [off_the_loop]


def test_it_runs_beside_other_checks_of_inbound_mail():
    assert DkimVerify.after == ()
    assert DkimVerify.directions == frozenset({Direction.INBOUND})
