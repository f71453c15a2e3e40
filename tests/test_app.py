"""One worker in the test's own process: start, health, numbers, retiring, the end."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families
from tests.servers.client import Client
from tests.servers.process import wait_for
from tests.servers.tls import Certificates

from relayproxy import __version__, app
from relayproxy.api import App, Plugin, Settings, hook
from relayproxy.app import Place, Worker
from relayproxy.build import listener_tls, where_of
from relayproxy.config.models import Config, PipelineEntry
from relayproxy.core.metrics import Metrics
from relayproxy.server.sockets import Where, open_sockets
from relayproxy.shared import GenerationMemory, LedgerMemory
from relayproxy.testing.upstream import Capabilities, Fault, Stall, Step, UpstreamSink

MESSAGE = b"Message-ID: <1@example.org>\r\nSubject: one\r\n\r\nbody\r\n"


def a_config(upstream: str = "127.0.0.1:9", **changes: Any) -> Config:
    return Config.model_validate(
        {
            "version": 1,
            "hostname": "relay.test",
            "listeners": [{"name": "main", "listen": "127.0.0.1:0"}],
            "relay": {"networks": ["127.0.0.0/8"]},
            "upstreams": {"sink": {"address": upstream}},
            "log": {"format": "json"},
            **changes,
        }
    )


class Running:
    """A worker that has started."""

    def __init__(self, worker: Worker, place: Place) -> None:
        self.worker = worker
        self.place = place
        self.port = place.sockets[0].getsockname()[1]
        self.end: asyncio.Task[None] | None = None

    async def client(self, **arguments: Any) -> Client:
        return await Client.open(self.port, **arguments)

    async def page(self, path: str) -> tuple[int, str]:
        """Status and body of a page of the monitoring port."""
        assert self.place.monitor is not None
        reader, writer = await asyncio.open_connection(*self.place.monitor.getsockname())
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return int(head.split()[1]), body


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A worker takes the root logger over."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


def a_place(config: Config, memory: GenerationMemory | None = None) -> Place:
    return Place(
        slot=0,
        generation=0,
        memory=memory or GenerationMemory(1),
        ledger=LedgerMemory(1),
        sockets=[open_sockets(where_of(listener), 1)[0] for listener in config.listeners],
        contexts=[listener_tls(listener) for listener in config.listeners],
        monitor=open_sockets(Where("127.0.0.1", 0), 1)[0],
    )


@asynccontextmanager
async def working(
    config: Config, *plugins: type[Plugin[Any]], memory: GenerationMemory | None = None
) -> AsyncIterator[Running]:
    """Run a worker; in the end it is stopped, twice if need be, and everything it opened is closed."""
    place = a_place(config, memory)
    choices = [(PipelineEntry(name=plugin.name), plugin, plugin.settings()) for plugin in plugins]
    worker = Worker(config, choices, Path("/etc/relayproxy"), place)
    running = Running(worker, place)
    try:
        await worker.start()
        running.end = asyncio.create_task(worker.run())
        yield running
    finally:
        worker.stop()
        worker.stop()
        if running.end is not None:
            await running.end
        for listener in worker._listeners:
            for connection in listener.connections():
                connection.transport.abort()
        await wait_for(lambda: not worker._conversations(), "the end of all connections")
        for sock in (*place.sockets, place.monitor):
            assert sock is not None
            sock.close()
        await asyncio.sleep(0)


async def test_mail_health_and_numbers():
    async with UpstreamSink() as sink, working(a_config(sink.address)) as running:
        async with await running.client() as client:
            assert client.banner.text.startswith("relay.test ESMTP")
            assert (await client.message(MESSAGE)).code == 250
            assert await running.page("/livez") == (200, "alive\n")
            assert await running.page("/readyz") == (200, "ready\n")
            _, text = await running.page("/metrics")
        samples = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert samples["relayproxy_messages_total", "main", "relayed"] == 1
        assert samples["relayproxy_build_info", __version__] == 1
        assert samples["relayproxy_config_last_reload_successful",] == 1
        assert abs(samples["relayproxy_config_last_reload_success_timestamp_seconds",] - time.time()) < 60
        assert samples["relayproxy_connections", "main"] >= 1
        assert sink.messages[0].content.endswith(MESSAGE)
        await sink.until(lambda: sink.sessions >= 1)


async def test_several_listeners_each_with_its_protocol_and_tls(certificates: Certificates):
    tls = {"cert": str(certificates.server), "key": str(certificates.server_key)}
    listeners = [
        {"name": "lmtp", "listen": "127.0.0.1:0", "protocol": "lmtp"},
        {"name": "tls", "listen": "127.0.0.1:0", "tls": tls | {"mode": "implicit"}},
        {"name": "starttls", "listen": "127.0.0.1:0", "tls": tls},
    ]
    async with UpstreamSink() as sink, working(a_config(sink.address, listeners=listeners)) as running:
        ports = [sock.getsockname()[1] for sock in running.place.sockets]
        async with await Client.open(ports[0], helo="") as client:
            assert (await client.ehlo(verb="LHLO")).code == 250
        context = certificates.client_context()
        async with await Client.open(ports[1], tls=context, host="localhost") as client:
            assert (await client.message(MESSAGE)).code == 250
        async with await Client.open(ports[2]) as client:
            await client.start_tls(context)
        assert await running.page("/livez") == (200, "alive\n")
        ends = [
            sample.value
            for family in text_string_to_metric_families((await running.page("/metrics"))[1])
            if family.name == "relayproxy_tls_certificate_expiry_timestamp_seconds"
            for sample in family.samples
        ]
        end = x509.load_pem_x509_certificate(certificates.server.read_bytes()).not_valid_after_utc
        assert ends == [end.timestamp()] * 2


class TestHealth:
    async def test_it_follows_the_workers_life(self):
        async with UpstreamSink() as sink:
            config = a_config(sink.address)
            fresh = Worker(config, [], Path(), a_place(config))
            assert await fresh._readyz() == (False, "starting")
            for sock in (*fresh._place.sockets, fresh._place.monitor):
                assert sock is not None
                sock.close()
            async with working(config) as running:
                assert await running.worker._readyz() == (True, "ready")
                async with await running.client():
                    running.worker.retire()
                    assert await running.worker._readyz() == (False, "draining")

    async def test_an_upstream_that_is_down_makes_nobody_unready(self):
        async with working(a_config()) as running:
            assert await running.page("/readyz") == (200, "ready\n")
            assert await running.page("/livez") == (200, "alive\n")
            async with await running.client() as client:
                assert [reply.code for reply in await client.envelope()] == [250, 451]

    async def test_little_room_is_no_readiness(self):
        config = a_config(limits={"bytes_in_flight": 1000})
        async with working(config) as running:
            assert running.worker._services is not None
            running.worker._services.budget.take(901)
            assert await running.page("/readyz") == (503, "little room left for messages\n")
            running.worker._services.budget.give(901)

    async def test_livez_where_only_a_balancer_may_connect(self):
        balanced = [{"name": "main", "listen": "127.0.0.1:0", "proxy_protocol": {"networks": ["10.0.0.0/8"]}}]
        async with working(a_config(listeners=balanced)) as running:
            status, text = await running.page("/livez")
            assert (status, text.partition(":")[0]) == (200, "alive, and turned us away")


class TestUpstreams:
    async def test_what_they_can_take_is_known_before_the_first_ehlo(self):
        async with (
            UpstreamSink(Capabilities(smtputf8=False, size=1234)) as sink,
            working(a_config(sink.address)) as running,
            await running.client() as client,
        ):
            assert "SMTPUTF8" not in client.extensions
            assert client.extensions["SIZE"] == "1234"

    async def test_one_that_is_silent_holds_nobody_up(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(app, "_PROBE_PATIENCE", 0.05)
        async with UpstreamSink() as sink:
            sink.plan.add(Fault(Step.BANNER, Stall()))
            async with working(a_config(sink.address)) as running, await running.client() as client:
                assert client.banner.code == 220
                sink.release()

    async def test_one_that_was_down_is_asked_again(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(app, "_PROBE_EVERY", 0.02)
        async with UpstreamSink(Capabilities(dsn=True)) as sink:
            await sink.close()
            async with working(a_config(sink.address)) as running:
                upstream = running.worker._upstreams["sink"]
                assert upstream.capabilities is None
                await sink.start()
                await wait_for(lambda: upstream.capabilities is not None, "the upstream to be asked")
                async with await running.client() as client:
                    assert "DSN" in client.extensions


class TestEnding:
    async def test_idle_clients_are_told_and_the_worker_ends(self):
        async with (
            UpstreamSink() as sink,
            working(a_config(sink.address)) as running,
            await running.client() as client,
        ):
            running.worker.stop()
            assert (await client.read()).code == 421
            assert running.end is not None
            await running.end
            with pytest.raises(ConnectionRefusedError):
                await running.client()
            assert sink.open_sessions <= 1

    async def test_a_transaction_finishes_first(self):
        async with UpstreamSink() as sink, working(a_config(sink.address)) as running:
            sink.plan.add(Fault(Step.DOT, Stall()))
            async with await running.client() as client:
                sending = asyncio.create_task(client.message(MESSAGE))
                await sink.until_reached(Step.DOT)
                running.worker.stop()
                assert running.end is not None
                assert not running.end.done()
                sink.release()
                assert (await sending).code == 250
                await running.end

    async def test_but_not_for_ever(self, capfd: pytest.CaptureFixture[str]):
        config = a_config(shutdown_timeout="50ms")
        async with working(config) as running, await running.client() as client:
            await client.say("MAIL FROM:<a@example.org>")
            running.worker.stop()
            assert running.end is not None
            await running.end
        assert "drain_timeout" in capfd.readouterr().err

    async def test_a_second_stop_ends_at_once(self):
        async with working(a_config()) as running, await running.client() as client:
            await client.say("MAIL FROM:<a@example.org>")
            running.worker.stop()
            running.worker.stop()
            assert running.end is not None
            await running.end

    async def test_retiring_lets_clients_go_on(self):
        async with UpstreamSink() as sink, working(a_config(sink.address)) as running:
            async with await running.client() as client:
                running.worker.retire()
                running.worker.retire()
                with pytest.raises(ConnectionRefusedError):
                    await running.client()
                assert (await client.message(MESSAGE)).code == 250
                await client.say("QUIT")
            assert running.end is not None
            await running.end

    async def test_for_a_while(self):
        config = a_config(reload_grace="50ms", shutdown_timeout="50ms")
        async with working(config) as running, await running.client() as client:
            await client.say("MAIL FROM:<a@example.org>")
            running.worker.retire()
            assert running.end is not None
            await running.end

    async def test_retiring_without_clients_is_the_end(self):
        async with working(a_config()) as running:
            running.worker.retire()
            assert running.end is not None
            await running.end

    async def test_retiring_after_stop_changes_nothing(self):
        async with working(a_config()) as running, await running.client() as client:
            await client.say("MAIL FROM:<a@example.org>")
            running.worker.stop()
            running.worker.retire()
            assert running.worker._services is not None
            assert not running.worker._services.retiring
            assert (await client.say("RSET")).code == 250
            assert (await client.read()).code == 421


class Lively(Plugin[Settings]):
    """Notes when it is started and ended."""

    name = "lively"
    seen: list[Any] = []  # noqa: RUF012  (one list for the test to look at)

    @hook
    async def startup(self, app):
        self.seen.append(app)

    @hook
    def shutdown(self):
        self.seen.append("end")


class Bursting(Plugin[Settings]):
    """Can't be ended without a fault."""

    name = "bursting"

    @hook
    async def shutdown(self):
        raise RuntimeError("no end")


class Unwilling(Plugin[Settings]):
    """Can't be started."""

    name = "unwilling"

    @hook
    def startup(self):
        raise RuntimeError("no model file")


class TestPlugins:
    async def test_they_are_started_and_ended_and_a_fault_at_the_end_stops_nobody(
        self, capfd: pytest.CaptureFixture[str]
    ):
        Lively.seen.clear()
        async with working(a_config(relay={"domains": ["example.net"]}), Bursting, Lively):
            (given,) = Lively.seen
            assert isinstance(given, App)
            assert given.hostname == "relay.test"
            assert given.folder == Path("/etc/relayproxy")
            assert given.local_domains == {"example.net"}
        assert Lively.seen[1:] == ["end"]
        faults = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "plugin_fault" in line]
        assert [(fault["plugin"], fault["hook"], fault["error"]) for fault in faults] == [
            ("bursting", "shutdown", "no end")
        ]

    async def test_one_that_cannot_start_keeps_the_worker_from_starting(self):
        with pytest.raises(RuntimeError, match="no model file"):
            async with working(a_config(), Unwilling):
                pass

    async def test_what_they_and_libraries_log_is_our_log(self, capfd: pytest.CaptureFixture[str]):
        async with working(a_config()):
            logging.getLogger("relayproxy.plugin.x").info("a plugin's words")
            logging.getLogger("some.library").info("not wanted")
            logging.getLogger("some.library").warning("wanted")
        events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
        said = [event["message"] for event in events if event["event"] == "log"]
        assert said == ["a plugin's words", "wanted"]


async def test_the_gauges_of_a_predecessor_are_forgotten_and_its_counters_kept():
    memory = GenerationMemory(1)
    async with working(a_config(), memory=memory) as running, await running.client():
        metrics = running.worker._services.metrics if running.worker._services else Metrics()
        assert metrics.cell("connections", "main").value == 1
        metrics.cell("connections", "main").inc(5)
    async with working(a_config(), memory=memory) as running:
        metrics = running.worker._services.metrics if running.worker._services else Metrics()
        assert metrics.cell("connections", "main").value == 0
        assert metrics.cell("connections_total", "main", "accepted").value == 1


async def test_the_loop_shows_that_it_turns(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(app, "_BEAT", 0.01)
    async with working(a_config()) as running:
        beats = running.place.memory.beats
        await wait_for(lambda: beats[0], "a heartbeat")
        first = beats[0]
        await wait_for(lambda: beats[0] > first, "another")
        assert beats[0] <= time.monotonic()
