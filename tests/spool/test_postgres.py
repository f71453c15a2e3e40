"""The PostgreSQL store: what every store does, and what is its own."""

import asyncio
import os
import signal

import psycopg
import pytest
from psycopg import errors
from tests.servers.postgres import LOGIN, PASSWORD, a_postgres
from tests.spool.conformance import MINUTE, StoreConformance
from tests.spool.making import LEAD, NOW, deposit, recipients, stored_octets

from relayproxy.model.envelope import Envelope
from relayproxy.model.message import Message
from relayproxy.model.queued import Part, Settlement, Standing
from relayproxy.postgres import Server
from relayproxy.spool.listing import Filter
from relayproxy.spool.postgres import PostgresSpool
from relayproxy.spool.postgres_connections import CONNECTIONS, LostConnectionError, _problem
from relayproxy.spool.postgres_listing import PostgresListing
from relayproxy.spool.protocol import BrokenEntryError, SpoolError, SpoolFullError
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.mail import make_address

LARGE = Message(b"Subject: x\r\n\r\n", b"large\r\n" * 100_000)


@pytest.fixture
async def open_store(postgres_database):
    """Open one more way to the same database."""
    opened = []

    def open_one(clock=None, **changes):
        store = PostgresSpool(postgres_database, now=(clock or FakeClock(NOW)).time, **changes)
        store.start()
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
def database(postgres_server, postgres_database):
    """A connection for tests that look at the tables, or spoil them."""
    with postgres_server.connect(postgres_database.database) as connection:
        yield connection


def counts(database):
    tables = ("message", "part", "recipient", "chunk")
    return [database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables]


class TestConformance(StoreConformance):
    """See conformance.py."""


async def test_nothing_of_a_finished_message_is_left(open_store, database):
    store = open_store()
    await store.store(deposit(message=LARGE))
    assert counts(database) == [1, 1, 1, 3]
    (lease,) = await store.claim("up", "w1", NOW + MINUTE, 10)
    await store.settle(lease, Settlement((0,), deposits=(deposit(2, message=LARGE),)))
    assert counts(database) == [1, 1, 1, 3]
    (lease,) = await store.claim("up", "w1", NOW + MINUTE, 10)
    (found,) = await store.load([lease])
    assert bytes(found.message) == stored_octets(deposit(message=LARGE))
    await store.settle(lease, Settlement((0,)))
    assert counts(database) == [0, 0, 0, 0]


async def test_nothing_of_what_was_held_too_long_is_left(open_store, database):
    store = open_store()
    await store.store(deposit(message=LARGE, standing=Standing.HELD, reason="odd"))
    assert len(await store.expire_held(NOW + 1, 10)) == 1
    assert counts(database) == [0, 0, 0, 0]


async def test_the_header_of_what_is_held_is_read_without_the_rest(open_store, postgres_database):
    store = open_store()
    await store.store(deposit(message=LARGE))
    await store.store(deposit(2))
    with PostgresListing(postgres_database) as listing:
        large, small = listing.rows(Filter(), 10)
        assert listing.head(large.message) == LEAD + b"Subject: x\r\n"
        assert listing.head(small.message) == LEAD + b"Subject: one\r\n"


async def test_a_claim_reads_no_more_of_a_flood_than_it_takes(open_store, database):
    """A tenant with much that is due, and many tenants that have their time before them."""
    store = open_store()
    await store.store(deposit(1))
    database.execute("ANALYZE")
    columns = "n, 0, 'up', '', 'queued', '', {due} + n, 0, '', 1, 0, {tenant}, 1"
    for due, tenant, first in (("0", "'flood'", 1), ("1e10", "'t' || n", 50_001)):
        database.execute(
            f"INSERT INTO part SELECT {columns.format(due=due, tenant=tenant)} FROM generate_series({first}, {first + 49_999}) n"
        )
    database.execute("SELECT pg_stat_reset()")
    assert {lease.tenant for lease in await store.claim("up", "w1", NOW + MINUTE, 5)} == {"", "flood"}
    await store.close()
    database.execute("SELECT pg_stat_clear_snapshot()")
    read = database.execute(
        "SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'part'"
    ).fetchone()
    assert read[0] == 0
    assert read[1] < 2_000


async def test_parts_that_end_at_the_same_moment_take_the_message_along(open_store, database):
    stores = [open_store(), open_store()]
    parts = tuple(Part(f"r{n}", recipients(f"b{n}@example.net")) for n in range(2))
    everybody = Envelope(make_address("a@example.org"), parts[0].recipients + parts[1].recipients)
    for number in range(30):
        await stores[0].store(deposit(number, envelope=everybody, parts=parts))
    leases = [await store.claim(f"r{n}", "w", NOW + MINUTE, 30) for n, store in enumerate(stores)]
    await asyncio.gather(
        *(store.settle(lease, Settlement((n,))) for n, store in enumerate(stores) for lease in leases[n])
    )
    assert counts(database) == [0, 0, 0, 0]


async def test_what_a_crash_left_between_two_endings_is_swept(open_store, database):
    store = open_store()
    await store.store(deposit(1))
    await store.store(deposit(2, message=LARGE))
    assert await store.sweep() == 0
    database.execute("DELETE FROM part WHERE message = (SELECT max(seq) FROM message)")
    assert await store.sweep() == 1
    assert counts(database) == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("spoiled", "says"),
    [
        ("UPDATE message SET content = content || 'x' WHERE id = 'id1'", "not what was written"),
        ("UPDATE message SET meta = '{' WHERE id = 'id1'", "JSONDecodeError"),
        ("UPDATE message SET meta = '[]' WHERE id = 'id1'", "KeyError"),
        ("DELETE FROM recipient WHERE message = (SELECT seq FROM message WHERE id = 'id1')", "recipients"),
        ("DELETE FROM message WHERE id = 'id1'", "the message is missing"),
        ("DELETE FROM chunk WHERE number = 1", "a piece"),
        ("UPDATE chunk SET octets = 'x' WHERE number = 1", "not what was written"),
    ],
)
async def test_one_that_is_broken_does_not_keep_the_others(open_store, database, spoiled, says):
    store = open_store()
    size = {"message": LARGE} if "chunk" in spoiled else {}
    await store.store(deposit(1, **size))
    await store.store(deposit(2))
    database.execute(spoiled)
    leases = await store.claim("up", "w1", NOW + MINUTE, 10)
    broken, found = sorted(await store.load(leases), key=lambda one: not isinstance(one, BrokenEntryError))
    assert isinstance(broken, BrokenEntryError)
    assert says in str(broken)
    assert found.id == "id2"


async def test_one_that_the_server_cannot_read_does_not_keep_the_others(open_store, database):
    """The server says that data is corrupted, which ends the whole statement."""
    store = open_store()
    await store.store(deposit(1))
    await store.store(deposit(2))
    database.execute(
        "CREATE FUNCTION torn() RETURNS bytea LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'missing chunk number 0' USING ERRCODE = 'data_corrupted'; END $$"
    )
    database.execute("ALTER TABLE message RENAME TO kept")
    database.execute(
        "CREATE VIEW message AS SELECT seq, id, origin, sender, received, size, meta, digest,"
        " CASE WHEN id = 'id1' THEN torn() ELSE content END AS content FROM kept"
    )
    leases = await store.claim("up", "w1", NOW + MINUTE, 10)
    broken, found = await store.load(leases)
    assert isinstance(broken, BrokenEntryError)
    assert found.id == "id2"


async def test_a_key_that_is_taken_is_not_taken_for_success(open_store, monkeypatch):
    store = open_store()
    await store.store(deposit(1))
    monkeypatch.setattr(store._keys, "next", lambda: store._keys._last)
    for message in (deposit().message, LARGE):
        with pytest.raises(SpoolError):
            await store.store(deposit(2, message=message))
    assert await store.count("up") == 1


@pytest.mark.parametrize("message", [deposit().message, LARGE])
async def test_what_was_stored_though_the_answer_was_lost_is_there_once(open_store, monkeypatch, message):
    """The first answer is lost after the commit; the same is stored again and found to be there."""
    store = open_store()
    done, lost = store._store, []

    async def loses_its_answer(item):
        await done(item)
        if not lost:
            lost.append(item)
            raise LostConnectionError("server closed the connection unexpectedly")

    monkeypatch.setattr(store, "_store", loses_its_answer)
    leases = await store.store(deposit(1, owner="w1", due=NOW + MINUTE, message=message))
    assert len(leases) == 1
    assert len(lost) == 1
    assert await store.count("up") == 1


async def test_one_of_a_group_that_cannot_be_stored_does_not_keep_the_others(open_store):
    store = open_store()
    await store.due("up")
    bad = deposit(3, id="nul\0")
    results = await asyncio.gather(
        *(store.store(one) for one in (deposit(1), deposit(2), bad, deposit(4))), return_exceptions=True
    )
    assert [isinstance(one, SpoolError) for one in results] == [False, False, True, False]
    assert await store.count("up") == 3


async def test_rows_that_another_transaction_holds_are_left_out(open_store, database):
    store = open_store()
    await store.store(deposit(1))
    await store.store(deposit(2))
    with database.transaction():
        database.execute("SELECT 1 FROM part WHERE message = (SELECT min(seq) FROM message) FOR UPDATE")
        (lease,) = await store.claim("up", "w1", NOW + MINUTE, 10)
        (found,) = await store.load([lease])
        assert found.id == "id2"


async def test_a_worker_never_has_more_connections_than_said(open_store, database):
    store = open_store()
    await asyncio.gather(*(store.store(deposit(n, message=LARGE)) for n in range(20)))
    used = database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'relayproxy' AND datname = current_database()"
    )
    assert 1 <= used.fetchone()[0] <= CONNECTIONS


async def test_what_is_due_is_found_through_an_index_however_much_waits(open_store, database):
    """Also when the server believes that the tables are empty."""
    store = open_store()
    await store.store(deposit(1))
    database.execute("ANALYZE")
    database.execute(
        "INSERT INTO part SELECT n, 0, 'up', '', 'queued', '', 1e10 + n, 0, '', 1, 0, '', 1 FROM generate_series(1, 50000) n"
    )
    database.execute("SELECT pg_stat_reset()")
    for _ in range(8):
        for lease in await store.claim("up", "w1", NOW - 1 + MINUTE, 5):
            await store.release([lease], NOW)
    await store.due("up")
    await store.close()
    database.execute("SELECT pg_stat_clear_snapshot()")
    read = database.execute("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'part'").fetchone()
    assert read[0] == 0


# -- servers that won't do ----------------------------------------------------------------------------------------


async def refused(server: Server) -> str:
    """What a store says that nothing can be stored in."""
    told: list[str] = []
    store = PostgresSpool(server, alarm=told.append)
    with pytest.raises(SpoolError) as caught:
        await store.store(deposit())
    with pytest.raises(SpoolError):
        await store.due("up")
    assert told == [str(caught.value)]
    assert PASSWORD not in told[0]
    await store.close()
    return told[0]


async def test_a_server_that_is_not_there():
    assert "refused" in await refused(Server((("127.0.0.1", 1),), "x", LOGIN, PASSWORD))


async def test_a_password_that_is_wrong_is_not_shown(postgres_server):
    place = ("127.0.0.1", postgres_server.port)
    text = await refused(Server((place,), "postgres", LOGIN, PASSWORD + "!"))
    assert "password authentication failed" in text


async def test_a_spool_of_another_version(postgres_database, database, open_store):
    await open_store().due("up")
    database.execute("UPDATE spool_version SET version = 99")
    assert "version 99" in await refused(postgres_database)


async def test_a_database_that_is_not_in_utf8(postgres_server):
    postgres_server.create_database("ascii", "ENCODING SQL_ASCII TEMPLATE template0")
    assert "UTF8" in await refused(Server((("127.0.0.1", postgres_server.port),), "ascii", LOGIN, PASSWORD))


async def test_a_database_that_takes_no_writes(postgres_database, database, open_store):
    await open_store().due("up")
    database.execute(f"ALTER DATABASE {postgres_database.database} SET default_transaction_read_only = on")
    assert "read-only" in await refused(postgres_database)


async def test_a_server_that_does_not_sync():
    server = await a_postgres("fsync=off")
    try:
        text = await refused(Server((("127.0.0.1", server.port),), "postgres", LOGIN, PASSWORD))
        assert "fsync = off" in text
    finally:
        await server.end()
        server.remove()


async def test_a_commit_waits_for_the_disk_even_where_the_server_would_not(postgres_database, database):
    database.execute(f"ALTER DATABASE {postgres_database.database} SET synchronous_commit = off")
    store = PostgresSpool(postgres_database)
    assert (await store._row("SHOW synchronous_commit", ()))[0] == "on"
    await store.close()


async def test_a_server_that_does_not_answer_is_an_error_in_time(
    open_store, postgres_server, database, monkeypatch
):
    store = open_store()
    await asyncio.gather(*(store.store(deposit(n, message=LARGE)) for n in range(CONNECTIONS)))
    pids = database.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()"
    ).fetchall()
    monkeypatch.setattr("relayproxy.spool.postgres_connections._PATIENCE", 0.2)
    for (pid,) in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(SpoolError, match="did not answer"):
            await store.store(deposit(9))
    finally:
        for (pid,) in pids:
            os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    await store.store(deposit(10))


async def test_connections_that_fail_together_are_one_failure():
    """The pause grows with the attempts, not with how many make one."""
    connections = PostgresSpool(Server((("127.0.0.1", 1),), "x"))._connections
    for _ in range(CONNECTIONS):
        connections._wait()
    assert connections._failures == 1


def test_a_full_disk_is_said_to_be_one():
    assert isinstance(_problem(errors.DiskFull("no space left")), SpoolFullError)
    assert not isinstance(_problem(psycopg.DataError("x")), SpoolFullError)


async def test_a_closed_store_takes_nothing(open_store):
    store = open_store()
    await store.store(deposit())
    await store.close()
    with pytest.raises(SpoolError):
        await store.store(deposit(2))
