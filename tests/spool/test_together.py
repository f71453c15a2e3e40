"""Groups of calls: nobody is left waiting, and one that is at fault fails alone."""

import asyncio

import pytest

from relayproxy.spool.protocol import SpoolError
from relayproxy.spool.together import Together


class HopelessError(SpoolError):
    """Doing it again one by one would be of no use."""


def doubling(groups, bad=None, error=SpoolError):
    async def work(arguments):
        groups.append(list(arguments))
        await asyncio.sleep(0)
        if bad in arguments:
            raise error("no")
        return [2 * one for one in arguments]

    return work


@pytest.mark.parametrize("flights", [1, 2])
async def test_who_asks_the_moment_a_group_has_ended_is_served(flights):
    """The next question comes before the loop has run the callbacks of the task that has ended."""
    together = Together(doubling([]), flights=flights, hopeless=HopelessError)

    async def asks(first):
        return [await together.do(first + n) for n in range(50)]

    async with asyncio.timeout(10):
        results = await asyncio.gather(*(asks(100 * n) for n in range(flights)))
    assert results == [[2 * (100 * n + one) for one in range(50)] for n in range(flights)]
    await together.finish()


async def test_what_comes_while_a_group_is_under_way_is_the_next_group():
    groups = []
    together = Together(doubling(groups), flights=1, most=3, hopeless=HopelessError)
    assert await asyncio.gather(*(together.do(n) for n in range(6))) == [0, 2, 4, 6, 8, 10]
    assert groups == [[0, 1, 2], [3, 4, 5]]


async def test_a_group_is_no_heavier_than_said_but_one_may_be():
    groups = []
    together = Together(
        doubling(groups), flights=1, heaviest=10, weigh=lambda one: one, hopeless=HopelessError
    )
    await asyncio.gather(*(together.do(n) for n in (4, 5, 6, 90, 1)))
    assert groups == [[4, 5], [6], [90], [1]]


async def test_one_that_fails_does_so_alone():
    groups = []
    together = Together(doubling(groups, bad=2), hopeless=HopelessError)
    results = await asyncio.gather(*(together.do(n) for n in range(4)), return_exceptions=True)
    assert [str(one) if isinstance(one, SpoolError) else one for one in results] == [0, 2, "no", 6]
    assert groups == [[0, 1, 2, 3], [0], [1], [2], [3]]


async def test_after_a_hopeless_error_nothing_is_tried_again():
    groups = []
    together = Together(doubling(groups, bad=2, error=HopelessError), hopeless=HopelessError)
    results = await asyncio.gather(*(together.do(n) for n in range(4)), return_exceptions=True)
    assert [type(one) for one in results] == [HopelessError] * 4
    assert groups == [[0, 1, 2, 3]]
    assert await together.do(5) == 10


async def test_finishing_waits_for_what_was_asked_for():
    together = Together(doubling([]), hopeless=HopelessError)
    asked = asyncio.ensure_future(together.do(4))
    await asyncio.sleep(0)
    await together.finish()
    await asyncio.sleep(0)
    assert asked.result() == 8
