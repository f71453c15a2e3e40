"""Plugins started by a command in place of a worker.

Must not know what the command is for.
"""

from relayproxy.api import App
from relayproxy.core.pipeline import Pipeline, live


class StartupError(Exception):
    """A plugin can't start, or what it needs can't be opened; the text says which and why."""


async def start_plugins(pipeline: Pipeline, app: App) -> None:
    """Call the startup hooks as a worker does. Raises StartupError."""
    for call in pipeline.calls("startup"):
        try:
            await live(call, app=app)
        except Exception as error:  # the fence round foreign code
            raise StartupError(f"{call.entry.name}: {type(error).__name__}: {error}") from error
