"""Durations and sizes: a number and a unit in the YAML, seconds and octets in the program.

Each parser takes what a person writes and returns a number or raises a refusal that says what was meant.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

from relayproxy.config.base import refusal
from relayproxy.model import durations
from relayproxy.model.refused import Refused, quoted


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

_SIZE = re.compile(r"\s*(\d{1,16}(?:\.\d{1,6})?)\s*([kmgt]?)(i?b|)\s*", re.ASCII | re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_LARGEST = 2**50


def parse_size(value: object) -> int:
    """Return octets for `50 MB` (powers of 1000), `1 MiB` and `10M` (powers of 1024), or a bare number."""
    wanted = "write a number and a unit: 50 MB, 1 MiB"
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise refusal("RP204", "a size is wanted", wanted)
    if isinstance(value, int):
        octets = value
    else:
        found = _SIZE.fullmatch(value)
        if not found:
            raise refusal("RP204", f"{quoted(value)} is not a size", wanted)
        number, letter, suffix = found[1], found[2].lower(), found[3].lower()
        base = 1000 if suffix == "b" else 1024
        octets = (
            int(float(number) * base ** _POWER[letter])
            if "." in number
            else int(number) * (base ** _POWER[letter])
        )
    if not 0 < octets <= _LARGEST:
        raise refusal("RP203", f"{quoted(value)} is out of range", "between 1 octet and 1024 TiB")
    return octets


def format_size(octets: int) -> str:
    """Return octets as parse_size reads them, with the largest unit that loses nothing."""
    for unit, length in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("GB", 10**9), ("MB", 10**6)):
        if octets and octets % length == 0:
            return f"{octets // length} {unit}"
    return f"{octets} B"


Size: TypeAlias = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, when_used="json"),
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
