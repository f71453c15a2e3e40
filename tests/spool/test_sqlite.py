"""The SQLite store: what every store does, and what is its own."""

import asyncio
import errno
import os
import re
import shutil
import sqlite3
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from tests.spool.conformance import MINUTE, StoreConformance
from tests.spool.making import NOW, deposit, recipients, stored_octets

from relayproxy.model.message import Message
from relayproxy.model.queued import Part, Progress, Settlement, share_key, tenant_of
from relayproxy.spool import tables
from relayproxy.spool.database import Keys, key_at, prepare
from relayproxy.spool.protocol import BrokenEntryError, SpoolError, SpoolFullError
from relayproxy.spool.sqlite import Floors, SqliteSpool
from relayproxy.testing.clock import FakeClock

LARGE = Message(b"Subject: x\r\n\r\n", b"large\r\n" * 20_000)


@pytest.fixture
async def open_store(tmp_path):
    """Open one more way to the same file."""
    opened = []

    def open_one(clock=None, **changes):
        clock = clock or FakeClock(NOW)
        changes.setdefault("floors", Floors(0, 0))
        store = SqliteSpool(tmp_path / "spool" / "spool.db", now=clock.time, **changes)
        store.start()
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
def database(tmp_path):
    """The file, for tests that spoil it."""
    return tmp_path / "spool" / "spool.db"


def contents(database):
    return [file for file in (database.parent / "content").rglob("*") if file.is_file()]


def spoil(database, statement, *values):
    db = sqlite3.connect(database)
    with db:
        db.execute(statement, values)
    db.close()


class TestConformance(StoreConformance):
    """See conformance.py."""


async def test_every_commit_is_synced_and_others_may_not_read_it(open_store, database):
    store = open_store()
    await store.store(deposit())
    mode = await store._writer.do(lambda db, _: [db.execute("PRAGMA synchronous").fetchone()[0]], None)
    assert mode == 2
    assert database.stat().st_mode & 0o077 == 0
    assert database.parent.stat().st_mode & 0o077 == 0


async def test_what_was_stored_is_there_after_a_new_start(open_store):
    first = open_store()
    await first.store(deposit(1))
    await first.store(deposit(2, message=LARGE))
    await first.close()
    second = open_store()
    found = await second.load(await second.claim("up", "w1", NOW + MINUTE, 10))
    assert sorted(bytes(one.message) for one in found) == sorted(
        (stored_octets(deposit(1)), stored_octets(deposit(2, message=LARGE)))
    )


async def test_the_file_of_a_large_content_goes_with_its_message(open_store, database):
    store = open_store()
    (lease,) = await store.store(deposit(message=LARGE, owner="w1", due=NOW + 60))
    assert len(contents(database)) == 1
    await store.settle(lease, Settlement((0,)))
    assert contents(database) == []


async def test_left_over_files_are_swept_when_they_are_old(open_store, database):
    store = open_store()
    await store.store(deposit(1, message=LARGE))
    (kept,) = contents(database)
    orphan, young = kept.with_name("abc0000"), kept.with_name("abc0001")
    foreign = kept.with_name("README")
    for file in (orphan, young, foreign):
        file.write_bytes(b"x")
    for file in (kept, orphan, foreign):
        os.utime(file, (0, 0))
    assert await store.sweep() == 1
    assert sorted(contents(database)) == sorted([kept, young, foreign])


@pytest.mark.parametrize(
    "spoiling",
    [
        ("UPDATE message SET content = CAST('x' || substr(content, 2) AS BLOB) WHERE id = 'id1'",),
        ("UPDATE message SET content = substr(content, 2) WHERE id = 'id1'",),
        ("UPDATE message SET meta = '{' WHERE id = 'id1'",),
        ("UPDATE message SET meta = '[]' WHERE id = 'id1'",),
        ("UPDATE message SET origin = 'elsewhere' WHERE id = 'id1'",),
        ("DELETE FROM message WHERE id = 'id1'",),
        ("DELETE FROM recipient WHERE message = (SELECT seq FROM message WHERE id = 'id1')",),
        ("UPDATE message SET content = NULL WHERE id = 'id1'",),
    ],
    ids=lambda spoiling: spoiling[0][:60],
)
async def test_an_entry_that_was_spoilt_is_an_error_in_its_place_and_the_rest_goes_on(
    open_store, database, spoiling
):
    store = open_store()
    await store.store(deposit(1))
    await store.store(deposit(2))
    spoil(database, *spoiling)
    found = await store.load(await store.claim("up", "w1", NOW + MINUTE, 10))
    good = [one for one in found if not isinstance(one, BrokenEntryError)]
    assert len(found) == 2
    assert [one.id for one in good] == ["id2"]


@pytest.mark.parametrize("change", ["cut", "flip", "gone"])
async def test_a_content_file_that_was_spoilt_is_noticed(open_store, database, change):
    store = open_store()
    await store.store(deposit(message=LARGE))
    (file,) = contents(database)
    if change == "cut":
        os.truncate(file, 100)
    elif change == "gone":
        file.unlink()
    else:
        file.write_bytes(b"\0" + file.read_bytes()[1:])
    (found,) = await store.load(await store.claim("up", "w1", NOW + MINUTE, 10))
    assert isinstance(found, BrokenEntryError)


@pytest.mark.parametrize("floors", [Floors(1 << 62, 0), Floors(0, 1 << 62)])
async def test_below_the_floors_nothing_is_taken_and_the_queue_still_empties(open_store, floors):
    store = open_store()
    (lease,) = await store.store(deposit(1, owner="w1", due=NOW + 60))
    full = open_store(floors=floors)
    assert not full.room()
    with pytest.raises(SpoolFullError):
        await full.store(deposit(2))
    await full.settle(lease, Settlement((0,)))
    assert await store.due("up") is None


async def test_a_change_that_fails_takes_none_of_its_group_with_it(open_store):
    store = open_store()

    def fail(_db, arguments):
        raise ValueError(arguments[0])

    results = await asyncio.gather(
        *(store.store(deposit(n)) for n in range(5)),
        store._writer.do(fail, "no"),
        *(store.store(deposit(n)) for n in range(5, 10)),
        return_exceptions=True,
    )
    assert [type(one) for one in results if isinstance(one, Exception)] == [SpoolError]
    assert len(await store.claim("up", "w1", NOW + MINUTE, 100)) == 10


async def test_a_failed_sync_latches(open_store):
    said = []
    store = open_store(alarm=said.append)

    def fail(_db, _arguments):
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
        raise error

    with pytest.raises(SpoolError):
        await store._writer.do(fail, None)
    assert len(said) == 1
    assert store.failed == said[0]
    with pytest.raises(SpoolError, match="sync failed"):
        await store.store(deposit())


async def test_a_failed_sync_of_a_content_latches_too(open_store, monkeypatch):
    said = []
    store = open_store(alarm=said.append, inline=10)

    def fail(_file):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("relayproxy.spool.content.os.fsync", fail)
        with pytest.raises(SpoolError):
            await store.store(deposit(1))
    assert len(said) == 1
    with pytest.raises(SpoolError, match="sync failed"):
        await store.store(deposit(2))


async def test_a_closed_store_takes_nothing(open_store):
    store = open_store()
    await store.close()
    with pytest.raises(SpoolError):
        await store.store(deposit())
    with pytest.raises(SpoolError):
        await store.due("up")


async def test_a_spool_of_another_version_is_not_touched(open_store, database):
    await open_store().close()
    spoil(database, "PRAGMA user_version = 99")
    with pytest.raises(SpoolError, match="version 99"):
        open_store()


async def test_a_folder_that_can_not_be_made_fails_the_start(open_store, database):
    shutil.rmtree(database.parent, ignore_errors=True)
    database.parent.write_bytes(b"")
    with pytest.raises(OSError):
        open_store()
    with pytest.raises(SpoolError):
        await SqliteSpool(database).due("up")


def test_keys_grow_and_tell_the_time():
    now = [NOW]
    keys = Keys(lambda: now[0])
    made = [keys.next() for _ in range(1000)]
    assert made == sorted(set(made))
    assert all(key_at(NOW) <= key < key_at(NOW + 2) for key in made)
    now[0] -= 86_400
    assert keys.next() > made[-1]


async def test_due_queries_use_the_index(open_store, database):
    store = open_store()
    await store.store(deposit())
    db = sqlite3.connect(database)
    plan = "\n".join(
        str(row)
        for row in db.execute(
            "EXPLAIN QUERY PLAN SELECT message, part FROM part INDEXED BY part_due"
            " WHERE standing = 'queued' AND route = ? AND due <= ? ORDER BY due LIMIT ?",
            ("up", NOW, 5),
        )
    )
    db.close()
    assert "SEARCH part USING" in plan
    assert "TEMP B-TREE" not in plan


def test_opening_waits_for_whoever_opens_the_file_at_the_same_time(open_store, database, monkeypatch):
    database.parent.mkdir()
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite3.connect(database).execute("PRAGMA journal_mode = WAL").fetchone()
    naps = []

    def nap(seconds):
        naps.append(seconds)
        other.close()

    monkeypatch.setattr(
        "relayproxy.sqlite.time",
        SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=nap),
    )
    open_store()
    assert naps


async def test_tenants_come_before_campaigns(open_store):
    """However many campaigns one has, it gets no more than another; and all of its campaigns get on."""
    store = open_store()
    for number in range(60):
        to = recipients("b@example.net")
        key = share_key("many", f"c{number:02}")
        for _ in range(3):
            await store.store(deposit(due=NOW - 50, parts=(Part("up", to, "", key),)))
    for _ in range(90):
        await store.store(deposit(due=NOW - 10, parts=(Part("up", recipients("b@example.net"), "", "one"),)))
    order = [lease for _ in range(60) for lease in await store.claim("up", "w", NOW + 60, 1)]
    assert Counter(tenant_of(lease.tenant) for lease in order) == {"many": 30, "one": 30}
    assert len({lease.tenant for lease in order}) == 31


async def test_no_change_goes_through_all_that_waits(database):
    """However much waits, each statement finds its rows by a key or an index."""
    plans: dict[str, str] = {}

    class Watched(sqlite3.Connection):
        def execute(self, sql, *arguments):
            if sql.startswith(("SELECT", "UPDATE", "DELETE")):
                plans[sql] = "\n".join(
                    str(row[3]) for row in super().execute(f"EXPLAIN QUERY PLAN {sql}", *arguments)
                )
            return super().execute(sql, *arguments)

    prepare(database)
    db = sqlite3.connect(database, factory=Watched, isolation_level=None)
    items = []
    for number in range(20):
        given = deposit(number, parts=(Part("up", recipients("b@example.net"), tenant=f"t{number % 5}"),))
        items.append((number, given, b"", b"content"))
    tables.store(db, items)
    ((few, _),) = tables.claim(db, [("up", "w1", NOW + 1, NOW + 60, 8, 0, "", {})])
    (aged,) = tables.claim_aged(db, [("up", "w1", NOW + 1, NOW + 60, 4, 100, False)])
    assert len(few) == 8
    assert len(aged) == 4
    tables.renew(db, [(few, NOW + 90)])
    tables.note(db, [(few[6], Progress((1,), ((0, "450 no"),)), NOW + 90)])
    tables.settle(db, [(lease, Settlement((0,)), True, ()) for lease in few[:4]])
    tables.settle(db, [(few[4], Settlement((), ((0, "450 no"),), NOW), False, ())])
    tables.set_aside(db, [(few[5], "broken")])
    db.close()
    assert len(plans) > 12
    assert {
        sql: plan for sql, plan in plans.items() if re.search("SCAN (part|message|recipient)", plan)
    } == {}
