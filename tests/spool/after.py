"""What must hold after a process that stored messages has ended, however it ended."""

import re
import time
from pathlib import Path

from tests.spool.child import content

from relayproxy.spool.protocol import BrokenEntryError
from relayproxy.spool.sqlite import Floors, SqliteSpool


async def check(folder: Path, output: str) -> tuple[int, int]:
    """Whatever was acknowledged is there, whole; nothing is half there, nor again when its delivery was written down.

    Returns how many were acknowledged, and how many will be delivered twice.
    """
    acknowledged = {int(number) for number in re.findall(r"^ack (\d+)$", output, re.MULTILINE)}
    done = {int(number) for number in re.findall(r"^done (\d+)$", output, re.MULTILINE)}
    over = {int(number) for number in re.findall(r"^over (\d+)$", output, re.MULTILINE)}
    store = SqliteSpool(folder / "spool.db", floors=Floors(0, 0), now=lambda: time.time() + 3600)
    store.start()
    found: dict[int, bytes] = {}
    try:
        while leases := await store.claim("up", "after", time.time() + 9999, 500):
            for one in await store.load(leases):
                assert not isinstance(one, BrokenEntryError), one
                number = int(one.id.removeprefix("id"))
                assert number not in found, "stored twice"
                found[number] = bytes(one.message)
                assert len(one.envelope.recipients) == 1
    finally:
        await store.close()
    assert acknowledged - done <= set(found), "acknowledged and lost"
    assert not over & set(found), "delivered, written down, and there again"
    for number, octets in found.items():
        assert octets == content(number), "half stored"
    return len(acknowledged), len(done & set(found))
