import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.history.making import DAY, NOON, counts, database, kept, message, opening

from relayproxy.core.metrics import Metrics
from relayproxy.history.database import StoreError
from relayproxy.history.store import VERSION, open_reader, open_store
from relayproxy.history.writer import Writer
from relayproxy.model.finding import Finding

ROOT = Path(__file__).parents[2]


def mails(place):
    asked = database(place)
    try:
        return [row[0] for row in asked.rows("SELECT mail FROM event ORDER BY id")]
    finally:
        asked.close()


def test_what_is_recorded_is_written_in_order(place):
    numbers = kept(place, *(message(n) for n in range(1200)))
    assert mails(place) == [f"m{n}" for n in range(1200)]
    assert numbers == {"written": 1200, "dropped": 0, "refused": 0, "failures": 0}


def test_a_full_queue_drops_and_counts(tmp_path):
    metrics = Metrics()
    writer = Writer(opening(tmp_path / "h.db"), metrics=metrics, retention=DAY * 9999, limit=3)
    for n in range(5):
        writer.record(message(n))
    writer.start()
    writer.close()
    assert mails(tmp_path / "h.db") == ["m0", "m1", "m2"]
    assert counts(metrics) == {"written": 3, "dropped": 2, "refused": 0, "failures": 0}


def test_a_file_that_cannot_be_written_costs_no_mail_and_is_complained_of_once(tmp_path):
    said = []
    numbers = kept(tmp_path / "missing" / "h.db", message(1), message(2), complain=said.append)
    assert numbers["written"] == 0
    assert numbers["failures"] >= 1
    assert len(said) == 1
    assert "can't be written" in said[0]


def test_events_wait_until_the_file_can_be_written_again(tmp_path):
    said, heard = [], threading.Event()

    def complain(text):
        said.append(text)
        heard.set()

    metrics = Metrics()
    folder = tmp_path / "later"
    writer = Writer(opening(folder / "h.db"), metrics=metrics, retention=DAY * 9999, complain=complain)
    writer.start()
    writer.record(message(1))
    assert heard.wait(10)
    folder.mkdir()
    writer.close()
    assert mails(folder / "h.db") == ["m1"]
    assert "again" in said[-1]


def test_another_program_that_holds_the_file_holds_nobody_up(tmp_path):
    path = tmp_path / "h.db"
    other = open_store(path)
    other.execute("BEGIN IMMEDIATE")
    metrics = Metrics()
    writer = Writer(opening(path), metrics=metrics, retention=DAY * 9999)
    writer.start()
    writer.record(message(1))
    writer.close(patience=0.1)
    assert counts(metrics)["written"] == 0
    other.execute("COMMIT")
    other.close()
    writer._thread.join(20)
    assert counts(metrics) == {"written": 1, "dropped": 0, "refused": 0, "failures": 0}


def test_an_event_that_can_never_be_written_does_not_block_the_others(place):
    said = []
    numbers = kept(place, message(1), message(2, size=2**70), message(3), complain=said.append)
    assert mails(place) == ["m1", "m3"]
    assert (numbers["written"], numbers["refused"]) == (2, 1)
    assert "left out" in said[0]


def test_text_from_the_wire_is_kept_whatever_it_holds(place):
    odd = message(1, message_id="<\udcff\x00>", reason="x" * 5000, sender="\udc80@example.org")
    assert kept(place, odd)["written"] == 1


WRITE = """
import sys
from pathlib import Path
from tests.history.making import kept, message
path, first = Path(sys.argv[1]), int(sys.argv[2])
numbers = kept(path, *(message(n) for n in range(first, first + 700)))
sys.exit(int(numbers["failures"]))
"""


def test_several_processes_write_one_new_file(tmp_path):
    jobs = [
        subprocess.Popen([sys.executable, "-c", WRITE, tmp_path / "h.db", str(n * 1000)], cwd=ROOT)
        for n in range(3)
    ]
    assert [job.wait(60) for job in jobs] == [0, 0, 0]
    assert sorted(mails(tmp_path / "h.db")) == sorted(
        f"m{n * 1000 + k}" for n in range(3) for k in range(700)
    )


def test_what_is_too_old_is_forgotten_with_all_that_belongs_to_it(place):
    rule = Finding("rule", "hit")
    kept(place, *(message(n, at=NOON + n * DAY, findings=(rule,)) for n in range(10)))
    store = opening(place)()
    assert store.forget(NOON + 4 * DAY, 3) == 3
    assert store.forget(NOON + 4 * DAY, 3) == 1
    assert store.forget(NOON + 4 * DAY, 3) == 0
    store.close()
    assert mails(place) == [f"m{n}" for n in range(4, 10)]
    asked = database(place)
    assert [asked.rows(f"SELECT COUNT(*) FROM {name}") for name in ("recipient", "finding")] == [[(6,)]] * 2
    asked.close()


def test_the_writer_forgets_by_itself(place):
    kept(place, *(message(n, at=NOON) for n in range(1200)))
    swept = threading.Event()
    writer = Writer(opening(place), metrics=Metrics(), retention=DAY, now=lambda: NOON + 2 * DAY)
    sweep = writer._sweep

    def observed():
        done = sweep()
        swept.set()
        return done

    writer._sweep = observed
    writer.start()
    writer.record(message(5000, at=NOON + 2 * DAY))
    assert swept.wait(20)
    writer.close()
    assert mails(place) == ["m5000"]


def test_tables_of_a_later_version_are_left_alone(tmp_path):
    path = tmp_path / "h.db"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    for function in (open_store, open_reader):
        with pytest.raises(StoreError, match=f"version {VERSION + 1}"):
            function(path)
    said = []
    assert kept(path, message(1), complain=said.append)["written"] == 0
    assert f"version {VERSION + 1}" in said[0]


def test_a_reader_finds_no_file(tmp_path):
    with pytest.raises(StoreError):
        open_reader(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []
