"""What an archive says that it holds, and what a zip file says; nothing is ever unpacked.

A zip file has two lists, and programs disagree about which one counts: entries are taken from both, wherever they stand
in the file, so a file within a file that is only stored is seen too. Must not know what is dangerous.
"""

from dataclasses import dataclass
from struct import Struct

# An entry as the directory at the end has it, and as it stands before the data: the signature, the octets before the
# name, and the layout of flags, method, unpacked size and length of the name behind the signature.
_ENTRIES = (
    (b"PK\x01\x02", 46, Struct("<8xHH12xLH")),
    (b"PK\x03\x04", 30, Struct("<6xHH12xLH")),
)
_ENCRYPTED = 0x1
_LAST_METHOD = 99
_LONGEST_PATH = 4096
LONGEST_NAME = 1000
"""Characters of a name that are looked at."""
_SMALL = 10_485_760  # octets that may be unpacked from whatever there is


@dataclass(frozen=True, slots=True)
class Listing:
    """`names` of the entries, `unpacked` octets that they say they have, whether any is `encrypted`.

    `full` is False if there are more entries than were asked for, or none that can be read. `read` are the octets of
    content that had to be unpacked to see the entries, as in a compressed tar file; they are forgotten at once.
    """

    names: tuple[str, ...]
    unpacked: int
    packed: int
    encrypted: bool
    full: bool
    read: int = 0

    @property
    def ratio(self) -> float:
        """How many times as large as the archive the contents are; 0 while they are small."""
        return self.unpacked / max(self.packed, 1) if self.unpacked > _SMALL else 0.0


def list_zip(data: bytes, most: int) -> Listing:
    """List at most `most` entries of each of the lists of a zip file. Linear in its size."""
    names: dict[str, None] = {}
    encrypted = False
    full = True
    unpacked = [0, 0]
    for which, (signature, gap, layout) in enumerate(_ENTRIES):
        count = 0
        place = data.find(signature)
        while place >= 0 and place + gap <= len(data):
            flags, method, size, length = layout.unpack_from(data, place)
            end = place + gap + length
            # Packed data holds the signature by chance once in 4 GB, and as an entry with such values never.
            if method <= _LAST_METHOD and length <= _LONGEST_PATH and end <= len(data):
                if count >= most:
                    full = False
                    break
                encrypted |= bool(flags & _ENCRYPTED)
                unpacked[which] += size
                name = data[place + gap : min(end, place + gap + LONGEST_NAME)]
                names[name.decode("utf-8", "replace")] = None
                count += 1
            place = data.find(signature, place + 4)
    return Listing(tuple(names), max(unpacked), len(data), encrypted, full and bool(names))
