"""A node of several on one PostgreSQL; run by the tests as a process of its own, to be killed and frozen.

    node.py store SERVER COUNT           stores messages, many at a time: "ack N", or "no N reason" and again; "end"
    node.py work SERVER LEASE BATCH        delivers until it is killed: "got N", "delivered N", then "settled N" or "lost N"
    node.py list SERVER LEASE              delivers one message to many, one recipient after the other, each after a line on
                                           standard input: "began N", then "noted N" or "lost N"; in the end "settled"

SERVER is JSON, as `given_to` of test_postgres_nodes.py writes it. With a BATCH above nought a line on standard input is
waited for before each delivery.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

from tests.spool.child import content
from tests.spool.making import deposit

from relayproxy.model.message import Message
from relayproxy.model.queued import Lease, Progress, Queued, Settlement
from relayproxy.postgres import Server
from relayproxy.spool.postgres import PostgresSpool
from relayproxy.spool.protocol import LeaseLostError, SpoolError


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def server_of(text: str) -> Server:
    given: dict[str, Any] = json.loads(text)
    hosts = tuple((host, port) for host, port in given["hosts"])
    return Server(hosts, given["database"], given["login"], given["password"])


async def fill(store: PostgresSpool, count: int) -> None:
    numbers = iter(range(count))

    async def one_by_one() -> None:
        for number in numbers:
            now = time.time()
            given = deposit(
                number, lead=b"", message=Message.from_bytes(content(number)), received_at=now, due=now - 1
            )
            while True:  # as a client does that hears 451
                try:
                    await store.store(given)
                    say(f"ack {number}")
                    break
                except SpoolError as error:
                    say(f"no {number} {error}")
                    await asyncio.sleep(0.05)

    await asyncio.gather(*(one_by_one() for _ in range(8)))
    say("end")


async def work(store: PostgresSpool, lease: float, batch: int) -> None:
    while True:
        try:
            leases = await store.claim("up", f"node{os.getpid()}", time.time() + lease, max(1, batch))
            for found in await store.load(leases):
                assert isinstance(found, Queued), found
                say(f"got {found.id}")
                if batch:
                    await asyncio.to_thread(sys.stdin.readline)
                say(f"delivered {found.id}")
                try:
                    await store.settle(found.lease, Settlement(found.numbers))
                    say(f"settled {found.id}")
                except LeaseLostError:
                    say(f"lost {found.id}")
            if not leases:
                say("idle")
                await asyncio.sleep(0.1)
        except SpoolError as error:
            say(f"fault {error}")
            await asyncio.sleep(0.1)


async def to_many(store: PostgresSpool, lease: float) -> None:
    leases: list[Lease] = []
    while not leases:
        leases = await store.claim("up", f"node{os.getpid()}", time.time() + lease, 1)
    (found,) = await store.load(leases)
    assert isinstance(found, Queued), found
    try:
        for number in found.numbers:
            say(f"began {number}")
            await asyncio.to_thread(sys.stdin.readline)
            if number == found.numbers[-1]:
                await store.settle(found.lease, Settlement((number,)))
                say("settled")
            else:
                await store.note(found.lease, Progress((number,)), time.time() + lease)
                say(f"noted {number}")
    except LeaseLostError:
        say(f"lost {number}")


async def main(verb: str, server: str, *rest: str) -> None:
    store = PostgresSpool(server_of(server), alarm=lambda problem: say(f"alarm {problem}"))
    if verb == "store":
        await fill(store, int(rest[0]))
    elif verb == "list":
        await to_many(store, float(rest[0]))
    else:
        await work(store, float(rest[0]), int(rest[1]))
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
