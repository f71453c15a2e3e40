"""`relayproxy queue tls`: what TLS of hosts was seen, as ratchets remember it. Must not know how that is judged."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relayproxy.cli.common import CONFIG_OPTION, JSON_OPTION, load_config
from relayproxy.cli.state import with_store

if TYPE_CHECKING:
    from relayproxy.config.models import Config
    from relayproxy.state.listing import Store

_PORT = 25


@click.command("tls")
@CONFIG_OPTION
@click.option("--forget", is_flag=True, help="Forget it: mail goes out again as the host offers it now.")
@JSON_OPTION
@click.argument("hosts", nargs=-1, required=True)
def tls_seen(path: Path | None, hosts: tuple[str, ...], *, forget: bool, as_json: bool) -> None:
    """What TLS was seen at HOSTS, names of mail servers or upstreams, under `tls_ratchet`."""
    config = load_config(path)
    ports = _ports(config)
    rows = with_store(config, lambda store: _looked_up(store, hosts, ports, forget=forget))
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        note = ", forgotten now" if forget and row["seen"] else ""
        click.echo(f"{row['host']}:{row['port']}  {row['seen'] or 'nothing is remembered'}{note}")


async def _looked_up(
    store: "Store", hosts: Sequence[str], ports: Sequence[int], *, forget: bool
) -> list[dict[str, str | int | bool]]:
    """Return a row for each host and each port that is in use, or one where nothing is remembered."""
    from relayproxy.api import Delete
    from relayproxy.delivery.ratchet import key_of, seen_in

    rows: list[dict[str, str | int | bool]] = []
    for host in dict.fromkeys(name.lower().rstrip(".") for name in hosts):
        found = {port: seen_in(await store.get(key_of(host, port))) for port in ports}
        known = {port: seen for port, seen in found.items() if seen} or {min(found): ""}
        for port, seen in known.items():
            if forget and seen:
                await store.do(Delete(key_of(host, port)))
            rows.append({"host": host, "port": port, "seen": seen, "forgotten": forget and bool(seen)})
    return rows


def _ports(config: "Config") -> list[int]:
    ports = {upstream.mx_port for upstream in config.upstreams.values() if upstream.mx}
    for upstream in config.upstreams.values():
        ports.update(target.address.port for target in upstream.targets)
    return sorted(ports) or [_PORT]
