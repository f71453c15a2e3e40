"""The listening sockets of all generations of workers: what is open is used again, and what nobody needs is closed.

Must not know a worker.
"""

import socket
from collections.abc import Collection, Iterable

from relayproxy.server.sockets import Where, open_sockets


class Listening:
    """Sockets by where they listen; those of a port are as many as the workers that share it."""

    def __init__(self) -> None:
        self._sockets: dict[Where, list[socket.socket]] = {}
        self._web: dict[Where, socket.socket] = {}

    def sockets_for(self, where: Where, count: int) -> list[socket.socket]:
        """Return the sockets of a listener, a different one for each worker: those already open, and more if needed.

        Raises OSError and SocketError.
        """
        have = self._sockets.setdefault(where, [])
        wanted = 1 if where.path else count
        if len(have) < wanted:
            have += open_sockets(where, wanted - len(have), have)
        return have[:1] * count if where.path else have[:count]

    def web_socket(self, where: Where | None) -> socket.socket | None:
        """Return the socket of a web page, from which all workers accept, or None. Raises OSError and SocketError."""
        if where is None:
            return None
        if where not in self._web:
            self._web[where] = open_sockets(where, 1)[0]
        return self._web[where]

    def keep(self, used: Iterable[socket.socket], web: Collection[socket.socket | None]) -> None:
        """Close all but these, and forget them."""
        kept = {id(sock) for sock in used}
        for where, row in list(self._sockets.items()):
            for sock in row:
                if id(sock) not in kept:
                    sock.close()
            row[:] = [sock for sock in row if id(sock) in kept]
            if not row:
                del self._sockets[where]
        for where, sock in list(self._web.items()):
            if sock not in web:
                self._web.pop(where).close()

    def close_others(self, mine: Iterable[socket.socket]) -> None:
        """Close the listeners' sockets but `mine`, in this process."""
        kept = {id(sock) for sock in mine}
        for row in self._sockets.values():
            for sock in row:
                if id(sock) not in kept:
                    sock.close()
