"""Answers of scanners that are used again for the same octets, for a short time and by all workers.

The key is the SHA-256 of the whole message with whatever else the answer depends on. A state that fails costs a scan and
no mail. Must not know what a scanner says.
"""

import asyncio
import hashlib
from collections.abc import Iterable
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from relayproxy.api import App, Message, Unavailable, shared_key
from relayproxy.model.durations import format_duration, parse_duration

_ON_THE_LOOP = 262_144  # octets that are hashed at once; a thread would take longer to begin
_LONGEST = 32_768  # characters of an answer that is kept

Remembered = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(ge=0, le=86_400),
    PlainSerializer(format_duration, when_used="json"),
    WithJsonSchema({"type": "string", "examples": ["5m", "0s"], "title": "duration"}),
]
"""For how many seconds an answer is used again; 0 for never."""


class Answers:
    """The answers of the plugin `what`; counts what was found and what wasn't."""

    def __init__(self, what: str, ttl: float, app: App) -> None:
        self._what, self._ttl = what, ttl
        self._state = app.state
        self._meter = app.meter(what)

    @property
    def are_kept(self) -> bool:
        """Whether there is anything to look for."""
        return self._ttl > 0

    async def key(self, message: Message, facts: Iterable[str]) -> str:
        """Return what an answer to this message is kept under."""
        if message.size > _ON_THE_LOOP:
            digest = await asyncio.to_thread(_digest, message)
        else:
            digest = _digest(message)
        return shared_key(self._what, digest, *facts)

    async def find(self, key: str) -> str | None:
        """Return the answer that was given lately, or None."""
        try:
            found = await self._state.get(key)
        except Unavailable:
            return None
        self._meter.remembered(found is not None)
        return found

    async def keep(self, key: str, answer: str) -> None:
        """Keep an answer, unless it is long."""
        if len(answer) > _LONGEST:
            return
        try:
            await self._state.put(key, answer, ttl=self._ttl)
        except Unavailable:
            return


def _digest(message: Message) -> str:
    digest = hashlib.sha256()
    for chunk in message.chunks():
        digest.update(chunk)
    return digest.hexdigest()
