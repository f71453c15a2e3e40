"""Durations and sizes: a number and a unit in the YAML, seconds and octets in the program.

Each parser takes what a person writes and returns a number or raises a refusal that says what was meant.
"""

import re
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

from relayproxy.config.base import quoted, refusal

_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_PART = re.compile(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*(ms|min|s|m|h|d|w)(?![a-z])", re.ASCII)
_LONGEST_TIME = 10 * 365 * 86400


def parse_duration(value: object) -> float:
    """Return seconds for `5s`, `2m`, `1h30m`, `250ms`; refuse a bare number, as it hides its unit."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise refusal("RP205", "a duration is wanted", "write a number and a unit: 30s, 5m, 1h30m")
    if not isinstance(value, str):
        raise refusal("RP205", f"{quoted(value)} has no unit", f"for seconds write {value}s")
    seconds, at = 0.0, 0
    while at < len(value) and (part := _PART.match(value, at)):
        seconds += float(part[1]) * _UNIT_SECONDS[part[2]]
        at = part.end()
    if not value or at < len(value):
        raise refusal(
            "RP205", f"{quoted(value)} is not a duration", "write a number and a unit: 30s, 5m, 1h30m"
        )
    if seconds > _LONGEST_TIME:
        raise refusal("RP203", f"{quoted(value)} is too long", "at most ten years")
    return round(seconds, 6)


def _positive(seconds: float) -> float:
    if seconds <= 0:
        raise refusal("RP203", "a time of zero ends everything at once", "write a duration above zero")
    return seconds


def format_duration(seconds: float) -> str:
    """Return seconds as parse_duration reads them: `90.0` as `1m30s`."""
    if seconds != int(seconds):
        return f"{seconds * 1000:.3f}".rstrip("0").rstrip(".") + "ms"
    rest, parts = int(seconds), []
    for unit, length in (("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


_DURATION_SCHEMA = WithJsonSchema(
    {
        "type": "string",
        "pattern": r"^(\s*[0-9]+(\.[0-9]+)?\s*(ms|s|m|min|h|d|w))+$",
        "examples": ["5s", "2m", "1h30m"],
        "title": "duration",
    }
)
_DURATION_TEXT = PlainSerializer(format_duration, when_used="json")
Grace: TypeAlias = Annotated[float, BeforeValidator(parse_duration), _DURATION_TEXT, _DURATION_SCHEMA]
Duration: TypeAlias = Annotated[
    float, BeforeValidator(parse_duration), AfterValidator(_positive), _DURATION_TEXT, _DURATION_SCHEMA
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
