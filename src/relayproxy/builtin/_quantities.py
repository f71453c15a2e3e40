"""Durations and rates as plugins' settings write them: `5m`, `100/1h`.

Must not know which plugin a value is for.
"""

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, PlainValidator, WithJsonSchema

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PART = re.compile(r"(\d{1,9})(s|min|m|h|d|w)(?![a-z])", re.ASCII)
_RATE = re.compile(r"(\d{1,9})\s*/\s*(\d*)(s|min|m|h|d|w)", re.ASCII)
_LONGEST = 10 * 365 * 86_400


def seconds(value: object) -> object:
    """Return the seconds of `1h30m`; a bare number would hide its unit. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError("write a number and a unit: 30s, 5m, 1h30m, 7d")  # noqa: TRY004  (located by pydantic)
    at, total = 0, 0
    while at < len(value) and (part := _PART.match(value, at)):
        total += int(part[1]) * _UNITS[part[2]]
        at = part.end()
    if not value or at < len(value):
        raise ValueError(f"{value!r} is not a duration; write a number and a unit: 30s, 5m, 1h30m, 7d")
    return total


def _bounded(value: float) -> float:
    if not 0 < value <= _LONGEST:
        raise ValueError("a duration is above zero and at most ten years")
    return value


def in_words(value: float) -> str:
    """Return seconds as people read them: 90 is "90 seconds", 5400 "90 minutes"."""
    whole = max(1, round(value))
    for word, length in (("hour", 3600), ("minute", 60)):
        if whole >= 2 * length:
            return f"{-(-whole // length)} {word}s"
    return f"{whole} second{'' if whole == 1 else 's'}"


def _short(value: float) -> str:
    return f"{round(value)}s"


Duration = Annotated[
    float,
    BeforeValidator(seconds),
    AfterValidator(_bounded),
    PlainSerializer(_short, when_used="json"),
    WithJsonSchema({"type": "string", "examples": ["30s", "5m", "1h30m"], "title": "duration"}),
]


@dataclass(frozen=True, slots=True)
class Frequency:
    """So many in so many seconds."""

    count: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.count}/{self.seconds}s"


def _frequency(value: object) -> Frequency:
    if isinstance(value, Frequency):
        return value
    found = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError("write how many in which time: 100/1h, 20/m")
    made = Frequency(int(found[1]), int(found[2] or 1) * _UNITS[found[3]])
    if not made.count or not 0 < made.seconds <= _LONGEST:
        raise ValueError("a rate is at least one in at most ten years")
    return made


Rate = Annotated[
    Frequency,
    PlainValidator(_frequency),
    PlainSerializer(str, when_used="json"),
    WithJsonSchema({"type": "string", "examples": ["100/1h", "20/m"], "title": "rate"}),
]
