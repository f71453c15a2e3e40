"""One SMTP client connection of the load generator, as cheap as Python allows.

The dialogue is a generator: it yields octets to send and the count of replies to wait for, and is resumed
with the last reply. TLS runs over memory buffers, since that is where Python's ssl takes a session to resume.
"""

import asyncio
import ssl
from collections.abc import Generator
from typing import Any, Protocol

Reply = tuple[int, bytes]
# (octets to send, replies to wait for); 0 replies: parked until resume(); None: start the TLS handshake
Step = tuple[bytes | tuple[bytes, ...], int] | None
Dialogue = Generator[Step, Reply, None]


class Owner(Protocol):
    """What a session tells the job that it belongs to."""

    def lost(self, session: "Session") -> None: ...
    def keep(self, resumable: ssl.SSLSession) -> None: ...


class Session(asyncio.Protocol):
    """A connection that speaks its dialogue to the end, then closes."""

    def __init__(
        self, owner: Owner, dialogue: Dialogue, context: ssl.SSLContext | None, resume: ssl.SSLSession | None
    ) -> None:
        self._owner = owner
        self._dialogue = dialogue
        self._context = context
        self._resume = resume
        self._tls: ssl.SSLObject | None = None
        self._shaking = False
        self._buffer = b""
        self._wanted = 1
        self.resumed = False
        self.ended = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        next(self._dialogue)  # the first step waits for the banner

    def connection_lost(self, _exc: Exception | None) -> None:
        self.ended = True
        self._dialogue.close()
        self._owner.lost(self)

    @property
    def unsent(self) -> int:
        """Octets that the kernel has not taken yet."""
        return int(self._transport.get_write_buffer_size())

    def resume(self) -> None:
        """Go on after a parked step (one that waits for no reply)."""
        if not self.ended:
            self._step((0, b""))

    def close(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._tls is not None:
            self._incoming.write(data)
            if self._shaking:
                self._handshake()
                if self._shaking:
                    return
            data = self._decrypt()
        self._buffer += data
        self._replies()

    def _replies(self) -> None:
        while self._wanted and (end := self._buffer.find(b"\n")) >= 0:
            line, self._buffer = self._buffer[: end + 1], self._buffer[end + 1 :]
            if line[3:4] == b"-":
                continue
            self._wanted -= 1
            if not self._wanted:
                self._step((int(line[:3]) if line[:3].isdigit() else 0, line))

    def _step(self, reply: Reply) -> None:
        try:
            step = self._dialogue.send(reply)
        except StopIteration:
            self._transport.close()
            return
        if step is None:
            self._start_tls()
            return
        octets, self._wanted = step
        if octets:
            self._send(octets)

    def _send(self, octets: bytes | tuple[bytes, ...]) -> None:
        if self._tls is None:
            if isinstance(octets, bytes):
                self._transport.write(octets)
            else:
                self._transport.writelines(octets)
            return
        self._tls.write(octets if isinstance(octets, bytes) else b"".join(octets))
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())

    def _start_tls(self) -> None:
        assert self._context is not None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = self._context.wrap_bio(self._incoming, self._outgoing, session=self._resume)
        self._shaking = True
        self._handshake()

    def _handshake(self) -> None:
        assert self._tls is not None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError:
            self._transport.abort()
            return
        self._flush()
        self._shaking = False
        self.resumed = bool(self._tls.session_reused)
        self._step((220, b""))

    def _decrypt(self) -> bytes:
        assert self._tls is not None
        parts = []
        try:
            while part := self._tls.read(65536):
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self._transport.abort()
        self._flush()
        # Python copies a session whenever it is read (0.5 ms and more), so one is read and then used for all
        if self._resume is None and (session := self._tls.session) is not None and session.has_ticket:
            self._owner.keep(session)
        return b"".join(parts)
