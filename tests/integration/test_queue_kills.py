"""kill -9 of the whole proxy while it takes and delivers mail: nothing acknowledged is lost, few are doubled.

RELAYPROXY_CRASHES says how many runs there are (default 3).
"""

import asyncio
import os
import random
import re
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from tests.integration.test_queue import HEAD, configure, kill, until_empty
from tests.servers.client import Client, HangUpError
from tests.servers.process import free_port, wait_for
from tests.servers.relay import Relay

from relayproxy.testing.upstream import UpstreamSink

SESSIONS = 5


async def feed(relay: Relay, session: int, acknowledged: set[str]) -> None:
    """Send until the connection breaks; note what was acknowledged."""
    try:
        async with await Client.open(relay.port) as client:
            for number in range(10_000):
                name = f"{session}-{number}"
                answer = await client.message(HEAD + b"X-Name: %s\r\n\r\nbody\r\n" % name.encode())
                if answer.code == 250:
                    acknowledged.add(name)
    except (HangUpError, OSError):
        return


def forget_leases(folder: Path) -> None:
    """Leases end by themselves after a minute; a test does not wait for that."""
    database = sqlite3.connect(folder / "spool" / "spool.db")
    with database:
        database.execute("UPDATE part SET due = 0, owner = ''")
    database.close()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("seed", range(int(os.environ.get("RELAYPROXY_CRASHES", "2"))))
async def test_a_kill_while_mail_comes_and_goes(relay: Relay, seed: int, workers: int):
    chance = random.Random(seed)
    async with UpstreamSink(port=free_port()) as sink:
        configure(relay, sink.address, workers=workers)
        await relay.start()
        acknowledged: set[str] = set()
        feeding = [asyncio.create_task(feed(relay, number, acknowledged)) for number in range(SESSIONS)]
        wanted = chance.randrange(5, 120)
        await wait_for(lambda: len(acknowledged) >= wanted, "acknowledged messages")
        kill(relay)
        await asyncio.gather(*feeding)
        forget_leases(relay.folder)
        await relay.start()
        await until_empty(relay)
        names = Counter(
            found[1].decode()
            for message in sink.messages
            if (found := re.search(rb"X-Name: (\S+)", message.content))
        )
        assert acknowledged <= set(names), "acknowledged and lost"
        doubled = sum(count - 1 for count in names.values())
        # Only what was between the final dot and its record: at most one for each transaction there could be.
        assert doubled <= 20 * workers
        assert max(names.values()) <= 2
