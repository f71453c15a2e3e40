"""Writes of one turn of the loop, made one after the other when the turn is over.

A write wakes the process at the other end. Made back to back they find it awake, where writes between which we think
wake it again and again: a fifth of the CPU of a small message. Must not know what is written.
"""

from collections.abc import Callable
from typing import Any


class Outbox:
    """Collects `(transport, octets)`; order is kept, for each transport and overall."""

    __slots__ = ("_later", "_pending")

    def __init__(self, call_soon: Callable[[Callable[[], None]], Any]) -> None:
        self._later = call_soon
        self._pending: list[tuple[Any, bytes | None]] = []

    def send(self, transport: Any, data: bytes) -> None:
        """Write `data` to `transport` at the end of this turn."""
        if not self._pending:
            self._later(self.flush)
        self._pending.append((transport, data))

    def close(self, transport: Any) -> None:
        """Close `transport` at the end of this turn, behind what is to be written to it."""
        if not self._pending:
            self._later(self.flush)
        self._pending.append((transport, None))

    def flush(self) -> None:
        """Write now what has been collected."""
        pending, self._pending = self._pending, []
        for transport, data in pending:
            try:
                if data is None:
                    transport.close()
                else:
                    transport.write(data)
            except RuntimeError:
                # Closed meanwhile; its owner learns that from connection_lost, the others go on.
                continue
