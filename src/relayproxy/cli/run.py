"""`relayproxy run`: serve in the foreground, with a file or without."""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relayproxy.cli.common import (
    BAD_CONFIG,
    CONFIG_OPTION,
    FAILED,
    USAGE,
    colored,
    fail,
    find_config,
    load,
    plan_of,
)

if TYPE_CHECKING:
    from relayproxy.supervisor import Generation, Plan


@click.command()
@CONFIG_OPTION
@click.option("--listen", help="Without a file: where to listen, HOST:PORT. Loopback clients may relay.")
@click.option("--to", help="Without a file: the upstream, HOST:PORT.")
@click.option("--workers", help="How many workers: a number, or auto.")
@click.option("--socket", "control", type=click.Path(path_type=Path), help="The control socket.")
def run(
    path: Path | None, listen: str | None, to: str | None, workers: str | None, control: Path | None
) -> None:
    """Serve until SIGTERM; SIGHUP loads the configuration again.

    Logs to standard error. With --listen and --to no file is needed.
    """
    if (listen is None) != (to is None):
        fail("--listen and --to belong together", USAGE)
    overrides: dict[str, Any] = {}
    if workers is not None:
        overrides["workers"] = int(workers) if workers.isascii() and workers.isdigit() else workers
    if listen is not None and path is None:
        overrides |= without_file(listen, to or "")
        serve(None, overrides, control, needed=False)
    else:
        if listen is not None:
            fail("--listen and --to stand for a file; with -C say it there", USAGE)
        serve(find_config(path), overrides, control, needed=True)


def without_file(listen: str, to: str) -> dict[str, Any]:
    """Return the configuration that `run --listen --to` stands for: pass-through for loopback clients."""
    return {
        "version": 1,
        "listeners": [{"name": "smtp", "listen": listen}],
        "relay": {"networks": ["127.0.0.0/8", "::1/128"]},
        "upstreams": {"upstream": {"address": to}},
        "metrics": {"listen": "off"},
    }


def serve(path: Path | None, overrides: dict[str, Any], control: Path | None, *, needed: bool) -> None:
    """Run the supervisor to its end and exit with its code."""
    from relayproxy.cli.control import default_socket
    from relayproxy.config.load import load as loader
    from relayproxy.config.load import report
    from relayproxy.core.log import Log
    from relayproxy.supervisor import StartError, Supervisor

    first = load(path, overrides, needed=needed, ask=True)
    assert first.config is not None
    config = first.config
    for problem in first.problems:
        click.echo(problem.render(color=colored()), err=True)
    pending = [plan_of(first)]

    def plan() -> "Plan":
        if pending:
            return pending.pop()
        again = loader(path, overrides=overrides, ask=True)
        if again.config is None:
            raise StartError(report(again))
        return plan_of(again)

    human = config.log.format == "human" or (config.log.format == "auto" and sys.stderr.isatty())
    log = Log(_to_stderr, time.time, style="human" if human else "json", level=config.log.level)
    place = control or config.control.socket or default_socket()
    supervisor = Supervisor(plan, log, control=Path(place) if place else None)

    def announce(generation: "Generation") -> None:
        _announce(generation, log, human=human)

    try:
        code = supervisor.run(announce)
    except StartError as error:
        click.echo(f"relayproxy: can't start: {error}", err=True)
        sys.exit(BAD_CONFIG if "can't listen" not in str(error) else FAILED)
    sys.exit(code)


def _to_stderr(line: str) -> None:
    os.write(2, line.encode("utf-8", "backslashreplace"))


def _announce(generation: "Generation", log: Any, *, human: bool) -> None:
    """Say that mail is welcome: where, to which upstream, for whom."""
    from relayproxy.server.sockets import bound

    config = generation.plan.config
    places = {
        listener.name: bound(row[0])
        for listener, row in zip(config.listeners, generation.sockets, strict=True)
    }
    upstreams = {
        name: [str(target.address) for target in up.targets] for name, up in config.upstreams.items()
    }
    relay = [*config.relay.domains, *map(str, config.relay.networks)]
    if not human:
        log.info(
            "ready",
            listeners=places,
            upstreams=upstreams,
            relay=relay,
            workers=len(generation.children),
            plugins=[entry.name for entry in config.pipeline],
            metrics=bound(generation.monitor) if generation.monitor else "off",
        )
        return
    observing = sum(entry.mode == "observe" for entry in config.pipeline)
    for number, (name, place) in enumerate(places.items()):
        click.echo(f"{'ready' if not number else '     '}  {name:<10} {place}", err=True)
    for name, addresses in upstreams.items():
        click.echo(f"       to         {', '.join(addresses)} ({name})", err=True)
    click.echo(
        f"       relay for  {', '.join(relay) or 'nobody yet: see relay.domains and relay.networks'}",
        err=True,
    )
    click.echo(
        f"       plugins {len(config.pipeline)} ({observing} in observe mode)   workers {len(generation.children)}",
        err=True,
    )
    if generation.monitor:
        click.echo(f"       metrics    http://{bound(generation.monitor)}/metrics", err=True)
