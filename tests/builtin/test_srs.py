from pathlib import Path

import pytest
from pydantic import ValidationError

from relayproxy.api import App, SecretError, SecretRef, Settings
from relayproxy.builtin.srs import SrsPlugin, SrsSettings
from relayproxy.config.base import Context
from relayproxy.testing import FakeClock, FakeResolver
from relayproxy.testing.session import SessionDriver

ENVIRON = {"OLD": "an old secret of ours", "NEW": "a new secret of ours", "SHORT": "too short"}
DAY = 86_400
MESSAGE = b"From: a@orig.example\r\n\r\nHello\r\n"


def settings(*secrets, **options):
    given = {
        "domain": "srs.example.net",
        "secrets": [{"env": name} for name in secrets or ("OLD",)],
        **options,
    }
    return SrsSettings.model_validate(given, context=Context(environ=ENVIRON))


def driver(*secrets, clock=None, trusted=True, **options):
    return SessionDriver(
        SrsPlugin(settings(*secrets, **options)),
        domains=("example.net", "srs.example.net"),
        networks=("192.0.2.0/24",) if trusted else (),
        clock=clock or FakeClock(),
    )


async def forwarded(talk, sender="user@orig.example", recipient="b@far.example"):
    """Return the envelope sender that the next hop sees."""
    delivery = await talk.deliver(MESSAGE, sender=sender, recipients=(recipient,))
    assert delivery.reply.ok, delivery.reply
    return str(delivery.sent.envelope.sender)


async def bounce(talk, recipient, sender=""):
    return await talk.deliver(b"From: <>\r\n\r\n", sender=sender, recipients=(recipient,))


async def test_what_a_server_behind_us_forwards_gets_a_sender_of_ours():
    sender = await forwarded(driver())
    assert sender.startswith("SRS0=")
    assert sender.endswith("=orig.example=user@srs.example.net")


@pytest.mark.parametrize("sender", ["", "me@example.net", "me@partner.example", "me@a.friend.example"])
async def test_what_is_not_forwarded_keeps_its_sender(sender):
    talk = driver(keep=["partner.example", ".friend.example"])
    assert await forwarded(talk, sender) == sender


@pytest.mark.parametrize(("rewrite", "rewritten"), [("outbound", False), ("all", True), ("never", False)])
async def test_the_mail_of_strangers(rewrite, rewritten):
    talk = driver(trusted=False, rewrite=rewrite)
    assert (await forwarded(talk, recipient="b@example.net")).startswith("SRS0=") is rewritten


async def test_nothing_is_rewritten_any_more():
    assert await forwarded(driver(rewrite="never")) == "user@orig.example"


async def test_a_bounce_goes_back_to_the_original_sender_from_anybody():
    sender = await forwarded(driver())
    delivery = await bounce(driver(trusted=False), sender)
    assert delivery.reply.ok
    assert [str(one.address) for one in delivery.sent.recipients] == ["user@orig.example"]
    found = delivery.mail.finding("srs")
    assert (found.result, found.props["original"]) == ("pass", "user@orig.example")


async def test_forwarded_twice_the_bounce_goes_to_the_first_forwarder():
    theirs = "SRS0=hash=ab=orig.example=user@forwarder.example"
    sender = await forwarded(driver(), theirs)
    assert sender.startswith("SRS1=")
    delivery = await bounce(driver(trusted=False), sender)
    assert [str(one.address) for one in delivery.sent.recipients] == [theirs]


async def test_only_bounces_unless_told_otherwise():
    sender = await forwarded(driver())
    delivery = await bounce(driver(trusted=False), sender, "stranger@orig.example")
    assert str(delivery.reply) == "550 5.7.1 This address takes only bounces (the null sender)"
    delivery = await bounce(driver(trusted=False, only_bounces=False), sender, "stranger@orig.example")
    assert delivery.sent.recipients[0].address.domain == "orig.example"


async def test_a_forged_address_is_refused_and_nobody_is_asked():
    talk = driver(trusted=False)
    delivery = await bounce(talk, "SRS0=abcdef=aa=victim.example=user@srs.example.net")
    text = "No bounces to this address: the rewritten address was not made here, or was changed"
    assert str(delivery.reply) == f"550 5.7.1 {text}"
    assert talk.upstream.begun == []
    assert delivery.mail.finding("srs").props["kind"] == "forged"


async def test_an_expired_address_is_refused_with_the_reason():
    clock = FakeClock()
    sender = await forwarded(driver(clock=clock, days=3))
    clock.advance(4 * DAY)
    delivery = await bounce(driver(trusted=False, clock=clock, days=3), sender)
    assert str(delivery.reply).startswith(
        "550 5.7.1 No bounces to this address: the rewritten address was good for 3 days"
    )


async def test_keys_rotate():
    old = await forwarded(driver("OLD"))
    new = await forwarded(driver("NEW", "OLD"))
    assert old != new
    for sender in (old, new):
        assert (await bounce(driver("NEW", "OLD", trusted=False), sender)).reply.ok
    assert (await bounce(driver("NEW", trusted=False), old)).reply.code == 550


async def test_other_recipients_are_left_alone():
    delivery = await bounce(driver(trusted=False), "b@srs.example.net")
    assert str(delivery.sent.recipients[0].address) == "b@srs.example.net"
    assert delivery.mail.finding("srs") is None


async def test_a_sender_that_would_be_too_long_stays_and_is_noted():
    sender = f"{'a' * 50}@orig.example"
    delivery = await driver().deliver(MESSAGE, sender=sender, recipients=("b@far.example",))
    assert str(delivery.sent.envelope.sender) == sender
    assert delivery.mail.finding("srs").result == "none"


def start(**changes):
    app = App("mx.example.net", FakeResolver(), FakeClock(), Path(), frozenset({".example.net"}))
    SrsPlugin(settings(**changes)).startup(app)


def test_the_domain_has_to_be_ours():
    start()
    with pytest.raises(ValueError, match="none of relay"):
        start(domain="example.org")


def test_a_secret_has_to_be_there_and_long_enough():
    for name in ("MISSING", "SHORT"):
        with pytest.raises(SecretError):
            start(secrets=[{"env": name}])


def test_a_secret_is_not_written_in_the_configuration_nor_shown():
    with pytest.raises(ValidationError, match="not written in the configuration"):
        SrsSettings.model_validate({"domain": "srs.example.net", "secrets": ["hunter2 hunter2 hunter2"]})
    assert "of ours" not in repr(settings("OLD"))


def test_the_settings_of_any_plugin_may_have_secrets(tmp_path):
    class Mine(Settings):
        token: SecretRef

    (tmp_path / "token").write_text("a secret\n")
    (tmp_path / "token").chmod(0o600)
    mine = Mine.model_validate({"token": {"file": "token"}}, context=Context(folder=tmp_path))
    assert mine.token.reveal() == "a secret"
