"""One worker's services without its listeners, to send mail of our own: plugins, routes, upstreams.

Must not know what is sent.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from relayproxy.api import Resolver
from relayproxy.app import SystemClock, log_style, make_resolver
from relayproxy.build import app_for, entries_of, node_of, relay_of, routes_of, upstream_settings
from relayproxy.cli.starting import start_plugins
from relayproxy.core.ids import COMMAND, Ids
from relayproxy.core.ledger import REGION, SharedLedger
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.originate import originate
from relayproxy.core.pipeline import Pipeline
from relayproxy.core.services import Budget, Services
from relayproxy.delivery.upstream import Upstream
from relayproxy.model.envelope import Envelope
from relayproxy.model.mail import Origin
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply
from relayproxy.supervisor import Plan


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends one message after another over the routes of a configuration."""

    services: Services
    ids: Ids

    async def send(self, envelope: Envelope, message: Message) -> Reply:
        """Send a report; return the final reply."""
        return await originate(
            self.services, f"{self.ids.next(time.time())}.1", envelope, message, Origin.REPORT
        )


@dataclass(frozen=True, slots=True)
class Dns:
    """A resolver, and what begins a new account of queries (`dns.queries_per_message`)."""

    resolver: Resolver
    begin: Callable[[], object]


@asynccontextmanager
async def resolving(plan: Plan) -> AsyncIterator[Dns]:
    """Give the resolver of a configuration."""
    resolver, begin, close = make_resolver(plan.config)
    try:
        yield Dns(resolver, begin)
    finally:
        await close()


@asynccontextmanager
async def sending(plan: Plan, resolver: Resolver) -> AsyncIterator[Sender]:
    """Start the plugins and open the upstreams of a configuration. Raises StartupError, PluginError."""
    config, clock, metrics = plan.config, SystemClock(), Metrics()
    log = Log(_to_stderr, time.time, style=log_style(config), privacy=config.log.privacy, level="warning")
    upstreams = {
        name: Upstream(upstream_settings(config, name, 1), log=log, metrics=metrics, monotonic=time.monotonic)
        for name in config.upstreams
    }
    services = Services(
        hostname=config.hostname,
        relay=relay_of(config),
        routes=routes_of(config),
        hops=upstreams,
        pipeline=Pipeline(entries_of(plan.choices), clock=clock, log=log, metrics=metrics),
        ledger=SharedLedger([memoryview(bytearray(REGION))], 0, time.time),
        log=log,
        metrics=metrics,
        clock=clock,
        budget=Budget(config.limits.bytes_in_flight, metrics.cell("bytes_in_flight")),
    )
    app = app_for(config, resolver, clock, plan.folder)
    try:
        await start_plugins(services.pipeline, app)
        yield Sender(services, Ids(COMMAND, node_of(config)))
        await services.pipeline.shutdown()
    finally:
        for upstream in upstreams.values():
            upstream.close()
        await asyncio.sleep(0)


def _to_stderr(line: str) -> None:
    os.write(2, line.encode("utf-8", "backslashreplace"))
