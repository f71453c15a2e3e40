"""Whose turn it is when more is due than can be leased: high priorities first, tenants alike, and their campaigns alike.

Every eighth time the lowest priority comes first, so that it never stands still. Reads the index `part_turn` from one
tenant to the next, so that a million messages of one of them cost no more than one. Must not change anything.
"""

import sqlite3
from typing import TypeAlias

from relayproxy.model.queued import last_key_of, tenant_of

Key: TypeAlias = tuple[int, int]

_LOWEST_EVERY = 8
_PORTIONS = 8  # one tenant gets at most this part of a claim before the others had theirs
_CAMPAIGNS = 20  # campaigns of a tenant that are looked at in one claim
_VISITS = 100  # tenants that are looked at in one claim; the next claim goes on from there


def choose(
    db: sqlite3.Connection,
    route: str,
    now: float,
    limit: int,
    turn: int,
    last: str,
    cursors: dict[str, str],
) -> tuple[list[Key], str]:
    """Return what to lease, at most `limit` parts, and the tenant that was served last; `last` is that of before.

    `cursors` holds which campaign of a tenant was served last; it is changed.
    """
    oldest: list[Key] = db.execute(
        "SELECT message, part FROM part INDEXED BY part_due"
        " WHERE standing = 'queued' AND route = ? AND due <= ? ORDER BY due LIMIT ?",
        (route, now, limit + 1),
    ).fetchall()
    if len(oldest) <= limit:
        return oldest, last
    chosen: dict[Key, None] = {}
    served = last
    priorities = _priorities(db, route)
    for priority in reversed(priorities) if turn % _LOWEST_EVERY == _LOWEST_EVERY - 1 else priorities:
        served = _of_priority(db, (route, priority), now, limit, served, chosen, cursors)
        if len(chosen) >= limit:
            return list(chosen), served
    # More tenants wait for their time than were looked at.
    for key in oldest:
        if len(chosen) < limit:
            chosen.setdefault(key)
    return list(chosen), served


def _priorities(db: sqlite3.Connection, route: str) -> list[int]:
    found: list[int] = []
    after = -1
    while True:
        (priority,) = db.execute(
            "SELECT min(priority) FROM part INDEXED BY part_turn"
            " WHERE standing = 'queued' AND route = ? AND priority > ?",
            (route, after),
        ).fetchone()
        if priority is None:
            return found
        found.append(priority)
        after = priority


def _of_priority(
    db: sqlite3.Connection,
    lane: tuple[str, int],
    now: float,
    limit: int,
    last: str,
    chosen: dict[Key, None],
    cursors: dict[str, str],
) -> str:
    """Add to `chosen` from one tenant after the other, beginning behind `last`; return who was last.

    First a portion of each; when all have had theirs and there is still room, as much as each has.
    """
    for portion in (max(1, limit // _PORTIONS), limit):
        tenant, first = last, None
        for _ in range(_VISITS):
            following = _after(db, lane, last_key_of(tenant))
            if following is None:
                following = _first(db, lane)
            if following is None or tenant_of(following) == first:
                break
            tenant = tenant_of(following)
            first = tenant if first is None else first
            for key in _of_tenant(db, lane, tenant, now, portion, cursors):
                chosen.setdefault(key)
                last = tenant
                if len(chosen) >= limit:
                    return last
    return last


def _of_tenant(
    db: sqlite3.Connection,
    lane: tuple[str, int],
    tenant: str,
    now: float,
    portion: int,
    cursors: dict[str, str],
) -> list[Key]:
    """Return a portion of what a tenant has waiting, from one campaign after the other, beginning behind the last."""
    keys = _campaigns(db, lane, tenant, cursors.get(tenant, ""))
    if len(keys) == 1:
        return _due(db, lane, keys[0], now, portion)
    found: dict[Key, None] = {}
    for some in (max(1, portion // len(keys)), portion):
        for key in keys:
            for one in _due(db, lane, key, now, some):
                found.setdefault(one)
                cursors[tenant] = key
                if len(found) >= portion:
                    return list(found)
    return list(found)


def _campaigns(db: sqlite3.Connection, lane: tuple[str, int], tenant: str, cursor: str) -> list[str]:
    """Return the keys of a tenant's campaigns, from the one behind `cursor` on and round, as many as are looked at."""
    end = last_key_of(tenant)
    keys: list[str] = []
    at = cursor
    for _ in range(_CAMPAIGNS):
        following = _after(db, lane, at) if at else None
        if following is None or following > end:
            if keys and not cursor:
                break  # all round
            following = tenant if _has(db, lane, tenant) else _after(db, lane, tenant)
        if following is None or following in keys:
            break
        keys.append(following)
        at = following
    return keys


def _has(db: sqlite3.Connection, lane: tuple[str, int], key: str) -> bool:
    found = db.execute(
        "SELECT 1 FROM part INDEXED BY part_turn WHERE standing = 'queued' AND route = ? AND priority = ?"
        " AND tenant = ? LIMIT 1",
        (*lane, key),
    ).fetchone()
    return found is not None


def _after(db: sqlite3.Connection, lane: tuple[str, int], tenant: str) -> str | None:
    found: str | None = db.execute(
        "SELECT min(tenant) FROM part INDEXED BY part_turn"
        " WHERE standing = 'queued' AND route = ? AND priority = ? AND tenant > ?",
        (*lane, tenant),
    ).fetchone()[0]
    return found


def _first(db: sqlite3.Connection, lane: tuple[str, int]) -> str | None:
    found: str | None = db.execute(
        "SELECT min(tenant) FROM part INDEXED BY part_turn WHERE standing = 'queued' AND route = ? AND priority = ?",
        lane,
    ).fetchone()[0]
    return found


def _due(db: sqlite3.Connection, lane: tuple[str, int], tenant: str, now: float, limit: int) -> list[Key]:
    found: list[Key] = db.execute(
        "SELECT message, part FROM part INDEXED BY part_turn WHERE standing = 'queued' AND route = ?"
        " AND priority = ? AND tenant = ? AND due <= ? ORDER BY due LIMIT ?",
        (*lane, tenant, now, limit),
    ).fetchall()
    return found
