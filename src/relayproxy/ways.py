"""The ways on of one worker: which upstreams, from which local addresses, within which budgets.

A part of the composition root: knows the configuration and what it joins, and chooses nothing itself.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from relayproxy.api import Clock, Resolver, SharedState
from relayproxy.bounces import rules
from relayproxy.build import addresses_of, shapes_of, sourced, upstream_tls, way_of
from relayproxy.config.bulk import Warmup as WarmupModel
from relayproxy.config.models import Config, Route, Source, Upstream
from relayproxy.config.yaml import read_file
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.ports import NextHop, WatchedHop
from relayproxy.core.shaping import Shape, Shapes
from relayproxy.delivery import upstream as delivery
from relayproxy.delivery.mx import MxHop
from relayproxy.delivery.pool import PoolHop, Terms
from relayproxy.delivery.reach import Reach
from relayproxy.delivery.reputation import Rests
from relayproxy.delivery.settings import UpstreamSettings
from relayproxy.delivery.warmup import Budgets, Warmup
from relayproxy.delivery.ways import Way

MakeUpstream = Callable[[UpstreamSettings], delivery.Upstream]
MakeMx = Callable[[UpstreamSettings], MxHop]


class Ways:
    """Makes the next hops of routes; `hops` are those of pass-through that are more than an upstream."""

    def __init__(
        self,
        config: Config,
        settings: Mapping[str, UpstreamSettings],
        upstreams: Mapping[str, delivery.Upstream],
        make: MakeUpstream,
        *,
        resolver: Resolver,
        state: SharedState,
        workers: int,
        slot: int,
        clock: Clock,
        log: Log,
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._settings = settings
        self._upstreams = dict(upstreams)
        self._make = make
        self._own: dict[tuple[str, str], delivery.Upstream] = {}
        self._mx: list[MxHop] = []
        self.shapes = Shapes(shapes_of(config, workers), resolver, clock.monotonic)
        self.shared = state if config.state is not None else None
        budgets = Budgets(self.shared, clock.time, workers=workers, slot=slot)
        rests = Rests(config.bulk.rest, self.shared)
        self._terms = Terms(self.shapes, budgets, rests, (), log, metrics, clock.time)
        if any(self._several(route) for route in (*config.table, *self._alone())):
            self._terms = replace(self._terms, rules=rules.rules_of(read_file(refusals_of(config))))
        self.hops: dict[str, NextHop] = {}
        for route in (*config.table, *self._alone()):
            if route.delivery == "pass-through" and self._several(route):
                self.hops.setdefault(way_of(route), self._pool(route, None))

    def _alone(self) -> Iterator[Route]:
        """Yield a route to each upstream, as a plugin may choose it."""
        for name, upstream in self._config.upstreams.items():
            if not upstream.mx:
                yield Route(upstream=name)

    def _several(self, route: Route) -> bool:
        """Whether there is a choice to make, or a bound to keep."""
        upstreams = [self._config.upstreams[member.upstream] for member in route.members]
        return bool(route.pool) or any(
            one.sources or one.warmup is not None or (one.mx and bool(self.shapes)) for one in upstreams
        )

    def queued(self, route: Route, make_mx: MakeMx) -> WatchedHop:
        """Return the next hop of a route's queued mail."""
        if self._several(route):
            return self._pool(route, make_mx)
        if self._config.upstreams[route.upstream].mx:
            return self._kept(make_mx(self._settings[route.upstream]))
        return Reach(self._upstreams[route.upstream])

    def watched(self, route: Route) -> WatchedHop:
        """Return the next hop of a pass-through route that the queue stands in for."""
        return self._pool(route, None) if self._several(route) else Reach(self._upstreams[route.upstream])

    def _pool(self, route: Route, make_mx: MakeMx | None) -> PoolHop:
        ways = [
            way for member in route.members for way in self._ways(member.upstream, member.weight, make_mx)
        ]
        lmtp = self._config.upstreams[route.upstream].protocol == "lmtp"
        return PoolHop(way_of(route), ways, self._terms, queued=make_mx is not None, per_recipient=lmtp)

    def _ways(self, name: str, weight: int, make_mx: MakeMx | None) -> Iterator[Way]:
        upstream = self._config.upstreams[name]
        overall = warmups_of(name, upstream, None)
        if not upstream.sources:
            yield Way(name, self._hop(name, None, make_mx), weight, "", overall)
            return
        total = sum(source.weight for source in upstream.sources)
        for source in upstream.sources:
            share = weight * (source.weight / total if total else 1 / len(upstream.sources))
            yield Way(
                f"{name}/{source.address}",
                self._hop(name, source, make_mx),
                share,
                source.address,
                warmups_of(name, upstream, source),
            )

    def _hop(
        self, name: str, source: Source | None, make_mx: MakeMx | None
    ) -> Callable[[Shape | None], WatchedHop]:
        settings = self._settings[name]
        if source is not None:
            # What the worker has is for the first source.
            whole = addresses_of(self._config.upstreams[name])
            settings = sourced(replace(settings, addresses=whole, hostname=self._config.hostname), source)
        if not self._config.upstreams[name].mx:
            reach = Reach(self._upstream(name, settings))
            return lambda shape: reach  # noqa: ARG005  (an address is reached in one way)
        assert make_mx is not None
        return self._by_shape(settings, make_mx)

    def _upstream(self, name: str, settings: UpstreamSettings) -> delivery.Upstream:
        """Return the upstream from one source; the first source's is that of the worker, which has been asked already."""
        if settings == self._settings[name]:
            return self._upstreams[name]
        key = name, settings.source_address
        if key not in self._own:
            self._own[key] = self._make(settings)
        return self._own[key]

    def _by_shape(self, settings: UpstreamSettings, make_mx: MakeMx) -> Callable[[Shape | None], WatchedHop]:
        """Connections are kept apart where a rule asks for something else of them."""
        hops: dict[tuple[int, bool], MxHop] = {}

        def hop(shape: Shape | None) -> WatchedHop:
            key = (shape.messages, shape.tls_required) if shape is not None else (0, False)
            if key not in hops:
                hops[key] = self._kept(make_mx(self._shaped(settings, *key)))
            return hops[key]

        hop(None)
        return hop

    def _shaped(self, settings: UpstreamSettings, messages: int, tls_required: bool) -> UpstreamSettings:
        made = replace(settings, reuse=min(messages or settings.reuse, settings.reuse))
        if not tls_required or settings.tls not in ("off", "opportunistic"):
            return made
        upstream = self._config.upstreams[settings.name].model_copy(update={"tls": "required"})
        return replace(made, tls="required", tls_context=upstream_tls(upstream))

    def _kept(self, hop: MxHop) -> MxHop:
        self._mx.append(hop)
        return hop

    def close(self) -> None:
        """Close all kept connections."""
        for upstream in self._own.values():
            upstream.close()
        for hop in self._mx:
            hop.close()


def refusals_of(config: Config) -> Path:
    """Return the file of the rules that say what a refusal means."""
    return config.bulk.refusals or Path(rules.__file__).with_name("rules.yaml")


def warmups_of(name: str, upstream: Upstream, source: Source | None) -> tuple[Warmup, ...]:
    """Return the budgets that mail over an upstream, from one of its sources, has to keep to."""
    found = []
    if upstream.warmup is not None:
        found.append(warmup_of(f"upstream {name}", upstream.warmup))
    if source is not None and source.warmup is not None:
        found.append(warmup_of(f"source {source.address}", source.warmup))
    return tuple(found)


def warmup_of(name: str, model: WarmupModel) -> Warmup:
    """Return a budget as it is counted."""
    start = dt.datetime.combine(model.start, dt.time(), dt.UTC)
    return Warmup(name, start.timestamp(), model.days)
