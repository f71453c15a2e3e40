"""The second process of `relayproxy demo`: the upstream, the page, and a reader of the proxy's log.

Ends when nobody is left who could write to the log, so the proxy's last transactions still find their upstream.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path

from relayproxy.cli.demo_http import Answer, PageServer
from relayproxy.cli.demo_page import STYLE, list_page, message_page, not_found
from relayproxy.cli.demo_samples import send
from relayproxy.cli.demo_store import Seen, Store
from relayproxy.cli.demo_upstream import DemoUpstream
from relayproxy.cli.test_report import plain

_LINE = 1_048_576


def serve(log: int, ready: int, page: socket.socket, folder: Path, smtp: tuple[str, int]) -> None:
    """Serve until the pipe `log` ends; `ready` hears a word once all listens. Removes `folder` at the end."""
    # Ctrl-C reaches every process of the terminal; this one outlives the proxy.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        asyncio.run(_Demo(page, folder, smtp).run(log, ready))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Demo:
    def __init__(self, page: socket.socket, folder: Path, smtp: tuple[str, int]) -> None:
        self._page = page
        self._folder = folder
        self._smtp = smtp
        self._store = Store(folder / "seen")
        self._sending: asyncio.Task[int] | None = None

    async def run(self, log: int, ready: int) -> None:
        """Start everything, then read the log to its end."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_LINE)
        pipe, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(log, "rb")
        )
        port = self._page.getsockname()[1]
        hosts = frozenset(f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost"))
        server = await loop.create_server(lambda: PageServer(self._answer, hosts), sock=self._page)
        async with DemoUpstream(
            self._folder / "upstream.sock", lambda sunk: self._store.take_forwarded(sunk.content)
        ):
            os.write(ready, b"R")
            await self._read(reader)
        server.close()
        pipe.close()
        if self._sending is not None:
            await self._sending

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                continue  # longer than any line of ours
            if not line:
                return
            try:
                event = json.loads(line)
            except ValueError:
                self._print(plain(line.decode("utf-8", "replace").rstrip("\n")))
                continue
            if isinstance(event, dict):
                self._take(event)

    def _take(self, event: dict[str, object]) -> None:
        if event.get("event") == "ready":
            self._sending = asyncio.create_task(asyncio.to_thread(send, *self._smtp))
            return
        seen = self._store.take_event(event)
        if seen is not None:
            self._print(_line(seen, event))
        elif event.get("level") in ("warning", "error"):
            facts = " ".join(f"{key}={value}" for key, value in event.items() if key not in ("time", "level"))
            self._print(plain(facts))

    @staticmethod
    def _print(line: str) -> None:
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)

    def _answer(self, path: str, query: str) -> Answer:
        if path == "/":
            host, port = self._smtp
            return Answer(
                200, list_page(self._store, f"{host}:{port}", refresh=3 if query == "refresh" else 0)
            )
        if path == "/style.css":
            return Answer(200, STYLE.encode(), "text/css; charset=utf-8")
        if path.startswith("/message/") and (seen := self._store.find(path.removeprefix("/message/"))):
            return Answer(200, message_page(seen))
        return Answer(404, not_found())


def _line(seen: Seen, event: dict[str, object]) -> str:
    to = event.get("to")
    told = ", ".join(map(str, to)) if isinstance(to, list) else str(to)
    verdict = seen.verdict if event.get("event") == "message" else "refused"
    took = f"  {seen.seconds * 1000:.1f} ms" if event.get("event") == "message" else ""
    return plain(
        f"{seen.time[11:19]}  {verdict:<9} {seen.sender or '<>'} -> {told}  {event.get('reply', '')}{took}"
    )
