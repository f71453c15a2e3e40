"""Listening sockets: TCP and Unix, one for each worker where the kernel shares the load between them.

Opened by the supervisor before it forks and kept open across reloads, so that no connection in a backlog is lost.
"""

import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BACKLOG = 1024


class SocketError(Exception):
    """A socket can't be opened; the text names the address and the reason."""


@dataclass(frozen=True, slots=True)
class Where:
    """Where to listen: `host` and `port`, or the `path` of a Unix socket with its `mode`."""

    host: str = ""
    port: int = 0
    path: str = ""
    mode: int = 0o660

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def open_sockets(where: Where, count: int, beside: Sequence[socket.socket] = ()) -> list[socket.socket]:
    """Return a listening socket for each of `count` workers (the same one for Unix paths). Raises SocketError.

    `beside` are sockets of ours that listen there already; without them nobody else may.
    """
    try:
        if where.path:
            return [_unix(where)] * count
        return _tcp(where, count, beside)
    except OSError as error:
        raise SocketError(f"can't listen on {where}: {error.strerror or error}") from error


def _tcp(where: Where, count: int, beside: Sequence[socket.socket]) -> list[socket.socket]:
    port = beside[0].getsockname()[1] if beside else where.port
    if port and not beside:
        # With SO_REUSEPORT we would share the port with whoever of our user listens there: another instance of us.
        _bound(where, port, shared=False).close()
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            opened.append(_bound(where, port, shared=True))
            port = opened[0].getsockname()[1]
        # Listening only once all are bound: an address in use must not leave half of them open.
        for sock in opened:
            sock.listen(BACKLOG)
            sock.setblocking(False)
    except BaseException:
        for sock in opened:
            sock.close()
        raise
    return opened


def _bound(where: Where, port: int, *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(where.host != "::"))
        sock.bind((where.host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _unix(where: Where) -> socket.socket:
    path = Path(where.path)
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        probe = socket.socket(socket.AF_UNIX)
        try:
            probe.connect(where.path)
        except OSError:
            path.unlink()
        else:
            raise OSError(0, "another process listens there")
        finally:
            probe.close()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        sock.bind(where.path)
        path.chmod(where.mode)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(mask)
    return sock


def bound(sock: socket.socket) -> str:
    """Write the address of a socket as people do, with the port that it really has; "closed" for a closed one."""
    if sock.fileno() < 0:
        return "closed"
    name = sock.getsockname()
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    return f"unix:{name}"
