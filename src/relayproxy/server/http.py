"""One HTTP request for each connection: read within bounds, answered once, closed. h11 parses.

What the monitoring port and the unsubscribe page share. Must not know any page.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import h11

PATIENCE = 10.0
"""Seconds from a connection to its end."""

TEXT = "text/plain; charset=utf-8"

_HEAD = 16_384  # octets of a request without its body


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked: `target` as it came, `headers` by name in lower case (of equal ones the last), `peer` an IP or ""."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    peer: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said to it. Content-Length and Connection are added."""

    code: int
    body: bytes
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = field(default=())


Handler = Callable[[Request], Awaitable[Answer]]


class Door:
    """Lets at most `most` connections in at a time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.inside = 0


class HttpConnection(asyncio.Protocol):
    """One connection; closes after one answer. A body of more than `most_body` octets is a 413.

    `handler` must not raise and has to bring its answer within `patience` seconds of the connection's begin.
    """

    def __init__(
        self, handler: Handler, *, most_body: int = 0, patience: float = PATIENCE, door: Door | None = None
    ) -> None:
        self._handler = handler
        self._most_body = most_body
        self._patience = patience
        self._door = door
        self._inside = False
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._done = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a request, but not for ever."""
        self._transport = cast("asyncio.Transport", transport)
        if self._door is not None:
            if self._door.inside >= self._door.most:
                self._done = True
                self._transport.abort()
                return
            self._door.inside += 1
            self._inside = True
        self._timer = asyncio.get_running_loop().call_later(self._patience, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (the name of the base class)
        """Stop waiting."""
        if self._timer is not None:
            self._timer.cancel()
        if self._inside and self._door is not None:
            self._inside = False
            self._door.inside -= 1

    def data_received(self, data: bytes) -> None:
        """Read a request and answer it."""
        if self._done:
            return
        try:
            self._http.receive_data(data)
            self._read()
        except h11.RemoteProtocolError:
            self._answer(Answer(400, b"bad request\n"))

    def _read(self) -> None:
        while not self._done:
            event: Any = self._http.next_event()
            if isinstance(event, h11.Request):
                self._request = event
                if self._length(event) > self._most_body and self._most_body:
                    self._answer(Answer(413, b"too large\n"))
                elif self._http.they_are_waiting_for_100_continue and self._transport is not None:
                    go_on = h11.InformationalResponse(status_code=100, headers=[])
                    self._transport.write(self._http.send(go_on) or b"")
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > self._most_body:
                    self._answer(Answer(413, b"too large\n"))
            elif isinstance(event, h11.EndOfMessage):
                self._done = True
                self._task = asyncio.get_running_loop().create_task(self._serve())
            else:
                return

    @staticmethod
    def _length(request: h11.Request) -> int:
        return next((int(value) for name, value in request.headers if name == b"content-length"), 0)

    async def _serve(self) -> None:
        assert self._request is not None
        assert self._transport is not None
        peer = self._transport.get_extra_info("peername")
        self._answer(
            await self._handler(
                Request(
                    self._request.method.decode("ascii"),
                    self._request.target.decode("ascii", "replace"),
                    {name.decode("ascii"): value.decode("latin-1") for name, value in self._request.headers},
                    bytes(self._body),
                    peer[0] if isinstance(peer, tuple) else "",
                )
            )
        )

    def _answer(self, answer: Answer) -> None:
        self._done = True
        if self._transport is None or self._transport.is_closing():
            return
        headers = [
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("Connection", "close"),
            *answer.headers,
        ]
        events: list[h11.Event] = [
            h11.Response(status_code=answer.code, headers=headers),
            h11.Data(data=answer.body),
            h11.EndOfMessage(),
        ]
        if self._request is not None and self._request.method == b"HEAD":
            # RFC 9110 section 9.3.2: the header fields alone.
            del events[1]
        for event in events:
            self._transport.write(self._http.send(event) or b"")
        self._transport.close()
