"""The monitoring port: /metrics for Prometheus, /livez and /readyz for supervisors. h11 parses; three pages, GET only.

Whichever worker accepts answers for all, since the numbers lie in shared memory.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import h11
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from relayproxy.core.metrics import Family, Metrics, Sample

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_PATIENCE = 10.0

Probe = Callable[[], Awaitable[tuple[bool, str]]]


class _Collector:
    """Hands our numbers to prometheus_client, which knows the format."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        families: dict[str, tuple[Family, list[Sample]]] = {}
        for sample in self._metrics.samples():
            families.setdefault(sample.family.name, (sample.family, []))[1].append(sample)
        for family, samples in families.values():
            yield _metric(family, samples)


def _metric(family: Family, samples: Iterable[Sample]) -> Metric:
    name = f"relayproxy_{family.name}"
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, family.help, labels=family.labels)
        for sample in samples:
            buckets = [
                ("+Inf" if bound == float("inf") else repr(bound), count) for bound, count in sample.buckets
            ]
            histogram.add_metric(sample.labels, buckets, sample.value)
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(name, family.help, labels=family.labels)
    for sample in samples:
        metric.add_metric(sample.labels, sample.value)
    return metric


def render(metrics: Metrics) -> bytes:
    """Return all metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(metrics))
    return generate_latest(registry)


class Monitor(asyncio.Protocol):
    """One connection to the monitoring port; closes after one answer."""

    def __init__(self, metrics: Metrics, probes: Mapping[str, Probe]) -> None:
        self._metrics = metrics
        self._probes = probes
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=16_384)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._head = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a request, but not for ever."""
        self._transport = cast("asyncio.Transport", transport)
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (the name of the base class)
        """Stop waiting."""
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Read a request and answer it."""
        try:
            self._http.receive_data(data)
            event: Any = self._http.next_event()
        except h11.RemoteProtocolError:
            self._answer(400, b"bad request\n")
            return
        if isinstance(event, h11.Request) and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._serve(event))

    async def _serve(self, request: h11.Request) -> None:
        path = request.target.partition(b"?")[0].decode("ascii", "replace")
        self._head = request.method == b"HEAD"
        if request.method != b"GET":
            self._answer(405, b"GET only\n")
        elif path == "/metrics":
            self._answer(200, render(self._metrics), _TEXT)
        elif path.lstrip("/") in self._probes:
            well, text = await self._probes[path.lstrip("/")]()
            self._answer(200 if well else 503, text.encode() + b"\n")
        else:
            self._answer(404, b"/metrics /livez /readyz\n")

    def _answer(self, code: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        if self._transport is None or self._transport.is_closing():
            return
        headers = [
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        events = [h11.Response(status_code=code, headers=headers), h11.Data(data=body), h11.EndOfMessage()]
        if self._head:
            # RFC 9110 section 9.3.2: the header fields alone.
            del events[1]
        for event in events:
            self._transport.write(self._http.send(event) or b"")
        self._transport.close()
