"""The `relayproxy` command: its sub-commands by name, loaded only when called, so that the short ones stay quick."""

import importlib
from typing import Any

import click

_COMMANDS = {
    "run": ("relayproxy.cli.run", "run"),
    "demo": ("relayproxy.cli.demo", "demo"),
    "check": ("relayproxy.cli.check", "check"),
    "test": ("relayproxy.cli.test", "test"),
    "plugin": ("relayproxy.cli.plugin", "plugin"),
    "rules": ("relayproxy.cli.rules", "rules"),
    "replay": ("relayproxy.cli.replay", "replay"),
    "dkim": ("relayproxy.cli.dkim", "dkim"),
    "dns": ("relayproxy.cli.dns", "dns"),
    "dmarc": ("relayproxy.cli.dmarc", "dmarc"),
    "tls": ("relayproxy.cli.tls", "tls"),
    "history": ("relayproxy.cli.history", "history"),
    "queue": ("relayproxy.cli.queue", "queue"),
    "quarantine": ("relayproxy.cli.queue", "quarantine"),
    "suppression": ("relayproxy.cli.suppression", "suppression"),
    "webhooks": ("relayproxy.cli.webhooks", "webhooks"),
    "bounces": ("relayproxy.cli.bounces", "bounces"),
    "reputation": ("relayproxy.cli.reputation", "reputation"),
    "state": ("relayproxy.cli.state", "state"),
    "learn": ("relayproxy.cli.learn", "learn"),
    "torture": ("relayproxy.cli.torture", "torture"),
    "config": ("relayproxy.cli.config", "config"),
    "status": ("relayproxy.cli.control", "status"),
    "reload": ("relayproxy.cli.control", "reload"),
    "stop": ("relayproxy.cli.control", "stop"),
    "version": ("relayproxy.cli.version", "version"),
    "help": ("relayproxy.cli.help", "help_"),
}


class Commands(click.Group):
    """A group whose commands are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order in which people meet them."""
        return [*_COMMANDS, *(name for name in super().list_commands(ctx) if name not in _COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return super().get_command(ctx, cmd_name)
        command: Any = getattr(importlib.import_module(place[0]), place[1])
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """An SMTP proxy with a pipeline of plugins.

    `relayproxy demo` shows it working; `relayproxy run` serves; `relayproxy test MESSAGE` tells what would happen to
    a message.
    """
