"""Waiting behind the fence: a hook that has begun on the spot goes on as if it had been awaited all along."""

import asyncio

import pytest
from tests.core.making import RAW, plugin

from relayproxy.api import reject
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


@pytest.mark.parametrize("swallows", [True, False])
async def test_one_that_does_not_end_is_a_451(swallows):
    async def message(_self):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not swallows:
                raise

    assert (await reply(message, timeout=0.01)).code == 451


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
