"""Write docs/metrics.md from relayproxy.core.metrics, so that the page can't name what isn't measured.

Must not hold a fact about any single metric.
"""
# ruff: noqa: INP001  (a folder of pages is no package)

from relayproxy.core.metrics import FAMILIES

_INTRO = """\
# Metrics

Prometheus metrics at `/metrics` of `metrics.listen` (127.0.0.1:9090 unless the configuration says otherwise, or `off`).
Whichever worker answers, the numbers are those of all workers. `docs/metrics_page.py` writes this page.

The same port has `/livez` (a real EHLO, MAIL and RCPT through the first listener) and `/readyz` (bound, not draining,
room for messages; an upstream that is down never makes a proxy unready): 200 when well, 503 when not. It has no
password and belongs on loopback or a network of your own.

No label ever holds an address, a domain, an IP or a subject: what strangers can choose must not make new series. Names of
rules come from the configuration, and the first 2000 have series of their own. Hooks that have nothing to do with a mail
and say so beforehand (those of `rules`) are not called, and so have no duration.
"""
_KINDS = {
    "counter": "## Counters\n\nThey only grow, and start at 0 with a new configuration.",
    "gauge": "## Gauges",
    "histogram": "## Histograms\n\nSeconds; each has `_bucket`, `_sum` and `_count`.",
}
_QUESTIONS = """\
## Questions and the query for them

| question | query |
|---|---|
| messages a second, by what became of them | `sum by (outcome) (rate(relayproxy_messages_total[5m]))` |
| how long the upstream takes, 95th percentile | `histogram_quantile(0.95, sum by (le, upstream) \
(rate(relayproxy_delivery_duration_seconds_bucket[5m])))` |
| the slowest plugin | `topk(3, sum by (plugin) (rate(relayproxy_hook_duration_seconds_sum[5m])))` |
| a plugin that fails | `sum by (plugin, kind) (rate(relayproxy_plugin_errors_total[5m])) > 0` |
| a scanner that is not asked, because it failed | `relayproxy_service_breaker_open > 0` |
| what observing plugins would have refused | `sum by (plugin) \
(increase(relayproxy_verdicts_total{mode="observe",verdict="reject"}[1d]))` |
| what a rule on trial would have done | `sum by (name) \
(increase(relayproxy_plugin_events_total{plugin="rules",outcome="observed"}[1d]))` |
| an upstream that can't be reached | `rate(relayproxy_upstream_connects_total{result="failed"}[5m]) > 0` |
| a certificate that ends within two weeks | \
`relayproxy_tls_certificate_expiry_timestamp_seconds - time() < 14 * 86400` |
"""


def render() -> str:
    """Return the page. Raises ValueError for a metric of an unknown kind."""
    if unknown := {family.kind for family in FAMILIES.values()} - set(_KINDS):
        raise ValueError(f"metrics of an unknown kind: {', '.join(unknown)}")
    return "\n".join([_INTRO, *(f"{head}\n\n{_table(kind)}" for kind, head in _KINDS.items()), _QUESTIONS])


def _table(kind: str) -> str:
    rows = ["| metric | labels | what |", "|---|---|---|"]
    for family in sorted(FAMILIES.values(), key=lambda family: family.name):
        if family.kind == kind:
            labels = ", ".join(f"`{label}`" for label in family.labels)
            rows.append(f"| `relayproxy_{family.name}` | {labels} | {family.help} |")
    return "\n".join(rows) + "\n"
