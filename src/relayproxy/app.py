"""One worker: a Runtime built from a configuration, its listeners, its end.

A runtime is complete and never patched; a reload builds another in new workers while this one finishes what it has.
Must not know the command line, nor how workers are started.
"""

import asyncio
import contextlib
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from relayproxy import __version__
from relayproxy.api import Clock, Resolver
from relayproxy.build import listener_services, node_of, relay_of, routes_of, upstream_settings
from relayproxy.config.models import Config
from relayproxy.core.ids import Ids
from relayproxy.core.ledger import SharedLedger
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.outbox import Outbox
from relayproxy.core.pipeline import Pipeline, live
from relayproxy.core.services import Budget, ListenerServices, Services
from relayproxy.core.unsubscribing import Unsubscribing
from relayproxy.delivery.ratchet import Ratchet
from relayproxy.delivery.settings import UpstreamSettings
from relayproxy.delivery.tls_policy import TlsPolicies
from relayproxy.delivery.upstream import Upstream
from relayproxy.plugging import Choice, alarms_of, app_for, counters_of, entries_of, meters_of, state_of
from relayproxy.process import Lines, SystemClock, bridge_logging, certificate_end, log_style, make_resolver
from relayproxy.server.listener import Listener
from relayproxy.server.quota import Quota
from relayproxy.server.stream import Shared
from relayproxy.shared import GenerationMemory, LedgerMemory
from relayproxy.ways import Ways

if TYPE_CHECKING:
    from relayproxy.history.writer import Writer
    from relayproxy.queueing import Queueing

_BEAT = 1.0
_PROBE_PATIENCE = 2.0
_PROBE_EVERY = 60.0


@dataclass(slots=True)
class Place:
    """Where a worker stands: its slot and generation, what it shares, and its listening sockets."""

    slot: int
    generation: int
    memory: GenerationMemory
    ledger: LedgerMemory
    sockets: Sequence[socket.socket]
    contexts: Sequence[ssl.SSLContext | None]
    monitor: socket.socket | None = None
    page: socket.socket | None = None
    page_tls: ssl.SSLContext | None = None


class Worker:
    """Serves one generation of the configuration in one process."""

    def __init__(self, config: Config, choices: Sequence[Choice], folder: Path, place: Place) -> None:
        self._config = config
        self._choices = choices
        self._folder = folder
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._clock: Clock = SystemClock()
        self._lines = Lines(self._loop)
        self._outbox = Outbox(self._loop.call_soon)
        self.log = Log(
            self._lines,
            time.time,
            style=log_style(config),
            privacy=config.log.privacy,
            level=config.log.level,
            journal="JOURNAL_STREAM" in os.environ and not sys.stderr.isatty(),
        )
        self._listeners: list[Listener] = []
        self._upstreams: dict[str, Upstream] = {}
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._ready = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._services: Services | None = None
        self._history: Writer | None = None
        self._at: list[ListenerServices] = []
        self._ids = Ids(place.slot, node_of(config))
        self._queueing: Queueing | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._page: asyncio.Server | None = None

    # -- starting -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Build everything and begin to accept; raises whatever keeps it from doing so."""
        config, place = self._config, self._place
        bridge_logging(self.log)
        metrics = Metrics(place.memory.arrays, place.slot)
        self._history = self._open_history(metrics)
        on_tls = self._history.record if self._history is not None else None
        settings = {
            name: replace(upstream_settings(config, name, place.memory.workers), on_tls=on_tls)
            for name in config.upstreams
        }
        resolver, begin_queries, self._close_resolver = make_resolver(config)
        self._state = state_of(config, self._clock, self.log, metrics)
        policies = TlsPolicies(
            resolver,
            clock=self._clock,
            log=self.log,
            # Policies may be large: what one worker keeps for itself has its own bound.
            state=self._state if config.state is not None else None,
            ratchet=Ratchet(self._state, clock=self._clock, log=self.log, metrics=metrics),
        )

        def make(one: UpstreamSettings) -> Upstream:
            return Upstream(
                one,
                log=self.log,
                metrics=metrics,
                monotonic=time.monotonic,
                outbox=self._outbox,
                policies=policies,
            )

        self._upstreams = {name: make(one) for name, one in settings.items() if not config.upstreams[name].mx}
        self._ways = Ways(
            config,
            settings,
            self._upstreams,
            make,
            resolver=resolver,
            state=self._state,
            workers=place.memory.workers,
            slot=place.slot,
            clock=self._clock,
            log=self.log,
            metrics=metrics,
        )
        pipeline = Pipeline(entries_of(self._choices), clock=self._clock, log=self.log, metrics=metrics)
        if config.spool is not None:
            self._queueing = self._queue_with(pipeline, metrics, resolver, policies, begin_queries)
        self._services = services = Services(
            hostname=config.hostname,
            relay=relay_of(config),
            routes=routes_of(config),
            hops={**self._upstreams, **self._ways.hops, **(self._queueing.hops if self._queueing else {})},
            pipeline=pipeline,
            ledger=SharedLedger(
                place.ledger.regions, place.ledger.slot(place.slot, place.generation), time.time
            ),
            log=self.log,
            metrics=metrics,
            clock=self._clock,
            budget=Budget(config.limits.bytes_in_flight, metrics.cell("bytes_in_flight")),
            quarantine=self._queueing.quarantine if self._queueing else None,
            begin_queries=begin_queries,
            history=self._history,
        )
        self._unsubscribing = Unsubscribing(
            pipeline,
            log=self.log,
            now=self._clock.time,
            record=self._history.record if self._history is not None else None,
        )
        self._at = listener_services(config, services, settings)
        self._measure(metrics)
        alarm = alarms_of(self._choices, metrics)
        app = replace(
            app_for(config, resolver, self._clock, self._folder, self._state),
            alarm=alarm,
            meter=meters_of(metrics),
            unsubscribe=self._unsubscribing.keep if pipeline.calls("unsubscribed") else None,
            counter=counters_of(metrics),
        )
        for call in services.pipeline.calls("startup"):
            await live(call, app=app)
        await self._probe()
        if self._queueing is not None:
            await self._queueing.start()
        await self._listen(services)
        await self._monitor(metrics)
        await self._unsubscribe(services)
        self._ready = True
        self._keep(self._beat())
        self._keep(self._reprobe())

    def _open_history(self, metrics: Metrics) -> "Writer | None":
        """Begin to keep a history if one is wanted; a file that can't be written is no obstacle to mail."""
        config = self._config.history
        if config is None:
            return None
        from relayproxy.history.writer import Writer
        from relayproxy.stores import history_store_of

        def complain(text: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended before the thread
                self._loop.call_soon_threadsafe(lambda: self.log.error("history", reason=text))

        writer = Writer(
            history_store_of(config),
            metrics=metrics,
            retention=config.retention,
            limit=config.queue,
            complain=complain,
        )
        writer.start()
        return writer

    def _queue_with(
        self,
        pipeline: Pipeline,
        metrics: Metrics,
        resolver: Resolver,
        policies: TlsPolicies,
        begin_queries: Callable[[], object],
    ) -> "Queueing":
        """Put the queue together; it and its database are loaded only where there is one."""
        from relayproxy.queueing import Queueing

        return Queueing(
            self._config,
            self._ways,
            pipeline,
            lambda: self._ids.next(time.time()),
            resolver=resolver,
            policies=policies,
            begin_queries=begin_queries,
            workers=self._place.memory.workers,
            outbox=self._outbox,
            slot=self._place.slot,
            clock=self._clock,
            log=self.log,
            metrics=metrics,
            history=self._history,
        )

    def _measure(self, metrics: Metrics) -> None:
        """Set the gauges that tell of the configuration, and forget those of a predecessor."""
        cells = {
            name: metrics.cell(name)
            for name in (
                "event_loop_lag_seconds",
                "config_last_reload_successful",
                "config_last_reload_success_timestamp_seconds",
            )
        }
        version = metrics.cell("build_info", __version__)
        expiries = [
            (metrics.cell("tls_certificate_expiry_timestamp_seconds", listener.name), listener.tls.cert)
            for listener in self._config.listeners
            if listener.tls.cert is not None and listener.tls.mode != "off"
        ]
        page = self._config.unsubscribe
        if page is not None and page.tls is not None:
            expiries.append(
                (metrics.cell("tls_certificate_expiry_timestamp_seconds", "unsubscribe"), page.tls.cert)
            )
        metrics.reset_gauges()
        version.set(1)
        cells["config_last_reload_successful"].set(1)
        cells["config_last_reload_success_timestamp_seconds"].set(time.time())
        for cell, path in expiries:
            cell.set(certificate_end(Path(path)))
        self._lag = cells["event_loop_lag_seconds"]

    async def _probe(self) -> None:
        """Ask every upstream what it can take, so that the first EHLO is honest; a dead one is no obstacle."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PROBE_PATIENCE):
                await asyncio.gather(*(upstream.probe() for upstream in self._upstreams.values()))

    async def _listen(self, services: Services) -> None:
        quota = Quota(self._place.memory.counts, self._place.slot)
        for listener, at, sock, tls in zip(
            self._config.listeners, self._at, self._place.sockets, self._place.contexts, strict=True
        ):
            shared = Shared(at, self._loop, quota, self._ids.next, self._outbox, tls)
            served = Listener(shared, sock, implicit_tls=listener.tls.mode == "implicit" and tls is not None)
            await served.start()
            self._listeners.append(served)
        assert services is self._services

    async def _monitor(self, metrics: Metrics) -> None:
        """Serve the monitoring port, if there is one; its library is loaded only then."""
        if self._place.monitor is None:
            return
        from relayproxy.server.monitor import monitor

        probes = {"livez": self._livez, "readyz": self._readyz}
        await self._loop.create_server(lambda: monitor(metrics, probes), sock=self._place.monitor)

    async def _unsubscribe(self, services: Services) -> None:
        """Serve the unsubscribe page, if there is one; its libraries are loaded only then."""
        settings = self._config.unsubscribe
        if self._place.page is None or settings is None:
            return
        from relayproxy.unsubscribe import serve_page

        self._page = await serve_page(
            settings, services, self._unsubscribing, self._place.page, self._place.page_tls
        )

    # -- health ---------------------------------------------------------------------------------------------

    async def _livez(self) -> tuple[bool, str]:
        """A real EHLO, MAIL, RCPT through our own listener, as a client would."""
        from relayproxy.server.selftest import converse

        first = self._config.listeners[0]
        return await converse(
            self._place.sockets[0],
            lmtp=first.protocol == "lmtp",
            implicit_tls=first.tls.mode == "implicit",
            proxied=bool(first.proxy_protocol.networks),
        )

    async def _readyz(self) -> tuple[bool, str]:
        """Whether mail is welcome; an upstream that is down never makes a proxy unready."""
        services = self._services
        if services is None or not self._ready:
            return False, "starting"
        if services.draining or services.retiring:
            return False, "draining"
        if self._queueing is not None and self._queueing.spool.failed:
            return False, "the queue has failed"
        if services.budget.used > services.budget.limit * 9 // 10:
            return False, "little room left for messages"
        return True, "ready"

    async def _beat(self) -> None:
        """Tell the supervisor that the loop turns, and how late it was."""
        due = self._loop.time()
        while True:
            self._place.memory.beats[self._place.slot] = time.monotonic()
            due += _BEAT
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            late = self._loop.time() - due
            self._lag.set(max(0.0, late))
            due = max(due, self._loop.time() - _BEAT)

    async def _reprobe(self) -> None:
        """Ask upstreams again that nobody has heard of yet, until they answer."""
        while any(upstream.capabilities is None for upstream in self._upstreams.values()):
            await asyncio.sleep(_PROBE_EVERY)
            for upstream in self._upstreams.values():
                if upstream.capabilities is None:
                    await upstream.probe()

    def _keep(self, coroutine: Coroutine[object, object, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- ending ---------------------------------------------------------------------------------------------

    def retire(self) -> None:
        """Newer workers have taken over: accept no more, let connections go on for a while."""
        if self._services is None or self._services.retiring or self._stopping.is_set():
            return
        self._services.retiring = True
        self._stop_accepting()
        for listener in self._listeners:
            for connection in listener.connections():
                connection.retire()
        if self._queueing is not None:
            self._keep(self._queueing.stop(self._config.shutdown_timeout))
        self._keep(self._after_grace())

    async def _after_grace(self) -> None:
        tasks = self._conversations()
        if tasks:
            await asyncio.wait(tasks, timeout=self._config.reload_grace)
        self.stop()

    def stop(self) -> None:
        """Drain: accept no more, finish transactions, then say 421 and end. Twice: end at once."""
        if self._stopping.is_set():
            self._ended.set()
            return
        self._stopping.set()
        if self._services is not None:
            self._services.draining = True
        self._stop_accepting()
        for listener in self._listeners:
            for connection in listener.connections():
                connection.drain()
        if self._queueing is not None:
            self._leaving = self._loop.create_task(self._queueing.stop(self._config.shutdown_timeout))
        self._keep(self._after_drain())

    def _stop_accepting(self) -> None:
        for listener in self._listeners:
            listener.stop()
        if self._page is not None:
            self._page.close()

    def _conversations(self) -> list[asyncio.Task[None]]:
        """The tasks of all connections that have not ended."""
        return [
            connection.task
            for listener in self._listeners
            for connection in listener.connections()
            if connection.task is not None
        ]

    async def _after_drain(self) -> None:
        tasks = self._conversations()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._config.shutdown_timeout)
            if late:
                self.log.warning(
                    "drain_timeout", connections=len(late), seconds=self._config.shutdown_timeout
                )
        if self._leaving is not None:
            await self._leaving
        self._ended.set()

    async def run(self) -> None:
        """Wait for the end, then put things away."""
        await self._ended.wait()
        assert self._services is not None
        await self._services.pipeline.shutdown()
        if self._queueing is not None:
            await self._queueing.stop(0.0)
            await self._queueing.close()
        for upstream in self._upstreams.values():
            upstream.close()
        self._ways.close()
        await self._close_resolver()
        await self._state.close()
        if self._history is not None:
            await asyncio.to_thread(self._history.close)
        for task in self._tasks:
            task.cancel()
        await asyncio.sleep(0)
        self._lines.flush()
