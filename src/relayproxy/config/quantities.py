"""Durations and sizes: a number and a unit in the YAML, seconds and octets in the program.

Each parser takes what a person writes and returns a number or raises a refusal that says what was meant.
"""

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

from relayproxy.config.base import refusal
from relayproxy.model import durations, sizes
from relayproxy.model.refused import Refused


def read_duration(value: object) -> float:
    """Return seconds for `5s`, `2m`, `1h30m`, `250ms`; refuse what is none."""
    return _said(durations.parse_duration, value)


def _positive(seconds: float) -> float:
    return _said(durations.positive, seconds)


def _said(read: Callable[[Any], float], value: object) -> float:
    try:
        return read(value)
    except Refused as error:
        raise refusal("RP203" if error.beyond else "RP205", error.message, error.hint) from None


_DURATION_SCHEMA = WithJsonSchema(
    {
        "type": "string",
        "pattern": r"^(\s*[0-9]+(\.[0-9]+)?\s*(ms|s|m|min|h|d|w))+$",
        "examples": ["5s", "2m", "1h30m"],
        "title": "duration",
    }
)
_DURATION_TEXT = PlainSerializer(durations.format_duration, when_used="json")
Grace: TypeAlias = Annotated[float, BeforeValidator(read_duration), _DURATION_TEXT, _DURATION_SCHEMA]
Duration: TypeAlias = Annotated[
    float, BeforeValidator(read_duration), AfterValidator(_positive), _DURATION_TEXT, _DURATION_SCHEMA
]


def read_size(value: object) -> int:
    """Return octets for `50 MB` (powers of 1000), `1 MiB` and `10M` (powers of 1024), or a bare number above zero."""
    try:
        return sizes.some(sizes.parse_size(value))
    except Refused as error:
        raise refusal("RP203" if error.beyond else "RP204", error.message, error.hint) from None


Size: TypeAlias = Annotated[
    int,
    BeforeValidator(read_size),
    PlainSerializer(sizes.format_size, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*[kKmMgGtT]?([iI]?[bB])?\s*$"},
            ],
            "examples": ["50 MB", "1 MiB"],
            "title": "size",
        }
    ),
]
