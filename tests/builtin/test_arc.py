import threading

import dkim
import pytest
from pydantic import ValidationError
from tests.mailauth.arc_craft import KEY, NOW, RAW, hop, hops
from tests.mailauth.arc_craft import result as verified

from relayproxy.api import Action, AddHeader, App, Direction, DnsStatus, Message
from relayproxy.builtin.arc import Arc, ArcSettings
from relayproxy.builtin.dkim_sign import DkimSign, DkimSignSettings
from relayproxy.builtin.dmarc import Dmarc, DmarcSettings
from relayproxy.mailauth import canonical
from relayproxy.mailauth.authres import header_value, parse, parse_arc
from relayproxy.mailauth.dkim_keys import KeyFault, new_ed25519_key, new_rsa_key
from relayproxy.model.edits import apply_to_message
from relayproxy.testing import FakeClock, FakeResolver
from relayproxy.testing.mail import call, make_mail

NAME = "s1._domainkey.hop.example"
ZONE = {
    (NAME, "TXT"): KEY.record(),
    ("down._domainkey.hop.example", "TXT"): DnsStatus.SERVFAIL,
    ("_dmarc.example.org", "TXT"): "v=DMARC1; p=reject",
}
SEAL = {"domain": "us.example", "selector": "a1", "key": "seal.pem"}
OURS = new_rsa_key()


def started(made, folder, zone=ZONE, resolver=None):
    made.startup(App("mx.us.example", resolver or FakeResolver(zone), FakeClock(NOW), folder))
    return made


def plugin(folder, zone=ZONE, resolver=None, **settings):
    return started(Arc(ArcSettings(**settings)), folder, zone, resolver)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "seal.pem").write_bytes(OURS.pem())
    return tmp_path


async def finding_of(made, raw, **more):
    mail = make_mail(raw, **more)
    assert await call(made, "message", mail=mail) is None
    return mail.finding("arc")


# -- verifying ---------------------------------------------------------------------------------------------------


async def test_a_message_without_a_chain(tmp_path):
    resolver = FakeResolver(ZONE)
    finding = await finding_of(plugin(tmp_path, resolver=resolver), RAW)
    assert (finding.result, dict(finding.props), resolver.asked) == ("none", {}, [])


async def test_a_chain_of_strangers_is_told_and_trusted_by_nobody(tmp_path):
    finding = await finding_of(plugin(tmp_path, trusted_sealers=["other.example"]), hops(2))
    assert finding.result == "pass"
    assert dict(finding.props) == {
        "instance": "2",
        "header.oldest-pass": "0",
        "sealers": "hop.example hop.example",
    }


async def test_the_last_sealer_is_the_one_to_be_trusted(tmp_path):
    made = plugin(
        tmp_path, {**ZONE, ("s1._domainkey.b.example", "TXT"): KEY.record()}, trusted_sealers=["B.example"]
    )
    trusted = await finding_of(made, hop(hop(RAW), domain="b.example"))
    assert trusted.props["trusted"] == "yes"
    for raw in (hop(hop(RAW, domain="b.example")), hop(RAW, domain="b.example", names=["To"])):
        finding = await finding_of(made, raw)
        assert finding.result == "pass"
        assert "trusted" not in finding.props


async def test_a_domain_below_a_trusted_one_is_not_trusted(tmp_path):
    zone = {("s1._domainkey.a.hop.example", "TXT"): KEY.record()}
    made = plugin(tmp_path, zone, trusted_sealers=["hop.example"])
    assert "trusted" not in (await finding_of(made, hop(RAW, domain="a.hop.example"))).props


async def test_a_chain_that_fails_has_a_reason_and_no_sealers(tmp_path):
    made = plugin(tmp_path, trusted_sealers=["hop.example"])
    finding = await finding_of(made, hops(2).replace(b"game", b"match"))
    assert (finding.result, finding.reason) == ("fail", "signature 2: the body was changed")
    assert dict(finding.props) == {"instance": "2"}


async def test_the_result_makes_a_field(tmp_path):
    mail = make_mail(hop(hop(RAW).replace(b"Subject: ", b"Subject: [list] ")))
    await call(plugin(tmp_path), "message", mail=mail)
    (found,) = parse(header_value("mx.us.example", mail.findings)).results
    assert (found.method, found.result, found.props) == ("arc", "pass", {"header.oldest-pass": "2"})


async def test_long_chains_are_not_looked_at(tmp_path):
    resolver = FakeResolver(ZONE)
    finding = await finding_of(plugin(tmp_path, resolver=resolver, sets=2), hops(3))
    assert (finding.result, finding.reason) == ("policy", "the chain has 3 sets")
    assert resolver.asked == []
    assert (await finding_of(plugin(tmp_path, sets=3), hops(3))).result == "pass"


async def test_a_broken_form_costs_no_question(tmp_path):
    resolver = FakeResolver(ZONE)
    finding = await finding_of(plugin(tmp_path, resolver=resolver), b"ARC-Seal: x\r\n" + hop(RAW))
    assert (finding.result, resolver.asked) == ("fail", [])


async def test_a_key_that_can_not_be_had_may_defer(tmp_path):
    raw = hop(RAW, selector="down")
    assert (await finding_of(plugin(tmp_path), raw)).result == "temperror"
    verdict = await call(plugin(tmp_path, temperror="defer"), "message", mail=make_mail(raw))
    assert (verdict.action, str(verdict.reply)[:10]) == (Action.DEFER, "451 4.7.29")


async def test_keys_are_asked_for_side_by_side(tmp_path):
    clock = FakeClock(NOW)
    zone = {**ZONE, ("s2._domainkey.hop.example", "TXT"): KEY.record()}
    mail = make_mail(hop(hop(RAW), selector="s2"))
    made = plugin(tmp_path, resolver=FakeResolver(zone, clock=clock, delay=0.05))
    await clock.run(call(made, "message", mail=mail))
    assert mail.finding("arc").result == "pass"
    assert clock.monotonic() == 0.05


@pytest.mark.parametrize(("sealer", "verdict"), [("hop.example", None), ("other.example", Action.REJECT)])
async def test_dmarc_believes_a_trusted_sealer_only(tmp_path, sealer, verdict):
    raw = hop(RAW, results="dmarc=pass header.from=example.org")
    mail = make_mail(raw)
    assert await call(plugin(tmp_path, trusted_sealers=[sealer]), "message", mail=mail) is None
    dmarc = started(Dmarc(DmarcSettings(on_fail="follow-policy")), tmp_path)
    said = await call(dmarc, "message", mail=mail)
    assert mail.finding("dmarc").result == "fail"
    assert (said and said.action) == verdict


# -- sealing -----------------------------------------------------------------------------------------------------


async def sealed(made, raw, **more):
    """Run both hooks; return the message as it goes out, and the mail."""
    mail = make_mail(raw, **more)
    assert await call(made, "message", mail=mail) is None
    edits = await call(made, "before_forward", mail=mail, route="out")
    assert all(isinstance(edit, AddHeader) for edit in edits)
    return bytes(apply_to_message(mail.message, edits)), mail


ZONE_AFTER = {"a1._domainkey.us.example": [OURS.record().encode()]}


async def test_nothing_is_sealed_unless_wanted(tmp_path):
    raw, _ = await sealed(plugin(tmp_path), hop(RAW))
    assert raw == hop(RAW)


@pytest.mark.parametrize(("count", "cv"), [(0, "none"), (1, "pass"), (3, "pass")])
async def test_a_set_of_our_own(folder, count, cv):
    before = hops(count)
    raw, _ = await sealed(plugin(folder, seal=SEAL), before)
    assert raw.endswith(before)
    fields = Message.from_bytes(raw).fields[:3]
    assert [field.name for field in fields] == [
        "ARC-Seal",
        "ARC-Message-Signature",
        "ARC-Authentication-Results",
    ]
    assert f"cv={cv}; d=us.example; i={count + 1}; s=a1; t={NOW}" in fields[0].value
    found = verified(raw, ZONE_AFTER)
    assert (found.result, found.sealers) == ("pass", ("hop.example",) * count + ("us.example",))
    records = {b"a1._domainkey.us.example.": OURS.record(), b"s1._domainkey.hop.example.": KEY.record()}
    assert dkim.arc_verify(raw, dnsfunc=lambda name, timeout=5: records[name].encode())[0] == b"pass"


async def test_what_was_found_here_goes_into_the_set(folder):
    made = plugin(folder, seal=SEAL)
    mail = make_mail(RAW)
    mail.note("spf", "pass", smtp__mailfrom="joe@example.org")
    mail.note("dmarc", "pass", header__from="example.org")
    mail.findings = tuple(mail.noted)
    await call(made, "message", mail=mail)
    edits = await call(made, "before_forward", mail=mail, route="out")
    instance, found = parse_arc(
        Message.from_bytes(bytes(apply_to_message(mail.message, edits))).fields[2].value
    )
    assert (instance, found.authserv_id) == (1, "mx.us.example")
    assert [(one.method, one.result) for one in found.results] == [
        ("spf", "pass"),
        ("dmarc", "pass"),
        ("arc", "none"),
    ]
    assert found.results[2].props == {"smtp.remote-ip": "192.0.2.1"}


async def test_a_broken_chain_gets_a_last_set(folder):
    raw, mail = await sealed(plugin(folder, seal=SEAL), hop(RAW).replace(b"game", b"match"))
    assert mail.finding("arc").result == "fail"
    assert "cv=fail" in Message.from_bytes(raw).fields[0].value
    assert verified(raw, ZONE_AFTER).reason == "seal 2 says that the chain had failed"
    again, _ = await sealed(plugin(folder, seal=SEAL), raw)
    assert again == raw


@pytest.mark.parametrize("raw", [hop(RAW, selector="down"), hops(11)])
async def test_what_could_not_be_verified_is_not_sealed(folder, raw):
    after, _ = await sealed(plugin(folder, seal=SEAL), raw)
    assert after == raw


async def test_without_a_result_nothing_is_sealed(folder):
    assert await call(plugin(folder, seal=SEAL), "before_forward", mail=make_mail(RAW), route="out") == []


async def test_a_signature_of_ours_is_covered(folder):
    key = {"domain": "us.example", "selector": "d1", "key": "seal.pem"}
    signer = DkimSign(DkimSignSettings(sign=[key]))
    await call(signer, "startup", app=App("mx.us.example", FakeResolver(), FakeClock(NOW), folder))
    raw = RAW.replace(b"joe@example.org", b"joe@us.example")
    mail = make_mail(raw, direction=Direction.INTERNAL)
    made = plugin(folder, seal=SEAL)
    await call(made, "message", mail=mail)
    for one in (signer, made):
        mail.message = apply_to_message(
            mail.message, await call(one, "before_forward", mail=mail, route="out")
        )
    after = bytes(mail.message)
    assert verified(after, ZONE_AFTER).result == "pass"
    assert (
        verified(after.replace(b"; s=d1", b";  s=d2").replace(b"s=d1;", b"s=d2;"), ZONE_AFTER).result
        == "fail"
    )


async def test_an_edit_after_verifying_is_sealed_as_it_is_and_the_chain_stays_what_it_was(folder):
    made = plugin(folder, seal=SEAL)
    mail = make_mail(hop(RAW))
    await call(made, "message", mail=mail)
    mail.message = Message.from_bytes(bytes(mail.message).replace(b"Subject: ", b"Subject: [list] "))
    edits = await call(made, "before_forward", mail=mail, route="out")
    found = verified(bytes(apply_to_message(mail.message, edits)), ZONE_AFTER)
    assert (found.result, found.oldest_pass) == ("pass", 2)


async def test_a_key_that_went_away_stops_the_message(folder):
    made = plugin(folder, seal=SEAL)
    mail = make_mail(RAW)
    await call(made, "message", mail=mail)
    (folder / "seal.pem").unlink()
    with pytest.raises(KeyFault):
        await call(made, "before_forward", mail=mail, route="out")


async def test_a_new_key_is_taken_up(folder):
    made = plugin(folder, seal=SEAL)
    other = new_rsa_key()
    (folder / "seal.new").write_bytes(other.pem())
    (folder / "seal.new").rename(folder / "seal.pem")
    raw, _ = await sealed(made, RAW)
    assert verified(raw, ZONE_AFTER).result == "fail"
    assert verified(raw, {"a1._domainkey.us.example": [other.record().encode()]}).result == "pass"


def test_a_key_that_is_no_good_is_an_error_at_the_start(tmp_path):
    with pytest.raises(KeyFault, match="No such file"):
        plugin(tmp_path, seal=SEAL)
    (tmp_path / "seal.pem").write_bytes(new_ed25519_key().pem())
    with pytest.raises(KeyFault, match="ARC knows only RSA"):
        plugin(tmp_path, seal=SEAL)


async def test_a_large_body_is_hashed_in_another_thread(folder, monkeypatch):
    threads = []
    once = canonical.canonical_body

    def watched(pieces, *, relaxed):
        threads.append(threading.current_thread())
        return once(pieces, relaxed=relaxed)

    for lines, off_the_loop in ((10, False), (10_000, True)):
        before = hop(RAW + b"words and words\r\n" * lines)
        threads.clear()
        with monkeypatch.context() as patch:
            patch.setattr(canonical, "canonical_body", watched)
            raw, _ = await sealed(plugin(folder, seal=SEAL), before)
        assert verified(raw, ZONE_AFTER).result == "pass"
        assert [thread is not threading.main_thread() for thread in threads] == [off_the_loop] * 2


@pytest.mark.parametrize(
    "settings",
    [
        {"sets": 0},
        {"sets": 51},
        {"temperror": "reject"},
        {"seal": {"domain": "us.example"}},
        {"seal": SEAL | {"selector": "a b"}},
        {"seal": SEAL | {"domain": "us;example"}},
    ],
)
def test_bad_settings(settings):
    with pytest.raises(ValidationError):
        ArcSettings(**settings)


def test_it_runs_beside_other_checks_of_inbound_mail_and_seals_last():
    assert Arc.directions == frozenset({Direction.INBOUND})
    assert Arc.signer
    assert Arc.after == ()
