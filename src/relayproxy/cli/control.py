"""`relayproxy status`, `reload` and `stop`: a line of JSON to the running proxy's control socket and one back."""

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import click

from relayproxy.cli.common import find_config

UNREACHABLE = 69
_PATIENCE = 120.0


def default_socket() -> Path | None:
    """Return where the control socket is when nothing says otherwise, or None where there is no fit place.

    $RUNTIME_DIRECTORY (systemd), /run/relayproxy for root, else $XDG_RUNTIME_DIR.
    """
    if folder := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(folder.partition(":")[0]) / "control.sock"
    if os.geteuid() == 0:
        return Path("/run/relayproxy/control.sock")
    if folder := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(folder) / "relayproxy.sock"
    return None


def configured_socket(config: Path | None) -> Path | None:
    """Return the control socket that a configuration names, or None; it may be wrong in all else.

    If it can't be read to its end, that is said, as the socket may be named there.
    """
    from relayproxy.config.layers import Layers

    place = find_config(config)
    layers = Layers(place, {}, os.environ)
    if not layers.readable:
        click.echo(
            f"relayproxy: {place} can't be read (`relayproxy check` says why), nor which control socket it names",
            err=True,
        )
    control = layers.raw.get("control")
    named = control.get("socket") if isinstance(control, dict) else None
    return (place or Path()).absolute().parent / named if isinstance(named, str) else None


def ask(path: Path | None, config: Path | None, command: str) -> dict[str, Any]:
    """Send a command and return the answer; exits 69 when nobody answers."""
    place = socket_of(path, config)
    if place is None:
        click.echo("relayproxy: say where the control socket is: -C FILE or --socket PATH", err=True)
        sys.exit(UNREACHABLE)
    try:
        return exchanged(place, command, _PATIENCE)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        click.echo(
            f"relayproxy: no answer from a running proxy at {place}: {reason}\n"
            "  if it runs with another configuration or socket, name that with -C FILE or --socket PATH",
            err=True,
        )
        sys.exit(UNREACHABLE)


def socket_of(path: Path | None, config: Path | None) -> Path | None:
    """Return the control socket: `path`, else that of the configuration, else the usual one."""
    return path or configured_socket(config) or default_socket()


def exchanged(place: Path, command: str, patience: float) -> dict[str, Any]:
    """Send a command and return the answer, for which it waits `patience` seconds. Raises OSError and ValueError."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(patience)
        sock.connect(str(place))
        sock.sendall(json.dumps({"command": command}).encode() + b"\n")
        answer = json.loads(sock.makefile("rb").readline())
    if not isinstance(answer, dict):
        raise ValueError("the answer is no mapping")  # noqa: TRY004  (what came over a socket has no type)
    return answer


_CONFIG = click.option(
    "-C",
    "--config",
    type=click.Path(path_type=Path),
    help="The configuration that it runs with; without it ./relayproxy.yaml or /etc/relayproxy/relayproxy.yaml.",
)
SOCKET_OPTION = click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    help="The control socket, where it isn't as configured.",
)


@click.command()
@_CONFIG
@SOCKET_OPTION
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print it.")
@click.option(
    "--probe", type=click.Choice(["live", "ready"]), help="Only tell, by the exit code, whether it is."
)
def status(config: Path | None, socket_path: Path | None, output: str, probe: str | None) -> None:
    """Show the running proxy: listeners, workers, the last reload."""
    answer = ask(socket_path, config, "status")
    workers = answer["workers"]
    if probe:
        ready = any(worker["state"] == "ready" for worker in workers)
        well = ready and not (probe == "ready" and answer["stopping"])
        click.echo("ready" if well else "not ready")
        sys.exit(0 if well else 1)
    if output == "json":
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(f"relayproxy  pid {answer['pid']}  {answer['config']}  generation {answer['generation']}")
    for name, place in answer["listeners"].items():
        click.echo(f"  listener  {name:<12} {place}")
    click.echo(f"  metrics   {answer['metrics']}")
    if answer["unsubscribe"] != "off":
        click.echo(f"  unsubscribe page  {answer['unsubscribe']}")
    for worker in workers:
        click.echo(
            f"  worker {worker['worker']}  pid {worker['pid']}  {worker['state']}  "
            f"generation {worker['generation']}  {worker['seconds']:.0f} s"
        )
    last = answer["reload"]
    if last:
        click.echo("  last reload  " + ("ok" if last["ok"] else f"failed: {last['problem']}"))


@click.command()
@_CONFIG
@SOCKET_OPTION
def reload(config: Path | None, socket_path: Path | None) -> None:
    """Load the configuration again; on any mistake the running one stays, and the mistake is shown."""
    answer = ask(socket_path, config, "reload")
    if answer.get("ok"):
        click.echo("reloaded")
        return
    click.echo(f"{answer.get('problem', 'failed')}\nstill running with the old configuration", err=True)
    sys.exit(1)


@click.command()
@_CONFIG
@SOCKET_OPTION
def stop(config: Path | None, socket_path: Path | None) -> None:
    """Drain and stop the running proxy, as SIGTERM does."""
    ask(socket_path, config, "stop")
    click.echo("stopping")
