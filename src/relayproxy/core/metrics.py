"""Counters, gauges and histograms in one flat array of doubles per worker.

The arrays lie in memory that all workers share, so any worker can answer a scrape with the sum, and a counter
costs an addition. Every child is made before the first message, in the same order by every worker: an index means
the same thing in all arrays. Never a label whose values come from the wire (addresses, domains, IPs). The text
format is prometheus_client's, reached from the server floor.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

Array: TypeAlias = "memoryview[float]"

SLAB: Final = 16_384
"""Doubles per worker."""

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: `kind` is counter, gauge or histogram."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


FAMILIES: Final = {
    family.name: family
    for family in (
        Family("connections", "gauge", "Connections open now", ("listener",)),
        Family("connections_total", "counter", "Connections by what became of them", ("listener", "result")),
        Family(
            "commands_total",
            "counter",
            "Commands by verb and class of the reply",
            ("listener", "verb", "class"),
        ),
        Family("messages_total", "counter", "Messages by outcome", ("listener", "outcome")),
        Family("recipients_total", "counter", "Recipients by outcome", ("outcome",)),
        Family("bytes_total", "counter", "Octets of accepted messages", ("listener",)),
        Family("verdicts_total", "counter", "Verdicts of plugins", ("hook", "plugin", "verdict", "mode")),
        Family("hook_duration_seconds", "histogram", "Time that a plugin's hook took", ("hook", "plugin")),
        Family("plugin_alarms", "gauge", "Things of a plugin that need an admin now", ("plugin",)),
        Family(
            "plugin_events_total",
            "counter",
            "Events of what a plugin has by name: of rules, how often each did, would have done, or could not be asked",
            ("plugin", "name", "outcome"),
        ),
        Family("plugin_errors_total", "counter", "Faults of plugins", ("plugin", "kind")),
        Family(
            "service_answers_total",
            "counter",
            "Looks for an answer that an external service gave lately to the same message",
            ("service", "result"),
        ),
        Family(
            "service_breaker_open",
            "gauge",
            "1 while a service that failed again and again is not asked",
            ("service",),
        ),
        Family(
            "service_duration_seconds",
            "histogram",
            "Time that an external service took to answer",
            ("service",),
        ),
        Family(
            "service_requests_total", "counter", "Questions to an external service", ("service", "result")
        ),
        Family("deliveries_total", "counter", "Transactions with an upstream", ("upstream", "result")),
        Family(
            "delivery_duration_seconds", "histogram", "From the first octet to the final reply", ("upstream",)
        ),
        Family("upstream_connections", "gauge", "Connections to an upstream", ("upstream", "state")),
        Family(
            "upstream_connects_total", "counter", "Connection attempts to an upstream", ("upstream", "result")
        ),
        Family("tls_ratchet_total", "counter", "Connections with less TLS than was seen before", ("action",)),
        Family(
            "way_detours_total",
            "counter",
            "Transactions that a source or upstream was passed over for, by reason",
            ("way", "reason"),
        ),
        Family("state_calls_total", "counter", "Calls of the shared state", ("result",)),
        Family("state_duration_seconds", "histogram", "Time that a call of the shared state took", ()),
        Family("ledger_hits_total", "counter", "Resends answered without a second delivery", ()),
        Family(
            "history_events_total", "counter", "Events for the history by what became of them", ("result",)
        ),
        Family(
            "history_failures_total", "counter", "Writes to the history that failed and were tried again", ()
        ),
        Family("bytes_in_flight", "gauge", "Octets of messages being received or relayed", ()),
        Family("queue_stored_total", "counter", "Messages that were stored in the queue", ()),
        Family("queue_store_errors_total", "counter", "Messages that could not be stored", ("kind",)),
        Family(
            "queue_recipients_total", "counter", "Recipients of queued mail by outcome", ("route", "outcome")
        ),
        Family(
            "queue_verifications_total",
            "counter",
            "Recipients that next hops were asked about before they were queued",
            ("result",),
        ),
        Family("queue_waiting", "gauge", "Stored parts of messages that wait or are in delivery", ("route",)),
        Family("queue_deliveries", "gauge", "Transactions of the queue in progress", ("route",)),
        Family("queue_paused", "gauge", "Workers that leave an unreachable next hop alone", ("route",)),
        Family("queue_bounces_total", "counter", "Delivery status notifications by kind", ("kind",)),
        Family(
            "queue_throttled_total", "counter", "Times that a destination asked for less mail at once", ()
        ),
        Family("queue_broken_total", "counter", "Stored messages that could not be read", ()),
        Family("queue_held_expired_total", "counter", "Held messages that were deleted after keep_held", ()),
        Family("auth_total", "counter", "AUTH attempts", ("listener", "result")),
        Family("unsubscribe_requests_total", "counter", "Requests to the unsubscribe page", ("result",)),
        Family("event_loop_lag_seconds", "gauge", "How late the loop was when last measured", ()),
        Family(
            "config_last_reload_successful", "gauge", "1 if the running configuration is the newest file", ()
        ),
        Family(
            "config_last_reload_success_timestamp_seconds", "gauge", "When this configuration was loaded", ()
        ),
        Family("tls_certificate_expiry_timestamp_seconds", "gauge", "When a certificate ends", ("name",)),
        Family("build_info", "gauge", "1, with the version as a label", ("version",)),
    )
}


class Cell:
    """One number. Cheap to change; the sum over workers is what a scrape sees."""

    __slots__ = ("_array", "_index")

    def __init__(self, array: Array, index: int) -> None:
        self._array = array
        self._index = index

    def inc(self, amount: float = 1.0) -> None:
        """Add `amount`."""
        self._array[self._index] += amount

    def dec(self, amount: float = 1.0) -> None:
        """Subtract `amount`."""
        self._array[self._index] -= amount

    def set(self, value: float) -> None:
        """Put `value` in place of the number."""
        self._array[self._index] = value

    @property
    def value(self) -> float:
        """This worker's number."""
        return float(self._array[self._index])


class Timer:
    """A histogram of seconds."""

    __slots__ = ("_array", "_index")

    def __init__(self, array: Array, index: int) -> None:
        self._array = array
        self._index = index

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._array[self._index + bisect_left(_SECONDS, seconds)] += 1.0
        self._array[self._index + len(_SECONDS) + 1] += seconds


@dataclass(frozen=True, slots=True)
class Sample:
    """One child for a scrape: values of the labels, and either a number or bucket counts with their sum."""

    family: Family
    labels: tuple[str, ...]
    value: float
    buckets: tuple[tuple[float, float], ...] = ()


@dataclass(slots=True)
class Metrics:
    """This worker's array among all arrays, and what each index means."""

    arrays: Sequence[Array] = field(default_factory=lambda: [memoryview(bytearray(8 * SLAB)).cast("d")])
    slot: int = 0
    _index: dict[tuple[str, tuple[str, ...]], int] = field(default_factory=dict)
    _used: int = 0

    def cell(self, name: str, *labels: str) -> Cell:
        """Return the number called `name` with these label values. Raises KeyError for an unknown name."""
        return Cell(self.arrays[self.slot], self._place(name, labels, 1))

    def timer(self, name: str, *labels: str) -> Timer:
        """Return the histogram called `name` with these label values."""
        return Timer(self.arrays[self.slot], self._place(name, labels, len(_SECONDS) + 2))

    def _place(self, name: str, labels: tuple[str, ...], room: int) -> int:
        if len(labels) != len(FAMILIES[name].labels):
            raise ValueError(f"{name} takes the labels {FAMILIES[name].labels}")
        place = self._index.get((name, labels))
        if place is None:
            place = self._index[name, labels] = self._used
            self._used += room
            if self._used > SLAB:
                raise MemoryError("more metrics than an array holds")
        return place

    def reset_gauges(self) -> None:
        """A worker that takes over a slot starts with no connections, whatever its predecessor left."""
        for (name, _), place in self._index.items():
            if FAMILIES[name].kind == "gauge":
                self.arrays[self.slot][place] = 0.0

    def samples(self) -> Iterator[Sample]:
        """Yield all children, summed over the workers (gauges of the process itself: the largest)."""
        for (name, labels), place in sorted(self._index.items()):
            family = FAMILIES[name]
            if family.kind == "histogram":
                counts = [self._sum(place + n) for n in range(len(_SECONDS) + 1)]
                total = 0.0
                buckets = []
                for bound, count in zip((*_SECONDS, float("inf")), counts, strict=True):
                    total += count
                    buckets.append((bound, total))
                yield Sample(family, labels, self._sum(place + len(_SECONDS) + 1), tuple(buckets))
            elif name in _LARGEST:
                yield Sample(family, labels, max(array[place] for array in self.arrays))
            else:
                yield Sample(family, labels, self._sum(place))

    def _sum(self, place: int) -> float:
        return float(sum(array[place] for array in self.arrays))


_LARGEST: Final[Iterable[str]] = frozenset(
    {
        "build_info",
        "config_last_reload_success_timestamp_seconds",
        "config_last_reload_successful",
        "event_loop_lag_seconds",
        "plugin_alarms",
        "queue_waiting",
        "service_breaker_open",
        "tls_certificate_expiry_timestamp_seconds",
    }
)
