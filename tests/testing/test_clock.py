import asyncio

import pytest

from relayproxy.testing import FakeClock


def test_time_stands_still_until_it_is_moved():
    clock = FakeClock(now=1000.0)
    assert (clock.time(), clock.monotonic()) == (1000.0, 0.0)
    clock.advance(2.5)
    assert (clock.time(), clock.monotonic()) == (1002.5, 2.5)


def test_time_does_not_go_back():
    with pytest.raises(ValueError, match="does not go back"):
        FakeClock().advance(-1)


async def test_sleepers_wake_in_order_of_their_time():
    clock = FakeClock()
    woken = []

    async def sleeper(seconds):
        await clock.sleep(seconds)
        woken.append(seconds)

    tasks = [asyncio.ensure_future(sleeper(seconds)) for seconds in (3, 1, 0)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert woken == [0]
    clock.advance(3)
    await asyncio.gather(*tasks)
    assert woken == [0, 1, 3]


async def test_run_says_how_long_work_would_take():
    clock = FakeClock()

    async def chain():
        await clock.sleep(1)
        await asyncio.gather(clock.sleep(2), clock.sleep(5))
        return "done"

    assert await clock.run(chain()) == "done"
    assert clock.monotonic() == 6


async def test_run_reports_work_that_waits_for_something_else():
    future = asyncio.get_running_loop().create_future()

    async def stuck():
        await future

    with pytest.raises(RuntimeError, match="other than this clock"):
        await FakeClock().run(stuck())


async def test_a_cancelled_sleeper_is_forgotten():
    clock = FakeClock()
    task = asyncio.ensure_future(clock.sleep(1))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    clock.advance(2)
    assert task.cancelled()
