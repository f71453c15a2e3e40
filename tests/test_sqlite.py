"""Several that open a file at the same time, and transactions that fail."""

import sqlite3
import time
from types import SimpleNamespace

import pytest

from relayproxy.sqlite import transaction, write_ahead


@pytest.fixture
def busy(tmp_path):
    """Two connections to a file that is in nobody's write-ahead log yet; the first is in a transaction."""
    first, second = (sqlite3.connect(tmp_path / "db", isolation_level=None, timeout=0) for _ in range(2))
    first.execute("BEGIN IMMEDIATE")
    yield first, second
    first.close()
    second.close()


def test_it_waits_for_whoever_has_the_file(busy, monkeypatch):
    first, second = busy
    naps = []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            first.execute("COMMIT")

    monkeypatch.setattr("relayproxy.sqlite.time", SimpleNamespace(monotonic=time.monotonic, sleep=nap))
    write_ahead(second, 10.0)
    assert len(naps) == 3
    assert second.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_and_for_no_longer_than_it_is_told(busy, monkeypatch):
    moments = iter([0.0, 1.0, 5.0])
    fake = SimpleNamespace(monotonic=lambda: next(moments), sleep=lambda _: None)
    monkeypatch.setattr("relayproxy.sqlite.time", fake)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        write_ahead(busy[1], 4.0)
    assert next(moments, None) is None


def test_other_trouble_is_no_reason_to_wait(tmp_path):
    file = tmp_path / "db"
    file.write_bytes(b"this is no database" * 100)
    database = sqlite3.connect(file)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        write_ahead(database, 10.0)
    database.close()


@pytest.fixture
def table():
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.executescript(
        "PRAGMA foreign_keys = ON; CREATE TABLE one(a INTEGER PRIMARY KEY,"
        " b INTEGER REFERENCES one DEFERRABLE INITIALLY DEFERRED); INSERT INTO one VALUES (1, 1);"
    )
    yield database
    database.close()


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO one VALUES (1, 1)",  # fails itself
        "INSERT OR ROLLBACK INTO one VALUES (1, 1)",  # and ends the transaction
        "INSERT INTO one VALUES (3, 99)",  # fails when it is committed
    ],
)
def test_a_transaction_that_fails_leaves_nothing_and_the_next_one_may_begin(table, statement):
    def fail():
        with transaction(table) as connection:
            connection.execute("INSERT INTO one VALUES (2, 1)")
            connection.execute(statement)

    with pytest.raises(sqlite3.IntegrityError):
        fail()
    assert table.execute("SELECT a FROM one").fetchall() == [(1,)]
    with transaction(table):
        table.execute("INSERT INTO one VALUES (2, 1)")
    assert table.execute("SELECT count(*) FROM one").fetchone() == (2,)
    assert not table.in_transaction
