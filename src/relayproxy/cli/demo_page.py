"""The demo's page: the messages that went through, and one of them in detail. Server-rendered; no script at all.

Every foreign word is escaped, and the policy of the page allows nothing but its own style.
"""

import asyncio
import collections
import difflib
from html import escape
from typing import Any, cast

import h11

from relayproxy.model.message import Message
from relayproxy.testing.upstream import UpstreamSink

_KEPT = 200
_PATIENCE = 30.0
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #ccc}
th{font-weight:600}pre{background:#f4f4f4;padding:1rem;overflow:auto}.relayed{color:#0a5c2b}.rejected{color:#a01818}
.deferred{color:#7a4b00}a{color:#0b4f9e}caption{text-align:left;padding:.5rem 0}
@media (prefers-color-scheme:dark){body{background:#161616;color:#eee}pre{background:#222}a{color:#8ab8ff}
.relayed{color:#6fd394}.rejected{color:#ff8d8d}.deferred{color:#f0bf6b}th,td{border-color:#444}}
"""


class Board:
    """What the page shows: the proxy's events about messages, newest last, and what reached the upstream."""

    def __init__(self, sink: UpstreamSink) -> None:
        self._sink = sink
        self._ready = asyncio.get_running_loop().create_future()
        self.events: collections.deque[dict[str, Any]] = collections.deque(maxlen=_KEPT)
        self.lines: collections.deque[str] = collections.deque(maxlen=_KEPT)

    def heard(self, event: dict[str, Any], line: str) -> None:
        """Take an event from the proxy's log."""
        self.lines.append(line)
        if event.get("event") == "ready" and not self._ready.done():
            self._ready.set_result(True)
        elif event.get("event") in ("message", "refused"):
            self.events.append(event)

    def ended(self) -> None:
        """The proxy has ended."""
        if not self._ready.done():
            self._ready.set_result(False)

    async def ready(self) -> bool:
        """Wait until the proxy serves; False if it doesn't come up."""
        try:
            async with asyncio.timeout(_PATIENCE):
                return bool(await asyncio.shield(self._ready))
        except TimeoutError:
            return False

    def event(self, id: str) -> dict[str, Any] | None:  # noqa: A002  (what the log calls it)
        """Return the event of a message."""
        return next((event for event in self.events if event.get("id") == id), None)

    def arrived(self, id: str) -> bytes | None:  # noqa: A002
        """Return the octets of a message as the upstream got them; our Received names the id."""
        mark = f" id {id};".encode()
        return next((sunk.content for sunk in self._sink.arrived if mark in sunk.content[:2000]), None)


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return escape(str(value))


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style><h1>{_text(title)}</h1>{body}</html>"
    )


def index(board: Board) -> str:
    """The list of messages."""
    rows = []
    for event in reversed(board.events):
        outcome = event.get(
            "outcome", "rejected" if str(event.get("reply", "")).startswith("5") else "deferred"
        )
        rows.append(
            f"<tr><td>{_text(str(event.get('time', ''))[11:19])}</td><td>{_text(event.get('from') or '<>')}</td>"
            f"<td>{_text(event.get('to', ''))}</td><td>{_text(event.get('size', ''))}</td>"
            f'<td class="{_text(outcome)}">{_text(outcome)}</td><td>{_text(event.get("reply", ""))}</td>'
            f"<td>{round(float(event.get('seconds', 0)) * 1000, 1)}</td>"
            f'<td><a href="/message/{_text(event.get("id", ""))}">{_text(event.get("id", ""))}</a></td></tr>'
        )
    table = (
        "<table><caption>Messages, newest first</caption><thead><tr><th>Time<th>From<th>To<th>Octets<th>Outcome"
        f"<th>Reply<th>ms<th>Id</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
    return _page(
        "relayproxy demo", f'<p><a href="/">Refresh</a></p>{table if rows else "<p>Nothing yet.</p>"}'
    )


def detail(board: Board, id: str) -> str | None:  # noqa: A002  (what the log calls it)
    """One message: its hooks, findings and reply, and what the upstream got."""
    event = board.event(id)
    if event is None:
        return None
    hooks = "".join(
        f"<tr><td>{_text(name)}<td>{round(float(seconds) * 1000, 2)}</tr>"
        for name, seconds in (event.get("hooks") or {}).items()
    )
    facts = "".join(
        f"<tr><th>{_text(key)}<td>{_text(value)}</tr>"
        for key, value in event.items()
        if key not in ("event", "level", "hooks")
    )
    parts = [f"<table>{facts}</table>"]
    if hooks:
        parts.append(f"<h2>Hooks</h2><table><tr><th>Hook<th>ms</tr>{hooks}</table>")
    data = board.arrived(id)
    if data is not None:
        added = _added(data)
        parts.append(f"<h2>What the proxy added</h2><pre>{_text(added)}</pre>")
        shown = data[:20_000].decode("utf-8", "replace").replace("\r\n", "\n")
        parts.append(f"<h2>As the upstream got it</h2><pre>{_text(shown)}</pre>")
    return _page(f"Message {id}", '<p><a href="/">All messages</a></p>' + "".join(parts))


def _added(data: bytes) -> str:
    fields = [field.raw.decode("utf-8", "replace") for field in Message.from_bytes(data).fields]
    first = next((n for n, text in enumerate(fields) if text.lower().startswith("from:")), len(fields))
    lines = "".join(fields[:first]).replace("\r\n", "\n").splitlines()
    return "\n".join(line[2:] for line in difflib.ndiff([], lines))


class _Http(asyncio.Protocol):
    """One request, one page."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=16_384)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            event: Any = self._http.next_event()
        except h11.RemoteProtocolError:
            self._answer(400, _page("Bad request", ""))
            return
        if isinstance(event, h11.Request):
            path = event.target.partition(b"?")[0].decode("ascii", "replace")
            page: str | None = None
            if event.method == b"GET" and path == "/":
                page = index(self._board)
            elif event.method == b"GET" and path.startswith("/message/"):
                page = detail(self._board, path.removeprefix("/message/"))
            self._answer(
                200 if page else 404, page or _page("No such page", '<p><a href="/">All messages</a></p>')
            )

    def _answer(self, code: int, page: str) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        body = page.encode()
        headers = [
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Connection", "close"),
        ]
        for event in (
            h11.Response(status_code=code, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self._transport.write(self._http.send(event) or b"")
        self._transport.close()


async def serve_page(board: Board, port: int) -> asyncio.Server:
    """Serve the page on loopback."""
    return await asyncio.get_running_loop().create_server(lambda: _Http(board), "127.0.0.1", port)
