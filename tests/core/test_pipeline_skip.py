"""Hooks that another plugin's finding keeps from being asked: whose finding counts, and about whom."""

from tests.core.making import RAW, plugin

from relayproxy.api import hook, reject
from relayproxy.testing.session import SessionDriver, entry_for


def skipper(name="first", skips=("check",), **props):
    def message(_self, mail):
        mail.note("skip", "hit", plugin="check", **props)

    return plugin(name, after=(), skips=frozenset(skips), message=message)


def check(**members):
    return plugin("check", after=(), message=lambda _self, mail: reject("checked"), **members)


async def code(*entries):
    return (await SessionDriver(*entries).deliver(RAW)).reply.code


async def test_the_one_that_is_skipped_waits_for_the_one_that_skips_it():
    async def message(_self, mail):
        mail.note("skip", "hit", plugin="check")

    waits = plugin("first", after=(), skips=frozenset({"check"}), message=message)
    assert await code(waits, check()) == 250


async def test_only_a_plugin_that_says_so_can_skip_another():
    assert await code(skipper(), check()) == 250
    assert await code(skipper(skips=()), check()) == 550
    assert await code(check(), skipper()) == 550
    assert await code(entry_for(skipper(), observe=True), check()) == 550


async def test_what_was_said_of_one_recipient_does_not_skip_a_check_of_the_message():
    assert await code(skipper(rcpt="b@example.net"), check()) == 550


async def test_at_rcpt_it_is_about_that_recipient():
    def rcpt(_self, mail, rcpt):
        if rcpt.address.local == "f":
            mail.note("skip", "hit", plugin="check", rcpt=str(rcpt.address))

    first = plugin("first", after=(), skips=frozenset({"check"}), rcpt=rcpt)
    talk = SessionDriver(first, plugin("check", after=(), rcpt=lambda _self, mail, rcpt: reject("checked")))
    said = await talk.say("EHLO x", "MAIL FROM:<a@example.org>", "RCPT TO:<f@example.net>")
    said += await talk.say("RCPT TO:<b@example.net>", "RCPT TO:<f@example.net>")
    assert [reply.code for reply in said[2:]] == [250, 550, 250]


async def test_a_verdict_of_what_ran_behind_does_not_count_either():
    @hook(background=True)
    async def mail(_self, mail):
        return reject("checked")

    mail.__name__ = "mail"
    behind = plugin("check", after=(), mail=mail)
    assert await code(skipper(), behind) == 250
    assert await code(behind) == 550
