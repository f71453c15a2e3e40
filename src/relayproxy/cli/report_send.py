"""Sending reports: one worker's services without its listeners, and each report to each destination once.

Must not know what a report says.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from relayproxy.api import Resolver
from relayproxy.app import SystemClock, log_style, make_resolver
from relayproxy.build import app_for, entries_of, node_of, relay_of, routes_of, upstream_settings
from relayproxy.cli.reports import Fate
from relayproxy.cli.starting import start_plugins
from relayproxy.core.ids import COMMAND, Ids
from relayproxy.core.ledger import REGION, SharedLedger
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.originate import originate
from relayproxy.core.pipeline import Pipeline
from relayproxy.core.services import Budget, Services
from relayproxy.delivery.upstream import Upstream
from relayproxy.history.database import Database
from relayproxy.history.sent import Errand, claim, settle, was_sent
from relayproxy.model.envelope import Envelope
from relayproxy.model.mail import Origin
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply
from relayproxy.supervisor import Plan


def foreseen(database: Database, errand: Errand) -> Fate:
    """Say what sending would come to. Raises StoreError."""
    return Fate(errand.destination, "already-sent" if was_sent(database, errand) else "would-send")


async def once(
    database: Database, errand: Errand, report: str, send: Callable[[float], Awaitable[tuple[bool, str]]]
) -> Fate:
    """Have a report sent unless it was; `send(now)` says whether it was taken, and what the other end answered.

    What one destination brings about stops no other. Raises StoreError.
    """
    now = time.time()
    if not claim(database, errand, report=report, now=now):
        return Fate(errand.destination, "already-sent")
    taken = False
    try:
        taken, detail = await send(now)
    except Exception as error:  # noqa: BLE001  (the fence: what one destination brings about stops no other)
        detail = f"{type(error).__name__}: {error}"
    finally:
        settle(database, errand, sent=taken)
    return Fate(errand.destination, "sent" if taken else "failed", detail)


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
