"""What a RAR archive says that it holds, in the layouts of RAR 4 and RAR 5; nothing is ever unpacked.

Headers are read from the front, one behind the other, as programs that unpack do. Must not know what is dangerous.
"""

import struct
from struct import Struct

from relayproxy.builtin._archive_list import LONGEST_NAME, Listing

RAR4 = b"Rar!\x1a\x07\x00"
RAR5 = b"Rar!\x1a\x07\x01\x00"

_BLOCKS_PER_ENTRY = 4  # headers that are looked at for each file: those of comments, streams and the like

_HEAD4 = Struct("<2xBHH")  # checksum, type, flags, size
_FILE4 = Struct("<LL11xH4x")  # sizes packed and unpacked, length of the name; the rest says nothing here
_MAIN4, _ENTRY4, _END4 = 0x73, 0x74, 0x7B
_HEADERS_ENCRYPTED4 = 0x0080
_HAS_DATA4 = 0x8000
_ENCRYPTED4 = 0x0004
_LARGE4 = 0x0100
_UNICODE4 = 0x0200

_ENTRY5, _CRYPT5, _END5 = 2, 4, 5
_HAS_EXTRA5, _HAS_DATA5 = 1, 2
_HAS_TIME5, _HAS_SUM5 = 2, 4
_EXTRA_CRYPT5 = 1
_LONGEST_NUMBER = 10  # octets of a number of 64 bits, seven in each


class _Broken(Exception):  # noqa: N818  (it is the archive that is)
    """The octets make no header."""


class _Found:
    """What has been seen so far."""

    def __init__(self, most: int) -> None:
        self.names: dict[str, None] = {}
        self.unpacked = 0
        self.encrypted = False
        self.full = True
        self._left = most
        self._blocks = most * _BLOCKS_PER_ENTRY

    def has_room(self) -> bool:
        """Count one more header, and say whether it may be read."""
        self._blocks -= 1
        self.full &= self._blocks >= 0
        return self.full

    def add(self, name: str, size: int) -> None:
        """Take an entry, unless there are too many."""
        self._left -= 1
        if self._left < 0:
            self.full = False
            return
        self.names[name] = None
        self.unpacked += size

    def listing(self, packed: int) -> Listing:
        """Return it all."""
        return Listing(
            tuple(self.names),
            self.unpacked,
            packed,
            self.encrypted,
            self.full and bool(self.names or self.encrypted),
        )


def list_rar(data: bytes, most: int) -> Listing:
    """List at most `most` entries of a RAR archive. Linear in its size; never raises."""
    found = _Found(most)
    try:
        if data.startswith(RAR5):
            _list5(data, found)
        else:
            _list4(data, found)
    except (_Broken, struct.error):
        found.full = False
    return found.listing(len(data))


def _list4(data: bytes, found: _Found) -> None:
    place = len(RAR4)
    while place < len(data) and found.has_room():
        kind, flags, size = _HEAD4.unpack_from(data, place)
        if size < _HEAD4.size or kind == _END4:
            found.full &= kind == _END4
            return
        if kind == _MAIN4 and flags & _HEADERS_ENCRYPTED4:
            found.encrypted = True
            return
        follows = 0
        if kind == _ENTRY4:
            follows = _entry4(data, place, flags, found)
        elif flags & _HAS_DATA4:
            follows = int.from_bytes(data[place + 7 : place + 11], "little")
        place += size + follows


def _entry4(data: bytes, place: int, flags: int, found: _Found) -> int:
    """Take the file whose header begins at `place`; return how many octets of data follow."""
    packed: int
    unpacked: int
    packed, unpacked, length = _FILE4.unpack_from(data, place + _HEAD4.size)
    at = place + _HEAD4.size + _FILE4.size
    if flags & _LARGE4:
        packed += int.from_bytes(data[at : at + 4], "little") << 32
        unpacked += int.from_bytes(data[at + 4 : at + 8], "little") << 32
        at += 8
    found.encrypted |= bool(flags & _ENCRYPTED4)
    name = data[at : at + min(length, 2 * LONGEST_NAME)]
    for text in _names4(name, unicode=bool(flags & _UNICODE4)):
        found.add(text, unpacked)
        unpacked = 0
    return packed


def _names4(name: bytes, *, unicode: bool) -> list[str]:
    """Return what an entry is called: in the system's character set, and in Unicode where it says so."""
    plain, cut, packed = name.partition(b"\0")
    if not (unicode and cut):
        return [name.decode("utf-8", "replace")]
    return [plain.decode("utf-8", "replace"), _unpacked_name(plain, packed)]


def _unpacked_name(plain: bytes, packed: bytes) -> str:
    """Return a name of RAR 4 in Unicode: as differences from the plain one, two bits say how for each character."""
    units: list[int] = []
    high, place, flags, bits = (packed[0] if packed else 0) << 8, 1, 0, 0
    while place < len(packed) and len(units) < LONGEST_NAME:
        if not bits:
            flags, bits, place = packed[place], 8, place + 1
        bits -= 2
        how, piece = flags >> bits & 3, packed[place : place + 2]
        if not piece:
            break
        if how < 2:
            units.append(piece[0] | (high if how else 0))
            place += 1
        elif how == 2:
            units.append(int.from_bytes(piece, "little"))
            place += 2
        else:
            shifted = bool(piece[0] & 0x80)
            change = piece[1] if shifted and len(piece) == 2 else 0
            begin = len(units)
            same = plain[begin : begin + (piece[0] & 0x7F) + 2]
            units += [(octet + change & 0xFF | high) if shifted else octet for octet in same]
            place += 2 if shifted else 1
    return b"".join(unit.to_bytes(2, "little") for unit in units).decode("utf-16-le", "replace")


def _list5(data: bytes, found: _Found) -> None:
    place = len(RAR5)
    while place < len(data) and found.has_room():
        size, begin = _number(data, place + 4)
        stop = begin + size
        if not size or stop > len(data):
            raise _Broken
        kind, at = _number(data, begin)
        flags, at = _number(data, at)
        extra, at = _number(data, at) if flags & _HAS_EXTRA5 else (0, at)
        follows, at = _number(data, at) if flags & _HAS_DATA5 else (0, at)
        if kind == _END5:
            return
        if kind == _CRYPT5:
            found.encrypted = True
            return
        if kind == _ENTRY5:
            _entry5(data, at, stop, found)
            found.encrypted |= _has_crypt(data, max(stop - extra, at), stop)
        place = stop + follows


def _entry5(data: bytes, at: int, stop: int, found: _Found) -> None:
    flags, at = _number(data, at)
    unpacked, at = _number(data, at)
    _, at = _number(data, at)  # attributes
    at += 4 * (bool(flags & _HAS_TIME5) + bool(flags & _HAS_SUM5))
    for _ in ("method", "system"):
        _, at = _number(data, at)
    length, at = _number(data, at)
    found.add(data[at : min(at + length, at + LONGEST_NAME, stop)].decode("utf-8", "replace"), unpacked)


def _has_crypt(data: bytes, at: int, stop: int) -> bool:
    """Whether one of the records of an extra area says that the file is encrypted."""
    while at < stop:
        size, begin = _number(data, at)
        if not size:
            return False
        if _number(data, begin)[0] == _EXTRA_CRYPT5:
            return True
        at = begin + size
    return False


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of RAR 5 (seven bits in each octet, the lowest first), and where it ends."""
    value = 0
    for count, octet in enumerate(data[at : at + _LONGEST_NUMBER]):
        value |= (octet & 0x7F) << 7 * count
        if not octet & 0x80:
            return value, at + count + 1
    raise _Broken
