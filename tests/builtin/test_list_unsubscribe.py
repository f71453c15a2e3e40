import base64
import re
from hashlib import sha256
from pathlib import Path

import pytest
from pydantic import ValidationError

from relayproxy.api import App, SecretError, Unsubscription
from relayproxy.builtin.list_unsubscribe import ListUnsubscribe, ListUnsubscribeSettings
from relayproxy.config.base import Context
from relayproxy.mailauth.bulk_rules import Signer, check_unsubscribe
from relayproxy.mailauth.unsubscribe_token import make_token, read_token
from relayproxy.model.message import Message
from relayproxy.testing import FakeClock, FakeResolver
from relayproxy.testing.mail import make_mail
from relayproxy.testing.session import SessionDriver

ENVIRON = {"KEY": "a secret of ours, long", "SHORT": "too short"}
LIST = b"From: a@example.org\r\nList-Id: News <news.example.org>\r\n\r\nHello\r\n"
PLAIN = b"From: a@example.org\r\n\r\nHello\r\n"
SIGNER = Signer("example.org", frozenset({"list-unsubscribe", "list-unsubscribe-post"}))
URL = "https://example.org/u?t={token}"


def plugin(**settings):
    given = {"url": URL, "secrets": [{"env": "KEY"}], **settings}
    return ListUnsubscribe(ListUnsubscribeSettings.model_validate(given, context=Context(environ=ENVIRON)))


async def sent(raw, recipients=("b@far.example",), **settings):
    """Return what went upstream, and the finding."""
    driver = SessionDriver(plugin(**settings), networks=("192.0.2.0/24",), clock=FakeClock())
    delivery = await driver.deliver(raw, recipients=recipients)
    assert delivery.reply.ok, delivery.reply
    return Message.from_bytes(bytes(delivery.sent.data)), delivery.mail.finding("list_unsubscribe")


async def test_a_list_offers_one_click():
    message, finding = await sent(LIST)
    assert finding.result == "pass"
    assert message.header("List-Unsubscribe-Post") == "List-Unsubscribe=One-Click"
    token = re.fullmatch(r"<https://example\.org/u\?t=([\w.-]+)>", message.header("List-Unsubscribe"))[1]
    said = read_token(token, (ENVIRON["KEY"].encode(),), FakeClock().time())
    assert (said.list_id, said.recipient) == ("news.example.org", "b@far.example")
    assert bytes(message).endswith(LIST)


async def test_it_keeps_the_rules_that_large_receivers_have():
    for settings in ({}, {"mailto": "u@example.org"}):
        message, _ = await sent(LIST, **settings)
        assert [problem.reason for problem in check_unsubscribe(message, [SIGNER])] == []


async def test_a_mail_address_beside_it():
    message, _ = await sent(LIST, mailto="u@example.org")
    value = message.header("List-Unsubscribe")
    assert re.fullmatch(r"<https://\S+>, <mailto:u@example\.org\?subject=[\w.-]+>", value)


@pytest.mark.parametrize(("mail", "added"), [("bulk", False), ("all", True)])
async def test_mail_that_is_not_bulk(mail, added):
    message, finding = await sent(PLAIN, mail=mail)
    assert (message.header("List-Unsubscribe") is not None) == added
    assert (finding is not None) == added


async def test_without_a_list_it_is_the_domain_of_the_author():
    message, _ = await sent(PLAIN, mail="all")
    token = message.header("List-Unsubscribe").partition("t=")[2].rstrip(">")
    assert read_token(token, (ENVIRON["KEY"].encode(),), FakeClock().time()).list_id == "example.org"


def signed(names):
    digest = base64.b64encode(sha256(b"Hello\r\n").digest())
    return b"DKIM-Signature: v=1; d=x.example; h=" + names + b"; bh=" + digest + b"; b=YQ==\r\n" + LIST


@pytest.mark.parametrize(
    ("raw", "recipients", "reason"),
    [
        (b"List-Unsubscribe: <mailto:a@b>\r\n" + LIST, ("b@far.example",), "it has such a field already"),
        (LIST, ("b@far.example", "c@far.example"), "it has several recipients, and a token is for one"),
        (signed(b"from:list-unsubscribe"), ("b@far.example",), "it would break the signature of x.example"),
    ],
)
async def test_what_stays_as_it_is(raw, recipients, reason):
    message, finding = await sent(raw, recipients)
    assert bytes(message).endswith(raw)
    assert message.header("List-Unsubscribe-Post") is None
    assert (finding.result, finding.reason) == ("none", reason)


async def test_signatures():
    assert (await sent(signed(b"from:subject")))[1].result == "pass"
    _, finding = await sent(signed(b"from:list-unsubscribe"), signed="break")
    assert finding.props["broken"] == "x.example"


async def test_a_field_that_would_be_too_long():
    long = LIST.replace(b"news.example.org", b"n" * 250)
    message, finding = await sent(long, url=f"https://example.org/{'x' * 600}{{token}}")
    assert finding.reason == "the field would be too long"
    assert message.header("List-Unsubscribe") is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "http://example.org/{token}"}, "begins with https"),
        ({"url": "https://example.org/a b{token}"}, "begins with https"),
        ({"url": "https://example.org/a,{token}"}, "begins with https"),
        ({"url": "https://example.org/"}, "write {token} once"),
        ({"url": "https://example.org/{token}{token}"}, "write {token} once"),
        ({"url": "https://example.org/{token}{x}"}, "write {token} once"),
        ({"mailto": "nobody"}, "is no address"),
        ({"secrets": []}, "at least 1 item"),
    ],
)
def test_settings_that_can_not_be_used(settings, said):
    with pytest.raises(ValidationError, match=said):
        plugin(**settings)


async def test_a_secret_that_is_too_short():
    with pytest.raises(SecretError, match="less than 16"):
        await sent(LIST, secrets=[{"env": "SHORT"}])


async def test_the_token_says_whose_mail_it_means():
    given = {"tenant": "sender-domain", "campaign": "sender-detail"}
    for scope, expected in (
        ("global", "global"),
        ("tenant", "tenant:example.org"),
        ("campaign", "campaign:spring"),
    ):
        driver = SessionDriver(plugin(scope=scope, **given), networks=("192.0.2.0/24",), clock=FakeClock())
        delivery = await driver.deliver(LIST, sender="news+spring@example.org", recipients=("b@far.example",))
        message = Message.from_bytes(bytes(delivery.sent.data))
        token = message.header("List-Unsubscribe").partition("t=")[2].rstrip(">")
        assert (await started(scope=scope, **given))[0].read_token(token).scope == expected


async def started(**settings):
    """Return a plugin, and what it was told to keep."""
    kept = []

    async def keep(wish, ip):
        kept.append((wish, ip))

    made = plugin(**settings)
    made.startup(App("mx", FakeResolver(), FakeClock(), Path(), unsubscribe=keep))
    return made, kept


def a_token(days_old=0, key="KEY"):
    return make_token(
        ENVIRON[key].encode(), "news.example.org", "b@far.example", FakeClock().time() - days_old * 86_400
    )


async def test_tokens_that_come_back_are_read():
    made, _ = await started(days=90)
    assert made.read_token(a_token()).recipient == "b@far.example"
    assert made.read_token(a_token(days_old=89)) is not None
    for bad in (a_token(days_old=91), a_token(key="SHORT"), "", "x.y"):
        assert made.read_token(bad) is None


@pytest.mark.parametrize(
    ("to", "subject", "result", "count"),
    [
        ("u@example.org", "{token}", "hit", 1),
        ("U@Example.ORG", "Re: {token}", "hit", 1),
        ("u@example.org", "unsubscribe me", "fail", 0),
        ("u@example.org", "x{token}", "fail", 0),
        ("other@example.org", "{token}", None, 0),
    ],
)
async def test_a_mail_to_the_address_unsubscribes(to, subject, result, count):
    made, kept = await started(mailto="u@example.org")
    text = f"From: b@far.example\r\nSubject: {subject.format(token=a_token())}\r\n\r\n"
    mail = make_mail(text.encode(), recipients=(to,))
    assert await made.message(mail) is None
    assert [(wish.recipient, ip) for wish, ip in kept] == [("b@far.example", mail.client.ip)] * count
    assert [finding.result for finding in mail.noted] == ([result] if result else [])


async def test_what_can_not_be_kept_is_not_taken():
    made, _ = await started(mailto="u@example.org")

    async def full(wish: Unsubscription, ip: str):
        raise OSError("disk full")

    made.startup(App("mx", FakeResolver(), FakeClock(), Path(), unsubscribe=full))
    mail = make_mail(f"Subject: {a_token()}\r\n\r\n".encode(), recipients=("u@example.org",))
    with pytest.raises(OSError, match="disk full"):
        await made.message(mail)
