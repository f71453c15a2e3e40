"""The upstream takes its time to answer the final dot, at a hundredth of the real waits: 0, 1, 59, 99, 299 and 601 s.

All waits run at the same time, each through an upstream and a listener of its own. Before the 600 s of RFC 5321 section
4.5.3.2.6 the answer is told, however late, and nothing is sent twice; after it the client keeps the message.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from tests.servers.client import Answer, Client, wire_form
from tests.servers.process import free_port
from tests.servers.relay import Relay

from relayproxy.config.upstreams import Timeouts
from relayproxy.testing.upstream import Fault, Stall, Step, UpstreamSink

SCALE = 100
WAITS = (0, 1, 59, 99, 299)
MESSAGE = b"Subject: slow\r\nMessage-ID: <slow@example.org>\r\n\r\nbody\r\n"


@dataclass(frozen=True, slots=True)
class Way:
    """A listener's port and the upstream behind it."""

    port: int
    sink: UpstreamSink


@pytest.fixture
async def ways(relay: Relay) -> AsyncIterator[list[Way]]:
    async with AsyncExitStack() as stack:
        ways = [Way(free_port(), await stack.enter_async_context(UpstreamSink())) for _ in (*WAITS, 601)]
        for way in ways:
            way.sink.plan.add(Fault(Step.DOT, Stall()))
        final = f"{Timeouts().final / SCALE * 1000:.0f}ms"
        relay.port = ways[0].port
        relay.configure(
            "unused",
            listeners=[{"name": f"l{way.port}", "listen": f"127.0.0.1:{way.port}"} for way in ways],
            upstreams={
                f"u{way.port}": {"address": way.sink.address, "timeouts": {"final": final}} for way in ways
            },
            routes=[{"upstream": f"u{way.port}", "listeners": [f"l{way.port}"]} for way in ways],
        )
        await relay.start(*(way.port for way in ways))
        yield ways


async def _after(way: Way, seconds: float) -> None:
    """The upstream's own work, at whose end it answers."""
    await way.sink.until_reached(Step.DOT)
    await asyncio.sleep(seconds / SCALE)
    way.sink.release()


async def _send(way: Way) -> Answer:
    async with await Client.open(way.port) as client:
        return await client.message(MESSAGE)


def test_the_real_wait_is_that_of_the_standard():
    assert Timeouts().final == 600.0


async def test_the_client_hears_the_answer_however_late_it_comes(ways: list[Way]):
    *in_time, too_late = ways
    heard, late, _ = await asyncio.gather(
        asyncio.gather(*(_send(way) for way in in_time)),
        _send(too_late),
        asyncio.gather(*(_after(way, wait) for way, wait in zip(in_time, WAITS, strict=True))),
    )
    assert [answer.code for answer in heard] == [250] * len(WAITS)
    assert [len(way.sink.messages) for way in in_time] == [1] * len(WAITS)
    assert late.kind == 4
    # It was never sent again by us, on this connection or another.
    assert too_late.sink.sessions == 1


async def test_the_client_has_gone_meanwhile_and_comes_back(ways: list[Way]):
    """Whoever left before the answer and sends the same again hears the answer that was missed."""
    in_time = ways[:-1]
    for way in in_time:
        client = await Client.open(way.port)
        await client.envelope()
        await client.say("DATA")
        await client.send(wire_form(MESSAGE))
        await way.sink.until_reached(Step.DOT)
        client.abort()
    await asyncio.gather(*(_after(way, wait) for way, wait in zip(in_time, WAITS, strict=True)))
    for way in in_time:
        await way.sink.until_messages(1)
        while (heard := await _send(way)).kind == 4:
            continue  # the first hand-over is still being written down
        assert heard.code == 250
        assert len(way.sink.messages) == 1
