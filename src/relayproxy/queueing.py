"""The queue of one worker, put together: store, hops, scheduler, bounces, quarantine.

A part of the composition root: knows the configuration and all that it joins, and does nothing itself.
"""

import asyncio
from collections.abc import Callable, Sequence

from relayproxy.api import Clock, Resolver
from relayproxy.build import (
    chosen_routes,
    hop_of,
    priorities_of,
    routes_of,
    schedule_of,
    verification_of,
    way_of,
)
from relayproxy.config.models import Config
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.outbox import Outbox
from relayproxy.core.pipeline import Pipeline
from relayproxy.core.ports import History, NextHop
from relayproxy.delivery.mx import MxHop
from relayproxy.delivery.settings import UpstreamSettings
from relayproxy.delivery.tls_policy import TlsPolicies
from relayproxy.model.client import Client
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.queued import Part
from relayproxy.spool.bounces import Bounces
from relayproxy.spool.ending import Endings
from relayproxy.spool.hop import NAME, QueueHop
from relayproxy.spool.lanes import Lane
from relayproxy.spool.protocol import SpoolError, Store
from relayproxy.spool.quarantine import SpoolQuarantine
from relayproxy.spool.rates import Rates
from relayproxy.spool.scheduler import Scheduler
from relayproxy.spool.verifying import Verifier
from relayproxy.spool.when_down import WhenDownHop
from relayproxy.stores import owner_of, store_of
from relayproxy.ways import Ways


class Queueing:
    """Everything that a configuration with a spool adds to a worker. `hops` go beside the upstreams."""

    def __init__(
        self,
        config: Config,
        ways: Ways,
        pipeline: Pipeline,
        new_id: Callable[[], str],
        *,
        resolver: Resolver,
        policies: TlsPolicies,
        begin_queries: Callable[[], object],
        workers: int,
        outbox: Outbox,
        slot: int,
        clock: Clock,
        log: Log,
        metrics: Metrics,
        history: History | None,
    ) -> None:
        assert config.spool is not None
        self._log = log
        self.spool: Store = store_of(
            config.spool, clock.time, lambda problem: log.error("queue_failed", problem=problem)
        )

        self._mx: dict[str, MxHop] = {}

        def make_mx(settings: UpstreamSettings) -> MxHop:
            hop = MxHop(
                settings,
                resolver,
                port=config.upstreams[settings.name].mx_port,
                log=log,
                metrics=metrics,
                monotonic=clock.monotonic,
                policies=policies,
                outbox=outbox,
                begin_queries=begin_queries,
                hostname=config.hostname,
            )
            self._mx.setdefault(hop.name, hop)
            return hop

        self._announcing: list[asyncio.Task[None]] = []
        lanes: dict[str, Lane] = {}
        for route in (*config.table, *chosen_routes(config)):
            # Routes of one name queue alike (config/checks), so the first speaks for all of them.
            if route.label in lanes:
                continue
            mx = config.upstreams[route.upstream].mx
            lanes[route.label] = Lane(
                route.label,
                ways.queued(route, make_mx),
                schedule_of(route),
                by_domain=mx,
                shapes=ways.shapes if mx and ways.shapes else None,
                verification=verification_of(route),
            )
        bounces = Bounces(
            config.hostname,
            pipeline,
            self._route,
            new_id,
            clock=clock,
            log=log,
            metrics=metrics,
        )
        endings = Endings(
            bounces, list(lanes.values()), pipeline, clock=clock, log=log, metrics=metrics, history=history
        )
        self.scheduler = Scheduler(
            self.spool,
            list(lanes.values()),
            endings,
            owner=owner_of(config.spool, slot),
            clock=clock,
            log=log,
            metrics=metrics,
            keep_held=config.spool.keep_held,
            rates=Rates(ways.shared, clock.monotonic, workers=workers),
        )
        self._queue = queue = QueueHop(
            self.spool,
            self.scheduler,
            routes_of(config),
            lanes,
            clock=clock,
            log=log,
            metrics=metrics,
            priorities=priorities_of(config),
            verifier=Verifier(config.hostname, clock=clock, log=log, metrics=metrics),
        )
        self.quarantine = SpoolQuarantine(queue, config.hostname)
        self.hops: dict[str, NextHop] = {NAME: queue}
        for route in config.table:
            if hop_of(route) not in (NAME, way_of(route)):
                self.hops[hop_of(route)] = WhenDownHop(ways.watched(route), queue)

    def _route(
        self, client: Client, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> tuple[Part, ...] | None:
        return self._queue.parts(client, envelope, recipients)

    async def start(self) -> None:
        """Open the store and begin to deliver. Raises OSError, sqlite3.Error and SpoolError."""
        self.spool.start()
        try:
            swept = await self.spool.sweep()
            for route in set(await self.spool.routes()) - set(self._queue.lanes):
                self._log.error("queue_orphans", route=route)
        except SpoolError as error:
            self._log.error("queue_fault", problem=str(error))
        else:
            if swept:
                self._log.info("queue_swept", files=swept)
        self.scheduler.start()
        self._announcing = [asyncio.create_task(hop.announce()) for hop in self._mx.values()]

    async def stop(self, patience: float) -> None:
        """Deliver nothing more; what is stored from here on is for others. May be called twice."""
        await self.scheduler.stop(patience)

    async def close(self) -> None:
        """Close the store."""
        for task in self._announcing:
            task.cancel()
        await self.spool.close()
