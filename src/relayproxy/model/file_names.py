"""The name of a file as systems read it: what a reader sees at its end is not always what is written there.

Must not know what follows from a name.
"""

import re
import unicodedata
from urllib.parse import unquote

_CUT = re.compile(r"[:\x00/\\]")
_LONGEST = 1000


def extensions_of(name: str) -> frozenset[str]:
    """Return the extensions, in lower case, that a system may see at the end of a name.

    Blanks and dots at the end don't count for Windows, nor does what follows a colon (a stream); letters of full width
    are letters, invisible ones are none.
    """
    found: set[str] = set()
    name = name[:_LONGEST]
    for reading in {name, unquote(name)}:
        plain = reading if reading.isascii() else _visible(reading)
        pieces = _CUT.split(plain)
        for piece in {pieces[-1], *(pieces if ":" in plain or "\0" in plain else ())}:
            stem, dot, extension = _trimmed(piece).rpartition(".")
            if dot and (stem or extension):
                found.add(extension.strip().lower())
    return frozenset(found)


def _visible(name: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")


def _trimmed(piece: str) -> str:
    while piece and (piece[-1] == "." or piece[-1].isspace() or ord(piece[-1]) < 32):
        piece = piece[:-1]
    return piece
