import pytest
from pydantic import ValidationError

from relayproxy.api import Action, AddHeader
from relayproxy.testing.mail import call, make_mail


def mail(subject):
    return make_mail(b"From: a@example.org\r\nSubject: " + subject + b"\r\n\r\nText\r\n")


@pytest.mark.parametrize(
    ("subject", "hit"),
    [
        (b"You won the LOTTERY", True),
        (b"lottery!", True),
        (b"Wire  transfer today", True),
        (b"wire\r\n transfer", True),
        (b"=?utf-8?q?l=C3=B6we?=", True),
        (b"=?iso-8859-1?q?L=F6we?=", True),
        (b"lotteryx", False),
        (b"slottery", False),
        (b"Hello", False),
        (b"", False),
    ],
)
async def test_words(load, subject, hit):
    plugin = load("subject_words", words=["lottery", "wire transfer", "löwe"])
    verdict = await call(plugin, "message", mail=mail(subject))
    assert (verdict is not None) is hit


async def test_reject_says_that_it_is_the_subject_and_not_which_word(load):
    plugin = load("subject_words", words=["lottery"])
    verdict = await call(plugin, "message", mail=mail(b"lottery"))
    assert str(verdict.reply) == "550 5.7.1 The subject of this message is not accepted here"
    assert verdict.reason == "subject has 'lottery'"


async def test_hold(load):
    plugin = load("subject_words", words=["lottery"], action="hold")
    assert (await call(plugin, "message", mail=mail(b"lottery"))).action is Action.HOLD


async def test_tag_notes_a_finding_and_adds_a_field(load):
    plugin = load("subject_words", words=["lottery"], action="tag", score=2.5)
    hit = mail(b"A Lottery")
    assert await call(plugin, "message", mail=hit) is None
    assert hit.score == 2.5
    assert hit.finding("subject_words").props == {"word": "Lottery"}
    assert await call(plugin, "before_forward", mail=hit) == [AddHeader("X-Subject-Words", "yes")]


async def test_other_mail_is_not_tagged(load):
    plugin = load("subject_words", words=["lottery"], action="tag")
    clean = mail(b"Hello")
    assert await call(plugin, "message", mail=clean) is None
    assert await call(plugin, "before_forward", mail=clean) == []


def test_a_list_without_words_is_a_mistake(load):
    with pytest.raises(ValidationError, match="at least 1"):
        load("subject_words", words=[])
