"""What a tar file says that it holds (POSIX ustar, with GNU's and pax's long names), and what is in compressed files.

A tar file has its entries between the contents, so to list one that is compressed it is unpacked piece by piece and
forgotten; how far is the caller's to say. Must not know what is dangerous.
"""

import bz2
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from relayproxy.builtin._archive_list import LONGEST_NAME, Listing

COMPRESSED: Final = ("gzip", "bzip2", "xz")
"""Kinds of files that hold one other file, which may be a tar file."""

_BLOCK = 512
_PIECE = 65_536
_MOST_STREAMS = 100  # compressed streams, one behind the other, that are read
_MEMORY = 67_108_864  # octets that a decoder of xz may take: what the highest usual setting needs
_LONGEST_RECORD = 65_536  # octets of a long name, or of the records of pax
_PAX_PATH = re.compile(rb"(?:\A|\n)\d{1,6} path=([^\n]{1,4096})\n")
_GZIP_NAME = 0x8
_GZIP_EXTRA = 0x4
_NOTHING = bytes(_BLOCK)


class _Decoder(Protocol):
    """What reads one compressed stream."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


class _Gzip:
    """zlib's decoder with the interface that those of bz2 and lzma have."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._decoder.unconsumed_tail

    def decompress(self, data: bytes, max_length: int = _PIECE) -> bytes:
        return self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)


_DECODERS: dict[str, Callable[[], _Decoder]] = {"gzip": _Gzip, "bzip2": bz2.BZ2Decompressor, "xz": _xz}


def list_tar(data: bytes, most: int) -> Listing:
    """List at most `most` entries of a tar file."""
    source = _Source(iter([data]))
    names, full = _entries(source, most)
    return Listing(names, 0, len(data), encrypted=False, full=full and bool(names))


def list_compressed(data: bytes, kind: str, most: int, octets: int) -> Listing:
    """List what is in a compressed file, of which at most `octets` are unpacked: a tar file's entries, or nothing.

    A gzip file may say what its content is called (RFC 1952 section 2.3), and it says how large it is.
    """
    pieces = _Pieces(data, kind, octets)
    source = _Source(iter(pieces))
    full = True
    if _is_header(source.peek(_BLOCK)):
        names, full = _entries(source, most)
    else:
        names = (_gzip_name(data),) if kind == "gzip" else ()
    source.finish()
    said = int.from_bytes(data[-4:], "little") if kind == "gzip" and len(data) > 18 else 0
    return Listing(
        tuple(name for name in names if name),
        max(said, pieces.read),
        # What unpacks to much has to be judged by what it took to get there.
        len(data) if pieces.whole else min(pieces.taken, len(data)),
        encrypted=False,
        full=full and pieces.whole,
        read=pieces.read,
    )


def _gzip_name(data: bytes) -> str:
    flags = data[3] if len(data) > 18 else 0
    place = 10
    if flags & _GZIP_EXTRA:
        place += 2 + int.from_bytes(data[10:12], "little")
    if not flags & _GZIP_NAME:
        return ""
    end = data.find(b"\0", place, place + LONGEST_NAME)
    return data[place:end].decode("latin-1") if end > place else ""


class _Pieces:
    """The content of a compressed file, piece by piece; afterwards `whole` says whether that was all."""

    def __init__(self, data: bytes, kind: str, octets: int) -> None:
        self._data, self._new, self._left = data, _DECODERS[kind], octets
        self.read = 0
        self.taken = 0
        self.whole = False

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._streams()
        except (zlib.error, lzma.LZMAError, OSError, EOFError, MemoryError):
            return

    def _streams(self) -> Iterator[bytes]:
        waiting = b""
        for _ in range(_MOST_STREAMS):
            decoder = self._new()
            while not decoder.eof:
                if decoder.needs_input and not waiting:
                    waiting = self._more()
                is_last = decoder.needs_input and not waiting
                piece = decoder.decompress(waiting, _PIECE)
                if is_last and not piece and not decoder.eof:
                    return  # it is cut off
                waiting = b""
                self.read += len(piece)
                yield piece
                if self.read > self._left:
                    return
            waiting = decoder.unused_data or self._more()
            if not waiting.strip(b"\0"):  # nothing, or padding
                self.whole = True
                return

    def _more(self) -> bytes:
        piece = self._data[self.taken : self.taken + _PIECE]
        self.taken += len(piece)
        return piece


class _Source:
    """Pieces as one stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._buffer = b""
        self._at = 0

    def peek(self, size: int) -> bytes:
        """Return the next octets, which stay."""
        while len(self._buffer) - self._at < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._buffer, self._at = self._buffer[self._at :] + piece, 0
        return self._buffer[self._at : self._at + size]

    def take(self, size: int) -> bytes:
        """Return the next octets, fewer at the end."""
        taken = self.peek(size)
        self._at += len(taken)
        return taken

    def skip(self, size: int) -> bool:
        """Pass over octets; say whether there were so many."""
        while size > len(self._buffer) - self._at:
            size -= len(self._buffer) - self._at
            piece = next(self._pieces, None)
            self._buffer, self._at = piece or b"", 0
            if piece is None:
                return False
        self._at += size
        return True

    def finish(self) -> None:
        """Pass over all that is left."""
        for _ in self._pieces:
            self._buffer, self._at = b"", 0


def _entries(source: _Source, most: int) -> tuple[tuple[str, ...], bool]:
    """Return the names of at most `most` entries, and whether those are all."""
    names: dict[str, None] = {}
    longer: list[bytes] = []
    for _ in range(3 * most):  # an entry may have a long name and records of pax in front
        header = _next_header(source)
        if not _is_header(header):
            return tuple(names), not header
        size, kind = _size(header), header[156:157]
        room = -size % _BLOCK
        if kind in b"LxX" and size <= _LONGEST_RECORD:
            record = source.take(size)
            source.skip(room)
            longer += [record.rstrip(b"\0")] if kind == b"L" else _PAX_PATH.findall(record)
            continue
        if len(names) >= most:
            return tuple(names), False
        name = header[:100].partition(b"\0")[0]
        if header[257:263] == b"ustar\0" and header[345]:
            name = header[345:500].partition(b"\0")[0] + b"/" + name
        names[name[:LONGEST_NAME].decode("utf-8", "replace")] = None
        for other in longer:
            names[other[-LONGEST_NAME:].decode("utf-8", "replace")] = None
        longer = []
        # A link, a device or a folder has a size, but no content.
        if kind not in b"123456" and not source.skip(size + room):
            return tuple(names), False
    return tuple(names), False


def _next_header(source: _Source) -> bytes:
    """Return the next block that isn't empty: some programs read on behind those that say that this is the end."""
    while (block := source.take(_BLOCK)) == _NOTHING:
        pass
    return block


def _is_header(block: bytes) -> bool:
    """Whether a block has the checksum of an entry, as either signed or unsigned octets make it."""
    if len(block) < _BLOCK:
        return False
    said = _octal(block[148:156])
    rest = block[:148] + b" " * 8 + block[156:]
    total = sum(rest)
    return said > 0 and said in (total, total - 256 * sum(octet > 127 for octet in rest))


def _size(header: bytes) -> int:
    field = header[124:136]
    return int.from_bytes(field[1:], "big") if field[0] & 0x80 else _octal(field)


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0").partition(b"\0")[0].partition(b" ")[0]
    try:
        return max(int(digits, 8), 0)
    except ValueError:
        return 0
