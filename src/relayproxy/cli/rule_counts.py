"""How often each rule has matched in the proxy that runs: asked of its control socket and its metrics.

Says nothing where nothing runs or measures. Must not know what a rule is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from relayproxy.cli.control import exchanged, socket_of

_FAMILY = "relayproxy_plugin_events"
_PATIENCE = 2.0  # seconds; a list of rules doesn't wait for a proxy that is busy with something else


@dataclass(frozen=True, slots=True)
class Counts:
    """`by_rule` has, by the rule's id, the numbers of matches that were `enforced` and `observed`, and of each `error`.

    They are those of the last `seconds`: since the configuration was loaded.
    """

    seconds: float
    by_rule: Mapping[str, Mapping[str, int]]

    @property
    def since(self) -> str:
        """The time that they are about, in words."""
        for size, word in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
            if self.seconds >= 2 * size:
                return f"{self.seconds / size:.0f} {word}"
        return f"{self.seconds:.0f} seconds"


def counts_of(socket_path: Path | None, config: Path | None) -> Counts | None:
    """Return the numbers of the proxy that runs with this configuration, or None where they can't be had."""
    place = socket_of(socket_path, config)
    if place is None:
        return None
    try:
        status = exchanged(place, "status", _PATIENCE)
        text = _metrics(str(status["metrics"]))
        newest = [one for one in status["workers"] if one["generation"] == status["generation"]]
        seconds = max((float(one["seconds"]) for one in newest), default=0.0)
        return Counts(seconds, _by_rule(text))
    except (OSError, ValueError, KeyError, TypeError, httpx.HTTPError):
        return None


def _metrics(where: str) -> str:
    """Return what the metrics port answers. Raises HTTPError, and ValueError where there is none."""
    if where in ("off", "closed"):
        raise ValueError("there are no metrics")
    path = where.removeprefix("unix:")
    transport = httpx.HTTPTransport(uds=path) if path != where else httpx.HTTPTransport()
    with httpx.Client(transport=transport, timeout=_PATIENCE) as client:
        host = "localhost" if path != where else where
        return client.get(f"http://{host}/metrics").raise_for_status().text


def _by_rule(text: str) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for family in text_string_to_metric_families(text):
        if family.name != _FAMILY:
            continue
        for sample in family.samples:
            labels: Mapping[str, Any] = sample.labels
            if labels.get("plugin") == "rules" and sample.name == f"{_FAMILY}_total":
                found.setdefault(labels["name"], {})[labels["outcome"]] = int(sample.value)
    return found
