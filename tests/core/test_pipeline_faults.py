"""The fence: whatever a plugin does becomes the verdict that `on_error` names, and nothing of it gets out."""

import asyncio
import json

import pytest
from tests.core.making import RAW, Gate, answering, plugin

from relayproxy.api import AddHeader, reject
from relayproxy.testing.session import SessionDriver, entry_for

STAGES = ("connect", "helo", "mail", "rcpt", "rewrite_envelope", "message", "before_forward")
BEFORE_DATA = STAGES[:5]


class PanicError(BaseException):
    """What extension modules raise when they panic is no Exception."""


class SilentError(Exception):
    """Can't even be shown."""

    def __str__(self):
        raise ValueError("no text")


def raising(error):
    def fault():
        raise error

    return fault


async def cancelled_within():
    task = asyncio.ensure_future(asyncio.Event().wait())
    task.cancel()
    await task


async def cancelled_itself():
    raise asyncio.CancelledError


FAULTS = {
    "raise": raising(RuntimeError("dsn=postgres://u:hunter2@db")),
    "memory": raising(MemoryError("hunter2")),
    "exit": raising(SystemExit("hunter2")),
    "interrupt": raising(KeyboardInterrupt("hunter2")),
    "recursion": raising(RecursionError("hunter2")),
    "stop": raising(StopIteration("hunter2")),
    "group": raising(ExceptionGroup("hunter2", [ValueError("x"), KeyError("y")])),
    "base group": raising(BaseExceptionGroup("hunter2", [ValueError("x"), SystemExit(1)])),
    "panic": raising(PanicError("hunter2")),
    "silent": raising(SilentError()),
    "text": lambda: "hunter2",
    "number": lambda: 250,
    "type": lambda: reject,
    "exception": lambda: ValueError("hunter2"),
    "mixed": lambda: [AddHeader("X-A", "b"), "hunter2"],
}
WAITING = {
    "hang": lambda: asyncio.Event().wait(),
    "time-out of its own": lambda: asyncio.wait_for(asyncio.Event().wait(), 0.001),
    "cancelled within": cancelled_within,
    "cancelled itself": cancelled_itself,
}


def faulty(stage, fault):
    """Return a plugin whose hook has a fault, at once or (for faults that wait) later."""

    def now(_self):
        return FAULTS[fault]()

    async def later(_self):
        await WAITING[fault]()

    return plugin("faulty", after=(), **{stage: now if fault in FAULTS else later})


def faults_logged(driver):
    return [json.loads(line) for line in driver.log if '"plugin_fault"' in line]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fault", [*FAULTS, *WAITING])
async def test_every_fault_at_every_stage_is_a_4xx_and_its_text_stays_here(stage, fault):
    driver = SessionDriver(
        entry_for(faulty(stage, fault), timeout=0.01), plugin("well", message=answering(None, "well"))
    )
    delivery = await driver.deliver(RAW)
    assert delivery.reply.temporary
    assert delivery.reply.status == "4.3.0"
    assert b"hunter2" not in bytes(delivery.reply)
    assert delivery.sent is None
    assert driver.upstream.sent == []
    logged = faults_logged(driver)
    assert [(event["plugin"], event["hook"]) for event in logged] == [("faulty", stage)] * len(logged)
    assert logged[0]["level"] == "error"
    # The connection's, or that of the message in it.
    assert logged[0]["id"].partition(".")[0] == "c0"
    assert ("." in logged[0]["id"]) == (stage not in ("connect", "helo"))
    # The next one, and another session, fare no better and no worse: nothing is left in disorder.
    driver.reconnect()
    assert (await driver.deliver(RAW)).reply.temporary


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fault", ["raise", "hang", "text", "panic", "silent"])
async def test_skip_goes_on_as_if_the_plugin_were_not_there(stage, fault):
    entry = entry_for(faulty(stage, fault), timeout=0.01, on_error="skip")
    driver = SessionDriver(entry, plugin("well", message=answering(None, "well")))
    delivery = await driver.deliver(RAW)
    assert delivery.reply.ok
    assert delivery.sent.data.endswith(RAW)
    assert delivery.mail.finding("well")
    assert faults_logged(driver)


@pytest.mark.parametrize("stage", STAGES)
async def test_reject_refuses_for_good(stage):
    driver = SessionDriver(entry_for(faulty(stage, "raise"), on_error="reject"))
    delivery = await driver.deliver(RAW)
    assert (delivery.reply.code, delivery.reply.status) == (554, "5.3.0")
    assert driver.upstream.sent == []


@pytest.mark.parametrize("stage", STAGES)
async def test_hold_never_lets_the_mail_pass(stage):
    driver = SessionDriver(entry_for(faulty(stage, "raise"), on_error="hold"))
    delivery = await driver.deliver(RAW)
    assert delivery.reply.temporary, "there is no store to hold it in, and it must not pass"
    assert driver.upstream.sent == []


async def test_a_fault_weighs_as_much_as_its_verdict():
    driver = SessionDriver(
        faulty("message", "raise"), plugin("refusing", after=(), message=answering(reject("no")))
    )
    assert (await driver.deliver(RAW)).reply.code == 550


async def test_a_fault_of_one_spares_the_findings_of_the_others():
    def message(_self, mail):
        mail.note("early", "hit")
        raise RuntimeError

    driver = SessionDriver(
        entry_for(plugin("faulty", message=message), on_error="skip"),
        plugin("well", message=answering(None, "well")),
    )
    delivery = await driver.deliver(RAW)
    assert [finding.method for finding in delivery.mail.findings] == ["early", "well"]


@pytest.mark.parametrize(
    "note",
    [
        lambda mail: mail.note("spf", "maybe"),
        lambda mail: mail.note("spf", "pass", score="1.5"),
        lambda mail: mail.note("spf", "pass", header__d=7),
    ],
)
async def test_a_finding_that_is_none_is_a_fault_of_its_plugin(note):
    driver = SessionDriver(plugin("faulty", message=lambda _self, mail: note(mail) and None))
    delivery = await driver.deliver(RAW)
    assert (delivery.reply.code, delivery.reply.status) == (451, "4.3.0")
    assert faults_logged(driver)


async def test_a_fault_says_what_and_where():
    driver = SessionDriver(faulty("message", "raise"))
    delivery = await driver.deliver(RAW)
    event = faults_logged(driver)[0]
    assert event["kind"] == "raise"
    assert event["on_error"] == "defer"
    assert event["error"].startswith("RuntimeError: dsn=")
    assert "test_pipeline_faults.py:" in event["error"]
    assert "raise error" in event["traceback"]
    assert delivery.mail.trace[0].error == event["error"]


@pytest.mark.parametrize(("fault", "kind"), [("raise", "raise"), ("hang", "timeout"), ("text", "type")])
async def test_faults_are_counted_by_kind(fault, kind):
    driver = SessionDriver(entry_for(faulty("message", fault), timeout=0.001))
    await driver.deliver(RAW)
    counts = {
        sample.labels: sample.value
        for sample in driver.services.metrics.samples()
        if sample.family.name == "plugin_errors_total"
    }
    kinds = ("abandoned", "raise", "service", "timeout", "type", "unavailable")
    assert counts == {("faulty", one): float(one == kind) for one in kinds}


async def test_faults_of_report_hooks_come_too_late_to_matter():
    def after_forward(_self):
        raise RuntimeError

    async def session_closed(_self):
        await asyncio.Event().wait()

    driver = SessionDriver(
        entry_for(plugin("bad", after_forward=after_forward, session_closed=session_closed), timeout=0.001)
    )
    assert (await driver.deliver(RAW)).reply.ok
    assert (await driver.say("QUIT"))[0].code == 221
    assert [event["hook"] for event in faults_logged(driver)] == ["after_forward", "session_closed"]


# -- time ---------------------------------------------------------------------------------------------------------------


async def test_all_hooks_of_a_message_share_one_budget(fake_clock):
    """The first takes all but a trifle; the second, with a long patience of its own, gets what is left."""

    def first(_self):
        fake_clock.advance(44.999)

    async def second(_self):
        await asyncio.Event().wait()

    driver = SessionDriver(
        plugin("first", mail=first),
        entry_for(plugin("second", message=second), timeout=3600),
        clock=fake_clock,
    )
    delivery = await driver.deliver(RAW)
    assert delivery.reply.code == 451
    assert delivery.mail.trace[-1].error.startswith("no answer within")


async def test_a_budget_that_is_spent_leaves_time_for_hooks_that_do_not_wait(fake_clock):
    driver = SessionDriver(
        plugin("slow", mail=lambda _self: fake_clock.advance(100)),
        plugin("quick", message=answering(None, "quick")),
        clock=fake_clock,
    )
    delivery = await driver.deliver(RAW)
    assert delivery.reply.ok
    assert delivery.mail.finding("quick")


async def test_each_message_has_a_budget_of_its_own(fake_clock):
    async def message(_self):
        fake_clock.advance(40)
        await asyncio.sleep(0)

    driver = SessionDriver(plugin("slow", message=message), clock=fake_clock)
    for _ in range(3):
        assert (await driver.deliver(RAW)).reply.ok


async def test_time_is_measured_by_the_clock(fake_clock):
    driver = SessionDriver(plugin("slow", message=lambda _self: fake_clock.advance(2.5)), clock=fake_clock)
    delivery = await driver.deliver(RAW)
    assert delivery.mail.trace[0].seconds == 2.5


# -- cancelled from without -----------------------------------------------------------------------------------------------


async def test_a_cancelled_conversation_takes_its_hooks_along():
    gate = Gate()
    driver = SessionDriver(
        plugin("a", after=(), message=gate.member("a")), plugin("b", after=(), message=gate.member("b"))
    )
    task = asyncio.create_task(driver.deliver(RAW))
    await gate.until_started("a", "b")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gate.until(lambda: sorted(gate.cancelled) == ["a", "b"])
    assert faults_logged(driver) == []
    assert driver.upstream.aborted == 1


async def test_a_hook_alone_is_cancelled_with_its_conversation():
    started = asyncio.Event()

    async def message(_self):
        started.set()
        await asyncio.Event().wait()

    driver = SessionDriver(plugin("alone", message=message))
    task = asyncio.create_task(driver.deliver(RAW))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert faults_logged(driver) == []
