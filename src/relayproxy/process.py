"""What a process of ours works with, whatever it does: a clock, a way out for the log, a resolver.

Must not know mail, nor whether it is a worker or a command.
"""

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

from relayproxy.api import Resolver
from relayproxy.config.models import Config
from relayproxy.core.log import Bridge, Log


class SystemClock:
    """The real time."""

    def __init__(self) -> None:
        self.time = time.time
        self.monotonic = time.monotonic


class Lines:
    """Writes log lines to standard error, all of one turn of the loop at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lines: list[str] = []

    def __call__(self, line: str) -> None:
        """Take a line."""
        if not self._lines:
            self._loop.call_soon(self.flush)
        self._lines.append(line)

    def flush(self) -> None:
        """Write what has been taken; a reader that has gone away must not stop the mail."""
        data = "".join(self._lines).encode("utf-8", "backslashreplace")
        self._lines.clear()
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(2, data) :]


def log_style(config: Config) -> str:
    """Human on a terminal, JSON otherwise, unless the configuration says which."""
    if config.log.format != "auto":
        return config.log.format
    return "human" if sys.stderr.isatty() else "json"


def make_resolver(
    config: Config,
) -> tuple[Resolver, Callable[[], object], Callable[[], Coroutine[object, object, None]]]:
    """Return the resolver that the configuration describes, what begins a message's account, and its end.

    dnspython is loaded with the first question: many set-ups never ask one.
    """
    from relayproxy.resolver import Budgeted, CachingResolver

    dns = config.dns
    cache = CachingResolver(
        servers=tuple((server.host, server.port) for server in dns.servers),
        timeout=dns.timeout,
        cache_size=dns.cache_size,
    )
    budgeted = Budgeted(cache, dns.queries_per_message)
    return budgeted, budgeted.begin, cache.close


def certificate_end(path: Path) -> float:
    """Return when the first certificate of a PEM file ends, in seconds since the epoch."""
    from cryptography import x509

    return x509.load_pem_x509_certificates(path.read_bytes())[0].not_valid_after_utc.timestamp()


def bridge_logging(log: Log) -> None:
    """Let plugins and libraries write to our log through the standard logging module."""
    root = logging.getLogger()
    root.handlers[:] = [Bridge(log)]
    root.setLevel(logging.WARNING)
    logging.getLogger("relayproxy").setLevel(logging.INFO)
