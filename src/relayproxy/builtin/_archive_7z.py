"""What a 7z archive says that it holds.

Its list stands at the end and is mostly compressed itself: that list is the one thing that is unpacked, within limits
of octets and of memory. Must not know what is dangerous.
"""

import lzma
from dataclasses import dataclass, field
from typing import Any

from relayproxy.builtin._archive_list import LONGEST_NAME, Listing

_FRONT = 32  # octets before the packed data
_LARGEST_LIST = 1_048_576
_LARGEST_DICTIONARY = (
    16_777_216  # octets, which the decoder takes at once: those of a list are as large as the list
)
_DEEPEST = 3  # lists packed in lists
_NUMBERS_PER_ENTRY = 20

_END, _HEADER, _ARCHIVE, _ADDITIONAL, _MAIN, _FILES = 0, 1, 2, 3, 4, 5
_PACKED, _FOLDERS, _PARTS, _SIZES, _SUMS = 6, 7, 8, 9, 10
_FOLDER, _FOLDER_SIZES, _PART_COUNT, _NAMES, _ENCODED = 11, 12, 13, 17, 23

_COPY, _LZMA, _LZMA2, _AES = b"\x00", b"\x03\x01\x01", b"\x21", b"\x06\xf1\x07\x01"


class _Broken(Exception):  # noqa: N818  (it is the archive that is)
    """The octets make no list, or one that is beyond a limit."""


@dataclass(slots=True)
class _Folder:
    """Data that is packed as one: its coders with their settings, and the sizes after each of them."""

    coders: list[tuple[bytes, bytes]]
    outputs: int
    main: int  # the coder whose output is nobody's input
    sizes: list[int] = field(default_factory=list)
    has_sum: bool = False

    @property
    def size(self) -> int:
        return self.sizes[self.main]

    @property
    def encrypted(self) -> bool:
        return any(name == _AES for name, _ in self.coders)


@dataclass(slots=True)
class _Streams:
    """Where packed data begins, behind the front, and how it is packed."""

    place: int = 0
    packed: list[int] = field(default_factory=list)
    folders: list[_Folder] = field(default_factory=list)


def list_7z(data: bytes, most: int) -> Listing:
    """List at most `most` entries of a 7z archive; bounded work, never raises."""
    names: tuple[str, ...] = ()
    streams = _Streams()
    full = False
    try:
        found = _list_of(data, most)
        if found is None:
            return Listing((), 0, len(data), encrypted=True, full=True)
        names, streams = _read_list(found)
        full = len(names) <= most
    except (_Broken, lzma.LZMAError, MemoryError):
        pass
    return Listing(
        names[:most],
        sum(folder.size for folder in streams.folders),
        len(data),
        encrypted=any(folder.encrypted for folder in streams.folders),
        full=full and bool(names),
    )


def _list_of(data: bytes, most: int) -> "_Octets | None":
    """Return the list, unpacked; None where it is encrypted."""
    place, size = (int.from_bytes(data[at : at + 8], "little") for at in (12, 20))
    if not size or size > _LARGEST_LIST or _FRONT + place + size > len(data):
        raise _Broken
    octets = _Octets(data[_FRONT + place : _FRONT + place + size], most * _NUMBERS_PER_ENTRY)
    for _ in range(_DEEPEST):
        kind = octets.octet()
        if kind == _HEADER:
            return octets
        if kind != _ENCODED:
            break
        streams = _read_streams(octets)
        if not streams.folders or not streams.packed:
            break
        folder = streams.folders[0]
        if folder.encrypted:
            return None
        begin = _FRONT + streams.place
        octets = octets.renewed(_unpacked(data[begin : begin + streams.packed[0]], folder))
    raise _Broken


def _unpacked(data: bytes, folder: _Folder) -> bytes:
    """Return a list that is packed in one of the ways that programs use for lists."""
    if len(folder.coders) != 1 or folder.size > _LARGEST_LIST:
        raise _Broken
    name, settings = folder.coders[0]
    if name == _COPY:
        return data[: folder.size]
    how: dict[str, Any]
    if name == _LZMA and len(settings) == 5 and settings[0] < 225:
        rest, lc = divmod(settings[0], 9)
        pb, lp = divmod(rest, 5)
        how = {"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb}
        how["dict_size"] = int.from_bytes(settings[1:], "little")
    elif name == _LZMA2 and len(settings) == 1 and settings[0] < 40:
        how = {"id": lzma.FILTER_LZMA2, "dict_size": (2 | settings[0] & 1) << (settings[0] // 2 + 11)}
    else:
        raise _Broken
    if how["dict_size"] > _LARGEST_DICTIONARY:
        raise _Broken
    how["dict_size"] = max(how["dict_size"], 4096)
    try:
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[how]).decompress(data, folder.size)
    except ValueError as error:  # settings that no coder has
        raise _Broken from error


def _read_list(octets: "_Octets") -> tuple[tuple[str, ...], _Streams]:
    """Return the names and how the files are packed."""
    names: tuple[str, ...] = ()
    streams = _Streams()
    while (kind := octets.octet()) != _END:
        if kind == _ARCHIVE:
            while octets.octet() != _END:
                octets.skip(octets.number())
        elif kind == _ADDITIONAL:
            _read_streams(octets)
        elif kind == _MAIN:
            streams = _read_streams(octets)
        elif kind == _FILES:
            names = _read_names(octets)
        else:
            raise _Broken
    return names, streams


def _read_names(octets: "_Octets") -> tuple[str, ...]:
    octets.number()  # how many there are
    names: tuple[str, ...] = ()
    while octets.octet_or_end() != _END:
        kind = octets.last
        content = octets.take(octets.number())
        if kind == _NAMES:
            if content[:1] != b"\0":  # the names stand elsewhere
                raise _Broken
            pieces = content[1:].decode("utf-16-le", "replace").split("\0")
            names = tuple(piece[:LONGEST_NAME] for piece in pieces if piece)
    return names


def _read_streams(octets: "_Octets") -> _Streams:
    streams = _Streams()
    while (kind := octets.octet()) != _END:
        if kind == _PACKED:
            _read_packed(octets, streams)
        elif kind == _FOLDERS:
            _read_folders(octets, streams)
        elif kind == _PARTS:
            _read_parts(octets, streams)
        else:
            raise _Broken
    return streams


def _read_packed(octets: "_Octets", streams: _Streams) -> None:
    streams.place = octets.number()
    count = octets.number()
    while (kind := octets.octet()) != _END:
        if kind == _SIZES:
            streams.packed = octets.numbers(count)
        elif kind == _SUMS:
            _skip_sums(octets, count)
        else:
            raise _Broken


def _read_folders(octets: "_Octets", streams: _Streams) -> None:
    if octets.octet() != _FOLDER:
        raise _Broken
    count = octets.number()
    if octets.octet():  # they stand elsewhere
        raise _Broken
    octets.count(count)
    streams.folders = [_read_folder(octets) for _ in range(count)]
    while (kind := octets.octet()) != _END:
        if kind == _FOLDER_SIZES:
            for folder in streams.folders:
                folder.sizes = octets.numbers(folder.outputs)
        elif kind == _SUMS:
            for folder, has_sum in zip(streams.folders, _skip_sums(octets, count), strict=True):
                folder.has_sum = has_sum
        else:
            raise _Broken
    if not all(folder.sizes for folder in streams.folders):
        raise _Broken


def _read_folder(octets: "_Octets") -> _Folder:
    coders: list[tuple[bytes, bytes]] = []
    inputs = outputs = 0
    count = octets.number()
    octets.count(count)
    for _ in range(count):
        flags = octets.octet()
        name = octets.take(flags & 0x0F)
        is_complex, has_settings = flags & 0x10, flags & 0x20
        inputs += octets.number() if is_complex else 1
        outputs += octets.number() if is_complex else 1
        coders.append((name, octets.take(octets.number()) if has_settings else b""))
    bound = set()
    if not outputs:
        raise _Broken
    octets.count(max(inputs, outputs))
    for _ in range(outputs - 1):
        octets.number()
        bound.add(octets.number())
    unbound = inputs - (outputs - 1)
    if unbound > 1:
        octets.numbers(unbound)
    main = next((index for index in range(outputs) if index not in bound), 0)
    return _Folder(coders, outputs, main)


def _read_parts(octets: "_Octets", streams: _Streams) -> None:
    """Pass over how files follow each other in folders."""
    counts = [1] * len(streams.folders)
    while (kind := octets.octet()) != _END:
        if kind == _PART_COUNT:
            counts = octets.numbers(len(counts))
        elif kind == _SIZES:
            for count in counts:
                octets.numbers(max(count - 1, 0))
        elif kind == _SUMS:
            _skip_sums(
                octets,
                sum(
                    count
                    for folder, count in zip(streams.folders, counts, strict=True)
                    if count != 1 or not folder.has_sum
                ),
            )
        else:
            raise _Broken


def _skip_sums(octets: "_Octets", count: int) -> list[bool]:
    """Pass over checksums; return which of `count` things have one."""
    octets.count(count)
    if octets.octet():
        known = [True] * count
    else:
        bits = octets.take((count + 7) // 8)
        known = [bool(bits[index // 8] & 0x80 >> index % 8) for index in range(count)]
    octets.skip(4 * sum(known))
    return known


class _Octets:
    """Octets read from the front; what isn't there, or more numbers than are allowed, is _Broken."""

    def __init__(self, data: bytes, numbers: int) -> None:
        self._data = data
        self._at = 0
        self._left = numbers
        self.last = 0

    def renewed(self, data: bytes) -> "_Octets":
        """Return a reader of other octets with the numbers that are left."""
        return _Octets(data, self._left)

    def count(self, numbers: int) -> None:
        """Take so many from the numbers that may be read."""
        self._left -= numbers
        if self._left < 0:
            raise _Broken

    def take(self, size: int) -> bytes:
        """Return the next octets."""
        end = self._at + size
        if end > len(self._data):
            raise _Broken
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def skip(self, size: int) -> None:
        """Pass over octets."""
        self._at += size
        if self._at > len(self._data):
            raise _Broken

    def octet(self) -> int:
        """Return the next octet."""
        (self.last,) = self.take(1)
        return self.last

    def octet_or_end(self) -> int:
        """Return the next octet, which is a property; count it."""
        self.count(1)
        return self.octet()

    def number(self) -> int:
        """Return the next number: the first octet says with its leading ones how many follow, the lowest first."""
        first = self.octet()
        more = 8 - (~first & 0xFF).bit_length()
        rest = int.from_bytes(self.take(more), "little")
        return rest | (first & 0x7F >> more) << 8 * more

    def numbers(self, count: int) -> list[int]:
        """Return the next `count` numbers."""
        self.count(count)
        return [self.number() for _ in range(count)]
