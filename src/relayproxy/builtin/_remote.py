"""What the plugins that ask a service share: its address, a deadline, a circuit breaker, numbers and log lines.

A service that fails again and again is left alone for a while, so that mail neither waits for it nor keeps it from
coming back; whatever was not answered is a ServiceError, and `on_error` of the plugin decides. Must not know what is
asked, nor in which protocol.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema

from relayproxy.api import App, Plugin, ServiceError, Settings
from relayproxy.builtin._quantities import Duration
from relayproxy.model.endpoint import Endpoint, read_endpoint

T = TypeVar("T")

_MARGIN: Final = 0.95  # of the hook's time: what is left is for the log line that says why there is no answer
_LAST_WORDS: Final = 4096  # octets
_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
_FAULTS = (OSError, EOFError, asyncio.LimitOverrunError)


Pause = Annotated[Duration, Field(le=86_400)]


@asynccontextmanager
async def connected(place: Endpoint) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection, which ends with the block, whatever is on its way. Raises OSError."""
    if place.path:
        reader, writer = await asyncio.open_unix_connection(place.path)
    else:
        reader, writer = await asyncio.open_connection(place.host, place.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


Where = Annotated[
    Endpoint,
    PlainValidator(read_endpoint),
    PlainSerializer(str),
    WithJsonSchema(
        {"type": "string", "examples": ["127.0.0.1:3310", "unix:/run/service.sock"], "title": "address"}
    ),
]


class Breaker(Settings):
    """When a service that fails is left alone."""

    failures: int = Field(5, ge=1, le=10_000)
    """After so many failures in a row it is not asked for a while: what would be asked has failed at once."""
    retry: Pause = 30.0
    """After this time one message is let through to try; if that is answered, all are."""


class Service:
    """One external service: asks it within a deadline, unless the circuit breaker is open."""

    def __init__(self, what: str, breaker: Breaker, deadline: float, app: App, log: logging.Logger) -> None:
        self._what = what
        self._settings = breaker
        self._deadline = deadline
        self._clock = app.clock
        self._meter = app.meter(what)
        self._meter.breaker(False)
        self._log = log
        self._failures = 0
        self._retry_at: float | None = None
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether the breaker keeps questions back."""
        return self._retry_at is not None

    async def ask(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return what `work` comes to. Raises ServiceError for time-outs, faults of the connection, and its own.

        Other exceptions are mistakes of the plugin's own: they pass, and the breaker doesn't count them.
        """
        probe = self._admit()
        start = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._deadline):
                answer = await work()
        except asyncio.CancelledError:
            # The mail's own time was over, or its client has left: which one can't be told, but who has waited that long
            # has waited for nothing.
            if (waited := self._clock.monotonic() - start) > self._deadline / 2:
                self._failed("timeout", waited, f"no answer within {waited:.1f} s")
            raise
        except TimeoutError:
            seconds = self._clock.monotonic() - start
            self._failed("timeout", seconds, f"no answer within {self._deadline:.1f} s")
            raise ServiceError(f"{self._what}: no answer within {self._deadline:.1f} s") from None
        except (ServiceError, *_FAULTS) as fault:
            text = _said(fault)
            self._failed("error", self._clock.monotonic() - start, text)
            raise ServiceError(f"{self._what}: {text}") from fault
        finally:
            if probe:
                self._probing = False
        self._answered(self._clock.monotonic() - start)
        return answer

    def _admit(self) -> bool:
        """Return whether this question is the one that tries; raise ServiceError where none may be asked."""
        if self._retry_at is None:
            return False
        left = self._retry_at - self._clock.monotonic()
        if left > 0 or self._probing:
            self._meter.asked("refused", 0.0)
            raise ServiceError(f"{self._what} is not asked: it failed {self._failures} times in a row")
        self._probing = True
        return True

    def _answered(self, seconds: float) -> None:
        self._meter.asked("ok", seconds)
        self._failures = 0
        if self._retry_at is not None:
            self._retry_at = None
            self._meter.breaker(False)
            self._log.warning("%s answers again", self._what)

    def _failed(self, result: str, seconds: float, text: str) -> None:
        self._meter.asked(result, seconds)
        self._failures += 1
        if self._failures < self._settings.failures and self._retry_at is None:
            return
        if self._retry_at is None:
            self._meter.breaker(True)
            self._log.error(
                "%s failed %d times in a row and is not asked for %g s: %s",
                self._what,
                self._failures,
                self._settings.retry,
                text,
            )
        self._retry_at = self._clock.monotonic() + self._settings.retry


@contextmanager
def last_words(writer: asyncio.StreamWriter) -> Iterator[Callable[[], bytes]]:
    """Give a function that returns what the peer said before it hung up, once a write has failed.

    A peer that hangs up with something unread breaks the connection, and asyncio drops what has come in by then. The
    system still has it, as long as the socket is open: here by a second descriptor of it.
    """
    sock = writer.get_extra_info("socket")
    with socket.socket(fileno=os.dup(sock.fileno())) as again:

        def words() -> bytes:
            heard = b""
            with suppress(OSError):
                while len(heard) < _LAST_WORDS and (piece := again.recv(_LAST_WORDS, socket.MSG_DONTWAIT)):
                    heard += piece
            return heard

        yield words


async def send(writer: asyncio.StreamWriter, *octets: bytes | memoryview) -> None:
    """Write, and wait while the other side is slower. Raises OSError.

    To write to a connection that is lost already is a warning to asyncio, and to uvloop a RuntimeError.
    """
    if writer.transport.is_closing():
        raise ConnectionResetError("the connection was lost")
    writer.writelines(octets)
    await writer.drain()


def acknowledge(writer: asyncio.StreamWriter) -> None:
    """Have what comes next acknowledged at once, where the system can (TCP_QUICKACK of Linux, which doesn't last).

    For a peer that writes several small answers in a row and waits for the acknowledgement of each (Nagle's algorithm):
    without it every such message takes 40 ms more.
    """
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX and _QUICKACK is not None:
        sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


def _said(fault: Exception) -> str:
    if isinstance(fault, EOFError):
        return "the connection ended before the answer"
    return str(fault) or type(fault).__name__


def service_of(plugin: Plugin[Any], breaker: Breaker, app: App, what: str = "") -> Service:
    """Return the service that a plugin asks, called `what` or as the plugin is; its deadline fits the plugin's."""
    return Service(what or plugin.name, breaker, plugin.timeout * _MARGIN, app, plugin.log)
