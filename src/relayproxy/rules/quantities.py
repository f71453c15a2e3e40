"""Sizes, rates and times of day as an admin writes them.

Must not know what they limit.
"""

import re

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
_SIZE = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([A-Za-z]{0,3})\s*\Z")
_RATE = re.compile(r"\s*([0-9]{1,9})\s*/\s*(?:([0-9]{1,6})\s*)?(s|m|h|d|second|minute|hour|day)\s*\Z")
_TIME = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_octets(text: str) -> int | None:
    """Return a size such as "10 MB" (powers of 1000) or "512 KiB" (of 1024) in octets, or None."""
    found = _SIZE.match(text)
    unit = _UNITS.get(found[2].lower()) if found else None
    return int(float(found[1]) * unit) if found and unit else None


def parse_rate(text: str) -> tuple[int, float] | None:
    """Return a rate such as "100/h" or "5/10m" as (how many, in how many seconds), or None."""
    found = _RATE.match(text)
    if found is None:
        return None
    seconds = int(found[2] or 1) * _SECONDS[found[3][0]]
    return (int(found[1]), float(seconds)) if int(found[1]) and seconds else None


def parse_time(text: str) -> int | None:
    """Return a time of day such as "08:30" in minutes since midnight, or None."""
    found = _TIME.match(text)
    return int(found[1]) * 60 + int(found[2]) if found else None
