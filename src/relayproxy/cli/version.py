"""`relayproxy version`."""

import click

from relayproxy import __version__


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"relayproxy {__version__}")
