"""Waiting behind the fence: a hook that has begun on the spot goes on as if it had been awaited all along."""

import asyncio
import gc
import json

import anyio
import pytest
from tests.core.making import RAW, plugin

from relayproxy.api import reject
from relayproxy.core import waiting
from relayproxy.testing.session import SessionDriver, entry_for


async def reply(hook, **changes):
    return (await SessionDriver(entry_for(plugin("waits", message=hook), **changes)).deliver(RAW)).reply


async def test_one_that_waits_again_and_again():
    async def message(_self):
        for _ in range(3):
            await asyncio.sleep(0)
        return reject("in the end")

    assert (await reply(message)).text.startswith("in the end")


async def test_what_is_raised_at_a_wait_can_be_caught_there():
    async def message(_self):
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, OSError("gone"))
        try:
            await future
        except OSError:
            return reject("caught")

    assert (await reply(message)).text.startswith("caught")


async def test_a_time_limit_of_its_own_that_begins_before_the_first_wait():
    async def message(_self):
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            await asyncio.sleep(0)
            return reject("too late")

    assert (await reply(message)).text.startswith("too late")


async def test_a_library_knows_its_own_cancellation_again():
    """anyio, which httpx waits with, tells its time limits by the words of the cancellation."""

    async def message(_self):
        with anyio.move_on_after(0.001) as limit:
            await asyncio.get_running_loop().create_future()
        return reject("too late") if limit.cancelled_caught else None

    assert (await reply(message)).text.startswith("too late")


@pytest.mark.parametrize("swallows", [True, False])
async def test_one_that_does_not_end_is_a_451(swallows):
    async def message(_self):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not swallows:
                raise

    assert (await reply(message, timeout=0.01)).code == 451


async def stubborn():
    """Waits on, whatever it is told."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


async def busy():
    """Gives way to others, and to nothing else."""
    while True:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            continue


async def deaf():
    """Will not even be closed."""
    while True:
        try:
            await asyncio.Event().wait()
        except BaseException:  # noqa: BLE001  (what a bad plugin does)
            continue


async def with_a_stubborn_task():
    await asyncio.gather(stubborn(), return_exceptions=True)


# Python says so when it lets go of a coroutine that ignores even that.
UNHEARD = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize("hook", [stubborn, busy, pytest.param(deaf, marks=UNHEARD), with_a_stubborn_task])
async def test_one_that_swallows_its_cancellation_is_abandoned(hook, monkeypatch):
    """The session goes on with what `on_error` says; the next message meets the plugin anew."""
    monkeypatch.setattr(waiting, "GRACE", 0.01)
    before = asyncio.all_tasks()

    async def message(_self):
        await hook()

    driver = SessionDriver(entry_for(plugin("waits", message=message), timeout=0.01))
    for _ in range(2):
        assert (await driver.deliver(RAW)).reply.code == 451
    faults = [json.loads(line) for line in driver.log if "plugin_fault" in line]
    assert [fault["kind"] for fault in faults] == ["abandoned"] * 2
    assert all(f"{__file__}:" in fault["error"] for fault in faults)
    (call,) = driver.services.pipeline.calls("message")
    assert call.errors["abandoned"].value == 2
    for task in asyncio.all_tasks() - before:
        # Tasks of the hook's own are its own; here they end with the test.
        task.get_coro().close()
    del driver, call
    gc.collect()


async def test_one_that_cleans_up_when_its_time_is_over_has_time_for_it():
    cleaned = asyncio.Event()

    async def message(_self):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            cleaned.set()

    assert (await reply(message, timeout=0.01)).code == 451
    assert cleaned.is_set()


async def test_a_client_that_hangs_up_ends_what_it_waits_for():
    begun, ended = asyncio.Event(), asyncio.Event()

    async def message(_self):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(SessionDriver(plugin("waits", message=message)).deliver(RAW))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
