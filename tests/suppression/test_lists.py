"""The list of who gets no more mail: what every store of it does, and what each has for itself."""

import asyncio
import sqlite3
import threading

import pytest
from tests.servers.postgres import LOGIN, PASSWORD

from relayproxy.api import ListFault, Suppressed
from relayproxy.model.suppressed import key_of, scopes_of, widest_known
from relayproxy.postgres import Server
from relayproxy.suppression import postgres
from relayproxy.suppression.postgres import PostgresList
from relayproxy.suppression.sqlite import SqliteList

NOW = 1_790_000_000.0


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, tmp_path):
    if request.param == "sqlite":
        made = SqliteList(tmp_path / "suppression.db")
    else:
        made = PostgresList(request.getfixturevalue("new_database")())
    yield made
    made.close()


class TestStore:
    def test_addresses_are_compared_as_receivers_do(self, store):
        store.add([Suppressed("Gone@EXAMPLE.org", reason="x", added=NOW)])
        found = store.find("gone@example.ORG", ["global"], NOW)
        assert (found.address, found.reason, found.expires) == ("gone@example.org", "x", None)
        assert store.find("gone@example.com", ["global"], NOW) is None
        assert key_of("A@b\u00fccher.example.") == "a@xn--bcher-kva.example"

    def test_a_whole_domain_and_an_own_line_before_it(self, store):
        store.add([Suppressed("@example.org", reason="all"), Suppressed("a@example.org", reason="own")])
        assert store.find("b@example.org", ["global"], NOW).reason == "all"
        assert store.find("a@example.org", ["global"], NOW).reason == "own"
        assert store.find("postmaster", ["global"], NOW) is None

    def test_scopes(self, store):
        store.add([Suppressed("a@b.example", "tenant:shop"), Suppressed("c@b.example", "campaign:spring")])
        assert store.find("a@b.example", scopes_of("", ""), NOW) is None
        assert store.find("a@b.example", scopes_of("other", "spring"), NOW) is None
        assert store.find("a@b.example", scopes_of("Shop", ""), NOW).scope == "tenant:shop"
        assert store.find("c@b.example", scopes_of("shop", "SPRING"), NOW).scope == "campaign:spring"

    def test_expiry_and_the_longer_line_stays(self, store):
        store.add([Suppressed("a@b.example", reason="short", expires=NOW + 10)])
        assert store.find("a@b.example", ["global"], NOW + 9.9) is not None
        assert store.find("a@b.example", ["global"], NOW + 10) is None
        store.add([Suppressed("a@b.example", reason="for ever")])
        store.add([Suppressed("a@b.example", reason="shorter", expires=NOW + 99)])
        assert store.find("a@b.example", ["global"], NOW + 1e9).reason == "for ever"
        assert store.sweep(NOW + 1e9) == 0

    def test_sweeping_removes_what_has_expired(self, store):
        store.add([Suppressed("a@b.example", expires=NOW), Suppressed("c@b.example", expires=NOW + 1)])
        assert store.sweep(NOW) == 1
        assert [line.address for line in store.lines(0)] == ["c@b.example"]

    def test_removing(self, store):
        store.add([Suppressed("a@b.example"), Suppressed("a@b.example", "tenant:x")])
        assert store.remove("A@b.example", "tenant:x") == 1
        assert store.remove("a@b.example") == 1
        assert store.remove("a@b.example") == 0

    def test_bounces_count_once_for_a_message_and_only_for_a_time(self, store):
        def strike(message, at):
            return store.strike(Suppressed("a@b.example", added=at), message, count=3, within=10)

        assert [strike("m1", NOW), strike("m1", NOW + 1), strike("m2", NOW + 2)] == [False, False, False]
        assert not strike("m3", NOW + 11)  # m1 is forgotten by then
        assert strike("m4", NOW + 11)
        assert store.find("a@b.example", ["global"], NOW) is not None

    def test_one_that_is_removed_begins_anew(self, store):
        for message in ("m1", "m2"):
            store.strike(Suppressed("a@b.example", added=NOW), message, count=2, within=10)
        store.remove("a@b.example")
        assert not store.strike(Suppressed("a@b.example", added=NOW), "m3", count=2, within=10)

    def test_unknown_bounces_are_counted(self, store):
        for status in ("5.0.0", "5.0.1"):
            store.note_unknown("no *", status, "no 1234", NOW)
        store.note_unknown("other", "", "other", NOW)
        assert [(row[0], row[3]) for row in store.unknown()] == [("no *", 2), ("other", 1)]

    def test_lines_by_scope_and_text(self, store):
        store.add(
            [Suppressed("b@x.example"), Suppressed("a@x.example", "tenant:t"), Suppressed("c@y.example")]
        )
        assert [line.address for line in store.lines(NOW)] == ["a@x.example", "b@x.example", "c@y.example"]
        assert [line.address for line in store.lines(NOW, scope="tenant:t")] == ["a@x.example"]
        assert [line.address for line in store.lines(NOW, text="Y.exam")] == ["c@y.example"]

    def test_a_fault_takes_back_all_of_a_transaction(self, store):
        def lines():
            yield Suppressed("a@b.example")
            raise KeyError

        with pytest.raises(KeyError):
            store.add(lines())
        assert list(store.lines(NOW)) == []
        store.add([Suppressed("a@b.example")])


def test_the_scope_that_is_wanted_or_the_next_wider():
    assert widest_known("campaign", "t", "c") == "campaign:c"
    assert widest_known("campaign", "t", "") == widest_known("tenant", "t", "c") == "tenant:t"
    assert widest_known("tenant", "", "c") == widest_known("global", "t", "c") == "global"


def test_texts_of_others_are_kept_as_far_as_they_can_be(store):
    store.add([Suppressed("a@b.example", reason="1\x002\udcff3 \u00fc%s'")])
    found = store.find("a@b.example", ["global"], NOW)
    assert found.reason.endswith("3 \u00fc%s'")


def test_the_same_address_twice_in_one_import(store):
    assert (
        store.add([Suppressed("a@b.example", expires=NOW + 1), Suppressed("A@b.example", expires=NOW + 5)])
        == 2
    )
    assert [line.expires for line in store.lines(NOW)] == [NOW + 5]


# -- the file ---------------------------------------------------------------------------------------------------


def test_many_writers_in_threads_and_another_process_reads(tmp_path):
    store = SqliteList(tmp_path / "list.db")

    def work(number):
        store.add([Suppressed(f"u{number}@b.example")])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other = SqliteList(store.path)
    assert len(list(other.lines(NOW))) == 20
    other.close()
    store.close()


def test_a_file_that_is_none_of_ours(tmp_path):
    (tmp_path / "text").write_text("this is no database, " * 100)
    with pytest.raises(ListFault, match="can't be used"):
        SqliteList(tmp_path / "text")
    later = sqlite3.connect(tmp_path / "later.db")
    later.execute("PRAGMA user_version=7")
    later.close()
    with pytest.raises(ListFault, match="has form 7"):
        SqliteList(tmp_path / "later.db")


# -- the server -------------------------------------------------------------------------------------------------


def test_what_one_machine_writes_all_look_up(new_database):
    server = new_database()
    here, there = PostgresList(server), PostgresList(server)
    assert there.find("a@b.example", ["global"], NOW) is None
    here.add([Suppressed("a@b.example", reason="asked")])
    assert there.find("a@b.example", ["global"], NOW).reason == "asked"
    there.remove("a@b.example")
    assert here.find("a@b.example", ["global"], NOW) is None
    here.close()
    there.close()


def test_machines_that_count_at_once_miss_nothing(new_database):
    server = new_database()
    lists = [PostgresList(server) for _ in range(4)]
    struck = []

    def work(number):
        line = Suppressed("a@b.example", added=NOW)
        struck.append(lists[number].strike(line, f"m{number}", count=4, within=10))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(struck) == [False, False, False, True]
    for one in lists:
        one.close()


def test_a_list_of_another_version_is_left_alone(new_database):
    server = new_database()
    first = PostgresList(server)
    first.add([])
    with first._writing.use() as connection:
        connection.execute("UPDATE suppression_version SET version = 7")
    first.close()
    with pytest.raises(ListFault, match="has form 7"):
        PostgresList(server).find("a@b.example", ["global"], NOW)


async def test_an_outage_is_a_fault_at_once_and_ends(own_postgres, monkeypatch):
    monkeypatch.setattr(postgres, "_PAUSE", 0.0)
    own_postgres.create_database("list")
    store = PostgresList(Server((("127.0.0.1", own_postgres.port),), "list", LOGIN, PASSWORD))
    await asyncio.to_thread(store.add, [Suppressed("a@b.example")])
    assert await asyncio.to_thread(store.find, "a@b.example", ["global"], NOW) is not None
    await own_postgres.end()
    for _ in range(2):
        with pytest.raises(ListFault):
            await asyncio.to_thread(store.find, "a@b.example", ["global"], NOW)
        with pytest.raises(ListFault):
            await asyncio.to_thread(store.add, [Suppressed("c@b.example")])
    await own_postgres.start()
    assert await asyncio.to_thread(store.find, "a@b.example", ["global"], NOW) is not None
    assert await asyncio.to_thread(store.add, [Suppressed("c@b.example")]) == 1
    store.close()


def test_a_server_that_failed_a_moment_ago_is_left_alone():
    store = PostgresList(Server((("127.0.0.1", 9),), "list"))
    for said in ("refused", "a moment ago"):
        with pytest.raises(ListFault, match=said):
            store.find("a@b.example", ["global"], NOW)
    store.close()


async def test_a_server_that_stores_nothing_is_refused(own_postgres):
    await own_postgres.end()
    await own_postgres.start("fsync=off")
    own_postgres.create_database("list")
    store = PostgresList(Server((("127.0.0.1", own_postgres.port),), "list", LOGIN, PASSWORD))
    with pytest.raises(ListFault, match="fsync = off"):
        await asyncio.to_thread(store.add, [Suppressed("a@b.example")])
    store.close()
