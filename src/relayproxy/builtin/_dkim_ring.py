"""The keys that sign, kept in memory and compared with their files now and then.

A message never waits for a file. What is wrong with a key is known before mail needs it: it is in the log and in the
number of alarms. Must not know how mail is signed, nor which settings name the files.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from relayproxy.api import Clock
from relayproxy.builtin._dkim_files import KeyFile, Stamp, stamp_of, was_retired
from relayproxy.mailauth.dkim_keys import KeyFault, SigningKey, read_key

EVERY = 2.0
"""Seconds between two looks at the files."""
_SHARE = 100  # a look at a very large folder takes its time; no more than a hundredth of a core goes into it
_SHORT_RSA = 2048
_NO_STAMP = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Held:
    """A key as it signs: `key` is None if it can't, and `fault` says what is wrong with its file.

    A file that has become unreadable as a key leaves the one that it was: `key` and `fault` are both set.
    """

    file: KeyFile
    key: SigningKey | None = None
    stamp: Stamp = _NO_STAMP
    fault: str = ""
    proven: bool = False

    def current(self) -> SigningKey:
        """Return the key. Raises KeyFault."""
        if self.key is None:
            raise KeyFault(self.fault)
        return self.key


class KeyRing:
    """Keys by whose mail they sign.

    `find` names the files and raises KeyFault; `alarm` takes the number of files that are not as they should be.
    """

    def __init__(
        self,
        find: Callable[[], Iterable[KeyFile]],
        *,
        log: logging.Logger,
        alarm: Callable[[int], None],
        clock: Clock,
    ) -> None:
        self._find = find
        self._log = log
        self._alarm = alarm
        self._clock = clock
        self._held: tuple[Held, ...] = ()
        self._faults: frozenset[str] = frozenset()
        self._alarms: frozenset[str] = frozenset()
        self._by_sender: dict[str, list[Held]] = {}
        self.authors: frozenset[str] = frozenset()
        self.pause = EVERY

    def load(self) -> None:
        """Find the keys and read each: a bad one is an error now, not with the first mail. Raises KeyFault."""
        held = tuple(_looked_at(file, None) for file in self._find())
        for one in held:
            one.current()
        self._take(held, frozenset())
        for sender, several in self._by_sender.items():
            if not any(one.key is not None and one.key.algorithm == "rsa-sha256" for one in several):
                self._log.warning("%s has no RSA key, and some large receivers verify nothing else", sender)

    def signers(self, sender: str) -> list[Held]:
        """Return the keys for an address, a domain, or, with a dot in front, all domains below one."""
        return self._by_sender.get(sender, [])

    async def watch(self) -> None:
        """Look at the files for ever."""
        while True:
            await asyncio.sleep(self.pause)
            try:
                await self.poll()
            except Exception:  # noqa: BLE001  (the fence: the keys in memory go on signing, whatever a file system does)
                self._log.exception("the folder of keys can't be looked at")

    async def poll(self) -> None:
        """Look at the files once, in another thread, and sign from now on with what they hold."""
        begun = self._clock.monotonic()
        held, faults = await asyncio.to_thread(self._look)
        self.pause = max(EVERY, _SHARE * (self._clock.monotonic() - begun))
        if held != self._held or faults != self._faults:
            self._take(held, faults)

    # -- in the other thread --------------------------------------------------------------------------------

    def _look(self) -> tuple[tuple[Held, ...], frozenset[str]]:
        """Return what is to sign, and what is wrong beside the keys themselves."""
        before = {_identity(one.file): one for one in self._held}
        faults: frozenset[str] = frozenset()
        try:
            found = {_identity(file): file for file in self._find()}
            if not before.keys() <= found.keys():
                # A file that is renamed while its folder is read may be seen under neither name.
                found = {_identity(file): file for file in self._find()}
        except (KeyFault, OSError) as fault:
            faults = frozenset((str(fault),))
            found = {}
        held = [_looked_at(file, before.get(key)) for key, file in found.items()]
        gone = [_looked_at(one.file, one) for key, one in before.items() if key not in found]
        for one in gone:
            if one.stamp != _NO_STAMP or not was_retired(one.file.path):
                held.append(one)
            elif not _replaced(one, held):
                old = before[_identity(one.file)]
                held.append(replace(old, fault=f"{one.file.path}: retired, but no other key signs for it"))
        return tuple(held), faults

    # -- in the loop ----------------------------------------------------------------------------------------

    def _take(self, held: tuple[Held, ...], faults: frozenset[str]) -> None:
        before = {_identity(one.file): one for one in self._held}
        for one in held:
            old = before.get(_identity(one.file))
            if one.key is not None and (old is None or old.key is not one.key):
                self._log.info("%s: signs as %s", one.file.path, one.file.name)
                self._warn_of(one.file.path, one.key)
        after = {_identity(one.file) for one in held}
        for key, old in before.items():
            if key not in after:
                self._log.info("%s: retired, signs no more", old.file.path)
        faults |= {one.fault for one in held if one.fault}
        for fault in sorted(faults - self._alarms):
            self._log.error("%s", fault)
        for fault in sorted(self._alarms - faults):
            self._log.info("no longer so: %s", fault)
        self._alarm(len(faults))
        self._held, self._faults, self._alarms = held, faults, faults
        self._by_sender = {}
        for sender, one in _senders(held):
            self._by_sender.setdefault(sender, []).append(one)
        for sender, several in self._by_sender.items():
            # A new file that is no key is left out where others sign; a key that signed before is missed.
            self._by_sender[sender] = [one for one in several if one.proven] or several
        self.authors = frozenset(sender.rpartition("@")[2] for sender in self._by_sender)

    def _warn_of(self, path: Path, key: SigningKey) -> None:
        if key.algorithm == "rsa-sha256" and key.bits < _SHORT_RSA:
            self._log.warning("%s: RSA with %d bits is short, 2048 are usual", path, key.bits)
        with contextlib.suppress(OSError):  # gone again: the next look will tell
            if path.stat().st_mode & 0o007:
                self._log.warning("%s: everybody on this machine may use this key file", path)


def _identity(file: KeyFile) -> tuple[str, str, Path, tuple[str, ...]]:
    return file.domain, file.selector, file.path, file.senders


def _senders(held: Iterable[Held]) -> Iterator[tuple[str, Held]]:
    return ((sender, one) for one in held for sender in one.file.senders or (one.file.domain,))


def _looked_at(file: KeyFile, before: Held | None) -> Held:
    """Return the key as its file holds it now, or the one before where the file holds none."""
    unusable = partial(Held, file, proven=before is not None and before.proven)
    try:
        stamp = stamp_of(file.path)
        if before is not None and before.stamp == stamp:
            return before
        return Held(file, read_key(file.path.read_bytes()), stamp, proven=True)
    except OSError as error:
        return unusable(fault=f"{file.path}: {error.strerror}")
    except KeyFault as fault:
        return unusable(before.key if before else None, stamp, f"{file.path}: {fault}")


def _replaced(gone: Held, held: Iterable[Held]) -> bool:
    """Whether another key signs for each of whom the one that is gone has signed."""
    left = {sender for sender, one in _senders(held) if one.key is not None}
    return all(sender in left for sender, _ in _senders((gone,)))
