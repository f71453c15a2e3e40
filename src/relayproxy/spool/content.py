"""Contents too large for the database, each in a file of its own that is on disk before anything refers to it.

A file is named by the message's key. One that no message refers to is left over from a crash and is swept away.
"""

import contextlib
import hashlib
import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from relayproxy.model.message import Message

_PIECE = 262_144
_SETTLED = 3600.0  # seconds after which a file without a message can't be one that is being stored


def digest_of(lead: bytes, message: Message) -> bytes:
    """Return the SHA-256 of what is stored."""
    digest = hashlib.sha256(lead)
    for piece in message.chunks():
        digest.update(piece)
    return digest.digest()


class ContentFiles:
    """The folder of such files, spread over 256 folders."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ready: set[Path] = set()

    def place(self, key: int) -> Path:
        """Return where the content of message `key` is."""
        return self._folder / f"{key >> 20 & 0xFF:02x}" / f"{key:x}"

    def write(self, key: int, lead: bytes, message: Message) -> bytes:
        """Write and sync a new file and its folders; return the SHA-256. Raises OSError, and leaves nothing then."""
        place = self.place(key)
        self._make_ready(place.parent)
        digest = hashlib.sha256()
        file = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try:
                for piece in (lead, *message.chunks(_PIECE)):
                    digest.update(piece)
                    _write_all(file, piece)
                os.fsync(file)
            finally:
                os.close(file)
            sync_folder(place.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                place.unlink()
            raise
        return digest.digest()

    def _make_ready(self, folder: Path) -> None:
        """Have a folder there and its name on disk; another worker may just have made it and not synced yet."""
        if folder not in self._ready:
            make_folder(folder)
            sync_folder(folder.parent)
            sync_folder(self._folder.parent)
            self._ready.add(folder)

    def read(self, key: int, size: int, digest: bytes) -> Message:
        """Map a file and make sure that it holds what was written. Raises OSError and ValueError."""
        file = os.open(self.place(key), os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(file).st_size != size:
                raise ValueError("the file has another size than was written")
            seen = hashlib.sha256()
            for piece in _pieces(file, 0, size)():
                seen.update(piece)
            if seen.digest() != digest:
                raise ValueError("the content is not what was written")
            return mapped_message(file, size)
        finally:
            os.close(file)

    def remove(self, key: int) -> None:
        """Delete the file of a message that is gone; what can't be deleted now is swept away later."""
        with contextlib.suppress(OSError):
            self.place(key).unlink()

    def sweep(self, known: Callable[[list[int]], set[int]]) -> int:
        """Delete old files that belong to no message; `known` tells which of some keys do. Returns how many."""
        old = time.time() - _SETTLED
        count = 0
        for folder in sorted(self._folder.glob("[0-9a-f][0-9a-f]")):
            found = {
                int(file.name, 16): file
                for file in folder.iterdir()
                if _is_key(file.name) and file.stat().st_mtime < old
            }
            for key in found.keys() - (known(list(found)) if found else set()):
                found[key].unlink(missing_ok=True)
                count += 1
        return count


def mapped_message(file: int, size: int) -> Message:
    """Return the message in an open file of `size` octets, mapped; the file may be closed then. Raises OSError."""
    mapped = mmap.mmap(file, size, access=mmap.ACCESS_READ)
    found = mapped.find(b"\r\n\r\n")
    cut = 2 if mapped[:2] == b"\r\n" else found + 4 if found >= 0 else size
    return Message(mapped[:cut], memoryview(mapped)[cut:])


def _is_key(name: str) -> bool:
    return bool(name) and all(c in "0123456789abcdef" for c in name)


def _write_all(file: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _pieces(file: int, start: int, end: int) -> Callable[[], Iterator[bytes]]:
    def read() -> Iterator[bytes]:
        for at in range(start, end, _PIECE):
            yield os.pread(file, min(_PIECE, end - at), at)

    return read


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, durable before anything is in them. Raises OSError."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
