"""Several nodes on one PostgreSQL: killed, frozen and thawed; the server restarted under them."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.servers.postgres import LOGIN, PASSWORD, Postgres
from tests.servers.process import wait_for
from tests.spool.child import content
from tests.spool.making import deposit, recipients

from relayproxy.model.envelope import Envelope
from relayproxy.model.queued import Part
from relayproxy.postgres import Server
from relayproxy.spool.postgres import PostgresSpool
from relayproxy.spool.protocol import BrokenEntryError
from relayproxy.testing.mail import make_address

ROOT = Path(__file__).parents[2]
LEASE = 1.0


class Node:
    """A process of node.py, and what it has said."""

    def __init__(self, server: Server, *words: str) -> None:
        place = {"hosts": server.hosts, "database": server.database}
        given_to = json.dumps({**place, "login": server.login, "password": server.password})
        self.popen = subprocess.Popen(
            (sys.executable, "-m", "tests.spool.node", words[0], given_to, *words[1:]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.said = ""

    async def until_said(self, pattern: str, times: int = 1, seconds: float = 30.0) -> None:
        assert self.popen.stdout is not None
        deadline = time.monotonic() + seconds
        while len(re.findall(pattern, self.said, re.MULTILINE)) < times:
            assert time.monotonic() < deadline, self.said[-2000:]
            piece = await asyncio.to_thread(os.read, self.popen.stdout.fileno(), 65_536)
            assert piece, self.said[-2000:]
            self.said += piece.decode()

    def go_on(self) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(b"\n")
        self.popen.stdin.flush()

    def names(self, word: str) -> list[str]:
        return re.findall(rf"^{word} (?:id)?(\d+)", self.said, re.MULTILINE)

    def end(self) -> None:
        self.popen.send_signal(signal.SIGCONT)
        self.popen.kill()
        assert self.popen.stdout is not None
        assert self.popen.stdin is not None
        self.said += self.popen.stdout.read().decode()
        self.popen.wait()
        self.popen.stdout.close()
        self.popen.stdin.close()


@pytest.fixture
def start():
    nodes = []

    def start_one(server: Server, *words: str) -> Node:
        nodes.append(Node(server, *words))
        return nodes[-1]

    yield start_one
    for node in nodes:
        if not node.popen.stdout.closed:
            node.end()


async def stored(server: Server) -> dict[str, bytes]:
    """What is in the store, by number, each once."""
    store = PostgresSpool(server, now=lambda: time.time() + 3600)
    found: dict[str, bytes] = {}
    while leases := await store.claim("up", "after", time.time() + 9999, 100):
        for one in await store.load(leases):
            assert not isinstance(one, BrokenEntryError), one
            assert one.id not in found, "stored twice"
            found[one.id.removeprefix("id")] = bytes(one.message)
    await store.close()
    return found


async def test_the_mail_of_a_node_that_is_killed_is_taken_over_when_its_leases_end(postgres_database, start):
    filler = start(postgres_database, "store", "6")
    await filler.until_said("^end$")
    dead = start(postgres_database, "work", str(LEASE), "3")
    await dead.until_said("^got", 1)
    dead.end()
    killed_at = time.time()
    other = start(postgres_database, "work", str(60 * LEASE), "0")
    await other.until_said("^settled", 6)
    assert time.time() >= killed_at
    assert sorted(other.names("settled")) == sorted(str(n) for n in range(6))
    assert await stored(postgres_database) == {}


async def test_a_node_that_was_frozen_is_fenced_out_when_it_thaws(postgres_database, start):
    """It believes that it has delivered; another has delivered and settled meanwhile, and nothing is undone."""
    filler = start(postgres_database, "store", "3")
    await filler.until_said("^end$")
    frozen = start(postgres_database, "work", str(LEASE), "3")
    await frozen.until_said("^got", 1)
    frozen.popen.send_signal(signal.SIGSTOP)
    other = start(postgres_database, "work", str(60 * LEASE), "0")
    await other.until_said("^settled", 3)
    more = start(postgres_database, "store", "1")
    await more.until_said("^end$")
    await other.until_said("^settled", 4)
    frozen.popen.send_signal(signal.SIGCONT)
    for times in range(1, 4):
        frozen.go_on()
        await frozen.until_said("^(lost|settled)", times)
    assert len(frozen.names("lost")) == 3
    assert frozen.names("settled") == []
    assert await stored(postgres_database) == {}


async def test_a_node_that_was_frozen_between_two_transactions_begins_no_other(postgres_database, start):
    """Whoever takes over goes on where it had been; the one in flight is doubled, and nothing else."""
    store = PostgresSpool(postgres_database)
    to = recipients(*(f"u{number}@example.net" for number in range(4)))
    envelope = Envelope(make_address("s@example.org"), to)
    now = time.time()
    await store.store(deposit(envelope=envelope, parts=(Part("up", to),), received_at=now, due=now - 1))
    await store.close()
    frozen = start(postgres_database, "list", str(LEASE))
    await frozen.until_said("^began 0")
    frozen.go_on()
    await frozen.until_said("^began 1")
    frozen.popen.send_signal(signal.SIGSTOP)
    other = start(postgres_database, "list", str(60 * LEASE))
    await other.until_said("^began 1")
    frozen.popen.send_signal(signal.SIGCONT)
    frozen.go_on()
    await frozen.until_said("^lost 1")
    for number in (1, 2):
        other.go_on()
        await other.until_said(f"^began {number + 1}")
    other.go_on()
    await other.until_said("^settled")
    assert frozen.names("began") == ["0", "1"]
    assert frozen.names("noted") == ["0"]
    assert other.names("began") == ["1", "2", "3"]
    assert await stored(postgres_database) == {}


async def test_the_server_does_not_wait_long_for_a_node_that_is_frozen_amid_a_transaction(postgres_database):
    store = PostgresSpool(postgres_database)
    async with store._connections.one() as connection:
        row = await (await connection.execute("SHOW idle_in_transaction_session_timeout")).fetchone()
    assert row == ("10s",)
    await store.close()


@pytest.mark.parametrize("seed", range(3))
async def test_a_kill_while_messages_are_stored_loses_nothing(postgres_database, start, seed):
    filler = start(postgres_database, "store", "100000")
    await filler.until_said("^ack", 20 + 40 * seed)
    filler.end()
    acknowledged, found = set(filler.names("ack")), await stored(postgres_database)
    assert acknowledged <= set(found)
    for number, octets in found.items():
        assert octets == content(int(number)), "half stored"


async def test_a_server_that_crashes_and_comes_back_under_load_loses_nothing(own_postgres, start):
    """Twice; nodes store and deliver all the while."""
    server = Server((("127.0.0.1", own_postgres.port),), "postgres", LOGIN, PASSWORD)
    filler = start(server, "store", "600")
    worker = start(server, "work", "60", "0")
    for round_ in (1, 2):
        await filler.until_said("^ack", 150 * round_)
        await own_postgres.end()
        await filler.until_said("^no", round_)
        await own_postgres.start()
    await filler.until_said("^end$")
    await worker.until_said("^idle", worker.said.count("idle") + 2)
    worker.end()
    acknowledged = set(filler.names("ack"))
    assert len(acknowledged) == 600
    found = await stored(server)
    delivered = worker.names("delivered")
    assert acknowledged <= set(delivered) | set(found), "acknowledged and lost"
    # What was delivered is written down, though the server was away; only what was under way when it went, and could
    # not be written down before its lease ended, may be delivered twice.
    assert len(delivered) - len(set(delivered)) <= 2 * 20
    assert not set(found) & set(worker.names("settled"))
    assert PASSWORD not in filler.said + worker.said


@pytest.fixture
async def standby(own_postgres) -> AsyncIterator[Postgres]:
    """A copy of `own_postgres` that follows it; a commit waits for it."""
    server = Postgres()
    try:
        server.copy(own_postgres)
        await server.start(ready="ready to accept read-only connections")
        with own_postgres.connect() as database:
            database.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            database.execute("SELECT pg_reload_conf()")
            await wait_for(
                lambda: (
                    database.execute("SELECT sync_state FROM pg_stat_replication").fetchone() == ("sync",)
                ),
                "a standby that is waited for",
            )
        yield server
        await server.end()
    finally:
        server.remove()


async def test_a_server_that_is_lost_for_good_amid_commits_loses_nothing(own_postgres, standby, start):
    """Its standby takes over; the nodes find it by themselves, and what was acknowledged is there."""
    hosts = (("127.0.0.1", own_postgres.port), ("127.0.0.1", standby.port))
    server = Server(hosts, "postgres", LOGIN, PASSWORD)
    filler = start(server, "store", "500")
    worker = start(server, "work", "60", "0")
    await filler.until_said("^ack", 150)
    await own_postgres.kill()
    await filler.until_said("^no", 1)
    standby.promote()
    await filler.until_said("^end$", seconds=120)
    await worker.until_said("^idle", worker.said.count("idle") + 2, seconds=120)
    worker.end()
    acknowledged, delivered, found = (
        set(filler.names("ack")),
        worker.names("delivered"),
        await stored(server),
    )
    assert acknowledged == {str(n) for n in range(500)}
    assert acknowledged <= set(delivered) | set(found), "acknowledged and lost"
    assert not set(found) & set(worker.names("settled"))


async def test_terminated_connections_lose_and_double_nothing(postgres_database, postgres_server, start):
    """The server ends connections at any moment, also between a commit and its answer."""
    filler = start(postgres_database, "store", "400")
    with postgres_server.connect() as database:
        for round_ in range(1, 8):
            await filler.until_said("^(ack|no)", 40 * round_)
            database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                (postgres_database.database,),
            )
    await filler.until_said("^end$")
    acknowledged, found = set(filler.names("ack")), await stored(postgres_database)
    assert acknowledged == {str(n) for n in range(400)}
    assert set(found) == acknowledged
