"""Tenant and campaign: where they are read, what is told of them, what doesn't leave."""

import pytest
from pydantic import ValidationError

from relayproxy.api import QUEUE, SetCampaign, Setup
from relayproxy.builtin._campaign import KeyedSettings, keys_of
from relayproxy.builtin.campaign import Campaign, CampaignSettings
from relayproxy.builtin.suppression import Suppression, SuppressionSettings
from relayproxy.model.edits import apply_to_envelope
from relayproxy.model.envelope import Envelope
from relayproxy.model.suppressed import Suppressed
from relayproxy.suppression.sqlite import SqliteList
from relayproxy.testing.mail import make_mail
from relayproxy.testing.session import SessionDriver
from relayproxy.testing.standin import Standin

MESSAGE = (
    b"From: news@example.org\r\nX-Campaign: Spring \r\n 2026\r\nX-Campaign: other\r\n"
    b"List-Id: The news <News.Example.org>\r\nFeedback-ID: c1:shop:mail:esp\r\nSubject: x\r\n\r\nHello\r\n"
)


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"campaign": "header:X-Campaign"}, ("", "spring 2026")),
        ({"campaign": "header:list-id"}, ("", "news.example.org")),
        ({"tenant": "header:feedback-id"}, ("c1:shop:mail:esp", "")),
        ({"campaign": "header:X-Nothing"}, ("", "")),
    ],
)
def test_the_header_tells(options, keys):
    assert keys_of(KeyedSettings(**options), make_mail(MESSAGE)) == keys


def test_foreign_octets_are_made_plain_and_not_too_long():
    mail = make_mail(b"X-C: " + "\u00e9\x1f".encode() + b"a" * 200 + b"\r\n\r\n")
    _, campaign = keys_of(KeyedSettings(campaign="header:X-C"), mail)
    assert len(campaign) == 80
    assert campaign.isascii()
    assert campaign.isprintable()


@pytest.mark.parametrize("word", ["header:", "header:a b", "header:a:b", "Login", "envid"])
def test_what_tells_nothing_is_refused(word):
    with pytest.raises(ValidationError):
        KeyedSettings(tenant=word)


def test_an_own_setting_counts_before_what_was_found():
    mail = make_mail(MESSAGE, identity="shop")
    mail.findings = (mail.note("campaign", "hit", tenant="t", name="n"),)
    assert keys_of(KeyedSettings(), mail) == ("t", "n")
    assert keys_of(KeyedSettings(tenant="login"), mail) == ("shop", "n")


def test_the_envelope_has_both_and_keeps_them():
    envelope = apply_to_envelope(Envelope(), [SetCampaign("shop", "spring")])
    assert envelope.to(()) == envelope
    assert (envelope.tenant, envelope.campaign) == ("shop", "spring")
    with pytest.raises(TypeError):
        SetCampaign(None)


def test_settings_that_say_nothing_are_told_of(tmp_path):
    (mistake,) = Campaign(CampaignSettings()).check(Setup(tmp_path))
    assert mistake.warning
    assert not list(Campaign(CampaignSettings(tenant="login")).check(Setup(tmp_path)))


async def driven(tmp_path, *others, name="upstream", **options):
    upstream = Standin()
    driver = SessionDriver(
        Campaign(CampaignSettings(**options)),
        *others,
        networks=("192.0.2.0/24",),
        identity="Shop",
        upstreams={name: upstream},
    )
    await driver.start(tmp_path)
    return driver


async def test_what_login_and_header_tell_is_noted_and_the_field_does_not_leave(tmp_path):
    driver = await driven(
        tmp_path, tenant="login", campaign="header:X-Campaign", remove=["x-campaign", "Feedback-ID"]
    )
    delivery = await driver.deliver(MESSAGE, sender="news@example.org", recipients=("b@far.example",))
    assert delivery.reply.ok
    props = [finding.props for finding in delivery.mail.findings if finding.method == "campaign"]
    assert props == [
        {"tenant": "shop", "name": ""},
        {"tenant": "shop", "name": "spring 2026", "header": "yes"},
    ]
    assert delivery.mail.envelope.tenant == "shop"
    assert b"Campaign" not in delivery.sent.data
    assert b"Feedback" not in delivery.sent.data
    assert b"List-Id: The news" in delivery.sent.data


async def test_the_queue_hears_what_the_header_tells(tmp_path):
    driver = await driven(tmp_path, name=QUEUE, tenant="login", campaign="header:X-Campaign")
    delivery = await driver.deliver(MESSAGE, sender="news@example.org", recipients=("b@far.example",))
    envelope = delivery.mail.envelope
    assert (envelope.tenant, envelope.campaign) == ("shop", "spring 2026")
    assert delivery.sent.envelope.campaign == "spring 2026"


@pytest.mark.parametrize("action", ["refuse", "drop"])
async def test_who_is_on_the_list_of_a_campaign_that_the_header_names(tmp_path, action):
    store = SqliteList(tmp_path / "suppression.db")
    store.add([Suppressed("gone@far.example", "campaign:spring 2026", "unsubscribe")])
    store.close()
    suppression = Suppression(SuppressionSettings(action=action))
    driver = await driven(tmp_path, suppression, campaign="header:X-Campaign")
    both = await driver.deliver(
        MESSAGE, sender="news@example.org", recipients=("gone@far.example", "b@far.example")
    )
    assert both.reply.ok
    assert [str(one.address) for one in both.mail.envelope.recipients] == ["b@far.example"]
    alone = await driver.deliver(MESSAGE, sender="news@example.org", recipients=("gone@far.example",))
    assert alone.reply.code == (550 if action == "refuse" else 250)
    assert alone.sent is None
    other = MESSAGE.replace(b"Spring", b"Autumn")
    free = await driver.deliver(other, sender="news@example.org", recipients=("gone@far.example",))
    assert free.reply.ok
    assert free.sent is not None
