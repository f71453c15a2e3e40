"""What runs side by side: each hook waits for what it needs, and nobody for a plain function that has to wait."""

import asyncio

import pytest
from tests.core.making import RAW, Gate, plugin
from tests.core.test_pipeline_background import begun, early

from relayproxy.api import hook
from relayproxy.testing.session import SessionDriver


async def test_a_hook_does_not_wait_for_what_only_another_of_its_stage_needs():
    gate = Gate()
    driver = SessionDriver(
        plugin("early", mail=early(gate)),
        plugin("free", after=(), message=gate.member("free")),
        plugin("reader", after=("early", "free"), message=gate.member("reader")),
    )
    await begun(driver)
    task = asyncio.create_task(driver.content(RAW))
    await gate.until_started("early", "free")
    gate.open("early", "free")
    await gate.until_started("early", "free", "reader")
    gate.open()
    delivery = await task
    assert gate.seen == {"early": [], "free": [], "reader": ["early", "free"]}
    assert [finding.method for finding in delivery.mail.findings] == ["early", "free", "reader"]


async def test_a_plain_function_that_has_to_wait_after_all_holds_up_nobody():
    gate = Gate()

    def plain(name):
        held = gate.member(name)

        def message(self, mail):
            return held(self, mail)  # a function that returns what is to be awaited, and no `async def`

        return plugin(name, after=(), message=message)

    driver = SessionDriver(plain("one"), plain("two"))
    await begun(driver)
    task = asyncio.create_task(driver.content(RAW))
    await gate.until_started("one", "two")
    gate.open("two")
    await gate.until(lambda: gate.ended == ["two"])
    gate.open()
    delivery = await task
    assert [finding.method for finding in delivery.mail.findings] == ["one", "two"]


async def test_a_plain_function_that_runs_behind_is_done_on_the_spot():
    seen = []

    def behind(_self, mail):
        mail.note("behind", "hit")

    def rcpt(_self, mail):
        seen.append([finding.method for finding in mail.findings])

    driver = SessionDriver(
        plugin("early", mail=hook(background=True)(behind)), plugin("reader", after=("early",), rcpt=rcpt)
    )
    await begun(driver)
    assert seen == [["behind"]]


async def test_before_anybody_judges_the_content_it_is_said_that_it_is_there():
    said = []
    driver = SessionDriver(
        plugin("first", message=lambda _self, mail: said.append(("message", bytes(mail.message)))),
        plugin("second", arrived=lambda _self, mail: said.append(("arrived", bytes(mail.message)))),
    )
    await begun(driver)
    await driver.content(RAW)
    assert said == [("arrived", RAW), ("message", RAW)]


@pytest.mark.parametrize("answer", ["raise", "nonsense"])
async def test_what_goes_wrong_then_decides_nothing(answer):
    def arrived(_self, mail):
        mail.message = None
        if answer == "raise":
            raise RuntimeError("oh")
        return answer

    driver = SessionDriver(plugin("early", arrived=arrived))
    await begun(driver)
    assert (await driver.content(RAW)).reply.ok
    assert any("plugin_fault" in line for line in driver.log) == (answer == "raise")
