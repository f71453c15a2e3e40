"""The unsubscribe page put together: the page, the plugins that read and keep, and the socket it is served from.

A part of the composition root. Must not know what a token says, nor how a list is kept.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from relayproxy.config.unsubscribe import Unsubscribe
from relayproxy.core.log import Log
from relayproxy.core.services import Services
from relayproxy.core.unsubscribing import UnsubscribeFault, Unsubscribing
from relayproxy.server.http import PATIENCE, Door, HttpConnection
from relayproxy.server.unsubscribe import MOST_BODY, RESULTS, Unavailable, UnsubscribePage

_ANSWERING = PATIENCE - 2
"""Seconds for the plugins, so that a 503 still comes in time."""

P = ParamSpec("P")
T = TypeVar("T")


async def serve_page(
    settings: Unsubscribe,
    services: Services,
    plugins: Unsubscribing,
    sock: socket.socket,
    tls: ssl.SSLContext | None,
) -> asyncio.Server:
    """Begin to serve the page. Raises OSError."""
    cells = {result: services.metrics.cell("unsubscribe_requests_total", result) for result in RESULTS}
    page = UnsubscribePage(
        _in_time(plugins.read, services.log),
        _in_time(plugins.keep, services.log),
        counted=lambda result: cells[result].inc(),
        monotonic=services.clock.monotonic,
        per_minute=settings.rate,
        proxies=settings.trusted_proxies,
    )
    door = Door(settings.connections)
    return await asyncio.get_running_loop().create_server(
        lambda: HttpConnection(page, most_body=MOST_BODY, door=door),
        sock=sock,
        ssl=tls,
        ssl_handshake_timeout=PATIENCE if tls is not None else None,
    )


def _in_time(ask: Callable[P, Awaitable[T]], log: Log) -> Callable[P, Awaitable[T]]:
    """Return a call that raises Unavailable for what fails, and, with a line in the log, for what takes too long."""

    async def asked(*arguments: P.args, **named: P.kwargs) -> T:
        try:
            async with asyncio.timeout(_ANSWERING):
                return await ask(*arguments, **named)
        except UnsubscribeFault as fault:
            raise Unavailable from fault
        except TimeoutError as late:
            log.error("unsubscribe_late", seconds=_ANSWERING)
            raise Unavailable from late

    return asked
