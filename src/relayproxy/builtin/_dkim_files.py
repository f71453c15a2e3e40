"""The files of private keys: which there are by their names, what is in them, and which of them sign.

The name says everything: `SELECTOR.key` (or .pem) signs; `SELECTOR.next` waits for its record to be published;
`SELECTOR.retired-YYYYMMDD` signs no more, and its record is still needed by mail on its way. Must not know settings
or mail.
"""

import glob
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from relayproxy.api import to_a_label
from relayproxy.mailauth.dkim_keys import KeyFault, SigningKey, read_key
from relayproxy.mailauth.dkim_sign import check_names

SIGNING = (".key", ".pem")
"""What the name of a key that signs ends in."""
NEXT = ".next"
"""What the name of a key ends in that waits for its record."""
RETIRED = ".retired-"
"""What the ending of a key begins with that signs no more; the day follows, as in 20261231."""

Stamp: TypeAlias = tuple[int, int, int]
"""Time of the last change, size and inode: another file, or other content, has another one."""


@dataclass(slots=True)
class KeyFile:
    """A key and its file, as it was when last read."""

    domain: str
    selector: str
    path: Path
    senders: tuple[str, ...] = ()
    stamp: Stamp = (0, 0, 0)
    key: SigningKey | None = None

    @property
    def name(self) -> str:
        """Where the record of the key is."""
        return f"{self.selector}._domainkey.{self.domain}"

    def current(self) -> SigningKey:
        """Return the key, read again if its file has changed. Raises KeyFault."""
        try:
            stamp = stamp_of(self.path)
            if self.key is None or stamp != self.stamp:
                self.key = None
                self.key, self.stamp = read_key(self.path.read_bytes()), stamp
        except OSError as error:
            raise KeyFault(f"{self.path}: {error.strerror}") from error
        except KeyFault as fault:
            raise KeyFault(f"{self.path}: {fault}") from fault
        return self.key


def stamp_of(path: Path) -> Stamp:
    """Return what changes when the file does. Raises OSError."""
    facts = path.stat()
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


def find_keys(folder: Path) -> list[KeyFile]:
    """Return the keys of a folder that sign, by the names of their files, without reading them. Raises KeyFault."""
    files = _found(folder, signing)
    if not files:
        raise KeyFault(f"there is no key in {folder}: wanted is DOMAIN/SELECTOR.key")
    by_name: dict[str, KeyFile] = {}
    for file in files:
        other = by_name.setdefault(file.name, file)
        if other is not file:
            raise KeyFault(
                f"{other.path} and {file.path} have the same selector, and one record can't serve both"
            )
    return files


def find_waiting(folder: Path) -> list[KeyFile]:
    """Return the keys of a folder that wait for their record. Raises KeyFault."""
    return _found(folder, lambda path: path.suffix == NEXT)


def find_retired(folder: Path) -> list[KeyFile]:
    """Return the keys of a folder that sign no more. Raises KeyFault."""
    return _found(folder, lambda path: path.suffix.startswith(RETIRED))


def signing(path: Path) -> bool:
    """Whether the key signs, by the name of its file."""
    return path.suffix in SIGNING


def state_of(path: Path) -> str:
    """Return "signs", "waits" or "retired", by the name of the file."""
    return "signs" if signing(path) else "waits" if path.suffix == NEXT else "retired"


def was_retired(path: Path) -> bool:
    """Whether the file of a key that signed has been renamed to one that signs no more."""
    return any(path.parent.glob(f"{glob.escape(path.stem)}{RETIRED}*"))


def _found(folder: Path, wanted: Callable[[Path], bool]) -> list[KeyFile]:
    if not folder.is_dir():
        raise KeyFault(f"there is no folder {folder}")
    paths = [path for path in _paths(folder) if wanted(path) and path.is_file()]
    return [_named(path, path.relative_to(folder).with_suffix("").parts) for path in sorted(paths)]


def _paths(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder but hidden ones: drafts, and what Kubernetes keeps beside a mounted secret."""
    for home, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(home, name) for name in names if not name.startswith("."))


def _named(path: Path, parts: tuple[str, ...]) -> KeyFile:
    domain, _, selector = parts[0].rpartition(".") if len(parts) == 1 else (parts[0], "", parts[1])
    domain = to_a_label(domain.strip().rstrip("."))
    try:
        if len(parts) > 2:
            raise ValueError("the folder is too deep")  # noqa: TRY301  (one way to refuse a name)
        check_names(domain, selector)
    except ValueError as error:
        raise KeyFault(f"{path} is not DOMAIN/SELECTOR.key or DOMAIN.SELECTOR.key: {error}") from error
    return KeyFile(domain, selector, path)
