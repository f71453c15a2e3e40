"""Power is lost after any call: what was acknowledged before is there and whole, nothing is there half.

A process stores and ends messages on a real disk; each of its calls that changes the disk is written down. For each
place in that record the disk is built as it may be after a loss of power there (disk.py), and the real store opens it.
RELAYPROXY_CRASHES says how many random disks there are for each place (default 1); above 20 the long record, in which
SQLite moves its log into the database, is gone through call by call as well, else at places here and there.
"""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.spool.after import check
from tests.spool.disk import Call, Disk, read_record
from tests.spool.test_crash import start

RANDOM = int(os.environ.get("RELAYPROXY_CRASHES", "1"))
THOROUGH = RANDOM > 20


@pytest.fixture
def record(recorder, tmp_path) -> Callable[[int, int], list[Call]]:
    """Has a process store so many messages, so many at a time, and returns what it did to the disk."""

    def run(count: int, concurrency: int) -> list[Call]:
        disk, log = tmp_path / "disk", tmp_path / "log"
        disk.mkdir()
        child = start(
            disk / "spool",
            count,
            concurrency,
            LD_PRELOAD=str(recorder),
            RECORD_FOLDER=str(disk),
            RECORD_LOG=str(log),
        )
        output, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors
        assert output.endswith(b"end\n")
        calls = read_record(log, disk)
        assert b"".join(call.data for call in calls if call.kind == "k") == output
        return calls

    return run


async def _go_through(calls: list[Call], tmp_path: Path, places: set[int], random_disks: int = RANDOM) -> int:
    """Lose power after each of `places`; returns how many acknowledged messages were looked for in all."""
    disk = Disk()
    said = ""
    looked_for = 0
    for number, call in enumerate(calls):
        if call.kind == "k":
            said += call.data.decode()
        else:
            disk.take(call)
        if number not in places:
            continue
        for luck, seed in (("nothing", 0), ("everything", 0), *(("some", n) for n in range(random_disks))):
            after = tmp_path / "after"
            disk.after_power_loss(after, luck, random.Random(number * 1000 + seed))
            try:
                looked_for += (await check(after / "spool", said))[0]
            except BaseException as error:
                error.add_note(
                    f"power lost after call {number} ({call.kind} {call.path}), {luck}, seed {seed}"
                )
                raise
            shutil.rmtree(after)
    return looked_for


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_power_may_be_lost_after_any_call(record, tmp_path, concurrency):
    calls = record(12, concurrency)
    assert await _go_through(calls, tmp_path, set(range(len(calls))))


async def test_power_may_be_lost_while_the_log_is_moved_into_the_database(record, tmp_path):
    calls = record(300, 1)
    moving = [n for n, call in enumerate(calls) if call.path == "spool/spool.db" and call.kind in "ws"]
    acknowledged = [n for n, call in enumerate(calls) if call.data == b"ack 100\n"]
    amid = [n for n in moving if acknowledged[0] < n < len(calls) - 400]
    assert amid, "the log was not moved during the run"
    places = set(range(len(calls))) if THOROUGH else set(amid[:: max(1, len(amid) // 12)])
    # Right after the log begins anew is where what it held before is nowhere else.
    places |= {n + more for n in (amid[-1],) for more in range(1, 9)}
    assert await _go_through(calls, tmp_path, places, min(RANDOM, 5))


def test_the_disk_forgets_what_was_not_synced(tmp_path):
    """The test's own tools: data without a sync, a name without its folder's, an overwritten sector."""
    disk = Disk()
    for kind, path, at, data in (
        ("d", "a", 0, b""),
        ("s", "", 0, b""),
        ("c", "a/x", 0, b""),
        ("w", "a/x", 0, b"one"),
        ("s", "a/x", 0, b""),
        ("w", "a/x", 1, b"NEW"),
    ):
        disk.take(Call(kind, path, at, data))
    chance = random.Random(1)
    disk.after_power_loss(tmp_path / "0", "nothing", chance)
    assert list((tmp_path / "0" / "a").iterdir()) == []
    disk.take(Call("s", "a", 0, b""))
    disk.after_power_loss(tmp_path / "1", "nothing", chance)
    disk.after_power_loss(tmp_path / "2", "everything", chance)
    assert (tmp_path / "1" / "a" / "x").read_bytes() == b"one"
    assert (tmp_path / "2" / "a" / "x").read_bytes() == b"oNEW"
    disk.take(Call("u", "a/x", 0, b""))
    disk.after_power_loss(tmp_path / "3", "nothing", chance)
    assert (tmp_path / "3" / "a" / "x").read_bytes() == b"one"
