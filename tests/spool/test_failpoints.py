"""kill -9 at named points between the first octet of a message and the record of its delivery.

Each point is a call on a file, and the process ends right before or right after it. Which of its occurrences it is
follows from the seed; RELAYPROXY_CRASHES says how many seeds there are for each point (default 2).
"""

import os
import random

import pytest
from tests.spool.after import check
from tests.spool.test_faults import run

SEEDS = int(os.environ.get("RELAYPROXY_CRASHES", "2"))
POINTS = {
    "a folder for contents is made": ("mkdir", "*/content/??", 3),
    "the file of a content is made": ("open", "*/content/??/*", 3),
    "a content is written": ("write", "*/content/??/*", 3),
    "a content is synced": ("sync", "*/content/??/*", 3),
    "the folder of a content is synced": ("sync", "*/content/??", 3),
    "the folder of all contents is synced": ("sync", "*/content", 3),
    "the tables are made": ("write", "*/spool.db", 4),
    "the log is written": ("write", "*/spool.db-wal", 30),
    "the log is synced": ("sync", "*/spool.db-wal", 10),
    "a message is acknowledged": ("say", "*", 20),
    "a delivery was answered and is written down": ("say", "*", 28),
    "the log is moved into the database": ("write", "*/spool.db", 30),
    "the database is synced": ("sync", "*/spool.db", 3),
    "the log is truncated or deleted": ("unlink", "*/spool.db-wal", 1),
    "the file of what was delivered is deleted": ("unlink", "*/content/??/*", 1),
}
"""By name: kind of call, pattern of the path, and how often it comes in a run at least."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("point", POINTS)
async def test_a_kill_at_a_named_point(shim, tmp_path, point, after):
    call, file, times = POINTS[point]
    more = {"FAULT_KILL": "1", "FAULT_FILE": file, **({"FAULT_AFTER": "1"} if after else {})}
    kills = 0
    for seed in range(SEEDS):
        nth = random.Random(f"{point} {after} {seed}").randint(1, times)
        folder = tmp_path / str(seed)
        output, hit = run(shim, folder, call, nth, "EIO", **more)
        kills += hit
        _, doubled = await check(folder, output)
        # What was answered and not written down is the window that can't be closed; three are at work at once.
        assert doubled <= 3
    assert kills
