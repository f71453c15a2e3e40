"""The monitoring port: metrics that Prometheus can read, health checks, and requests that are none."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.server.harness import MESSAGE, serving
from tests.servers.process import PATIENCE, wait_for

from relayproxy.core.metrics import Metrics
from relayproxy.server.monitor import monitor, render
from relayproxy.shared import GenerationMemory
from relayproxy.testing.upstream import UpstreamSink


class Page(NamedTuple):
    """A response: status, headers in lower case, body."""

    status: int
    headers: dict[str, str]
    body: str


async def let_go(writer: asyncio.StreamWriter) -> None:
    """Close, whatever the other side did."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


class Port:
    """A monitoring port; what /livez and /readyz say is set by the test."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.live = (True, "alive")
        self.ready = (True, "ready")
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = 0

    async def livez(self) -> tuple[bool, str]:
        self.asked += 1
        await self.gate.wait()
        return self.live

    async def readyz(self) -> tuple[bool, str]:
        return self.ready

    async def raw(self, *pieces: bytes) -> bytes:
        """Send octets, and return all that comes until the port closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            async with asyncio.timeout(PATIENCE):
                return await reader.read()
        finally:
            await let_go(writer)

    async def get(self, path: str, method: str = "GET") -> Page:
        data = await self.raw(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head, _, body = data.decode().partition("\r\n\r\n")
        first, *lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return Page(int(first.split()[1]), headers, body)


@asynccontextmanager
async def monitoring(metrics: Metrics | None = None) -> AsyncIterator[Port]:
    loop = asyncio.get_running_loop()
    probes: dict[str, Callable] = {}
    numbers = metrics or Metrics()
    server = await loop.create_server(lambda: monitor(numbers, probes), "127.0.0.1", 0)
    port = Port(server.sockets[0].getsockname()[1])
    probes.update(livez=port.livez, readyz=port.readyz)
    try:
        yield port
    finally:
        server.close()
        await server.wait_closed()


async def test_metrics_of_a_relay_can_be_read(sink: UpstreamSink):
    async with serving(sink) as served, await served.client() as client:
        await client.message(MESSAGE)
        async with monitoring(served.services.metrics) as port:
            page = await port.get("/metrics?format=anything")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert page.headers["connection"] == "close"
    assert int(page.headers["content-length"]) == len(page.body)
    families = {family.name: family for family in text_string_to_metric_families(page.body)}
    assert all(name.startswith("relayproxy_") for name in families)
    assert all(family.documentation for family in families.values())
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families.values()
        for sample in family.samples
    }
    outcome = (("listener", "main"), ("outcome", "relayed"))
    assert samples["relayproxy_messages_total", outcome] == 1
    assert samples["relayproxy_bytes_total", (("listener", "main"),)] == len(MESSAGE)
    rcpt = (("class", "2xx"), ("listener", "main"), ("verb", "RCPT"))
    assert samples["relayproxy_commands_total", rcpt] == 1
    upstream = (("upstream", "sink"),)
    assert samples["relayproxy_delivery_duration_seconds_count", upstream] == 1
    assert samples["relayproxy_delivery_duration_seconds_bucket", (("le", "+Inf"), *upstream)] == 1
    assert samples["relayproxy_delivery_duration_seconds_sum", upstream] > 0


def test_numbers_are_summed_over_workers():
    memory = GenerationMemory(2)
    workers = [Metrics(memory.arrays, slot) for slot in range(2)]
    for slot, metrics in enumerate(workers):
        metrics.cell("messages_total", 'li"st\\en\ner', "relayed").inc(slot + 1)
        metrics.cell("config_last_reload_success_timestamp_seconds").set(100.0 + slot)
        timer = metrics.timer("delivery_duration_seconds", "up")
        timer.observe(0.0005 if slot else 100.0)
    texts = {render(metrics) for metrics in workers}
    assert len(texts) == 1, "any worker answers for all"
    families = {f.name: f for f in text_string_to_metric_families(texts.pop().decode())}
    (sample,) = families["relayproxy_messages"].samples
    assert (sample.value, sample.labels["listener"]) == (3.0, 'li"st\\en\ner')
    (sample,) = families["relayproxy_config_last_reload_success_timestamp_seconds"].samples
    assert sample.value == 101.0
    counts = [
        sample.value
        for sample in families["relayproxy_delivery_duration_seconds"].samples
        if sample.name.endswith("_bucket")
    ]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (1.0, 2.0)


async def test_health():
    async with monitoring() as port:
        assert (await port.get("/livez"))[::2] == (200, "alive\n")
        assert (await port.get("/readyz"))[::2] == (200, "ready\n")
        port.live, port.ready = (False, "EHLO: timeout"), (False, "draining")
        assert (await port.get("/livez"))[::2] == (503, "EHLO: timeout\n")
        assert (await port.get("/readyz"))[::2] == (503, "draining\n")


async def test_other_pages_and_methods():
    async with monitoring() as port:
        assert (await port.get("/")).status == 404
        assert (await port.get("/livez/x")).status == 404
        assert (await port.get("/metrics", "POST")).status == 405
        assert (await port.get("/metrics", "DELETE")).status == 405


async def test_head_has_no_body():
    async with monitoring() as port:
        page = await port.get("/livez", "HEAD")
        assert (page.status, page.body) == (405, "")


@pytest.mark.parametrize(
    "request_",
    [
        b"EHLO c.example\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET /metrics\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000,
    ],
)
async def test_bad_requests(request_: bytes):
    async with monitoring() as port:
        answer = await port.raw(request_)
        assert answer.split(b"\r\n")[0].split()[1].startswith(b"4")
        assert (await port.get("/readyz")).status == 200


async def test_a_request_in_small_pieces():
    async with monitoring() as port:
        request = b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"
        assert b" 200 " in await port.raw(*(bytes((octet,)) for octet in request))


async def test_http_1_0():
    async with monitoring() as port:
        assert b" 200 " in await port.raw(b"GET /readyz HTTP/1.0\r\n\r\n")


async def test_one_answer_per_connection():
    async with monitoring() as port:
        answer = await port.raw(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n" * 5)
        assert answer.count(b"HTTP/1.1 ") == 1


async def test_more_words_while_the_answer_is_made_change_nothing():
    async with monitoring() as port:
        port.gate.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        await wait_for(lambda: port.asked, "the probe to begin")
        writer.write(b"\0garbage\r\n\r\n")
        await writer.drain()
        assert (await port.get("/readyz")).status == 200
        port.gate.set()
        assert (await reader.read()).count(b"HTTP/1.1 200") == 1
        await let_go(writer)


async def test_a_client_that_goes_while_the_answer_is_made():
    async with monitoring() as port:
        port.gate.clear()
        _, writer = await asyncio.open_connection("127.0.0.1", port.port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        await wait_for(lambda: port.asked, "the probe to begin")
        writer.transport.abort()
        await let_go(writer)
        assert (await port.get("/readyz")).status == 200
        port.gate.set()
        assert (await port.get("/livez")).status == 200
