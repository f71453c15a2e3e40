"""One node of `python -m bench.backlog`: stores, claims, reads and settles messages for some seconds, many at a time.

Talks JSON over its pipes: hears where the store is, says "ready", hears how long, says what it came to.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from relayproxy.model.client import Client
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.message import Message
from relayproxy.model.queued import Deposit, Part, Queued, Settlement
from relayproxy.spool.postgres import PostgresSpool
from relayproxy.spool.postgres_connections import Server
from relayproxy.spool.protocol import Store
from relayproxy.spool.sqlite import Floors, SqliteSpool
from relayproxy.testing.mail import make_address

ROUTE = "up"
_TOGETHER = 50
_CLIENT = Client("c1", "main", "192.0.2.7", 4711, helo="client.example", proto="ESMTP", ptr="ptr.example")


def deposit(number: int, message: Message, tenants: int, now: float) -> Deposit:
    """A message of one of so many tenants to one recipient, due at once."""
    recipients = (Recipient(make_address(f"r{number}@example.net")),)
    sender = make_address(f"a@t{number % tenants}.example.org")
    part = Part(ROUTE, recipients, tenant=sender.ascii_domain)
    return Deposit(f"id{number}", _CLIENT, Envelope(sender, recipients), b"", message, (part,), now, now - 1)


def store_at(place: dict[str, Any]) -> Store:
    """The store that `place` says."""
    if "path" in place:
        return SqliteSpool(Path(place["path"]), floors=Floors(0, 0))
    return PostgresSpool(Server(((place["host"], place["port"]),), place["database"], place["login"], ""))


async def turn_over(store: Store, seconds: float, size: int, tenants: int) -> dict[str, float]:
    """Store as much as is claimed, read and settled, so that what waits stays as many; return rate and CPU."""
    message = Message.from_bytes(b"Subject: bench\r\n\r\n" + b"x" * 76 + b"\r\n" * 2 + b"y" * (size - 100))
    start, used = time.monotonic(), time.process_time()
    done = 0

    async def one(number: int) -> None:
        await store.store(deposit(number, message, tenants, time.time()))

    async def settle(queued: object) -> None:
        assert isinstance(queued, Queued)
        await store.settle(queued.lease, Settlement(queued.numbers))

    while time.monotonic() - start < seconds:
        await asyncio.gather(*(one(done + n) for n in range(_TOGETHER)))
        leases = await store.claim(ROUTE, "bench", time.time() + 60, _TOGETHER)
        await asyncio.gather(*(settle(queued) for queued in await store.load(leases)))
        done += len(leases)
    return {"messages": done, "seconds": time.monotonic() - start, "cpu": time.process_time() - used}


async def main() -> None:
    place = json.loads(await asyncio.to_thread(sys.stdin.readline))
    store = store_at(place)
    store.start()
    await turn_over(store, 0.3, place["size"], place["tenants"])
    print(json.dumps("ready"), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        result = await turn_over(store, json.loads(line), place["size"], place["tenants"])
        print(json.dumps(result), flush=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main())
