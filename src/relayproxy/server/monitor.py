"""The monitoring port: /metrics for Prometheus, /livez and /readyz for supervisors. Three pages, GET only.

Whichever worker accepts answers for all, since the numbers lie in shared memory.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from relayproxy.core.metrics import Family, Metrics, Sample
from relayproxy.server.http import Answer, HttpConnection, Request

_TEXT = "text/plain; version=0.0.4; charset=utf-8"

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


def monitor(metrics: Metrics, probes: Mapping[str, Probe]) -> HttpConnection:
    """Return one connection to the monitoring port."""

    async def answer(request: Request) -> Answer:
        path = request.target.partition("?")[0]
        if request.method != "GET":
            return Answer(405, b"GET only\n")
        if path == "/metrics":
            return Answer(200, render(metrics), _TEXT)
        if path.lstrip("/") in probes:
            well, text = await probes[path.lstrip("/")]()
            return Answer(200 if well else 503, text.encode() + b"\n")
        return Answer(404, b"/metrics /livez /readyz\n")

    return HttpConnection(answer)
