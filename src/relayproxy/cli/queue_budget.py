"""`relayproxy queue budget`: what new sources and upstreams may send today, and what they have sent.

Must not know how mail is counted, only where.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relayproxy.cli.common import CONFIG_OPTION, JSON_OPTION, load_config
from relayproxy.cli.state import with_store

if TYPE_CHECKING:
    from relayproxy.config.models import Config
    from relayproxy.delivery.warmup import Warmup
    from relayproxy.state.listing import Store


@click.command("budget")
@CONFIG_OPTION
@JSON_OPTION
def queue_budget(path: Path | None, *, as_json: bool) -> None:
    """What sources and upstreams with a warm-up may send today (UTC), and have sent."""
    config = load_config(path)
    found = _budgets(config, time.time())
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for row in found:
        budget = "no limit" if row["budget"] is None else row["budget"]
        used = "?" if row["used"] is None else row["used"]
        day = "ended" if row["budget"] is None else f"day {row['day']}" if row["day"] > 0 else "not yet"
        click.echo(f"{row['name']:<32} {row['destinations']:<16} {day:<8} {used:>8} of {budget}")
    if config.state is None and found:
        click.echo("each worker counts for itself, as the configuration has no state", err=True)


def _budgets(config: "Config", now: float) -> list[dict[str, Any]]:
    """Return a row for each warm-up and group of destinations; `used` is None where nothing is shared."""
    from relayproxy.delivery.pool import OTHER
    from relayproxy.delivery.warmup import DAY

    rows = []
    groups = {OTHER: OTHER} | {f"+{shape.name}": shape.name for shape in config.bulk.shaping}
    keys = [(warmup, group) for warmup in _warmups(config) for group in groups]
    used = _counted(config, [warmup.key(group, now) for warmup, group in keys])
    for (warmup, group), count in zip(keys, used, strict=True):
        budget = warmup.budget(now)
        limited = budget != float("inf")
        rows.append(
            {
                "name": warmup.name,
                "destinations": groups[group],
                "day": int((now - warmup.start) // DAY) + 1,
                "budget": int(budget) if limited else None,
                "used": count,
            }
        )
    return rows


def _warmups(config: "Config") -> "list[Warmup]":
    """Return each once, in the order of the configuration."""
    from relayproxy.ways import warmups_of

    found: dict[str, Warmup] = {}
    for name, upstream in config.upstreams.items():
        for source in upstream.sources or (None,):
            for warmup in warmups_of(name, upstream, source):
                found.setdefault(warmup.name, warmup)
    return list(found.values())


def _counted(config: "Config", keys: list[str]) -> Sequence[int | None]:
    from relayproxy.model.shared import Add

    if config.state is None or not keys:
        return [None] * len(keys)
    if config.state.path is not None and not config.state.path.exists():
        return [0] * len(keys)  # it is the proxy that makes the file

    async def ask(store: "Store") -> list[int]:
        return [int(count) for count in await store.do(*(Add(key, 0, 1.0) for key in keys))]

    return with_store(config, ask)
