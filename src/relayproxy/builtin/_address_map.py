"""Addresses as they are written in settings and files, and files of them that are read again when they change.

Must not know what an address is mapped for.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator

from relayproxy.api import Address, to_a_label

T = TypeVar("T")

_LARGEST = 16_777_216  # octets of a file
_EVERY = 2.0  # seconds between two looks at a file
_LONGEST_LOCAL = 64  # RFC 5321 section 4.5.3.1.1
_LONGEST_DOMAIN = 253
_LOCAL = re.compile(r'(?:[^\s"(),:;<>@\[\]\\\x00-\x20\x7f]+|"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*")\Z')
_DOMAIN = re.compile(r"[^\s\"(),:;<>@\\\x00-\x20\x7f]+\Z")


def read_address(text: str) -> Address:
    """Read `local@domain`. Raises ValueError for what can't be an envelope address."""
    local, at, domain = text.strip().rpartition("@")
    if not at or not _LOCAL.match(local) or not _DOMAIN.match(domain):
        raise ValueError(f"{text!r} is no address such as user@example.org")
    if len(local.encode()) > _LONGEST_LOCAL or len(domain.encode()) > _LONGEST_DOMAIN:
        raise ValueError(f"{text!r} is longer than an address can be")
    return Address(local, domain)


def folded(address: Address) -> str:
    """Return the form in which addresses are looked up here: case doesn't count, as in every mailbox in use."""
    return address.key.lower()


def _key(text: str) -> str:
    return folded(read_address(text))


def _domain(text: str) -> str:
    text = to_a_label(text.strip()).rstrip(".")
    if not _DOMAIN.match(text):
        raise ValueError(f"{text!r} is no domain")
    return text


AddressKey = Annotated[str, AfterValidator(_key)]
"""An address of the settings, folded for looking up."""
AddressText = Annotated[str, AfterValidator(lambda text: str(read_address(text)))]
"""An address of the settings, as it is written."""
DomainName = Annotated[str, AfterValidator(_domain)]
"""A domain of the settings, in A-labels."""


class WatchedFile(Generic[T]):
    """A text file and what `parse` makes of its lines, which it gets with their numbers, comments and blanks removed.

    `parse` raises ValueError for a line, beginning with its number and a colon. With `folds`, a line that begins with a
    blank goes on with the one before.
    """

    def __init__(
        self, path: Path, parse: Callable[[list[tuple[int, str]]], T], *, folds: bool = False
    ) -> None:
        self.path = path
        self._folds = folds
        self._parse = parse
        self._stamp: tuple[int, int, int] | None = None
        self._looked = float("-inf")
        self._said = ""
        self.content: T

    def read(self) -> None:
        """Read the file. Raises OSError and ValueError, with the name of the file, and keeps what was there."""
        status = self.path.stat()
        if status.st_size > _LARGEST:
            raise ValueError(f"{self.path} is larger than {_LARGEST} octets")
        lines: list[tuple[int, str]] = []
        for number, line in enumerate(self.path.read_text("utf-8").split("\n"), 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            if self._folds and line[0].isspace() and lines:
                lines[-1] = (lines[-1][0], f"{lines[-1][1]} {text}")
            else:
                lines.append((number, text))
        try:
            self.content = self._parse(lines)
        except ValueError as error:
            raise ValueError(f"{self.path}:{error}") from error
        self._stamp = (status.st_mtime_ns, status.st_size, status.st_ino)

    def refresh(self, now: float) -> str:
        """Read the file again if it has changed; return what is wrong with it, once, and keep what was there.

        `now` only ever grows; the file is looked at every two seconds at most.
        """
        if now - self._looked < _EVERY:
            return ""
        self._looked = now
        said = ""
        try:
            status = self.path.stat()
            if (status.st_mtime_ns, status.st_size, status.st_ino) != self._stamp:
                self.read()
        except (OSError, ValueError) as error:
            said = str(error)
        fresh = said != self._said
        self._said = said
        return said if fresh else ""
