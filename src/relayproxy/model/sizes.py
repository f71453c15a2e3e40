"""Sizes as an admin writes them: `50 MB`, `1 MiB`, `10M`; the one grammar of the configuration.

Must not know what they limit.
"""

import re
from typing import Final

from relayproxy.model.refused import Refused, quoted

LARGEST: Final = 2**50
"""Octets of the largest size."""
_SIZE = re.compile(r"\s*(\d{1,16}(?:\.\d{1,6})?)\s*([kmgt]?)(i?b|)\s*", re.ASCII | re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_WANTED = "write a number and a unit: 50 MB, 1 MiB"


def parse_size(value: object) -> int:
    """Return octets for `50 MB` (powers of 1000), `1 MiB` and `10M` (powers of 1024), or a bare number. Raises Refused."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise Refused("a size is wanted", _WANTED)
    if isinstance(value, int):
        octets = value
    else:
        found = _SIZE.fullmatch(value)
        if not found:
            raise Refused(f"{quoted(value)} is not a size", _WANTED)
        number, letter, suffix = found[1], found[2].lower(), found[3].lower()
        unit = (1000 if suffix == "b" else 1024) ** _POWER[letter]
        octets = int(float(number) * unit) if "." in number else int(number) * unit
    if not 0 <= octets <= LARGEST:
        raise Refused(f"{quoted(value)} is out of range", "at most 1024 TiB", beyond=True)
    return octets


def some(octets: int) -> int:
    """Return a size that is above zero. Raises Refused."""
    if not octets:
        raise Refused("a size of zero leaves room for nothing", "write a size above zero", beyond=True)
    return octets


def format_size(octets: int) -> str:
    """Return octets as parse_size reads them, with the largest unit that loses nothing."""
    for unit, length in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("GB", 10**9), ("MB", 10**6)):
        if octets and octets % length == 0:
            return f"{octets // length} {unit}"
    return f"{octets} B"
