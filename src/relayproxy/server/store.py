"""Where content is kept while it arrives: in memory, and above a threshold in an unlinked mapped file.

Takes its octets from the worker's budget and gives them back when the message is done with.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator

from relayproxy.core.services import Budget
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply

SPILL = 1_048_576
"""Octets of a body that stay in memory; one that may be larger goes to a file."""

_PIECE = 262_144

TOO_BIG = Reply(552, "5.3.4", "Message is too big")
NO_ROOM = Reply(452, "4.3.1", "Not enough room now, try again later")


class _Unlinked:
    """A file that has no name, and is gone when nothing refers to it any more.

    A thread that still reads a message which is done with (a plugin's time was up) must find this file under its
    number, and not the next message's.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class ContentStore:
    """Implements datastream.Store. `refusal` is set once the content can't be taken; the rest is then dropped."""

    def __init__(self, limit: int, budget: Budget, folder: str | None, header_bytes: int) -> None:
        self._limit = limit
        self._budget = budget
        self._folder = folder
        self._header_bytes = header_bytes
        # Where the body begins isn't known yet: as much as a header may have is allowed for it.
        self._spill = SPILL + header_bytes
        self._pieces: list[bytes] = []
        self._file: _Unlinked | None = None
        self._taken = 0
        self.size = 0
        self.refusal: Reply | None = None
        self.problem = ""

    def write(self, data: bytes) -> None:
        """Append `data`, or drop it once the content is refused."""
        self.size += len(data)
        if self.refusal is not None:
            return
        if self.size > self._limit:
            self._refuse(TOO_BIG, "over the size limit")
        elif not self._budget.take(len(data)):
            self._refuse(NO_ROOM, "over the limit of octets in flight")
        else:
            self._taken += len(data)
            self._keep(data)

    def _keep(self, data: bytes) -> None:
        if self._file is None and self.size <= self._spill:
            self._pieces.append(data)
            return
        try:
            if self._file is None:
                self._file = _Unlinked(_open_file(self._folder))
                for piece in self._pieces:
                    _write_all(self._file.number, piece)
                self._pieces.clear()
            _write_all(self._file.number, data)
        except OSError as error:
            self._refuse(NO_ROOM, f"temporary file: {error.strerror}")

    def _refuse(self, reply: Reply, problem: str) -> None:
        self.refusal, self.problem = reply, problem
        self.release()

    def message(self, *, dotless: bool) -> Message:
        """Return what was kept; a body in a file is a view of it, valid until `release`."""
        if self._file is None:
            pieces, self._pieces = self._pieces, []
            return Message.from_pieces(pieces, dotless=dotless)
        mapped = mmap.mmap(self._file.number, self.size, access=mmap.ACCESS_READ)
        if mapped[:2] == b"\r\n":
            cut = 2
        else:
            found = mapped.find(b"\r\n\r\n", 0, self._header_bytes + 4)
            # Without a blank line in reach it all counts as header, of which the session takes only so much.
            cut = found + 4 if found >= 0 else min(self.size, self._header_bytes + 1)
        file, size = self._file, self.size

        def reader() -> Iterator[bytes]:
            # Reading copies through the kernel's cache; looking through the map would make every page ours.
            for start in range(cut, size, _PIECE):
                yield os.pread(file.number, _PIECE, start)

        return Message(mapped[:cut], memoryview(mapped)[cut:], dotless=dotless, reader=reader)

    def release(self) -> None:
        """Give back the octets and the file; may be called twice."""
        self._budget.give(self._taken)
        self._taken = 0
        self._pieces.clear()
        self._file = None


def _open_file(folder: str | None) -> int:
    """Open a file that has no name and is gone when closed."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        return os.dup(file.fileno())


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
