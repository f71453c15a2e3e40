"""The plugins of a configuration: arranged as a pipeline, and what each is given to work with.

A part of the composition root: knows the configuration and what it joins. Must not know listeners, routes or upstreams
beyond what a plugin is told of them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from relayproxy.api import App, Clock, Direction, Meter, Plugin, Resolver, SharedState
from relayproxy.catalogue import PluginError, hooks_of
from relayproxy.config.models import Config, PipelineEntry, When
from relayproxy.config.operations import State
from relayproxy.config.yaml import read_file
from relayproxy.core.entry import Entry
from relayproxy.core.entry import When as Condition
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.state.guard import GuardedState
from relayproxy.state.listing import Store
from relayproxy.state.memory import MemoryState
from relayproxy.state.sqlite import SqliteState
from relayproxy.stores import suppression_of

MOST_COUNTED = 2000
"""Names of a plugin that are counted each on its own."""
OTHERS = "(others)"

Choice = tuple[PipelineEntry, type[Plugin[Any]], Any]
"""A line of the pipeline: as configured, the plugin's class, and its validated options."""


def entries_of(choices: Sequence[Choice]) -> list[Entry]:
    """Make the plugins and arrange them as pipeline entries. Raises PluginError."""
    entries = []
    for entry, cls, options in choices:
        try:
            plugin = cls(options)
        except Exception as error:  # the fence round foreign code
            raise PluginError(f"{entry.name}: {type(error).__name__}: {error}") from error
        plugin.timeout = entry.timeout or cls.default_timeout
        entries.append(
            Entry(
                name=entry.name,
                plugin=plugin,
                hooks=hooks_of(entry.name, plugin),
                after=cls.after,
                when=_condition(entry.when, cls),
                observe=entry.mode == "observe",
                on_error=entry.on_error,
                timeout=plugin.timeout,
                signer=cls.signer,
                skips=plugin.skips,
            )
        )
    return entries


def _condition(when: When | None, cls: type[Plugin[Any]]) -> Condition:
    """What the YAML says, else the directions that the plugin is meant for."""
    usual = cls.directions if cls.directions != frozenset(Direction) else None
    if when is None:
        return Condition(directions=usual)
    return Condition(
        listeners=frozenset(when.listener) or None,
        directions=frozenset(Direction(word) for word in when.direction) or usual,
        authenticated=when.authenticated[0] if len(set(when.authenticated)) == 1 else None,
        tls=when.tls[0] if len(set(when.tls)) == 1 else None,
    )


def alarms_of(choices: Sequence[Choice], metrics: Metrics) -> Callable[[str, int], None]:
    """Return what sets the gauge of a plugin's alarms; all of them begin at nought."""
    cells = {entry.name: metrics.cell("plugin_alarms", entry.name) for entry, _, _ in choices}
    for cell in cells.values():
        cell.set(0)
    return lambda plugin, count: cells[plugin].set(count)


def meters_of(metrics: Metrics) -> Callable[[str], Meter]:
    """Return what gives a plugin the numbers of a service that it asks."""

    def meter(service: str) -> Meter:
        results = {
            result: metrics.cell("service_requests_total", service, result)
            for result in ("ok", "error", "timeout", "refused")
        }
        durations = metrics.timer("service_duration_seconds", service)
        opened = metrics.cell("service_breaker_open", service)
        opened.set(0)

        def asked(result: str, seconds: float) -> None:
            results[result].inc()
            if result != "refused":
                durations.observe(seconds)

        def remembered(hit: bool) -> None:
            metrics.cell("service_answers_total", service, "hit" if hit else "miss").inc()

        return Meter(asked, lambda is_open: opened.set(float(is_open)), remembered)

    return meter


def counters_of(metrics: Metrics) -> Callable[[str, str, str], Callable[[], None]]:
    """Return what gives a plugin a counter of its own; behind the first MOST_COUNTED names of it all others share one."""
    names: dict[str, set[str]] = {}

    def counter(plugin: str, name: str, outcome: str) -> Callable[[], None]:
        known = names.setdefault(plugin, set())
        if len(known) < MOST_COUNTED:
            known.add(name)
        return metrics.cell("plugin_events_total", plugin, name if name in known else OTHERS, outcome).inc

    return counter


def state_store(config: State, clock: Clock) -> Store:
    """Return the store that a configuration names. Nothing is opened before it is used."""
    if config.path is not None:
        return SqliteState(config.path, clock.time)
    from relayproxy.state.valkey import ValkeyState  # noqa: PLC0415  (an optional library, slow to load)

    return ValkeyState(
        config.server,
        clock.time,
        login=config.login or "",
        password=config.password.reveal() if config.password else "",
        timeout=config.timeout,
    )


def state_of(config: Config, clock: Clock, log: Log, metrics: Metrics) -> SharedState:
    """Return where plugins keep what all workers share. Nothing is opened before it is used."""
    if config.state is None:
        return MemoryState(clock.time)
    return GuardedState(
        state_store(config.state, clock),
        name=config.state.url,
        log=log,
        metrics=metrics,
        monotonic=clock.monotonic,
        timeout=config.state.timeout,
    )


def app_for(
    config: Config, resolver: Resolver, clock: Clock, folder: Path, state: SharedState | None = None
) -> App:
    """Return what plugins get at startup; without a `state`, one in memory."""
    unencrypted = frozenset(
        name
        for name, upstream in config.upstreams.items()
        if upstream.tls == "off" and not all(target.address.is_loopback for target in upstream.targets)
    )
    return App(
        config.hostname,
        resolver,
        clock,
        folder,
        frozenset(config.relay.domains),
        unencrypted=unencrypted,
        state=state if state is not None else MemoryState(clock.time),
        read_yaml=read_file,
        suppression=suppression_of(config.suppression),
    )
