"""`relayproxy reputation`: who has sent good and bad mail until now, as the plugin counts it.

Must not judge: the numbers are the plugin's, computed by its own function.
"""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from relayproxy.cli.common import CONFIG_OPTION, JSON_OPTION, LIMIT_OPTION, YES_OPTION, confirmed, load_plan
from relayproxy.cli.state import forget, found, with_store

if TYPE_CHECKING:
    from relayproxy.builtin.reputation import ReputationSettings
    from relayproxy.state.rows import Row
    from relayproxy.supervisor import Plan

_PREFIX = "reputation"
_KIND_OPTION = click.option("--kind", type=click.Choice(["client", "domain", "login"]), help="Only of these.")


class Standing(NamedTuple):
    """What is known of one: `standing` from -1 (all good) to 1 (all bad), `score` as the plugin would give it now."""

    kind: str
    name: str
    good: float
    bad: float
    standing: float
    score: float


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def reputation() -> None:
    """What became of the mail of clients, domains and logins: list, forget."""


@reputation.command("list")
@CONFIG_OPTION
@_KIND_OPTION
@click.option("--best", is_flag=True, help="The best first; without it the worst.")
@LIMIT_OPTION
@JSON_OPTION
@click.argument("text", default="")
def list_(path: Path | None, kind: str | None, limit: int, text: str, *, best: bool, as_json: bool) -> None:
    """Who is known, the worst first; only names that hold TEXT."""
    plan = load_plan(path, {})
    rows = with_store(plan.config, lambda store: found(store, _PREFIX))
    standings = [
        one
        for one in _standings(rows, _settings(plan), time.time())
        if (kind is None or one.kind == kind) and text.lower() in one.name.lower()
    ]
    standings.sort(key=lambda one: (one.standing if best else -one.standing, one.kind, one.name))
    shown = standings[:limit]
    if as_json:
        entries = [one._asdict() for one in shown]
        click.echo(json.dumps({"count": len(standings), "entries": entries}, indent=2))
        return
    for one in shown:
        click.echo(
            f"{one.standing:+.2f}  score {one.score:+.2f}  {one.bad:8.1f} bad  {one.good:8.1f} good"
            f"  {one.kind} {one.name}"
        )
    nameless = sum(key.startswith(f"{_PREFIX}#") for key in rows)
    click.echo(
        f"{len(standings)} found"
        + (f", {len(shown)} shown" if len(standings) > limit else "")
        + (f"; {nameless} counts are of names too long to be kept" if nameless else ""),
        err=True,
    )


def _settings(plan: "Plan") -> "ReputationSettings":
    """The settings of the pipeline's entry, or else the defaults."""
    from relayproxy.builtin.reputation import ReputationSettings

    return next(
        (options for *_, options in plan.choices if isinstance(options, ReputationSettings)),
        ReputationSettings(),
    )


def _standings(rows: "dict[str, Row]", options: "ReputationSettings", now: float) -> list[Standing]:
    from relayproxy.builtin.reputation import standing
    from relayproxy.state.rows import decayed

    counts: dict[tuple[str, str], dict[str, float]] = {}
    for key, row in rows.items():
        prefix, *parts = key.split("|")
        if prefix == _PREFIX and len(parts) == 3:
            kind, name, side = parts
            value = decayed(row.number, now - row.stamp, options.half_life)
            counts.setdefault((kind, name), {})[side] = value
    return [
        Standing(kind, name, round(good, 2), round(bad, 2), round(value, 3), round(value * scale, 3))
        for (kind, name), sides in counts.items()
        for good, bad in [(sides.get("good", 0.0), sides.get("bad", 0.0))]
        for value in [standing(good, bad, options.doubt)]
        for scale in [getattr(options.scales, kind)]
    ]


@reputation.command("forget")
@CONFIG_OPTION
@_KIND_OPTION
@YES_OPTION
@JSON_OPTION
@click.argument("names", nargs=-1, required=True)
def forget_(path: Path | None, kind: str | None, names: tuple[str, ...], *, yes: bool, as_json: bool) -> None:
    """Forget what is known of NAMES: a client's address, a domain, a login."""
    plan = load_plan(path, {})
    wanted = {name.lower() for name in names}

    def meant(key: str) -> bool:
        prefix, *parts = key.split("|")
        return (
            prefix == _PREFIX and len(parts) == 3 and parts[1].lower() in wanted and kind in (None, parts[0])
        )

    keys = [key for key in with_store(plan.config, lambda store: found(store, _PREFIX)) if meant(key)]
    confirmed(len(keys), "Forget them?", yes=yes)
    with_store(plan.config, lambda store: forget(store, keys))
    click.echo(json.dumps({"forgotten": len(keys)}) if as_json else f"forgot {len(keys)} counts")
