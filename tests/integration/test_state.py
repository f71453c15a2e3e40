"""The shared state under the running proxy: counts that hold for all workers, and mail that outlives every outage."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
from tests.servers.client import Client
from tests.servers.load import Load, assert_nothing_lost_or_doubled
from tests.servers.process import wait_for
from tests.servers.relay import Relay
from tests.servers.valkey import Valkey, a_valkey

from relayproxy.testing.upstream import UpstreamSink

RAW = b"Subject: x\r\n\r\nHello\r\n"


@pytest.fixture
async def valkey() -> AsyncIterator[Valkey]:
    server = await a_valkey()
    yield server
    await server.end()
    server.remove()


def limited(rate: str, burst: int = 1_000_000, **entry: object) -> list[dict[str, object]]:
    return [{"ratelimit": {"limits": [{"per": "client", "rate": rate, "burst": burst}], **entry}}]


def events(relay: Relay, name: str) -> list[dict[str, object]]:
    return [event for event in relay.events if event["event"] == name]


async def test_a_limit_holds_for_all_workers_together_and_across_a_reload(relay: Relay):
    async with UpstreamSink() as sink:
        state = {"url": f"sqlite://{relay.folder}/state.db"}
        relay.configure(sink.address, workers=4, state=state, pipeline=limited("1/1d", burst=40))
        await relay.start()

        async def one() -> int:
            async with await Client.open(relay.port) as client:
                return (await client.message(RAW)).code

        codes = [await one() for _ in range(10)]
        codes += await asyncio.gather(*(one() for _ in range(50)))
        assert codes.count(250) == 40
        assert set(codes) == {250, 450}
        relay.reload()
        await relay.until_logged('"event":"reloaded"')
        assert await one() == 450
        assert events(relay, "state_unavailable") == []
        assert len(sink.messages) == 40


async def test_four_workers_under_load_without_a_lock_error(relay: Relay):
    async with UpstreamSink() as sink:
        pipeline = [
            *limited("1000000/1s"),
            {"reputation": {}},
            {"greylist": {"delay": "1s", "score": 5.0}},
        ]
        state = {"url": f"sqlite://{relay.folder}/state.db"}
        relay.configure(sink.address, workers=4, state=state, pipeline=pipeline)
        await relay.start()
        load = Load(relay.port, total=400, sessions=16)
        await load.run()
        assert load.temporary == []
        assert_nothing_lost_or_doubled(load, sink)
        assert events(relay, "state_unavailable") == events(relay, "plugin_fault") == []


@pytest.mark.parametrize("on_error", ["defer", "skip"])
async def test_a_server_that_is_killed_under_load_costs_no_mail(relay: Relay, valkey: Valkey, on_error: str):
    async with UpstreamSink() as sink:
        relay.configure(
            sink.address, state={"url": valkey.url}, pipeline=limited("1000000/1s", on_error=on_error)
        )
        await relay.start()
        load = Load(relay.port, total=None)
        running = asyncio.create_task(load.run())
        await sink.until_messages(50)
        await valkey.end()
        await relay.until_logged("state_unavailable")
        if on_error == "defer":
            await wait_for(lambda: load.temporary, "a 451")
        else:
            await sink.until_messages(len(sink.messages) + 50)
        await valkey.start()
        await relay.until_logged("state_available")
        await sink.until_messages(len(sink.messages) + 50)
        load.stop()
        await running
        assert_nothing_lost_or_doubled(load, sink)
        codes = {answer.code for answer in load.temporary}
        assert codes == ({451} if on_error == "defer" else set())
        assert len(events(relay, "state_unavailable")) == len(events(relay, "state_available")) == 1
        assert events(relay, "plugin_fault") == [], "an outage is logged once, not for each message"


async def test_a_server_that_stalls_is_left_alone(relay: Relay, valkey: Valkey):
    async with UpstreamSink() as sink:
        state = {"url": valkey.url, "timeout": "200ms"}
        relay.configure(sink.address, state=state, pipeline=limited("1000000/1s"))
        await relay.start()
        async with await Client.open(relay.port) as client:
            assert (await client.message(RAW)).code == 250
            valkey.signal(signal.SIGSTOP)
            codes = [(await client.message(RAW)).code for _ in range(30)]
            valkey.signal(signal.SIGCONT)
            assert set(codes) == {451}
            assert len(events(relay, "state_unavailable")) == 1


async def test_a_file_that_can_not_be_written_is_a_451_and_a_line_in_the_log(relay: Relay):
    async with UpstreamSink() as sink:
        folder = relay.folder / "gone"
        folder.mkdir()
        relay.configure(
            sink.address, state={"url": f"sqlite://{folder}/state.db"}, pipeline=limited("100/1s")
        )
        await relay.start()
        folder.rmdir()
        async with await Client.open(relay.port) as client:
            assert (await client.message(RAW)).code == 451
        (event,) = events(relay, "state_unavailable")
        assert "No such file" in str(event["error"])
        assert sink.messages == []
