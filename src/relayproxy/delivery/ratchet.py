"""What TLS with a host has once been: what was seen secure doesn't become less so unnoticed.

Kept in the shared state, so that all workers know and a restart forgets nothing. Must not know how a connection is made.
"""

from collections import OrderedDict
from contextlib import suppress
from enum import IntEnum

from relayproxy.api import Clock, SharedState, Unavailable, shared_key
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics

ACTIONS = ("warned", "refused")
_KEPT = 10_000


class Level(IntEnum):
    """How well a connection is protected, from least to most."""

    CLEAR = 0
    ENCRYPTED = 1
    VERIFIED = 2


WORDS = {Level.ENCRYPTED: "TLS", Level.VERIFIED: "TLS with a certificate that is good for its name"}
"""What was seen, in words."""


def seen_in(text: str | None) -> str:
    """Return what a text of the state says was seen, in words; "" for nothing."""
    return WORDS.get(_level(text), "")


def key_of(host: str, port: int) -> str:
    """Return the key under which the state has what was seen of a host."""
    return shared_key("tls-ratchet", host.lower(), str(port))


class RatchetError(Exception):
    """A host offers less than it did, or it can't be known; the text says which. `level` is what it offers."""

    def __init__(self, problem: str, level: Level) -> None:
        super().__init__(problem)
        self.level = level


class Ratchet:
    """The memory. A host that isn't seen for `expire` seconds is forgotten."""

    def __init__(self, state: SharedState, *, clock: Clock, log: Log, metrics: Metrics) -> None:
        self._state = state
        self._clock = clock
        self._log = log
        self._cells = {action: metrics.cell("tls_ratchet_total", action) for action in ACTIONS}
        self._noted: OrderedDict[str, tuple[Level, float]] = OrderedDict()

    async def judge(self, host: str, port: int, level: Level, *, enforce: bool, expire: float) -> None:
        """Take note of a connection, or say that there was a better one. Raises RatchetError if that is enforced.

        Where the state gives no answer, only what is not protected to the full is in doubt, and is refused: its outage must
        not be a way round.
        """
        key = key_of(host, port)
        noted, until = self._noted.get(key, (Level.CLEAR, 0.0))
        known = level <= noted and self._clock.time() < until
        if known and level is Level.VERIFIED:
            return
        before = Level.CLEAR
        if level < Level.VERIFIED:
            try:
                before = _level(await self._state.get(key))
            except Unavailable as error:
                if enforce:
                    self._cells["refused"].inc()
                    problem = f"what TLS to {host} has been can't be known: {error}"
                    raise RatchetError(problem, level) from error
                return
        if level < before:
            self._cells["refused" if enforce else "warned"].inc()
            seen = WORDS[before]
            self._log.error("tls_weaker", host=host, port=port, seen=seen, refused=enforce)
            if enforce:
                raise RatchetError(f"{host} was seen with {seen} before, and has less now", level)
        elif level > Level.CLEAR and not known:
            with suppress(Unavailable):  # which is logged; the next connection tells again
                await self._state.put(key, level.name, ttl=expire)
                self._note(key, level, expire)

    def _note(self, key: str, level: Level, expire: float) -> None:
        """Remember what was just written, so that not every connection writes it: a tenth of the time is lost at most."""
        self._noted[key] = level, self._clock.time() + expire / 10
        self._noted.move_to_end(key)
        if len(self._noted) > _KEPT:
            self._noted.popitem(last=False)


def _level(text: str | None) -> Level:
    return Level.__members__.get(text or "", Level.CLEAR)
