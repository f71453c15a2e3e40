"""Many clients that do nothing, or as little as they can, and many large messages at once: memory stays bounded."""

import asyncio

import pytest
from tests.nightly.night import NIGHT, anonymous, raise_descriptors
from tests.servers.client import Client
from tests.servers.relay import Relay

from relayproxy.testing.upstream import UpstreamSink

IDLE = 10_000 if NIGHT else 500
SLOW = 1_000 if NIGHT else 50
LARGE = 100 if NIGHT else 3
SIZE = 50_000_000
MESSAGE = b"Subject: small\r\n\r\nbody\r\n"
LIMITS = {
    "connections": 20_000,
    "connections_per_client": 20_000,
    "bytes_in_flight": "6 GB",
    "message_size": "60 MB",
    "command_timeout": "1h",
    "data_timeout": "1h",
}


async def _many(port: int, count: int) -> list[Client]:
    clients: list[Client] = []
    while len(clients) < count:  # no more at once than a backlog takes
        some = min(100, count - len(clients))
        clients += await asyncio.gather(*(Client.open(port) for _ in range(some)))
    return clients


def _processes(relay: Relay) -> set[int]:
    return {relay.pid, *relay.workers()}


async def _is_served(relay: Relay) -> None:
    async with await Client.open(relay.port) as client:
        assert (await client.message(MESSAGE)).code == 250


async def test_idle_clients_cost_little_and_hold_nobody_up(relay: Relay):
    if raise_descriptors(IDLE + 1_000) < IDLE + 200:
        pytest.skip("a process may not open so many files here")
    async with UpstreamSink() as sink:
        relay.configure(sink.address, limits=LIMITS)
        await relay.start()
        await _is_served(relay)
        before = anonymous(_processes(relay))
        clients = await _many(relay.port, IDLE)
        await _is_served(relay)
        # The goal is 30 KiB for each (2,000 in 60 MiB).
        assert anonymous(_processes(relay)) - before < IDLE * 40_000 + 5_000_000
        for client in clients:
            client.abort()


async def test_clients_that_send_an_octet_now_and_then_cost_little_and_hold_nobody_up(relay: Relay):
    """Within commands and within the content; they take the places of their own address and no more."""
    async with UpstreamSink() as sink:
        relay.configure(
            sink.address,
            limits={**LIMITS, "connections_per_client": SLOW},
            relay={"networks": ["127.0.0.0/8"]},
        )
        await relay.start()
        before = anonymous(_processes(relay))
        clients = [await Client.open(relay.port, source="127.0.0.2") for _ in range(SLOW)]
        for client in clients[::2]:
            await client.envelope()
            assert (await client.say("DATA")).code == 354
        async with await Client.open(relay.port, source="127.0.0.2", helo="") as refused:
            assert refused.banner.code == 421
        for _ in range(20):
            for client in clients:
                await client.send(b"x")
            await _is_served(relay)
        assert anonymous(_processes(relay)) - before < SLOW * 40_000 + 20_000_000
        for client in clients:
            client.abort()
        await _is_served(relay)
        assert {message.content.endswith(MESSAGE) for message in sink.messages} == {True}


async def test_large_messages_at_once_stay_out_of_memory(relay: Relay):
    content = b"Subject: large\r\n\r\n" + (b"x" * 76 + b"\r\n") * (SIZE // 78)
    async with UpstreamSink() as sink:
        relay.configure(sink.address, limits=LIMITS)
        await relay.start()
        clients = await _many(relay.port, LARGE)
        for client in clients:
            await client.envelope()
            await client.send(b"BDAT %d\r\n" % len(content) + content)
            assert (await client.read()).code == 250  # so it has been read to the end
        assert anonymous(_processes(relay)) < 150_000_000
        await _is_served(relay)
        # The sink keeps what it gets in this process, so they are let go ten at a time.
        for start in range(0, LARGE, 10):
            some = clients[start : start + 10]
            for client in some:
                await client.send(b"BDAT 0 LAST\r\n")
            answers = await asyncio.gather(*(client.read(300) for client in some))
            assert [answer.code for answer in answers] == [250] * len(some)
            assert anonymous(_processes(relay)) < 150_000_000
            assert [sunk.content.endswith(content) for sunk in sink.messages[-len(some) :]] == [True] * len(
                some
            )
            sink.arrived.clear()
        for client in clients:
            await client.close()
