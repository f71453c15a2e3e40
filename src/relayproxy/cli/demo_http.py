"""The web side of `relayproxy demo`: h11 parses, a function answers, the connection closes.

Loopback only, GET only, no scripts: the policy sent with each page forbids everything but its own style sheet. Requests
under another host name are refused, so that no foreign page can read it through a name that leads here.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import h11

_PATIENCE = 10.0
_POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send: status, content type, octets."""

    status: int
    body: bytes
    kind: str = "text/html; charset=utf-8"


Pages = Callable[[str, str], Answer]
"""Answers a path and a query."""


class PageServer(asyncio.Protocol):
    """One connection of a browser."""

    def __init__(self, pages: Pages, hosts: frozenset[bytes]) -> None:
        self._pages = pages
        self._hosts = hosts
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=16_384)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a request, but not for ever."""
        self._transport = cast("asyncio.Transport", transport)
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (the name of the base class)
        """Stop waiting."""
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Read a request and answer it."""
        try:
            self._http.receive_data(data)
            event: Any = self._http.next_event()
        except h11.RemoteProtocolError:
            self._send(Answer(400, b"bad request\n", "text/plain"))
            return
        if isinstance(event, h11.Request):
            self._send(self._answer(event))

    def _answer(self, request: h11.Request) -> Answer:
        host = next((value.lower() for name, value in request.headers if name == b"host"), b"")
        if host not in self._hosts:
            return Answer(421, b"not under this name\n", "text/plain")
        if request.method not in (b"GET", b"HEAD"):
            return Answer(405, b"GET only\n", "text/plain")
        path, _, query = request.target.decode("ascii", "replace").partition("?")
        answer = self._pages(path, query)
        return Answer(answer.status, b"", answer.kind) if request.method == b"HEAD" else answer

    def _send(self, answer: Answer) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        headers = [
            ("Content-Type", answer.kind),
            ("Content-Length", str(len(answer.body))),
            ("Content-Security-Policy", _POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
            ("Connection", "close"),
        ]
        for event in (
            h11.Response(status_code=answer.status, headers=headers),
            h11.Data(data=answer.body),
            h11.EndOfMessage(),
        ):
            self._transport.write(self._http.send(event) or b"")
        self._transport.close()
