"""What commands share: options, where the configuration is, how it is loaded and its mistakes shown, how a command fails or asks.

Must not know what a command is for.
"""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from relayproxy.config.load import Loaded
    from relayproxy.config.models import Config
    from relayproxy.supervisor import Plan

FAILED = 1
USAGE = 2
BAD_CONFIG = 78

PLACES = (Path("relayproxy.yaml"), Path("/etc/relayproxy/relayproxy.yaml"))

CONFIG_OPTION = click.option(
    "-C",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help="The configuration file; without it ./relayproxy.yaml or /etc/relayproxy/relayproxy.yaml.",
)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
LIMIT_OPTION = click.option("--limit", default=100, show_default=True, help="How many to show.")
YES_OPTION = click.option("--yes", "-y", is_flag=True, help="Don't ask.")


def find_config(path: Path | None) -> Path | None:
    """Return the configuration file to use: the one named, else the first of the usual places, else None."""
    if path is not None:
        return path
    return next((place for place in PLACES if place.is_file()), None)


def fail(reason: object, code: int = FAILED) -> NoReturn:
    """Say what is wrong, and end."""
    click.echo(f"relayproxy: {reason}", err=True)
    sys.exit(code)


def bulk(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command that changes what its filters find the options --yes and --all; `said_which` looks at them."""
    everything = click.option(
        "--all",
        "everything",
        is_flag=True,
        help="All of them: needed with --yes where nothing else says which.",
    )
    return YES_OPTION(everything(function))


def said_which(given: Mapping[str, Any], *filters: str) -> None:
    """Refuse --yes without an id or a filter: a script whose variable is empty must not change everything."""
    if given["yes"] and not given["everything"] and not any(given.get(name) for name in filters):
        raise click.UsageError("all of them? Name IDS or a filter, or say --all")


def confirmed(count: int, question: str, *, yes: bool) -> None:
    """Ask before so many are changed, "Delete them?"; ends the program where there are none, or the answer is no."""
    if not count:
        fail("nothing is found")
    if not yes:
        click.confirm(f"{count} found. {question}", abort=True, err=True)


def colored() -> bool:
    """Whether standard error is a terminal that shows colours (no-color.org)."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def load(
    path: Path | None, overrides: Mapping[str, Any], *, needed: bool = True, ask: bool = False
) -> "Loaded":
    """Load the configuration; shows its mistakes and exits 78 if there are any errors.

    `needed` says whether a file must exist; without one, `overrides` alone have to make a configuration. `ask` has the
    plugins check what their settings name.
    """
    from relayproxy.config import load as loader

    place = find_config(path)
    if place is None and needed:
        click.echo(
            "relayproxy: no configuration: neither ./relayproxy.yaml nor /etc/relayproxy/relayproxy.yaml is there.\n"
            "  write one, name one with -C, or try: relayproxy run --listen 127.0.0.1:2525 --to HOST:PORT",
            err=True,
        )
        sys.exit(BAD_CONFIG)
    loaded = loader.load(place, overrides=overrides, ask=ask)
    if loaded.config is None:
        click.echo(loader.report(loaded, color=colored()), err=True)
        sys.exit(BAD_CONFIG)
    return loaded


def load_config(path: Path | None) -> "Config":
    """Load the configuration; exits 78 on a mistake."""
    config = load(path, {}).config
    assert config is not None
    return config


def plan_of(loaded: "Loaded") -> "Plan":
    """Return what the supervisor runs."""
    from relayproxy.supervisor import Plan

    assert loaded.config is not None
    return Plan(loaded.config, loaded.choices, loaded.folder, loaded.source)


def load_plan(path: Path | None, overrides: Mapping[str, Any]) -> "Plan":
    """Load the configuration and return what the supervisor runs; exits 78 on a mistake."""
    return plan_of(load(path, overrides))
