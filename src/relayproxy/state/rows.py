"""What the operations mean, over rows that some store reads and writes.

Pure: no clock, no file. The stores in memory and in SQLite use it as it is; the script of the Valkey store says
the same in Lua, and one class of tests holds for all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from relayproxy.model.shared import Add, Bucket, Delete, Get, Operation, Put, PutNew, Take

_ROUNDING = 1e-6  # seconds since the epoch have no finer steps in a double


@dataclass(frozen=True, slots=True)
class Row:
    """What is kept under one key: a number and when it was valid, or a text; `ends` in seconds since the epoch."""

    number: float
    stamp: float
    text: str
    ends: float


Read: TypeAlias = Callable[[str], Row | None]
Write: TypeAlias = Callable[[str, Row | None], None]


def only_reads(operation: Operation) -> bool:
    """Whether an operation changes nothing."""
    return isinstance(operation, Get) or (isinstance(operation, Add) and not operation.amount)


def perform(operation: Operation, read: Read, write: Write, now: float) -> Any:
    """Carry out one operation and return its answer; `write` with None forgets a key."""
    match operation:
        case Take(buckets):
            return _take(buckets, read, write, now)
        case Add(key, amount, ttl, half_life):
            row = _current(read(key), now)
            value = decayed(row.number, now - row.stamp, half_life) if row else 0.0
            if amount:
                value += amount
                write(key, Row(value, now, "", now + ttl))
            return value
        case Get(key):
            row = _current(read(key), now)
            return row.text if row else None
        case Put(key, text, ttl):
            write(key, Row(0.0, now, text, now + ttl))
            return None
        case PutNew(key, text, ttl):
            row = _current(read(key), now)
            if row is None:
                write(key, Row(0.0, now, text, now + ttl))
            return row.text if row else None
        case Delete(key):
            write(key, None)
            return None


def _current(row: Row | None, now: float) -> Row | None:
    return row if row is not None and row.ends > now else None


def decayed(value: float, seconds: float, half_life: float) -> float:
    """Return what is left of `value` after `seconds`; without a half-life all of it."""
    return value * 0.5 ** (max(0.0, seconds) / half_life) if half_life else value


def _take(buckets: tuple[Bucket, ...], read: Read, write: Write, now: float) -> list[float]:
    """All or none, by the time at which a bucket will be full again: one number for each (GCRA, ITU-T I.371).

    A clock that went back far (more than the bucket takes to fill) starts the bucket anew, so that nobody waits
    for a time that was never right.
    """
    waits: list[float] = []
    full: dict[str, float] = {}
    for bucket in buckets:
        fills = bucket.burst / bucket.rate
        if bucket.key in full:
            at = full[bucket.key]
        else:
            row = read(bucket.key)
            at = row.number if row else now
            at = now if at > now + fills + _ROUNDING else max(at, now)
        at += bucket.cost / bucket.rate
        wait = at - now - fills
        waits.append(wait if wait > _ROUNDING else 0.0)
        full[bucket.key] = at
    if not any(waits):
        for key, at in full.items():
            write(key, Row(at, now, "", at))
    return waits
