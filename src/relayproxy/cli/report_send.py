"""Sending reports: one worker's services without its listeners, and each report to each destination once.

Must not know what a report says.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from relayproxy.api import Resolver
from relayproxy.build import node_of, relay_of, routes_of, upstream_settings
from relayproxy.cli.reports import Fate
from relayproxy.cli.starting import StartupError, start_plugins
from relayproxy.core.ids import COMMAND, Ids
from relayproxy.core.ledger import REGION, SharedLedger
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.originate import originate
from relayproxy.core.outbox import Outbox
from relayproxy.core.pipeline import Pipeline
from relayproxy.core.ports import NextHop
from relayproxy.core.services import Budget, Services
from relayproxy.delivery.ratchet import Ratchet
from relayproxy.delivery.settings import UpstreamSettings
from relayproxy.delivery.tls_policy import TlsPolicies
from relayproxy.delivery.upstream import Upstream
from relayproxy.history.database import Database
from relayproxy.history.sent import Errand, claim, settle, was_sent
from relayproxy.mailauth.report_places import Destination
from relayproxy.model.address import Address
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.mail import Origin
from relayproxy.model.message import Message
from relayproxy.plugging import app_for, entries_of, state_of
from relayproxy.process import SystemClock, log_style, make_resolver
from relayproxy.queueing import Queueing
from relayproxy.spool.protocol import SpoolError
from relayproxy.supervisor import Plan
from relayproxy.ways import Ways


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

    async def send(self, sender: Address, to: Destination, message: Message) -> tuple[bool, str]:
        """Send a report to a mailbox; return whether it was taken, and the final reply."""
        envelope = Envelope(sender, (Recipient(Address(to.local, to.domain)),))
        reply = await originate(
            self.services, f"{self.ids.next(time.time())}.1", envelope, message, Origin.REPORT
        )
        return reply.ok, str(reply)


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
    """Start the plugins and open the upstreams and the queue of a configuration.

    Raises StartupError, PluginError.
    """
    config, clock, metrics = plan.config, SystemClock(), Metrics()
    log = Log(_to_stderr, time.time, style=log_style(config), privacy=config.log.privacy, level="warning")
    state = state_of(config, clock, log, metrics)
    policies = TlsPolicies(
        resolver, clock=clock, log=log, ratchet=Ratchet(state, clock=clock, log=log, metrics=metrics)
    )

    def make(settings: UpstreamSettings) -> Upstream:
        return Upstream(settings, log=log, metrics=metrics, monotonic=time.monotonic, policies=policies)

    settings = {name: upstream_settings(config, name, 1) for name in config.upstreams}
    upstreams = {name: make(one) for name, one in settings.items() if not config.upstreams[name].mx}
    pipeline, ids = (
        Pipeline(entries_of(plan.choices), clock=clock, log=log, metrics=metrics),
        Ids(COMMAND, node_of(config)),
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(state.close)
        ways = Ways(
            config,
            settings,
            upstreams,
            make,
            resolver=resolver,
            state=state,
            workers=1,
            slot=0,
            clock=clock,
            log=log,
            metrics=metrics,
        )
        stack.callback(ways.close)
        for upstream in upstreams.values():
            stack.callback(upstream.close)
        hops: dict[str, NextHop] = {**upstreams, **ways.hops}
        if config.spool is not None:
            queueing = Queueing(
                config,
                ways,
                pipeline,
                lambda: ids.next(time.time()),
                resolver=resolver,
                policies=policies,
                begin_queries=lambda: None,
                workers=1,
                outbox=Outbox(asyncio.get_running_loop().call_soon),
                slot=0,
                clock=clock,
                log=log,
                metrics=metrics,
                history=None,
            )
            try:
                queueing.spool.start()
            except (sqlite3.Error, SpoolError, OSError) as error:
                raise StartupError(f"the queue {config.spool.url} can't be opened: {error}") from error
            stack.push_async_callback(queueing.close)
            await queueing.stop(0.0)  # what is stored here is delivered by the workers
            hops |= queueing.hops
        services = Services(
            hostname=config.hostname,
            relay=relay_of(config),
            routes=routes_of(config),
            hops=hops,
            pipeline=pipeline,
            ledger=SharedLedger([memoryview(bytearray(REGION))], 0, time.time),
            log=log,
            metrics=metrics,
            clock=clock,
            budget=Budget(config.limits.bytes_in_flight, metrics.cell("bytes_in_flight")),
        )
        await start_plugins(pipeline, app_for(config, resolver, clock, plan.folder))
        yield Sender(services, ids)
        await pipeline.shutdown()
    await asyncio.sleep(0)


def _to_stderr(line: str) -> None:
    os.write(2, line.encode("utf-8", "backslashreplace"))
