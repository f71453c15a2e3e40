"""kill -9 at any moment between the first octet and the acknowledgement, and after it; many seeds.

RELAYPROXY_CRASHES says how many runs there are (default 12; nightly runs use hundreds).
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.spool.after import check

ROOT = Path(__file__).parents[2]
CHILD = (sys.executable, "-m", "tests.spool.child")


def start(folder: Path, count: int, concurrency: int, **more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        (*CHILD, str(folder), str(count), str(concurrency)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if "LD_PRELOAD" in more else None,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **more},
    )


@pytest.mark.parametrize("seed", range(int(os.environ.get("RELAYPROXY_CRASHES", "12"))))
async def test_a_kill_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path, seed):
    chance = random.Random(seed)
    folder = tmp_path / "spool"
    child = start(folder, 100_000, chance.choice((1, 3, 20)))
    assert child.stdout is not None
    wanted = chance.randrange(1, 60)
    output = b""
    while output.count(b"\n") <= wanted:
        piece = await asyncio.to_thread(os.read, child.stdout.fileno(), 4096)
        assert piece, output
        output += piece
    end = time.perf_counter() + chance.random() * 0.004
    while time.perf_counter() < end:
        pass
    child.send_signal(signal.SIGKILL)
    output += child.stdout.read()
    child.stdout.close()
    child.wait()
    acknowledged, _ = await check(folder, output.decode())
    assert acknowledged


async def test_two_processes_that_are_killed_in_turn(tmp_path):
    """The second goes on while the first dies, and neither loses anything of the other's."""
    folder = tmp_path / "spool"
    one, other = (start(folder, 300, 5) for _ in range(2))
    assert one.stdout is not None
    assert other.stdout is not None
    one.stdout.readline()
    first = one.stdout.readline()
    assert first
    one.send_signal(signal.SIGKILL)
    one.stdout.read()
    one.stdout.close()
    one.wait()
    output = (await asyncio.to_thread(other.stdout.read)).decode()
    other.stdout.close()
    assert other.wait() == 0
    assert output.endswith("end\n"), output[-300:]
