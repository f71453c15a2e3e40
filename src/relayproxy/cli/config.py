"""`relayproxy config`: the configuration as it takes effect, and its schema for editors."""

import json
from pathlib import Path

import click

from relayproxy.cli.common import CONFIG_OPTION, find_config, load


@click.group()
def config() -> None:
    """Show the effective configuration, or its JSON Schema."""


@config.command()
@CONFIG_OPTION
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
def show(path: Path | None, *, origin: bool) -> None:
    """The configuration as it takes effect; secrets are shown as the places they are kept in."""
    from relayproxy.config.schema import show as shown

    click.echo(shown(load(path, {}), origin=origin), nl=False)


@config.command()
@CONFIG_OPTION
@click.option(
    "--draft", type=click.Choice(["2020-12", "07"]), default="2020-12", help="The dialect of JSON Schema."
)
def schema(path: Path | None, draft: str) -> None:
    """The JSON Schema of the configuration, plugins' settings included, for an editor's completion."""
    from relayproxy.catalogue import Catalogue
    from relayproxy.config.schema import schema as made

    place = find_config(path)
    loaded = load(place, {}) if place else None
    folders = [Path(folder) for folder in loaded.config.plugin_folders] if loaded and loaded.config else []
    click.echo(json.dumps(made(Catalogue(folders), draft=draft), indent=2))
