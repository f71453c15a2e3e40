"""250 is never on the wire before the message is on disk: the system calls of a real proxy, in their order."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest
from tests.integration.test_queue import MESSAGE, configure, send
from tests.servers.process import PATIENCE, do_without, free_port, wait_for
from tests.servers.relay import Relay

LARGE = MESSAGE + b"0123456789\r\n" * 20_000


async def test_the_store_is_synced_before_the_reply(relay: Relay, tmp_path: Path):
    strace = shutil.which("strace")
    if strace is None:
        do_without("strace not installed")
    assert strace is not None
    configure(relay, f"127.0.0.1:{free_port()}", route={"queue": {"retry": ["1h"], "expire": "2h"}})
    await relay.start()
    trace = tmp_path / "trace"
    worker = relay.workers()[0]
    traced = await asyncio.create_subprocess_exec(
        strace, "-f", "-y", "-ttt", "-s", "64", "-o", str(trace),
        "-e", "trace=fsync,fdatasync,write,writev,sendto,sendmsg,pwrite64", "-p", str(worker),
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert traced.stderr is not None
        first = await asyncio.wait_for(traced.stderr.readline(), PATIENCE)
        if b"attached" not in first:
            pytest.skip(f"no process may be traced here: {first!r}")
        assert (await send(relay)).code == 250
        assert (await send(relay, content=LARGE)).code == 250
        await wait_for(lambda: trace.read_text().count("Ok: queued") >= 2, "both replies in the trace")
    finally:
        if traced.returncode is None:
            traced.terminate()
        await traced.wait()
    text = trace.read_text()
    lines = text.splitlines()
    replies = [number for number, line in enumerate(lines) if "Ok: queued" in line]
    start = 0
    for large, reply in zip((False, True), replies[:2], strict=True):
        before = lines[start:reply]
        written = [n for n, line in enumerate(before) if "pwrite64" in line and "spool.db-wal" in line]
        synced = [
            n for n, line in enumerate(before) if re.search(r"f(data)?sync\(\d+<[^>]*spool\.db-wal>", line)
        ]
        assert written, before
        assert synced, before
        assert max(written) < max(synced), "the log was written to after its last sync"
        if large:
            content = [
                n
                for n, line in enumerate(before)
                if re.search(r"fsync\(\d+<[^>]*/content/../[0-9a-f]+>", line)
            ]
            folder = [n for n, line in enumerate(before) if re.search(r"fsync\(\d+<[^>]*/content/..>", line)]
            assert content
            assert folder
            assert max(content) < max(folder) < max(synced)
        start = reply + 1
