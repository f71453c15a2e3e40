"""A listener in the test's own process, with everything around it real: services, pipeline, upstream, log.

When it ends it looks whether anything was left behind: budget, places in the quota, connections, defects in the log.
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from tests.servers.client import Client
from tests.servers.process import wait_for

from relayproxy.api import Client as Caller
from relayproxy.api import Plugin, Settings, hook
from relayproxy.catalogue import hooks_of
from relayproxy.core.entry import Entry
from relayproxy.core.ids import Ids
from relayproxy.core.ledger import SharedLedger
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.outbox import Outbox
from relayproxy.core.pipeline import Pipeline
from relayproxy.core.policy import Limits, ListenerPolicy, Relay, Route
from relayproxy.core.ports import Authenticator
from relayproxy.core.services import Budget, ListenerServices, Services
from relayproxy.delivery.settings import Address, UpstreamSettings
from relayproxy.delivery.upstream import Upstream
from relayproxy.process import SystemClock
from relayproxy.server.connection import Connection
from relayproxy.server.listener import Listener
from relayproxy.server.quota import Quota
from relayproxy.server.sockets import Where, open_sockets
from relayproxy.server.stream import Shared
from relayproxy.shared import GenerationMemory, LedgerMemory
from relayproxy.testing.upstream import UpstreamSink

MESSAGE = b"From: a@example.org\r\nMessage-ID: <1@example.org>\r\nSubject: one\r\n\r\nbody\r\n"
LOOPBACK = (ip_network("127.0.0.0/8"),)


def received(sink: UpstreamSink) -> list[bytes]:
    """The contents that came, without the trace field on top."""
    return [sunk.content.partition(b" +0000\r\n")[2] for sunk in sink.arrived]


async def soon(condition: Callable[[], Any], what: str) -> None:
    """Wait for what takes some turns of the loop, rarely more: `wait_for`, without its pause where none is needed."""
    for _ in range(50):
        if condition():
            return
        await asyncio.sleep(0)
    await wait_for(condition, what)


class Witness(Plugin[Settings]):
    """Sees who sends."""

    def __init__(self) -> None:
        super().__init__(Settings())
        self.callers: list[Caller] = []

    @hook
    def mail(self, mail):
        self.callers.append(mail.client)


class Served:
    """One listener that runs. `log` holds its events as data."""

    def __init__(
        self, shared: Shared, listener: Listener, place: str | int, log: list[dict[str, Any]]
    ) -> None:
        self.shared = shared
        self.at = shared.at
        self.services = shared.at.services
        self.listener = listener
        self.log = log
        self.port = place if isinstance(place, int) else 0
        self.path = Path(place) if isinstance(place, str) else None

    async def client(self, **arguments: Any) -> Client:
        """Connect as tests.servers.client.Client does."""
        return await Client.open(self.port, path=self.path, **arguments)

    def counted(self, name: str, *labels: str) -> float:
        """What a metric stands at."""
        return self.services.metrics.cell(name, *labels).value

    def became(self, result: str) -> float:
        """How many connections came to this."""
        return self.counted("connections_total", "main", result)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.log if event["event"] == name]

    @property
    def connections(self) -> list[Connection]:
        return list(self.listener.connections())

    async def until_idle(self) -> None:
        """Wait until every client that is connected has had its answer and is waited for."""
        await soon(lambda: all(c._waiter is not None for c in self.connections), "idle connections")

    async def until_empty(self) -> None:
        """Wait until no connection is left."""
        await soon(lambda: not self.connections, "the end of all connections")


@asynccontextmanager
async def serving(
    sink: UpstreamSink,
    *,
    limits: Limits | None = None,
    tls: ssl.SSLContext | None = None,
    implicit: bool = False,
    budget: int = 1 << 29,
    authenticator: Authenticator | None = None,
    plugins: Sequence[Plugin[Any]] = (),
    folder: Path | None = None,
    path: str = "",
    defects: int = 0,
    **policy: Any,
) -> AsyncIterator[Served]:
    """Serve with `sink` as the upstream; `policy` is further fields of the ListenerPolicy.

    `defects` is how many the log may hold in the end.
    """
    loop = asyncio.get_running_loop()
    events: list[dict[str, Any]] = []
    log = Log(lambda line: events.append(json.loads(line)), time.time, level="debug")
    metrics, clock, outbox = Metrics(), SystemClock(), Outbox(loop.call_soon)
    to = Address(path=str(sink.path)) if sink.path else Address(sink.host, sink.port)
    protocol = "lmtp" if sink.lmtp else "smtp"
    settings = UpstreamSettings("sink", (to,), "relay.test", protocol=protocol)
    upstream = Upstream(settings, log=log, metrics=metrics, monotonic=time.monotonic, outbox=outbox)
    entries = [Entry(type(p).__name__.lower(), p, hooks_of(type(p).__name__.lower(), p)) for p in plugins]
    services = Services(
        hostname="relay.test",
        relay=Relay(frozenset({"example.net"}), LOOPBACK),
        routes=(Route("sink", "sink"),),
        hops={"sink": upstream},
        pipeline=Pipeline(entries, clock=clock, log=log, metrics=metrics),
        ledger=SharedLedger(LedgerMemory(1).regions, 0, time.time),
        log=log,
        metrics=metrics,
        clock=clock,
        budget=Budget(budget, metrics.cell("bytes_in_flight")),
    )
    at = ListenerServices(
        services,
        ListenerPolicy("main", limits=limits or Limits(), starttls=bool(tls), **policy),
        authenticator,
    )
    counts = GenerationMemory(1).counts
    shared = Shared(at, loop, Quota(counts, 0), Ids(0).next, outbox, tls, str(folder) if folder else None)
    (sock,) = open_sockets(Where(path=path) if path else Where("127.0.0.1", 0), 1)
    listener = Listener(shared, sock, implicit_tls=implicit)
    place = path or sock.getsockname()[1]
    await listener.start()
    served = Served(shared, listener, place, events)
    try:
        yield served
    finally:
        listener.stop()
        for connection in served.connections:
            connection.transport.abort()
        await served.until_empty()
        upstream.close()
        outbox.flush()
    await soon(lambda: services.budget.used == 0, "the budget to be given back")
    await soon(lambda: not counts[0].tobytes().strip(b"\0"), "the places in the quota to be given back")
    assert served.counted("connections", "main") == 0
    found = [event.get("traceback") for event in served.events("defect")]
    assert len(found) == defects, found
