"""`relayproxy check`: every mistake of a configuration in one run."""

import sys
from pathlib import Path

import click

from relayproxy.cli.common import BAD_CONFIG, CONFIG_OPTION, FAILED, colored, fail, find_config


@click.command()
@CONFIG_OPTION
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "github"]), default="text", help="How to print."
)
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
def check(path: Path | None, form: str, *, strict: bool) -> None:
    """Show every mistake of the configuration, with its place and a likely fix; exit 78 if there is an error."""
    from relayproxy.config import load as loader

    place = find_config(path)
    if place is None:
        fail("no configuration file found; name one with -C", BAD_CONFIG)
    loaded = loader.load(place, files=True, ask=True)
    errors = [problem for problem in loaded.problems if problem.severity == "error"]
    warnings = len(loaded.problems) - len(errors)
    if loaded.problems or form != "text":
        click.echo(loader.report(loaded, form, color=colored()), err=form == "text")
    if errors:
        sys.exit(BAD_CONFIG)
    if form == "text" and loaded.config is not None:
        config = loaded.config
        click.echo(
            f"ok  {place}   {len(config.rules)} rules, {len(config.pipeline)} plugins, {len(config.listeners)} listeners, "
            f"{len(config.upstreams)} upstreams   0 errors, {warnings} warning{'s' * (warnings != 1)}"
        )
    if strict and warnings:
        sys.exit(FAILED)
