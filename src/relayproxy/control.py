"""The control socket: a line of JSON in, a line of JSON out, one request at a time.

Must not know what the commands mean.
"""

import contextlib
import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from relayproxy.server.sockets import Where, open_sockets

_MOST = 65_536
_PATIENCE = 2.0


class ControlSocket:
    """A Unix socket at `path`, for its owner and group. `answer` says what a command comes to."""

    def __init__(self, path: Path, answer: Callable[[str], Mapping[str, object]]) -> None:
        self.path = path
        self._answer = answer
        self._socket: socket.socket | None = None

    def open(self) -> socket.socket:
        """Listen, and return the socket. Raises OSError and SocketError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._socket = open_sockets(Where(path=str(self.path), mode=0o660), 1)[0]
        return self._socket

    def forget(self) -> None:
        """Close this process's hold on it; the socket stays."""
        if self._socket is not None:
            self._socket.close()

    def close(self) -> None:
        """End it, if it was opened."""
        if self._socket is not None:
            self._socket.close()
            with contextlib.suppress(OSError):
                self.path.unlink()

    def serve(self, control: socket.socket) -> None:
        """Answer one request that has come in; one that makes no sense or dawdles gets none."""
        with contextlib.suppress(OSError, ValueError):
            peer, _ = control.accept()
            with peer:
                peer.settimeout(_PATIENCE)
                request = json.loads(peer.makefile("rb").readline(_MOST))
                answer = self._answer(request.get("command", "") if isinstance(request, dict) else "")
                peer.sendall(json.dumps(answer).encode() + b"\n")
