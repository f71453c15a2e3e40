"""Durations and rates as plugins' settings write them: `5m`, `100/1h`.

Must not know which plugin a value is for.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, PlainValidator, WithJsonSchema

from relayproxy.model.durations import format_duration, parse_duration, parse_rate, positive


def in_words(value: float) -> str:
    """Return seconds as people read them: 90 is "90 seconds", 5400 "90 minutes"."""
    whole = max(1, round(value))
    for word, length in (("hour", 3600), ("minute", 60)):
        if whole >= 2 * length:
            return f"{-(-whole // length)} {word}s"
    return f"{whole} second{'' if whole == 1 else 's'}"


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    AfterValidator(positive),
    PlainSerializer(format_duration, when_used="json"),
    WithJsonSchema({"type": "string", "examples": ["30s", "5m", "1h30m"], "title": "duration"}),
]


@dataclass(frozen=True, slots=True)
class Frequency:
    """So many in so many seconds."""

    count: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.count}/{format_duration(self.seconds)}"


def _frequency(value: object) -> Frequency:
    return value if isinstance(value, Frequency) else Frequency(*parse_rate(value))


Rate = Annotated[
    Frequency,
    PlainValidator(_frequency),
    PlainSerializer(str, when_used="json"),
    WithJsonSchema({"type": "string", "examples": ["100/1h", "20/m"], "title": "rate"}),
]
