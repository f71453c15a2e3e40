"""A disk whose power may be cut after any call: what is on it then, by the record that record.c makes.

The rules are those of POSIX at its worst: what was written to a file and not synced is there or not, in any order and
sector by sector; a name is durable only when its folder was synced. Only sectors are never torn.
"""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

SECTOR = 512
Luck: TypeAlias = Literal["nothing", "everything", "some"]
"""What is there of that which wasn't synced."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call: kind as in record.c, path on the disk, offset or new size, data."""

    kind: str
    path: str
    at: int
    data: bytes


def read_record(log: Path, disk: Path) -> list[Call]:
    """Return the record, its paths relative to the disk."""
    octets = log.read_bytes()
    calls = []
    at = 0
    while at < len(octets):
        kind, length, offset, size = struct.unpack_from("<cIQQ", octets, at)
        at += 21
        path = octets[at : at + length].decode()
        at += length
        relative = str(Path(path).relative_to(disk)) if path else ""
        calls.append(Call(kind.decode(), relative, offset, octets[at : at + size]))
        at += size
    return calls


@dataclass(slots=True, eq=False)
class _File:
    """A file or folder: what is durable of it, and what was done since the last sync."""

    durable: bytearray = field(default_factory=bytearray)
    loose: list[Call] = field(default_factory=list)
    names: dict[str, "_File"] = field(default_factory=dict)
    loose_names: list[tuple[str, "_File | None"]] = field(default_factory=list)
    is_folder: bool = False

    def sync(self) -> None:
        for call in self.loose:
            _apply(self.durable, call)
        self.loose.clear()
        for name, file in self.loose_names:
            _rename(self.names, name, file)
        self.loose_names.clear()


class Disk:
    """Takes one call after the other; can be cut off from power between any two."""

    def __init__(self) -> None:
        self._root = _File(is_folder=True)
        self._now: dict[str, _File] = {"": self._root}

    def take(self, call: Call) -> None:
        """Do one call."""
        folder, _, name = call.path.rpartition("/")
        match call.kind:
            case "c" | "d":
                made = self._now[call.path] = _File(is_folder=call.kind == "d")
                self._now[folder].loose_names.append((name, made))
            case "w" | "t":
                if call.path in self._now:  # else it was deleted while it was open
                    self._now[call.path].loose.append(call)
            case "s":
                place = "" if call.path == "." else call.path
                if place in self._now:
                    self._now[place].sync()
            case "u":
                del self._now[call.path]
                self._now[folder].loose_names.append((name, None))
            case _:
                raise AssertionError(f"a call of a kind that this disk doesn't know: {call.kind}")

    def after_power_loss(self, place: Path, luck: Luck, chance: random.Random) -> None:
        """Write what is on the disk, if power is lost now, into an empty folder."""
        _write(self._root, place, luck, chance)


def _write(file: _File, place: Path, luck: Luck, chance: random.Random) -> None:
    if not file.is_folder:
        octets = bytearray(file.durable)
        for call in _lucky(file.loose, luck, chance):
            for piece in _sectors(call) if luck == "some" and call.kind == "w" else (call,):
                if luck != "some" or chance.random() < 0.8:
                    _apply(octets, piece)
        place.write_bytes(octets)
        return
    place.mkdir(exist_ok=True)
    names = dict(file.names)
    for name, one in _lucky(file.loose_names, luck, chance):
        _rename(names, name, one)
    for name, one in names.items():
        _write(one, place / name, luck, chance)


def _lucky(items: list, luck: Luck, chance: random.Random) -> Iterator:
    for item in items:
        if luck == "everything" or (luck == "some" and chance.random() < 0.6):
            yield item


def _sectors(call: Call) -> Iterator[Call]:
    start = 0
    while start < len(call.data):
        end = start + SECTOR - (call.at + start) % SECTOR
        yield Call("w", call.path, call.at + start, call.data[start:end])
        start = end


def _apply(octets: bytearray, call: Call) -> None:
    end = call.at + len(call.data)
    if call.kind == "t":
        del octets[call.at :]
        end = call.at
    if len(octets) < end:
        octets.extend(bytes(end - len(octets)))
    octets[call.at : call.at + len(call.data)] = call.data


def _rename(names: dict[str, _File], name: str, file: _File | None) -> None:
    if file is None:
        names.pop(name, None)
    else:
        names[name] = file
