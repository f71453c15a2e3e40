"""A process that stores messages and says which it was told are stored; run by the crash and fault tests.

    child.py FOLDER COUNT CONCURRENCY

Prints "ready", then for each message "ack N" or "no N", unbuffered, so that what was printed before a kill counts;
"done N" stands for the next hop's answer to the final dot, "over N" says that this is written down.
"""

import asyncio
import os
import sqlite3
import sys
import time
from pathlib import Path

from tests.spool.making import deposit

from relayproxy.model.message import Message
from relayproxy.model.queued import Settlement
from relayproxy.spool.protocol import SpoolError
from relayproxy.spool.sqlite import Floors, SqliteSpool


def content(number: int) -> bytes:
    """What message `number` is: every seventh is large enough for a file of its own."""
    return b"Subject: %d\r\n\r\n" % number + b"%d " % number * (40_000 if number % 7 == 3 else 200)


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


async def main(folder: Path, count: int, concurrency: int) -> None:
    store = SqliteSpool(folder / "spool.db", floors=Floors(0, 0))
    try:
        store.start()
    except (OSError, sqlite3.Error, SpoolError) as error:
        say(f"no start: {error}")
        return
    say("ready")
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            message = Message.from_bytes(content(number))
            # Every fifth is delivered at once: "done" is said before its end is written, so it may stay.
            owner = "w1" if number % 5 == 4 else ""
            given = deposit(
                number,
                lead=b"",
                message=message,
                owner=owner,
                received_at=time.time(),
                due=time.time() + (60 if owner else -1),
            )
            try:
                leases = await store.store(given)
                say(f"ack {number}")
                if owner:
                    say(f"done {number}")
                    await store.settle(leases[0], Settlement((0,)))
                    say(f"over {number}")
            except SpoolError as error:
                say(f"no {number} {error}")

    await asyncio.gather(*(work() for _ in range(concurrency)))
    await store.close()
    say("end")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
