"""What is the server's own: outages, several machines, tables of others."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.history.making import DAY, NOON, counts, database, kept, message, opening
from tests.servers.postgres import LOGIN, PASSWORD

from relayproxy.core.metrics import Metrics
from relayproxy.history.database import StoreError
from relayproxy.history.writer import Writer
from relayproxy.postgres import Server

pytestmark = pytest.mark.servers


def mails(place):
    asked = database(place)
    try:
        return sorted(row[0] for row in asked.rows("SELECT mail FROM event"))
    finally:
        asked.close()


async def test_an_outage_drops_what_does_not_fit_and_loses_nothing_else(own_postgres):
    place = Server((("127.0.0.1", own_postgres.port),), "postgres", LOGIN, PASSWORD)
    metrics, said, down, up = Metrics(), [], threading.Event(), threading.Event()

    def complain(text):
        said.append(text)
        (up if "again" in text else down).set()

    writer = Writer(
        opening(place), metrics=metrics, retention=DAY * 9999, limit=3, complain=complain, now=lambda: NOON
    )
    kept(place, message(1))
    await own_postgres.end()
    writer.start()
    writer.record(message(2))
    assert down.wait(30)
    for number in range(3, 7):
        writer.record(message(number))  # returns at once, server or not
    assert counts(metrics)["dropped"] == 2
    await own_postgres.start()
    assert up.wait(30)
    writer.close()
    assert mails(place) == ["m1", "m2", "m3", "m4"]
    assert len(said) == 2


async def test_a_server_that_ends_amid_the_work_is_found_again(own_postgres):
    place = Server((("127.0.0.1", own_postgres.port),), "postgres", LOGIN, PASSWORD)
    store = opening(place)()
    assert store.write([message(1)], pytest.fail) == 1
    await own_postgres.end()
    with pytest.raises(StoreError):
        store.write([message(2)], pytest.fail)
    store.close()
    await own_postgres.start()
    store = opening(place)()
    assert store.write([message(3)], pytest.fail) == 1
    store.close()
    assert mails(place) == ["m1", "m3"]


def test_several_machines_begin_write_and_forget_at_once(postgres_database):
    def machine(first):
        kept(postgres_database, *(message(n) for n in range(first, first + 600)))
        store = opening(postgres_database)()
        forgotten = 0
        while count := store.forget(NOON + DAY, 100):
            forgotten += count
        store.close()
        return forgotten

    with ThreadPoolExecutor(3) as pool:
        numbers = list(pool.map(machine, (0, 1000, 2000)))
    # Nothing is deleted twice; what was locked by another at the last look is deleted by that one.
    assert sum(numbers) == 1800
    assert mails(postgres_database) == []


def test_tables_of_a_later_version_and_none_at_all(postgres_database, postgres_server):
    with pytest.raises(StoreError, match="no history"):
        database(postgres_database)
    kept(postgres_database, message(1))
    with postgres_server.connect(postgres_database.database) as connection:
        connection.execute("UPDATE history_version SET version = 99")
    for way in (opening(postgres_database), lambda: database(postgres_database)):
        with pytest.raises(StoreError, match="version 99"):
            way()


def test_who_only_asks_changes_nothing(postgres_database):
    kept(postgres_database, message(1))
    asked = database(postgres_database)
    with pytest.raises(StoreError, match="read-only"):
        asked.rows("DELETE FROM event")
    asked.close()


def test_rows_are_fetched_a_few_at_a_time_and_others_may_be_asked_meanwhile(postgres_database):
    kept(postgres_database, *(message(n) for n in range(50)))
    asked = database(postgres_database)
    numbers = [
        asked.rows("SELECT COUNT(*) FROM recipient WHERE event = ?", (row[0],))[0][0]
        for row in asked.each("SELECT id FROM event WHERE at >= ? ORDER BY id", (NOON,))
    ]
    assert numbers == [1] * 50
    asked.close()
