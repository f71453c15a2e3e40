"""Hooks that say before they are called that they have nothing to do."""

import pytest
from tests.core.making import RAW, plugin

from relayproxy.api import hook, reject
from relayproxy.testing.session import SessionDriver


def screened(answer, *, verdict=None, name="screened", **members):
    """Return a plugin whose message hook is called where `answer(mail)` says so, and the list of its calls."""
    calls = []

    def message(_self, mail):
        calls.append(mail)
        return verdict

    message.__name__ = "message"

    def matters(_self, mail):
        return answer(mail)

    made = plugin(name, message=hook(screen="matters")(message), **members)
    type(made).matters = matters
    return made, calls


def other(**members):
    return plugin("other", **members)


def noting(_self, mail):
    mail.note("other", "hit")


@pytest.mark.parametrize("before", [(), ("other",)])
async def test_one_that_has_nothing_to_do_is_not_called(before):
    first, calls = screened(lambda mail: b"hello" not in bytes(mail.message), verdict=reject("no"))
    said = await SessionDriver(*(other(message=noting) for _ in before), first).deliver(RAW)
    assert (said.reply.code, calls) == (250, [])


@pytest.mark.parametrize("before", [(), ("other",)])
async def test_one_that_has_something_to_do_is_called_once(before):
    asked = []
    first, calls = screened(lambda mail: asked.append(mail) is None, verdict=reject("no"))
    said = await SessionDriver(*(other(message=noting) for _ in before), first).deliver(RAW)
    assert (said.reply.code, len(asked), len(calls)) == (550, 1, 1)


@pytest.mark.parametrize("waits", [False, True])
async def test_it_sees_what_those_before_it_have_found(waits):
    async def later(_self, mail):
        mail.note("other", "hit")

    first, calls = screened(lambda mail: mail.finding("other") is not None)
    await SessionDriver(other(message=later if waits else noting), first).deliver(RAW)
    assert len(calls) == 1


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
async def test_one_that_fails_to_tell_is_called(fault):
    def broken(_mail):
        raise fault

    first, calls = screened(broken, verdict=reject("no"))
    assert (await SessionDriver(first).deliver(RAW)).reply.code == 550
    assert len(calls) == 1


async def test_one_that_is_skipped_is_not_asked():
    asked = []

    def skipping(_self, mail):
        mail.note("skip", "hit", plugin="screened")

    skipper = plugin("other", after=(), skips=frozenset({"screened"}), message=skipping)
    first, calls = screened(lambda mail: asked.append(mail) is None)
    await SessionDriver(skipper, first).deliver(RAW)
    assert (asked, calls) == ([], [])


async def test_at_rcpt_it_is_about_the_recipient():
    def rcpt(_self, mail, rcpt):
        return reject("no")

    rcpt.__name__ = "rcpt"
    one = plugin("one", rcpt=hook(screen="matters")(rcpt))
    type(one).matters = lambda _self, _mail, rcpt: rcpt.address.local == "f"
    talk = SessionDriver(one)
    said = await talk.say("EHLO x", "MAIL FROM:<a@example.org>", "RCPT TO:<f@example.net>")
    said += await talk.say("RCPT TO:<b@example.net>")
    assert [reply.code for reply in said[2:]] == [550, 250]


async def test_a_lone_recipient_is_screened_once_whatever_comes_of_it():
    asked = []

    def rcpt(_self, mail, rcpt):
        return reject("no")

    def matters(_self, _mail, rcpt):
        asked.append(rcpt.address.local)
        return rcpt.address.local == "f"

    rcpt.__name__ = "rcpt"
    one = plugin("one", rcpt=hook(screen="matters")(rcpt))
    type(one).matters = matters
    talk = SessionDriver(one)
    await talk.say("EHLO x", "MAIL FROM:<a@example.org>", "RCPT TO:<f@example.net>")
    await talk.say("RCPT TO:<b@example.net>")
    assert asked == ["f", "b"]
