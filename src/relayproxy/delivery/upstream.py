"""An upstream: its addresses, the connections kept to them, and which to use next.

A connection is kept under a key of everything that makes it different from another (address, and the client when
the upstream was told of it), so nothing of one client's ever serves another. Fails over between addresses before a
transaction begins, never later.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.outbox import Outbox
from relayproxy.core.ports import Capabilities
from relayproxy.delivery.connect import ConnectError, Connection, connect
from relayproxy.delivery.settings import Address, UpstreamSettings
from relayproxy.delivery.tls_policy import TlsPolicies
from relayproxy.delivery.transaction import SmtpTransaction
from relayproxy.model.client import Client
from relayproxy.model.mail import Mail


@dataclass(slots=True)
class Health:
    """The passive breaker of one address: after too many failures it is asked last, until `retry_at`."""

    failures: int = 0
    retry_at: float = 0.0


class Upstream:
    """A next hop as the core sees it (ports.NextHop)."""

    def __init__(
        self,
        settings: UpstreamSettings,
        *,
        log: Log,
        metrics: Metrics,
        monotonic: Callable[[], float],
        choose: Callable[[], float] = random.random,
        outbox: Outbox | None = None,
        policies: TlsPolicies | None = None,
    ) -> None:
        self.settings = settings
        self._policies = policies
        self.name = settings.name
        self.per_recipient = settings.protocol == "lmtp"
        self._personal = settings.send_client in ("xclient", "proxy")
        self._log = log
        self._outbox = outbox
        self._now = monotonic
        self._choose = choose
        self._health = {address: Health() for address in settings.addresses}
        self._idle: dict[tuple[object, ...], list[Connection]] = {}
        self._open = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._capabilities: Capabilities | None = None
        self._warned = ""
        self._cells = {
            state: metrics.cell("upstream_connections", settings.name, state) for state in ("busy", "idle")
        }
        self._connects = {
            result: metrics.cell("upstream_connects_total", settings.name, result)
            for result in ("ok", "failed")
        }
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def capabilities(self) -> Capabilities | None:
        """What it last said it can take."""
        return self._capabilities

    async def probe(self) -> bool:
        """Connect once to learn what it can take; False if it can't be reached."""
        try:
            connection = await self.connect(None)
        except ConnectError:
            return False
        self.release(connection)
        return True

    def begin(self, mail: Mail, size: int) -> SmtpTransaction:
        """Start a transaction; nothing is sent before the first recipient."""
        return SmtpTransaction(self, mail.client, mail.envelope, size)

    # -- connections ----------------------------------------------------------------------------------------

    def _key(self, address: Address, client: Client | None) -> tuple[object, ...]:
        if self._personal:
            if client is None:
                return (address, None)
            return (address, client.ip, client.port, client.helo, client.identity, client.ptr, client.id)
        return (address,)

    def _order(self) -> Sequence[Address]:
        """The addresses in the order to try: healthy ones drawn by weight, then the others."""
        if len(self.settings.addresses) == 1:
            return self.settings.addresses
        now = self._now()
        well = [a for a in self.settings.addresses if self._health[a].retry_at <= now]
        ill = sorted(
            (a for a in self.settings.addresses if a not in well), key=lambda a: self._health[a].retry_at
        )
        if len(well) > 1:
            # Efraimidis and Spirakis: sorting by u**(1/w) draws without replacement in proportion to the weights.
            # A weight of 0 comes last: only when all others are down.
            well.sort(key=lambda a: self._choose() ** (1.0 / a.weight) if a.weight else -1.0, reverse=True)
        return well + ill

    def kept(self, client: Client | None) -> Connection | None:
        """Return a kept connection that is ready for a transaction, or None."""
        if not self._idle:
            return None
        for address in self._order():
            key = (address,) if not self._personal else self._key(address, client)
            kept = self._idle.get(key)
            while kept:
                connection = kept.pop()
                self._cells["idle"].dec()
                if (
                    not connection.wire.broken
                    and self._now() - connection.idle_since < self.settings.pool_idle
                ):
                    self._cells["busy"].inc()
                    return connection
                self._drop(connection)
        return None

    async def connect(self, client: Client | None) -> Connection:
        """Open a connection, to the next address where one can't be reached. Raises ConnectError."""
        await self._room()
        problems: list[str] = []
        try:
            for address in self._order():
                try:
                    connection = await connect(
                        self.settings,
                        address,
                        client,
                        self._key(address, client),
                        self._outbox,
                        self._policies,
                    )
                except ConnectError as error:
                    problems.append(str(error))
                    self._failed(address, str(error))
                else:
                    self._succeeded(address, connection)
                    return connection
        except BaseException:
            self._leave()
            raise
        self._leave()
        raise ConnectError("; ".join(problems))

    async def _room(self) -> None:
        """Wait for a free place; the oldest kept connection makes room if there is one."""
        self._open += 1
        self._cells["busy"].inc()
        if self._open <= self.settings.pool_size:
            return
        for kept in self._idle.values():
            if kept:
                self._cells["idle"].dec()
                self._drop(kept.pop(0))
                return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self.settings.timeouts.connect):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                # The place was given just now: the next in the queue takes it.
                self._leave()
            else:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                self._open -= 1
                self._cells["busy"].dec()
            if isinstance(error, TimeoutError):
                raise ConnectError(f"all {self.settings.pool_size} connections are in use") from None
            raise

    def _leave(self) -> None:
        self._open -= 1
        self._cells["busy"].dec()
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _failed(self, address: Address, problem: str) -> None:
        health = self._health[address]
        health.failures += 1
        self._connects["failed"].inc()
        if health.failures >= self.settings.breaker_failures:
            health.retry_at = self._now() + self.settings.breaker_retry
        if health.failures in (1, self.settings.breaker_failures):
            self._log.error(
                "upstream_unreachable",
                upstream=self.name,
                address=str(address),
                failures=health.failures,
                problem=problem,
            )

    def _succeeded(self, address: Address, connection: Connection) -> None:
        health = self._health[address]
        self._connects["ok"].inc()
        if health.failures:
            self._log.info(
                "upstream_back", upstream=self.name, address=str(address), failures=health.failures
            )
            health.failures, health.retry_at = 0, 0.0
        self._capabilities = connection.capabilities

    def release(self, connection: Connection) -> None:
        """A transaction is over: keep the connection for the next, or close it."""
        connection.used += 1
        connection.fresh = False
        if (
            connection.wire.broken
            or connection.used >= self.settings.reuse
            or (self._personal and connection.key[1:] == (None,))
        ):
            self.discard(connection)
            return
        self._leave_busy_for_idle(connection)

    def _leave_busy_for_idle(self, connection: Connection) -> None:
        if self._waiting:
            # Somebody waits for a place, perhaps for another key: a closed connection serves all of them.
            self.discard(connection)
            return
        connection.idle_since = self._now()
        self._idle.setdefault(connection.key, []).append(connection)
        self._cells["busy"].dec()
        self._cells["idle"].inc()
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(self.settings.pool_idle, self._sweep)

    def discard(self, connection: Connection) -> None:
        """The connection in use can't be used again: close it."""
        if connection.wire.broken:
            connection.wire.close()
        else:
            connection.wire.quit()
        self._leave()

    def _drop(self, connection: Connection) -> None:
        """Close a kept connection."""
        connection.wire.quit()
        self._open -= 1

    def _sweep(self) -> None:
        """Close what has been kept too long."""
        self._sweeper = None
        now = self._now()
        for key in list(self._idle):
            kept = self._idle[key]
            stale = [c for c in kept if c.wire.broken or now - c.idle_since >= self.settings.pool_idle]
            for connection in stale:
                kept.remove(connection)
                self._cells["idle"].dec()
                self._drop(connection)
            if not kept:
                del self._idle[key]
        if self._idle:
            self._sweeper = asyncio.get_running_loop().call_later(self.settings.pool_idle / 2, self._sweep)

    def close(self) -> None:
        """Close all kept connections."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for kept in self._idle.values():
            for connection in kept:
                self._cells["idle"].dec()
                self._drop(connection)
        self._idle.clear()

    def trouble(self, client: Client, problem: str) -> None:
        """A transaction came to nothing; the client hears no details, the log has them."""
        self._log.warning("upstream_trouble", upstream=self.name, id=client.id, problem=problem)

    def in_doubt(self, client: Client, problem: str) -> None:
        """The dot was sent and no answer came: say so, since nobody knows whether it was taken."""
        self._log.error("in_doubt", upstream=self.name, id=client.id, problem=problem)
