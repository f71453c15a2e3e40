"""Workers killed, reloads and shutdowns while numbered messages pass: nothing lost, nothing doubled, no 5xx."""

import asyncio
import contextlib
import os
import re
import signal

import pytest
from tests.servers.client import Client, HangUpError
from tests.servers.load import Load, assert_nothing_lost_or_doubled
from tests.servers.process import PATIENCE, wait_for
from tests.servers.relay import Relay, as_yaml, configuration

from relayproxy.testing.upstream import Fault, Stall, Step, UpstreamSink


async def _banner(port: int) -> str:
    async with await Client.open(port, helo="") as client:
        return client.banner.text


async def _until_banner(port: int, hostname: str) -> None:
    """Wait until new connections are greeted under `hostname`, several times over (there may be workers)."""
    async with asyncio.timeout(PATIENCE):
        seen = 0
        while seen < 5:
            seen = seen + 1 if (await _banner(port)).startswith(hostname) else 0


async def _until_nobody_listens(port: int) -> None:
    """Wait until connections are refused. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                (await Client.open(port)).abort()
            except ConnectionRefusedError:
                return
            except HangUpError:
                continue


async def test_kill_9_of_a_worker_under_load(relay: Relay):
    async with UpstreamSink() as sink:
        relay.configure(sink.address, workers=2)
        await relay.start()
        before = set(relay.workers())
        assert len(before) == 2
        load = Load(relay.port, total=600)
        running = asyncio.create_task(load.run())
        await sink.until_messages(100)
        os.kill(min(before), signal.SIGKILL)
        await running
        assert len(load.told) == 600
        assert_nothing_lost_or_doubled(load, sink)
        await wait_for(lambda: len(relay.workers()) == 2, "a new worker")
        assert len(before & set(relay.workers())) == 1
        again = Load(relay.port, total=50)
        await again.run()
        assert len(again.told) == 50


async def test_the_other_worker_does_not_notice(relay: Relay):
    async with UpstreamSink() as sink:
        relay.configure(sink.address, workers=2)
        await relay.start()
        clients = [await Client.open(relay.port) for _ in range(12)]
        os.kill(min(relay.workers()), signal.SIGKILL)
        ends: list[int] = []
        for number, client in enumerate(clients):
            try:
                ends.append((await client.message(b"Subject: x\r\n\r\n%d\r\n" % number)).code)
            except HangUpError:
                ends.append(0)
            await client.close()
        assert set(ends) <= {0, 250}
        assert len(sink.messages) == ends.count(250)


async def test_a_reload_under_load(relay: Relay):
    async with UpstreamSink() as sink:
        relay.configure(sink.address, hostname="mx0.test", workers=2)
        await relay.start()
        load = Load(relay.port)
        running = asyncio.create_task(load.run())
        for number in range(1, 4):
            already = len(sink.messages)
            await sink.until_messages(already + 40)
            relay.configure(sink.address, hostname=f"mx{number}.test", workers=2)
            relay.reload()
            await _until_banner(relay.port, f"mx{number}.test")
        load.stop()
        await running
        assert_nothing_lost_or_doubled(load, sink)
        assert len(load.told) >= 120
        assert load.ambiguous == set()


async def test_a_reload_of_a_broken_file_keeps_the_old_configuration_and_says_so(relay: Relay):
    async with UpstreamSink() as sink:
        relay.configure(sink.address, hostname="old.test")
        await relay.start()
        good = configuration(relay.port, sink.address, relay.folder, hostname="new.test")
        for broken in (as_yaml(good | {"hostnam": "new.test"}), "version: 1\nhostname: [", ""):
            logged = len(relay.log)
            relay.write(broken)
            relay.reload()
            await wait_for(
                lambda start=logged: re.search(r"relayproxy\.yaml:\d+:\d+", relay.log[start:]),
                "a word about the broken file",
            )
            assert (await _banner(relay.port)).startswith("old.test")
        async with await Client.open(relay.port) as client:
            assert (await client.message(b"Subject: x\r\n\r\nx\r\n")).code == 250
        relay.write(as_yaml(good))
        relay.reload()
        await _until_banner(relay.port, "new.test")


async def test_a_session_goes_on_over_a_reload(relay: Relay):
    async with UpstreamSink() as sink:
        relay.configure(sink.address, hostname="old.test")
        await relay.start()
        async with await Client.open(relay.port) as client:
            await client.envelope()
            assert (await client.say("DATA")).code == 354
            await client.send(b"Subject: half\r\n")
            relay.configure(sink.address, hostname="new.test")
            relay.reload()
            await _until_banner(relay.port, "new.test")
            await client.send(b"\r\nwhole\r\n.\r\n")
            assert (await client.read()).code == 250
        assert sink.messages[0].content.endswith(b"Subject: half\r\n\r\nwhole\r\n")


async def test_sigterm_under_load_finishes_what_was_begun(relay: Relay):
    async with UpstreamSink() as sink:
        relay.configure(sink.address, workers=2, shutdown_timeout="10s")
        await relay.start()
        load = Load(relay.port)
        running = asyncio.create_task(load.run())
        await sink.until_messages(100)
        relay.signal(signal.SIGTERM)
        status = await relay.until_ended()
        load.stop()
        await running
        assert status == 0
        assert_nothing_lost_or_doubled(load, sink)
        assert load.ambiguous == set()


async def test_sigterm_waits_for_the_upstreams_last_word_and_bids_the_idle_goodbye(relay: Relay):
    async with UpstreamSink() as sink:
        relay.configure(sink.address, shutdown_timeout="20s")
        await relay.start()
        sink.plan.add(Fault(Step.DOT, Stall()))
        async with await Client.open(relay.port) as idle, await Client.open(relay.port) as busy:
            waiting = asyncio.create_task(busy.message(b"Subject: x\r\n\r\nlast\r\n"))
            await sink.until_reached(Step.DOT)
            relay.signal(signal.SIGTERM)
            assert (await idle.read()).code == 421
            await _until_nobody_listens(relay.port)
            sink.release()
            assert (await waiting).code == 250
        assert await relay.until_ended() == 0
        assert len(sink.messages) == 1


@pytest.mark.parametrize("event", ["shutdown", "reload"])
async def test_half_a_message_is_dropped_when_patience_ends(relay: Relay, event: str):
    """A client that is in the middle of its content when the time is up keeps its message, all of it."""
    async with UpstreamSink() as sink:
        patience = {"shutdown_timeout": "500ms", "reload_grace": "500ms"}
        relay.configure(sink.address, hostname="old.test", **patience)
        await relay.start()
        async with await Client.open(relay.port) as client:
            await client.envelope()
            await client.say("DATA")
            await client.send(b"Subject: half\r\n\r\nof a message\r\n")
            if event == "shutdown":
                relay.signal(signal.SIGTERM)
            else:
                relay.configure(sink.address, hostname="new.test", **patience)
                relay.reload()
            with contextlib.suppress(HangUpError):
                assert (await client.read()).kind == 4
        assert await relay.end() == 0
        assert sink.arrived == []


async def test_the_commands_find_the_socket_that_the_configuration_names(relay: Relay):
    async with UpstreamSink() as sink:
        relay.configure(sink.address)
        await relay.start()
        status, text = await relay.output("status")
        assert (status, f"pid {relay.pid}" in text) == (0, True), text
        relay.write(relay.config_file.read_text().replace('"upstreams"', '"upstream"'))
        status, text = await relay.output("reload", "-C", str(relay.config_file))
        assert status == 1
        assert text.endswith("still running with the old configuration\n")
        status, text = await relay.output("stop")
        assert (status, text) == (0, "stopping\n")
        assert await relay.until_ended() == 0
    assert (await relay.output("status"))[0] == 69
