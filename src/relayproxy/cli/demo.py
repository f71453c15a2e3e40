"""`relayproxy demo`: the proxy, a built-in upstream and a page, with nothing to set up and nothing left behind."""

import asyncio
import contextlib
import json
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from relayproxy.cli.demo_page import Board, serve_page
from relayproxy.testing.upstream import UpstreamSink

_PLUGIN = '''"""Refuse subjects in capitals."""

from relayproxy.api import hook, reject


@hook
def message(mail):
    """Look at the subject."""
    mail.note("shouting", "hit" if mail.message.subject.isupper() else "miss", score=1.0)
    if mail.message.subject.isupper():
        return reject("Please don't shout", reason="the subject is all capitals")
    return None
'''

_SAMPLES = (
    (
        "ana@example.org",
        "bob@example.net",
        "Lunch on Friday?",
        "Hello Bob,\n\nshall we meet at noon?\n\nAna\n",
    ),
    ("news@example.com", "bob@example.net", "What's new in November", "Three things happened.\n"),
    ("spam@example.com", "bob@example.net", "BUY NOW", "You won't believe it.\n"),
    (
        "ana@example.org",
        "bob+4xx@example.net",
        "Your mailbox is busy",
        "This one is deferred by the upstream.\n",
    ),
    (
        "ana@example.org",
        "nobody+5xx@example.net",
        "Is anybody there?",
        "This one is refused by the upstream.\n",
    ),
)


class Moods(Mapping[str, bytes]):
    """How the built-in upstream answers at RCPT: `+4xx` and `+5xx` in a local part make it refuse."""

    def __getitem__(self, path: str) -> bytes:
        local = path.partition("@")[0]
        if local.endswith("+4xx"):
            return b"450 4.2.1 Mailbox busy, try again later\r\n"
        if local.endswith("+5xx"):
            return b"550 5.1.1 No such user here\r\n"
        raise KeyError(path)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


@click.command()
@click.option("--port", default=2525, help="Where the proxy listens; another free port where this is taken.")
@click.option("--page", "page_port", default=8025, help="Where the page is.")
@click.option(
    "--exit-after-samples", is_flag=True, help="End when the sample messages are through (for tests)."
)
def demo(port: int, page_port: int, *, exit_after_samples: bool) -> None:
    """Run the proxy with a built-in upstream and a page that shows what happens to each message."""
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(asyncio.run(_demo(port, page_port, once=exit_after_samples)))


def _free(port: int) -> int:
    """Return `port`, or a free one where it is taken."""
    for wanted in (port, 0):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", wanted))
            except OSError:
                continue
            found: int = sock.getsockname()[1]
            if found != port:
                click.echo(f"port {port} is taken; using {found}")
            return found
    raise click.ClickException("no free port on 127.0.0.1")


async def _demo(port: int, page_port: int, *, once: bool) -> int:
    port, page_port = _free(port), _free(page_port)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with tempfile.TemporaryDirectory(prefix="relayproxy-demo-") as name:
        folder = Path(name)
        async with UpstreamSink(refusals=Moods(), hostname="upstream.demo.example") as sink:
            board = Board(sink)
            config = _write(folder, port, sink.address)
            proxy = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "relayproxy",
                "run",
                "-C",
                str(config),
                "--socket",
                str(folder / "control.sock"),
                stderr=asyncio.subprocess.PIPE,
            )
            page = await serve_page(board, page_port)
            reader = loop.create_task(_follow(proxy, board))
            try:
                if not await board.ready():
                    click.echo("the proxy did not start:\n" + "\n".join(board.lines), err=True)
                    return 1
                _announce(port, page_port)
                await _send_samples(port)
                waiting = [loop.create_task(stop.wait()), loop.create_task(proxy.wait())]
                if not once:
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in waiting:
                    task.cancel()
            finally:
                page.close()
                if proxy.returncode is None:
                    proxy.terminate()
                    await proxy.wait()
                await reader
    return 0


def _write(folder: Path, port: int, upstream: str) -> Path:
    """Write the demo's configuration, plugin and signing key."""
    plugins, keys = folder / "plugins", folder / "keys"
    plugins.mkdir()
    keys.mkdir()
    (plugins / "no_shouting.py").write_text(_PLUGIN, "utf-8")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (keys / "example.org.demo.pem").write_bytes(key)
    config = folder / "relayproxy.yaml"
    config.write_text(
        json.dumps(
            {
                "version": 1,
                "hostname": "demo.relayproxy.example",
                "listeners": [{"name": "demo", "listen": f"127.0.0.1:{port}"}],
                "relay": {"networks": ["127.0.0.0/8"]},
                "upstreams": {"built-in": {"address": upstream, "tls": "off"}},
                "plugin_folders": ["plugins"],
                "pipeline": ["no_shouting", {"dkim_sign": {"keys": "keys"}}],
                "log": {"format": "json"},
                "metrics": {"listen": "off"},
            },
            indent=2,
        ),
        "utf-8",
    )
    return config


async def _follow(proxy: asyncio.subprocess.Process, board: Board) -> None:
    """Read the proxy's log: messages go to the board, all of it to the terminal in words."""
    assert proxy.stderr is not None
    async for raw in proxy.stderr:
        line = raw.decode("utf-8", "replace").rstrip("\n")
        try:
            event: Any = json.loads(line)
        except ValueError:
            event = {"event": "text", "text": line}
        board.heard(event if isinstance(event, dict) else {"event": "text", "text": line}, line)
        if event.get("event") in ("message", "refused"):
            to = event.get("to", "")
            names = ", ".join(to) if isinstance(to, list) else to
            click.echo(f"{event['event']:<8} {event.get('from') or '<>'} -> {names}   {event['reply']}")
    board.ended()


def _announce(port: int, page_port: int) -> None:
    click.echo(
        f"proxy   127.0.0.1:{port}   (SMTP; loopback clients may send anywhere, all of it to the upstream here)"
    )
    click.echo(f"page    http://127.0.0.1:{page_port}/")
    click.echo(f"try     swaks --server 127.0.0.1:{port} --from ana@example.org --to bob@example.net")
    click.echo(
        f'        python3 -c \'import smtplib; smtplib.SMTP("127.0.0.1", {port})'
        '.sendmail("ana@example.org", ["bob@example.net"], "Subject: hi\\r\\n\\r\\nhello")\''
    )
    click.echo("        recipients ending in +4xx or +5xx are refused by the upstream, capitals by a plugin")
    click.echo("end     Ctrl-C\n")


async def _send_samples(port: int) -> None:
    """Send a handful of messages, so that the page has something to show."""
    for number, (sender, recipient, subject, text) in enumerate(_SAMPLES):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        content = (
            f"From: <{sender}>\r\nTo: <{recipient}>\r\nSubject: {subject}\r\nMessage-ID: <demo-{number}@example.org>\r\n"
            f"Date: Tue, 24 Nov 2026 12:00:00 +0000\r\n\r\n" + text.replace("\n", "\r\n") + ".\r\n"
        )
        await _reply(reader)
        for command in ("EHLO demo.example.org", f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "DATA"):
            writer.write(f"{command}\r\n".encode())
            code = await _reply(reader)
            if command == "DATA" and code == 354:
                writer.write(content.encode())
                await _reply(reader)
        writer.write(b"QUIT\r\n")
        await _reply(reader)
        writer.close()


async def _reply(reader: asyncio.StreamReader) -> int:
    while True:
        line = await reader.readline()
        if line[3:4] != b"-":
            return int(line[:3] or 0)
