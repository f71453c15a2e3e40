"""Durations and rates as an admin writes them: `5m`, `1h30m`, `100/1h`; the one grammar of the configuration.

Must not know what they limit.
"""

import re
from typing import Final

from relayproxy.model.refused import Refused, quoted

UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
"""Seconds of each unit."""
LONGEST: Final = 10 * 365 * 86_400
"""Seconds of the longest duration."""
_PART = re.compile(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*(ms|min|s|m|h|d|w)(?![a-z])", re.ASCII)
_RATE = re.compile(r"\s*(\d{1,9})\s*/\s*(\S.*)\Z", re.ASCII)
_WANTED = "write a number and a unit: 30s, 5m, 1h30m"
_WANTED_RATE = "write how many in which time: 100/1h, 20/m"


def parse_duration(value: object) -> float:
    """Return seconds for `5s`, `2m`, `1h30m`, `250ms`; a bare number would hide its unit. Raises Refused."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise Refused("a duration is wanted", _WANTED)
    if not isinstance(value, str):
        raise Refused(f"{quoted(value)} has no unit", f"for seconds write {value}s")
    seconds, at = 0.0, 0
    text = value.rstrip()
    while at < len(text) and (part := _PART.match(text, at)):
        seconds += float(part[1]) * UNITS[part[2]]
        at = part.end()
    if not text or at < len(text):
        raise Refused(f"{quoted(value)} is not a duration", _WANTED)
    if seconds > LONGEST:
        raise Refused(f"{quoted(value)} is too long", "at most ten years", beyond=True)
    return round(seconds, 6)


def positive(seconds: float) -> float:
    """Return a duration that is above zero. Raises Refused."""
    if seconds <= 0:
        raise Refused("a time of zero ends everything at once", "write a duration above zero", beyond=True)
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


def parse_rate(value: object) -> tuple[int, float]:
    """Return how many in how many seconds: `100/1h`, `20/m`, `5/10min`. Raises Refused."""
    found = _RATE.match(value) if isinstance(value, str) else None
    if found is None:
        raise Refused("a rate is wanted" if value is None else f"{quoted(value)} is not a rate", _WANTED_RATE)
    unit = found[2].rstrip()
    try:
        seconds = float(UNITS[unit]) if unit in UNITS else parse_duration(unit)
    except Refused as error:
        raise Refused(f"{quoted(value)} is not a rate", _WANTED_RATE, beyond=error.beyond) from error
    count = int(found[1])
    if not count or not seconds:
        raise Refused(f"{quoted(value)} is none", "a rate is at least one in at most ten years", beyond=True)
    return count, seconds
