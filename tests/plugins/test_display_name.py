import pytest

from relayproxy.api import Action, Direction
from relayproxy.testing.mail import call, make_mail


def mail(*senders):
    lines = b"".join(b"From: " + sender + b"\r\n" for sender in senders)
    return make_mail(lines + b"Subject: Hello\r\n\r\n")


@pytest.mark.parametrize(
    "sender",
    [
        b"Ana Ruiz <boss@evil.example>",
        b'"Ana Ruiz (CEO)" <boss@evil.example>',
        b'"RUIZ, ana" <boss@evil.example>',
        b"=?utf-8?q?Ana_Ruiz?= <boss@evil.example>",
        b'"Ana Ruiz ana@example.com" <boss@evil.example>',
        b"Ana\r\n Ruiz <boss@evil.example>",
        b"Luis Prado <ana@example.com>",
    ],
)
async def test_held(load, sender):
    given = mail(sender)
    verdict = await call(load("display_name"), "message", mail=given)
    assert verdict.action is Action.HOLD
    assert given.finding("display_name").result == "hit"


@pytest.mark.parametrize(
    "sender",
    [
        b"Ana Ruiz <ana@example.com>",
        b"Ana Ruiz <ANA.RUIZ@example.net>",
        b"Ana Perez <ana@other.example>",
        b"Anabel Ruiz <ana@other.example>",
        b"ana.ruiz@other.example",
        b"",
    ],
)
async def test_not_held(load, sender):
    assert await call(load("display_name"), "message", mail=mail(sender)) is None


async def test_every_from_counts(load):
    two = mail(b"Ana Ruiz <ana@example.com>", b"Luis Prado <luis@evil.example>")
    assert (await call(load("display_name"), "message", mail=two)).reason == (
        "luis@evil.example writes under the name of Luis Prado"
    )


def test_our_own_people_may_write_from_anywhere(load):
    assert load("display_name").directions == {Direction.INBOUND}


async def test_without_from_there_is_no_opinion(load):
    assert await call(load("display_name"), "message", mail=mail()) is None
