"""Floor 6: the command line. Each command lives in a module of its own and is loaded when it is called."""

from relayproxy.cli.root import main

__all__ = ["main"]
