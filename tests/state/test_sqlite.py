import asyncio
import fcntl
import os
import sqlite3
import sys
import time
from pathlib import Path

import pytest

from relayproxy.api import Put, Unavailable
from relayproxy.state.sqlite import SqliteState
from relayproxy.testing import FakeClock

WORKERS, ROUNDS, AT_ONCE = 4, 25, 8
PROGRAM = f"""
import asyncio, sys, time
from pathlib import Path
from relayproxy.api import Add
from relayproxy.state.sqlite import SqliteState

async def count():
    store = SqliteState(Path(sys.argv[1]), time.time)
    taken = 0
    for _ in range({ROUNDS}):
        adds = [store.do(Add("c", 1.0, 3600.0)) for _ in range({AT_ONCE})]
        answers = await asyncio.gather(store.take("b", rate=1e-6, burst=50.0), *adds)
        taken += answers[0] == 0.0
    await store.close()
    return taken

print(asyncio.run(count()))
"""


async def test_four_processes_count_together_without_a_lock_error(tmp_path):
    path = tmp_path / "state.db"
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, str(path), stdout=asyncio.subprocess.PIPE
        )
        for _ in range(WORKERS)
    ]
    said = [(await process.communicate())[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * WORKERS
    assert sum(map(int, said)) == 50
    store = SqliteState(path, time.time)
    assert await store.add("c", 0, ttl=3600.0) == WORKERS * ROUNDS * AT_ONCE
    await store.close()


async def test_what_was_kept_is_there_after_a_restart(tmp_path, clock):
    first = SqliteState(tmp_path / "state.db", clock.time)
    await first.put("t", "x", ttl=10.0)
    await first.close()
    second = SqliteState(tmp_path / "state.db", clock.time)
    assert await second.get("t") == "x"
    await second.close()
    assert (tmp_path / "state.db").stat().st_mode & 0o777 == 0o600


async def test_a_backup_that_holds_the_database_is_waited_for(tmp_path, clock):
    store = SqliteState(tmp_path / "state.db", clock.time)
    await store.put("t", "x", ttl=10.0)
    stranger = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(store.get("t"))
    await asyncio.sleep(0)
    assert not waiting.done()
    stranger.execute("COMMIT")
    assert await waiting == "x"
    stranger.close()
    await store.close()


@pytest.mark.parametrize(
    "content", [b"this is no database, but a text of some length " * 40, b"SQLite format 3\0"]
)
async def test_a_file_that_is_no_database_is_put_aside(tmp_path, clock, content):
    path = tmp_path / "state.db"
    path.write_bytes(content * 3)
    store = SqliteState(path, clock.time)
    await store.put("t", "x", ttl=10.0)
    assert await store.get("t") == "x"
    await store.close()
    assert (tmp_path / "state.db.broken").read_bytes() == content * 3


async def test_a_file_that_is_damaged_while_in_use_is_put_aside_by_one_of_its_users(tmp_path, clock):
    path = tmp_path / "state.db"
    stores = [SqliteState(path, clock.time) for _ in range(2)]
    for number in range(2000):
        await stores[0].put(f"key{number}", "x" * 100, ttl=1e6)
        if number % 1000 == 0:
            await stores[1].get(f"key{number}")
    with sqlite3.connect(path, isolation_level=None) as base:
        base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    base.close()
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))
    for store in stores:
        with pytest.raises(Unavailable):
            await asyncio.gather(*(store.get(f"key{number}") for number in range(0, 2000, 97)))
    assert await stores[0].put_new("t", "new", ttl=10.0) is None
    assert await stores[1].get("t") == "new"
    for store in stores:
        await store.close()
    assert len(list(tmp_path.glob("*.broken"))) == 1


async def test_a_folder_that_is_not_there_is_unavailable_until_it_is(tmp_path, clock):
    store = SqliteState(tmp_path / "missing/state.db", clock.time)
    for _ in range(2):
        with pytest.raises(Unavailable, match="No such file"):
            await store.get("t")
    (tmp_path / "missing").mkdir()
    assert await store.get("t") is None
    await store.close()
    with pytest.raises(Unavailable, match="closed"):
        await store.get("t")


async def test_a_full_disk_is_unavailable_and_then_well_again(tmp_path, clock):
    store = SqliteState(tmp_path / "state.db", clock.time)
    await store.put("t", "x", ttl=1000.0)
    store._base.execute("PRAGMA max_page_count=8")
    with pytest.raises(Unavailable, match="full"):
        await store.do(*(Put(f"k{n}", "x" * 4000, 1000.0) for n in range(50)))
    assert await store.get("t") == "x"
    assert await store.get("k0") is None, "all or nothing"
    await store.close()


async def rows(path: Path) -> int:
    base = sqlite3.connect(path)
    (count,) = base.execute("SELECT count(*) FROM state").fetchone()
    base.close()
    return count


async def test_what_is_over_is_removed_a_little_at_a_time(tmp_path):
    clock = FakeClock()
    store = SqliteState(tmp_path / "state.db", clock.time)
    await store.do(*(Put(f"k{n}", "x", 10.0) for n in range(1200)))
    await store.put("stays", "x", ttl=1000.0)
    clock.advance(60.0)
    counts = []
    for _ in range(4):
        await store.put("stays", "x", ttl=1000.0)
        counts.append(await rows(tmp_path / "state.db"))
    await store.close()
    assert counts == [701, 201, 1, 1]


async def test_a_file_above_its_size_loses_what_ends_soonest(tmp_path, clock):
    store = SqliteState(tmp_path / "state.db", clock.time, largest=400_000)
    for batch in range(8):
        await store.do(*(Put(f"k{batch}-{n}", "x" * 100, 100.0 + batch) for n in range(500)))
        clock.advance(31.0)
    for _ in range(12):
        await store.put("t", "x", ttl=100.0)
    kept = await rows(tmp_path / "state.db")
    assert 500 <= kept <= 2500
    assert await store.get("k7-499") == "x" * 100
    assert await store.get("k4-0") is None
    await store.close()


async def test_who_was_cancelled_gets_nothing_and_stops_nobody(tmp_path, clock):
    store = SqliteState(tmp_path / "state.db", clock.time)
    await store.get("t")
    store_lock = store._lock
    assert store_lock >= 0
    gone = asyncio.create_task(store.add("c", ttl=10.0))
    stays = asyncio.create_task(store.add("d", ttl=10.0))
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays == 1.0
    assert gone.cancelled()
    await store.close()


async def test_readers_do_not_wait_for_another_process_that_writes(tmp_path, clock):
    store = SqliteState(tmp_path / "state.db", clock.time)
    await store.put("t", "x", ttl=10.0)
    holder = os.open(tmp_path / "state.db-lock", os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    assert await store.get("t") == "x"
    assert await store.add("c", 0, ttl=10.0) == 0.0
    writing = asyncio.create_task(store.put("t", "y", ttl=10.0))
    await asyncio.sleep(0)
    assert not writing.done()
    os.close(holder)
    await writing
    assert await store.get("t") == "y"
    await store.close()
