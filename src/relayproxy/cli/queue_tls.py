"""`relayproxy queue tls`: what TLS of hosts was seen, as ratchets remember it. Must not know how that is judged."""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relayproxy.cli.common import CONFIG_OPTION, JSON_OPTION, fail, load

if TYPE_CHECKING:
    from relayproxy.config.models import Config

_PORT = 25


@click.command("tls")
@CONFIG_OPTION
@click.option("--forget", is_flag=True, help="Forget it: mail goes out again as the host offers it now.")
@JSON_OPTION
@click.argument("hosts", nargs=-1, required=True)
def tls_seen(path: Path | None, hosts: tuple[str, ...], *, forget: bool, as_json: bool) -> None:
    """What TLS was seen at HOSTS, names of mail servers or upstreams, under `tls_ratchet`."""
    from relayproxy.api import Unavailable

    config = load(path, {}).config
    assert config is not None
    if config.state is None:
        fail("the configuration has no state, so each worker remembers for itself")
    try:
        rows = asyncio.run(_looked_up(config, hosts, forget=forget))
    except Unavailable as error:
        fail(error)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        note = ", forgotten now" if forget and row["seen"] else ""
        click.echo(f"{row['host']}:{row['port']}  {row['seen'] or 'nothing is remembered'}{note}")


async def _looked_up(
    config: "Config", hosts: Sequence[str], *, forget: bool
) -> list[dict[str, str | int | bool]]:
    """Return a row for each host and each port that is in use, or one where nothing is remembered."""
    from relayproxy.api import Delete
    from relayproxy.app import SystemClock
    from relayproxy.build import state_of
    from relayproxy.core.log import Log
    from relayproxy.core.metrics import Metrics
    from relayproxy.delivery.ratchet import key_of, seen_in

    state = state_of(config, SystemClock(), Log(lambda _: None, time.time), Metrics())
    rows: list[dict[str, str | int | bool]] = []
    try:
        for host in dict.fromkeys(name.lower().rstrip(".") for name in hosts):
            found = {port: seen_in(await state.get(key_of(host, port))) for port in _ports(config)}
            known = {port: seen for port, seen in found.items() if seen} or {min(found): ""}
            for port, seen in known.items():
                if forget and seen:
                    await state.do(Delete(key_of(host, port)))
                rows.append({"host": host, "port": port, "seen": seen, "forgotten": forget and bool(seen)})
    finally:
        await state.close()
    return rows


def _ports(config: "Config") -> list[int]:
    ports = {upstream.mx_port for upstream in config.upstreams.values() if upstream.mx}
    for upstream in config.upstreams.values():
        ports.update(target.address.port for target in upstream.targets)
    return sorted(ports) or [_PORT]
