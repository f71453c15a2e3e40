"""Hooks that start early: joined where something needs them, counted where the message is judged."""

import asyncio
import gc
from ipaddress import ip_network

import pytest
from tests.core.making import RAW, Gate, answering, plugin

from relayproxy.api import accept, defer, hook, reject
from relayproxy.core.policy import ListenerPolicy
from relayproxy.testing.session import SessionDriver, entry_for


def behind(member):
    """Make a background hook of a function."""
    return hook(background=True)(member)


def early(gate, name="early", answer=None):
    return behind(gate.member(name, answer))


async def begun(driver):
    """Say all that comes before the content."""
    for line in ("EHLO client.example.org", "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.net>"):
        assert (await driver.say(line))[0].ok


async def test_it_is_waited_for_only_when_the_message_is_judged():
    gate = Gate()
    driver = SessionDriver(plugin("early", mail=early(gate)))
    await begun(driver)
    task = asyncio.create_task(driver.content(RAW))
    await gate.until_started("early")
    assert gate.ended == []
    gate.open()
    delivery = await task
    assert delivery.reply.ok
    assert [finding.method for finding in delivery.mail.findings] == ["early"]


@pytest.mark.parametrize("after", [None, ("early",)])
async def test_a_hook_that_needs_it_waits_for_it(after):
    gate = Gate()
    driver = SessionDriver(
        plugin("early", mail=early(gate)), plugin("reader", after=after, message=answering(None, "reader"))
    )
    await begun(driver)
    task = asyncio.create_task(driver.content(RAW))
    await gate.until_started("early")
    gate.open()
    delivery = await task
    assert [finding.method for finding in delivery.mail.findings] == ["early", "reader"]


@pytest.mark.parametrize("after", [None, ("early",)])
async def test_a_hook_of_its_own_stage_may_need_it(after):
    gate = Gate()
    driver = SessionDriver(
        plugin("early", mail=early(gate)), plugin("reader", after=after, mail=gate.member("reader"))
    )
    await driver.say("EHLO x")
    task = asyncio.create_task(driver.say("MAIL FROM:<a@example.org>"))
    await gate.until_started("early")
    gate.open()
    assert (await task)[0].ok
    assert gate.seen["reader"] == ["early"]


async def test_a_background_hook_may_need_another():
    gate = Gate()
    driver = SessionDriver(
        plugin("first", mail=early(gate, "first")),
        plugin("second", after=("first",), rcpt=behind(gate.member("second"))),
        plugin("beside", after=(), rcpt=behind(gate.member("beside"))),
    )
    await begun(driver)
    await gate.until_started("first", "beside")
    gate.open("first")
    await gate.until_started("first", "beside", "second")
    assert gate.seen == {"first": [], "beside": [], "second": ["first"]}
    gate.open()
    assert (await driver.content(RAW)).reply.ok


async def test_a_hook_that_does_not_need_it_does_not_wait():
    gate = Gate()
    driver = SessionDriver(
        plugin("early", mail=early(gate)),
        plugin("free", after=(), message=gate.member("free", reject("at once"))),
    )
    await begun(driver)
    task = asyncio.create_task(driver.content(RAW))
    await gate.until_started("early", "free")
    gate.open("free")
    await gate.until(lambda: "free" in gate.ended)
    gate.open("early")
    assert (await task).reply.text.startswith("at once")


@pytest.mark.parametrize("stage", ["connect", "helo", "mail", "rcpt"])
async def test_its_verdict_counts_when_the_message_is_judged(stage):
    async def refusing(_self):
        await asyncio.sleep(0)
        return reject("listed")

    driver = SessionDriver(plugin("early", **{stage: behind(refusing)}))
    await begun(driver)
    delivery = await driver.content(RAW)
    assert delivery.reply.text.startswith("listed")
    assert driver.upstream.sent == []


async def test_its_verdict_spares_those_that_need_it():
    async def refusing(_self):
        return reject("listed")

    driver = SessionDriver(
        plugin("early", mail=behind(refusing)),
        plugin("reader", after=("early",), message=answering(None, "reader")),
    )
    await begun(driver)
    delivery = await driver.content(RAW)
    assert delivery.reply.code == 550
    assert [step.answer for step in delivery.mail.trace if step.plugin == "reader"] == ["not run"]


async def test_verdicts_of_several_are_weighed_together():
    def answer(verdict):
        async def member(_self):
            return verdict

        return behind(member)

    driver = SessionDriver(
        plugin("a", mail=answer(defer("a"))),
        plugin("b", mail=answer(accept())),
        plugin("c", mail=answer(reject("c"))),
        plugin("d", after=(), message=answering(reject("d"))),
    )
    await begun(driver)
    assert (await driver.content(RAW)).reply.text.startswith("d ")


async def test_what_began_at_connect_counts_for_every_message():
    async def connect(_self, note):
        note("dnsbl", "hit", score=3.0)

    driver = SessionDriver(plugin("dnsbl", connect=behind(connect)))
    for _ in range(2):
        delivery = await driver.deliver(RAW)
        assert [finding.method for finding in delivery.mail.findings] == ["dnsbl"]
        assert delivery.mail.score == 3.0


async def test_two_hooks_of_one_plugin_both_count():
    async def connect(_self):
        return reject("listed at connect")

    async def mail(_self):
        return None

    driver = SessionDriver(plugin("dnsbl", connect=behind(connect), mail=behind(mail)))
    await begun(driver)
    assert (await driver.content(RAW)).reply.text.startswith("listed at connect")


async def test_each_recipient_counts():
    async def rcpt(_self, rcpt):
        return reject("listed") if str(rcpt.address) == "first@example.net" else None

    driver = SessionDriver(plugin("check", rcpt=behind(rcpt)))
    delivery = await driver.deliver(RAW, recipients=["first@example.net", "second@example.net"])
    assert delivery.reply.text.startswith("listed")


async def test_a_fault_behind_is_a_fault():
    async def mail(_self):
        raise RuntimeError("hunter2")

    driver = SessionDriver(plugin("early", mail=behind(mail)))
    delivery = await driver.deliver(RAW)
    assert str(delivery.reply).startswith("451 4.3.0")


async def test_it_observes_like_any_other():
    async def mail(_self):
        return reject("no")

    driver = SessionDriver(entry_for(plugin("early", mail=behind(mail)), observe=True))
    assert (await driver.deliver(RAW)).reply.ok


@pytest.mark.parametrize("ending", ["RSET", "EHLO again", "QUIT", "HELO again"])
async def test_what_nobody_will_ask_for_is_cancelled(ending):
    gate = Gate()
    driver = SessionDriver(plugin("early", mail=early(gate)))
    await begun(driver)
    await gate.until_started("early")
    await driver.say(ending)
    await gate.until(lambda: gate.cancelled == ["early"])
    assert not any("plugin_fault" in line for line in driver.log)


async def test_a_refused_mail_leaves_nothing_running():
    gate = Gate()

    async def refusing(_self):
        await gate.until(lambda: gate.started)
        return reject("no")

    driver = SessionDriver(plugin("early", mail=early(gate)), plugin("refusing", after=(), mail=refusing))
    await driver.say("EHLO x")
    assert (await driver.say("MAIL FROM:<a@example.org>"))[0].code == 550
    await gate.until(lambda: gate.cancelled == ["early"])


async def test_what_is_cancelled_before_its_first_turn_leaves_no_coroutine_behind(recwarn):
    begun: list[str] = []

    async def asking():
        begun.append("asked")

    def mail(_self):
        return asking()

    driver = SessionDriver(
        plugin("early", mail=behind(mail)), plugin("no", after=(), mail=answering(reject("no")))
    )
    await driver.say("EHLO x")
    assert (await driver.say("MAIL FROM:<a@example.org>"))[0].code == 550
    await asyncio.sleep(0)
    gc.collect()
    assert not begun
    assert [str(one.message) for one in recwarn.list] == []


async def test_what_began_at_connect_goes_on_over_rset_and_ends_with_the_connection():
    started = asyncio.Event()
    ended = asyncio.Event()

    async def connect(_self):
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    driver = SessionDriver(plugin("early", connect=behind(connect)))
    await begun(driver)
    await started.wait()
    await driver.say("RSET")
    await asyncio.sleep(0)
    assert not ended.is_set()
    await driver.say("QUIT")
    async with asyncio.timeout(5):
        await ended.wait()


async def test_another_client_by_xclient_starts_the_checks_of_a_client_anew():
    asked = []

    async def connect(_self, client, note):
        asked.append(client.ip)
        note("dnsbl", "hit", policy__ip=client.ip)

    policy = ListenerPolicy("l", xclient=(ip_network("192.0.2.1"),))
    driver = SessionDriver(plugin("dnsbl", connect=behind(connect)), policy=policy)
    await driver.say("XCLIENT ADDR=203.0.113.9")
    delivery = await driver.deliver(RAW)
    assert asked[-1] == "203.0.113.9"
    assert [finding.props["policy.ip"] for finding in delivery.mail.findings] == ["203.0.113.9"]


async def test_only_decide_hooks_can_run_behind():
    order = []

    async def before_forward(_self):
        order.append("rewritten")
        await asyncio.sleep(0)
        order.append("ended")

    driver = SessionDriver(plugin("late", before_forward=behind(before_forward)))
    assert (await driver.deliver(RAW)).sent is not None
    assert order == ["rewritten", "ended"]


async def test_a_hook_that_ends_early_takes_along_nothing_that_others_need():
    gate = Gate()
    done = asyncio.Event()

    async def connect(_self, note):
        await done.wait()
        note("dnsbl", "hit")

    driver = SessionDriver(
        plugin("dnsbl", connect=behind(connect)),
        plugin("reader", after=("dnsbl",), mail=behind(gate.member("reader"))),
    )
    await begun(driver)
    await driver.say("RSET")
    done.set()
    gate.open()
    delivery = await driver.deliver(RAW)
    assert [finding.method for finding in delivery.mail.findings] == ["dnsbl", "reader"]


async def test_a_refusal_that_began_at_connect_stands_at_every_hello():
    async def connect(_self):
        return reject("listed")

    driver = SessionDriver(
        plugin("dnsbl", connect=behind(connect)), plugin("names", helo=lambda _self, name: None)
    )
    for name in ("EHLO one", "EHLO two"):
        assert (await driver.say(name))[0].code == 550
