"""The disk fails: full, broken, read-only, out of descriptors, at every call in turn. Never an acknowledgement too many.

A small library, preloaded into a process that stores messages, makes one call fail; what the process had acknowledged
must be there afterwards, whole, and it must have gone on or said no.
"""

import errno
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from tests.spool.after import check
from tests.spool.test_crash import start

COUNT = 26  # number 24 is the first that is large and delivered at once
MANY = int(os.environ.get("RELAYPROXY_CRASHES", "0")) > 20
NTHS = tuple(range(1, 60)) if MANY else (3, 7, 14, 30)
FAULTS = (
    ("open", ("EMFILE", "EROFS", "ENOSPC", "EIO")),
    ("write", ("ENOSPC", "EDQUOT", "EIO", "EROFS")),
    ("sync", ("EIO", "ENOSPC")),
    ("truncate", ("EIO",)),
)


def run(shim: Path, folder: Path, call: str, nth: int, error: str, **more: str) -> tuple[str, bool]:
    child = start(
        folder,
        COUNT,
        3,
        LD_PRELOAD=str(shim),
        FAULT_FOLDER=str(folder),
        FAULT_CALL=call,
        FAULT_NTH=str(nth),
        FAULT_ERRNO=str(getattr(errno, error)),
        **more,
    )
    output, errors = (stream.decode() for stream in child.communicate(timeout=60))
    killed = "FAULT_KILL" in more and bool(errors)
    assert child.returncode == (-signal.SIGKILL if killed else 0), (output, errors)
    assert set(errors.split()) <= {"fault"}
    return output, bool(errors)


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)


@pytest.mark.parametrize(("call", "error"), [(call, error) for call, errors in FAULTS for error in errors])
async def test_one_call_fails(shim, tmp_path, call, error):
    hits = 0
    for nth in NTHS:
        folder = tmp_path / str(nth)
        output, hit = run(shim, folder, call, nth, error)
        hits += hit
        if output.startswith("no start"):
            continue
        assert output.endswith("end\n"), output
        answers = re.findall(r"^(?:ack|no) (\d+)", output, re.MULTILINE)
        assert set(map(int, answers)) == set(range(COUNT)), output
        await check(folder, output)
    assert hits


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
async def test_all_writes_fail_from_some_point_on(shim, tmp_path, error):
    for nth in NTHS[2:]:
        folder = tmp_path / str(nth)
        output, _ = run(shim, folder, "write", nth, error, FAULT_FOREVER="1")
        if not output.startswith("no start"):
            await check(folder, output)
            assert "\nno " in output


async def test_a_write_is_cut_short(shim, tmp_path):
    for nth in NTHS:
        folder = tmp_path / str(nth)
        output, _ = run(shim, folder, "write", nth, "ENOSPC", FAULT_SHORT="1")
        if not output.startswith("no start"):
            await check(folder, output)


@pytest.mark.parametrize("call", ["open", "write", "sync"])
async def test_a_kill_right_before_a_call(shim, tmp_path, call):
    """At every step between the content and its acknowledgement, and of what is written down after that."""
    hits = 0
    for nth in range(1, 120) if MANY else (4, 9, 15, 24):
        folder = tmp_path / str(nth)
        output, hit = run(shim, folder, call, nth, "EIO", FAULT_KILL="1")
        hits += hit
        await check(folder, output)
    assert hits


async def test_after_a_failed_sync_nothing_is_acknowledged_any_more(shim, tmp_path):
    for nth in (12, 20, 28):
        folder = tmp_path / str(nth)
        output, _ = run(shim, folder, "sync", nth, "EIO")
        if "a sync failed" not in output:
            continue
        later = output[output.index("a sync failed") :].splitlines()[1:]
        # Commits that had been made before are told in between: of three that were asked for at once, two.
        assert len([line for line in later if line.startswith("ack")]) <= 2
        assert later[-2].startswith("no ")
        await check(folder, output)
        return
    pytest.fail("no failed sync was noticed")


@pytest.fixture
def small_folder(tmp_path):
    """A folder on a file system of three megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("can't mount a small file system here")
    yield folder / "spool"
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_small_file_system_that_fills_up(small_folder):
    others = small_folder.with_name("others")
    others.write_bytes(bytes(512 * 1024))
    child = start(small_folder, 400, 3)
    output = child.communicate(timeout=60)[0].decode()
    assert "\nno " in output
    assert "\nack " in output
    # Without any room SQLite's log can't grow, and nothing can be leased (docs/queue.md).
    others.unlink()
    await check(small_folder, output)
