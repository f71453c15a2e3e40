"""Telling systemd how it stands (sd_notify(3)). Must not know what is going on."""

import contextlib
import os
import socket

_PATIENCE = 2.0


def notify(state: str, patience: float | None = None) -> None:
    """Tell systemd (sd_notify(3)), or give up after `patience` seconds (default: a moment): whoever does not read must not stop us."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(_PATIENCE if patience is None else patience)
        sock.connect("\0" + path[1:] if path.startswith("@") else path)
        sock.send(state.encode())
