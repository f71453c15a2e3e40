"""Rotating the keys of a domain: the steps, and the files that they rename.

The names of the files are all the state there is, so a rotation can be seen with `ls`, stopped at any point and taken
up again. The order of renames is such that at every moment a key signs whose record is published: new keys sign before
old ones cease. Must not know how steps are shown.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import TypeAlias

from relayproxy.api import Resolver
from relayproxy.builtin._dkim_files import (
    NEXT,
    RETIRED,
    KeyFile,
    find_retired,
    find_waiting,
)
from relayproxy.builtin._dkim_files import find_keys as find_signing
from relayproxy.cli.dkim_keys import sync_folder, write_key
from relayproxy.mailauth.audit.dkim import compare
from relayproxy.mailauth.audit.report import Record
from relayproxy.mailauth.dkim_header import read_record
from relayproxy.mailauth.dkim_keys import KeyFault, new_ed25519_key, new_rsa_key
from relayproxy.mailauth.dkim_sign import check_names

_KIND = re.compile(r"-(?:rsa|ed25519)\Z")


@dataclass(frozen=True, slots=True)
class Step:
    """What was done about one key, or is to be done.

    `state` is "made", "waits", "ready" (but another waits), "signs", "retired", "leave" (its record is still needed), "remove" (it isn't any more)
    or "deleted"; `record` is what is to be published for it.
    """

    domain: str
    file: Path
    name: str
    state: str
    text: str
    record: Record | None = None

    @property
    def open(self) -> bool:
        """Whether somebody has to do something now."""
        return self.state in ("made", "waits", "remove")


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one domain, by their state."""

    folder: Path
    domain: str
    signing: tuple[KeyFile, ...]
    waiting: tuple[KeyFile, ...]
    retired: tuple[KeyFile, ...]

    @property
    def idle(self) -> bool:
        """Whether no rotation is under way."""
        return not self.waiting and not self.retired


def keys_in(folder: Path) -> dict[str, Keys]:
    """Return the keys of a folder by domain. Raises KeyFault."""
    waiting, retired = find_waiting(folder), find_retired(folder)
    try:
        active = find_signing(folder)
    except KeyFault:
        if not waiting and not retired:
            raise
        active = []

    def of(domain: str, files: Sequence[KeyFile]) -> tuple[KeyFile, ...]:
        return tuple(file for file in files if file.domain == domain)

    domains = sorted({file.domain for file in (*active, *waiting, *retired)})
    return {
        domain: Keys(folder, domain, of(domain, active), of(domain, waiting), of(domain, retired))
        for domain in domains
    }


def begin(keys: Keys, today: date, selector: str | None = None, bits: int = 2048) -> list[Step]:
    """Make new keys of the same kinds as those that sign; they wait. Raises KeyFault, ValueError or OSError."""
    if not keys.signing:
        raise KeyFault(
            f"there is no key of {keys.domain} to rotate; make the first with `relayproxy dkim keygen`"
        )
    kinds = sorted({file.current().public.kind for file in keys.signing}, reverse=True)
    stem = selector or _free_selector(keys, today)
    for kind in kinds:
        check_names(keys.domain, f"{stem}-{kind}")
        if f"{stem}-{kind}" in _selectors(keys):
            raise FileExistsError(f"there is a key {stem}-{kind} already; choose another --selector")
    steps = []
    for kind in kinds:
        key = new_ed25519_key() if kind == "ed25519" else new_rsa_key(bits)
        file = KeyFile(keys.domain, f"{stem}-{kind}", keys.folder / keys.domain / f"{stem}-{kind}{NEXT}")
        write_key(file.path, key)
        steps.append(
            Step(
                keys.domain,
                file.path,
                file.name,
                "made",
                "publish its record, then run `relayproxy dkim rotate` again",
                Record(file.name, key.record()),
            )
        )
    return steps


def _selectors(keys: Keys) -> set[str]:
    return {file.selector for file in (*keys.signing, *keys.waiting, *keys.retired)}


def _free_selector(keys: Keys, today: date) -> str:
    """Return the month, the day, or the day and a number: the first under which no key is."""
    taken = {_KIND.sub("", selector) for selector in _selectors(keys)}
    names = [f"{today:%Y%m}", f"{today:%Y%m%d}", *(f"{today:%Y%m%d}-{n}" for n in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)


Servers: TypeAlias = Callable[[str], Awaitable[Sequence[tuple[str, Resolver]]]]
"""Finds the name servers that are responsible for a name: their addresses, and how to ask each of them."""


async def activate(
    keys: Keys, resolver: Resolver, today: date, keep: timedelta, servers: Servers | None = None
) -> list[Step]:
    """Let the waiting keys sign if DNS has all their records, and retire those that signed before.

    With `servers` none of them may say that a record isn't there: one that lags behind would have mail fail. Raises KeyFault or OSError. A rename that fails leaves keys that sign beside each other, which does no harm.
    """
    steps = [await _visible(file, resolver, servers) for file in keys.waiting]
    if any(step.state == "waits" for step in steps):
        return steps
    steps = [
        replace(step, file=step.file.with_suffix(".key"), state="signs", text="its record is published")
        for step in steps
    ]
    families = {_KIND.sub("", file.selector) for file in keys.waiting}
    for file in keys.waiting:
        _rename(file.path, ".key")
    until = today + keep
    for file in keys.signing:
        # A rotation that was interrupted here has let one of the new keys sign already.
        if _KIND.sub("", file.selector) not in families:
            path = _rename(file.path, f"{RETIRED}{today:%Y%m%d}")
            steps.append(
                Step(keys.domain, path, file.name, "retired", f"leave its record until {until:%Y-%m-%d}")
            )
    return steps


async def _visible(file: KeyFile, resolver: Resolver, servers: Servers | None) -> Step:
    """Say whether a waiting key may sign. Raises KeyFault for one that can't be read."""
    key = file.current()
    found = compare(key, await resolver.query(file.name, "TXT"))
    text = "" if found.state == "ok" else f"{found.state}{found.reason and f': {found.reason}'}"
    if not text and servers is not None:
        for address, server in await servers(file.name):
            there = compare(key, await server.query(file.name, "TXT"))
            if there.state not in ("ok", "unknown"):
                text = f"{there.state} at the name server {address}"
    if text:
        return Step(file.domain, file.path, file.name, "waits", text, Record(file.name, key.record()))
    return Step(file.domain, file.path, file.name, "ready", "its record is published, that of another isn't")


def _rename(path: Path, suffix: str) -> Path:
    """Rename a file within its folder, never over another. Raises OSError."""
    to = path.with_suffix(suffix)
    to.hardlink_to(path)
    path.unlink()
    sync_folder(path.parent)
    return to


async def clear(keys: Keys, resolver: Resolver, today: date, keep: timedelta) -> list[Step]:
    """Say which records of retired keys may go, and delete the keys whose records are gone. Raises OSError."""
    steps = []
    for file in keys.retired:
        day = retired_on(file.path)
        if day is None or day + keep > today:
            text = f"leave its record until {day + keep:%Y-%m-%d}" if day else "its name holds no day"
            steps.append(Step(file.domain, file.path, file.name, "leave", text))
            continue
        answer = await resolver.query(file.name, "TXT")
        if answer.failed:
            text = f"DNS gave no answer ({answer.status.value})"
            steps.append(Step(file.domain, file.path, file.name, "leave", text))
        elif any(read_record(text).key is not None for text in answer.records):
            revoked = Record(file.name, "v=DKIM1; p=", why="revoked")
            text = "remove its record, or publish that it is revoked"
            steps.append(Step(file.domain, file.path, file.name, "remove", text, revoked))
        else:
            file.path.unlink()
            steps.append(Step(file.domain, file.path, file.name, "deleted", "its record is gone"))
    return steps


def retired_on(path: Path) -> date | None:
    """Return the day in the name of a retired key, None for a name that holds none."""
    day = path.suffix.removeprefix(RETIRED)
    try:
        return date(int(day[:4]), int(day[4:6]), int(day[6:]))
    except ValueError:
        return None
