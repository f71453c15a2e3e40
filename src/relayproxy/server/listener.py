"""A listener in one worker: accepts on a socket that the supervisor opened, and keeps track of its connections."""

import asyncio
import socket
from collections.abc import Iterator

from relayproxy.core.policy import ip_in
from relayproxy.model.reply import Reply
from relayproxy.server.connection import Connection
from relayproxy.server.proxy import ProxyError, read_header
from relayproxy.server.sockets import BACKLOG
from relayproxy.server.stream import Shared


class Listener:
    """Serves one socket. With PROXY networks configured, the header is read before the protocol begins."""

    def __init__(self, shared: Shared, sock: socket.socket, *, implicit_tls: bool) -> None:
        self._shared = shared
        self._sock = sock
        self._implicit = implicit_tls
        self._server: asyncio.Server | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._headers: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()

    @property
    def name(self) -> str:
        """The listener's name in the configuration."""
        return self._shared.at.policy.name

    async def start(self) -> None:
        """Begin to accept."""
        loop, shared = self._shared.loop, self._shared
        if shared.at.policy.proxy:
            self._accepting = loop.create_task(self._accept())
            return
        tls = shared.tls if self._implicit else None
        patience = shared.at.policy.limits.handshake_timeout if tls else None
        if self._sock.family == socket.AF_UNIX:
            self._server = await loop.create_unix_server(
                self._connection, sock=self._sock, ssl=tls, backlog=BACKLOG, ssl_handshake_timeout=patience
            )
        else:
            self._server = await loop.create_server(
                self._connection, sock=self._sock, ssl=tls, backlog=BACKLOG, ssl_handshake_timeout=patience
            )

    def _connection(self) -> Connection:
        return Connection(self._shared, self._connections)

    async def _accept(self) -> None:
        """Accept connections whose PROXY header must be read first."""
        loop = self._shared.loop
        while True:
            try:
                sock, peer = await loop.sock_accept(self._sock)
            except OSError:
                # Out of descriptors, or the client was gone already: let others finish first.
                await asyncio.sleep(0.05)
                continue
            sock.setblocking(False)
            task = loop.create_task(self._proxied(sock, str(peer[0]) if isinstance(peer, tuple) else ""))
            self._headers.add(task)
            task.add_done_callback(self._headers.discard)

    async def _proxied(self, sock: socket.socket, peer: str) -> None:
        loop, shared = self._shared.loop, self._shared
        try:
            source = await self._source(sock, peer)
            connection = Connection(shared, self._connections, source)
            tls = shared.tls if self._implicit else None
            await loop.connect_accepted_socket(
                lambda: connection,
                sock,
                ssl=tls,
                ssl_handshake_timeout=shared.at.policy.limits.handshake_timeout if tls else None,
            )
        except ProxyError as error:
            shared.at.results["bad_proxy"].inc()
            shared.at.services.log.warning("bad_proxy", listener=self.name, ip=peer, problem=str(error))
            if not self._implicit:
                try:
                    sock.send(bytes(Reply(421, "4.7.0", "PROXY header required")))
                except OSError as late:
                    shared.at.services.log.debug("bad_proxy", problem=str(late))
            sock.close()
        except OSError as error:
            shared.at.services.log.debug("handshake_failed", listener=self.name, ip=peer, problem=str(error))
            sock.close()
        except asyncio.CancelledError:
            sock.close()
            raise

    async def _source(self, sock: socket.socket, peer: str) -> tuple[str, int, str, int] | None:
        if not ip_in(peer, self._shared.at.policy.proxy):
            raise ProxyError(f"{peer} may not speak for others")
        return await read_header(self._shared.loop, sock)

    def stop(self) -> None:
        """Accept no more; what is connected goes on."""
        if self._server is not None:
            # Only this worker's registration ends: the supervisor keeps the socket for the next worker.
            self._server.close()
        if self._accepting is not None:
            self._accepting.cancel()
            self._sock.close()
        for task in self._headers:
            task.cancel()

    def connections(self) -> Iterator[Connection]:
        """All connections that have not ended."""
        return (connection for connection in list(self._connections) if not connection.done)
