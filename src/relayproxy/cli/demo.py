"""`relayproxy demo`: the proxy, an upstream and a web page on loopback, with nothing to set up.

The proxy is the real one, under the real supervisor, with two plugins of the demo's own. Everything is kept in a
temporary folder that goes with it.
"""

import contextlib
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relayproxy.cli.common import FAILED

if TYPE_CHECKING:
    from relayproxy.plugging import Choice
    from relayproxy.supervisor import Plan

_HOST = "127.0.0.1"
_PATIENCE = 15.0
_DOMAIN = "demo.example"


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), default=2525, show_default=True, help="Where to send mail."
)
@click.option(
    "--page", type=click.IntRange(1, 65535), default=8025, show_default=True, help="Where the page is."
)
@click.option(
    "--workers", type=click.IntRange(1, 32), default=1, show_default=True, help="Processes of the proxy."
)
def demo(port: int, page: int, workers: int) -> None:
    """Run the proxy with a built-in upstream and a web page; Ctrl-C ends it and leaves nothing behind.

    Only this machine can reach it. It sends itself some mail to show. If a port is in use, a free one is taken.
    """
    page_socket = _listening(page)
    smtp_port = _free(port)
    for wanted, got in ((port, smtp_port), (page, page_socket.getsockname()[1])):
        if wanted != got:
            click.echo(f"port {wanted} is in use: taking {got}", err=True)
    folder = Path(tempfile.mkdtemp(prefix="relayproxy-demo-"))
    try:
        code = _run(folder, smtp_port, page_socket, workers)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(code)


def _listening(port: int) -> socket.socket:
    """Return a socket that listens on `port`, or on a free one where that is in use."""
    try:
        return socket.create_server((_HOST, port))
    except OSError:
        return socket.create_server((_HOST, 0))


def _free(port: int) -> int:
    """Return `port` if nobody listens there, else a free one."""
    with _listening(port) as sock:
        return int(sock.getsockname()[1])


def _run(folder: Path, port: int, page: socket.socket, workers: int) -> int:
    from relayproxy.core.log import Log
    from relayproxy.supervisor import StartError, Supervisor

    (folder / "seen").mkdir()
    plan = demo_plan(folder, port, workers)
    log_in, log_out = os.pipe()
    ready_in, ready_out = os.pipe()
    child = _fork(folder, (log_in, log_out), (ready_in, ready_out), page, port)
    os.close(log_in)
    os.close(ready_out)
    page_port = page.getsockname()[1]
    page.close()
    if not select.select([ready_in], [], [], _PATIENCE)[0] or not os.read(ready_in, 1):
        click.echo("relayproxy: the demo's upstream did not start", err=True)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        return FAILED
    # The workers log to standard error, as they always do; here the page reads it.
    terminal = os.dup(2)
    os.dup2(log_out, 2)
    os.close(log_out)
    log = Log(lambda line: _write(2, line), time.time)

    def announce(_generation: object) -> None:
        click.echo(_welcome(port, page_port))
        log.info("ready")

    code, problem = FAILED, ""
    try:
        code = Supervisor(lambda: plan, log, control=None).run(announce)
    except StartError as error:
        problem = str(error)
    finally:
        # With the last writer gone, the child sees the log's end, and ends.
        os.dup2(terminal, 2)
        os.close(terminal)
        select.select([ready_in], [], [], _PATIENCE)
        with contextlib.suppress(ChildProcessError):  # the supervisor collects whatever child ends
            os.waitpid(child, os.WNOHANG)
    if problem:
        click.echo(f"relayproxy: can't start: {problem}", err=True)
    return code


def _fork(folder: Path, log: tuple[int, int], ready: tuple[int, int], page: socket.socket, port: int) -> int:
    """Start the second process and return its id."""
    pid = os.fork()
    if pid:
        return pid
    code = FAILED
    try:
        os.close(log[1])
        os.close(ready[0])
        from relayproxy.cli.demo_child import serve

        serve(log[0], ready[1], page, folder, (_HOST, port))
        code = 0
    except BaseException:  # noqa: BLE001  (the process ends here, and says why)
        traceback.print_exc()
    finally:
        os._exit(code)


def _write(descriptor: int, line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(descriptor, line.encode("utf-8", "backslashreplace"))


def _welcome(port: int, page: int) -> str:
    return f"""\
relayproxy demo      Ctrl-C ends it; only this machine can reach it
  send mail to       {_HOST}:{port}
  look at it on      http://{_HOST}:{page}/
try
  swaks --server {_HOST}:{port} --from you@{_DOMAIN} --to bob@example.net
  python3 -c "import smtplib; smtplib.SMTP('{_HOST}', {port}).sendmail('you@{_DOMAIN}', \
'bob@example.net', 'From: you@{_DOMAIN}\\nSubject: hello\\n\\nHello')"
a subject with "lottery" is refused, one with "later" is deferred; bob+4xx@, bob+5xx@, bob+slow@ and bob+drop@
make the upstream misbehave
"""


def demo_plan(folder: Path, port: int, workers: int) -> "Plan":
    """Return what the demo runs; keys and files are made in `folder`."""
    from relayproxy.config.models import Config
    from relayproxy.supervisor import Plan

    config = Config.model_validate(
        {
            "version": 1,
            "hostname": f"mx.{_DOMAIN}",
            "listeners": [{"name": "demo", "listen": f"{_HOST}:{port}"}],
            "relay": {"networks": ["127.0.0.0/8"]},
            "upstreams": {"upstream": {"address": f"unix:{folder}/upstream.sock", "tls": "off"}},
            "workers": workers,
            "metrics": {"listen": "off"},
            "log": {"format": "json"},
            "shutdown_timeout": "10s",
        }
    )
    return Plan(config, demo_choices(folder), folder, "the demo")


def demo_choices(folder: Path) -> "list[Choice]":
    """Return the demo's pipeline: its own plugins, and built-in ones that need no network."""
    from relayproxy.catalogue import Catalogue
    from relayproxy.cli.demo_plugins import DemoRecorder, DemoWords

    catalogue = Catalogue()
    _make_key(folder / "keys" / _DOMAIN / "demo.key")
    lines: list[tuple[str, Any, dict[str, Any]]] = [
        ("demo_recorder", DemoRecorder, {"folder": str(folder / "seen")}),
        ("demo_words", DemoWords, {}),
        ("headers", catalogue["headers"], {"add": {"X-Demo": "{id} from {client.ip}, score {score}"}}),
        ("dkim_sign", catalogue["dkim_sign"], {"keys": str(folder / "keys")}),
    ]
    return [_choice(name, cls, options) for name, cls, options in lines]


def _choice(name: str, cls: Any, options: dict[str, Any]) -> "Choice":
    from relayproxy.config.models import PipelineEntry

    return PipelineEntry(name=name), cls, cls.settings.model_validate(options)


def _make_key(path: Path) -> None:
    """Write a new RSA key, of the size that every receiver verifies (RFC 8301 section 3.2)."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

    path.parent.mkdir(parents=True)
    path.touch(mode=0o600)
    path.write_bytes(
        generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
