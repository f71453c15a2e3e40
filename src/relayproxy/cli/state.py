"""`relayproxy state`: what plugins count and remember from one message to the next; to look at and to forget.

Works on the store itself, whether or not the proxy runs. Must not know what a plugin means by a key.
"""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from relayproxy.cli.common import (
    CONFIG_OPTION,
    JSON_OPTION,
    LIMIT_OPTION,
    YES_OPTION,
    confirmed,
    fail,
    load_config,
)
from relayproxy.model.legible import legible

if TYPE_CHECKING:
    from relayproxy.config.models import Config
    from relayproxy.state.listing import Store
    from relayproxy.state.rows import Row

_Answer = TypeVar("_Answer")
_BATCH = 500


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def state() -> None:
    """What plugins remember (greylist, ratelimit, reputation): list, forget."""


def with_store(config: "Config", use: "Callable[[Store], Coroutine[Any, Any, _Answer]]") -> _Answer:
    """Open the store of a configuration and return what `use` makes of it; exits 1 where that can't be done."""
    from relayproxy.api import Unavailable
    from relayproxy.plugging import state_store

    kept = config.state
    if kept is None:
        fail("the configuration has no state: each worker keeps its own in memory, where nobody can look")

    async def run() -> _Answer:
        store = state_store(kept, time)
        try:
            return await use(store)
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except Unavailable as error:
        fail(f"{kept.url}: {error}")


async def forget(store: "Store", keys: list[str]) -> None:
    """Delete keys, some hundred at a time."""
    from relayproxy.api import Delete

    for start in range(0, len(keys), _BATCH):
        await store.do(*(Delete(key) for key in keys[start : start + _BATCH]))


async def found(store: "Store", prefix: str) -> "dict[str, Row]":
    """Return all that is kept under keys that begin with `prefix`, in the order of the keys."""
    return dict(sorted([entry async for entry in store.entries(prefix)]))


@state.command("list")
@CONFIG_OPTION
@LIMIT_OPTION
@JSON_OPTION
@click.argument("prefix", default="")
def list_(path: Path | None, limit: int, prefix: str, *, as_json: bool) -> None:
    """What is kept under keys that begin with PREFIX, such as greyknown or "rate|"."""
    rows = with_store(load_config(path), lambda store: found(store, prefix))
    now = time.time()
    shown = list(rows.items())[:limit]
    if as_json:
        entries = [
            {"key": key, **_value(row, now), "ends_in": round(row.ends - now, 3)} for key, row in shown
        ]
        click.echo(json.dumps({"count": len(rows), "entries": entries}, indent=2))
        return
    for key, row in shown:
        ((what, value),) = _value(row, now).items()
        click.echo(f"{key}\n    {what} {value}, ends in {row.ends - now:.0f} s")
    click.echo(f"{len(rows)} found" + (f", {len(shown)} shown" if len(rows) > limit else ""), err=True)


def _value(row: "Row", now: float) -> dict[str, Any]:
    """What kind of entry a row is: a bucket ends when it is full again, a text has no number."""
    if row.number == row.ends:
        return {"bucket_full_in": round(row.ends - now, 3)}
    if row.text or not row.number:
        return {"text": legible(row.text, 1000)}
    return {"count": round(row.number, 3)}


@state.command("forget")
@CONFIG_OPTION
@YES_OPTION
@JSON_OPTION
@click.argument("prefix")
def forget_(path: Path | None, prefix: str, *, yes: bool, as_json: bool) -> None:
    """Forget what is kept under keys that begin with PREFIX, in force with the next message."""
    config = load_config(path)
    keys = list(with_store(config, lambda store: found(store, prefix)))
    confirmed(len(keys), "Forget them?", yes=yes)
    with_store(config, lambda store: forget(store, keys))
    click.echo(json.dumps({"forgotten": len(keys)}) if as_json else f"forgot {len(keys)}")
