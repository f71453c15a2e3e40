"""The list, and RCPT for those who are on it."""

import sqlite3
import threading

import pytest
from pydantic import ValidationError

from relayproxy.api import App, Mistake, Setup
from relayproxy.builtin._campaign import KeyedSettings, keys_of
from relayproxy.builtin._suppression import Store, StoreFault, Suppressed, key_of, scopes_of
from relayproxy.builtin.suppression import Suppression, SuppressionSettings
from relayproxy.model.envelope import Envelope
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.mail import make_mail
from relayproxy.testing.resolver import FakeResolver
from relayproxy.testing.session import SessionDriver

NOW = 1_790_000_000.0
DAY = 86_400.0
MESSAGE = b"From: news@example.net\r\nSubject: news\r\n\r\nHello\r\n"


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "suppression.db")
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

    def test_many_writers_in_threads_and_another_process_reads(self, store):
        def work(number):
            store.add([Suppressed(f"u{number}@b.example")])

        threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        other = Store(store.path)
        assert len(list(other.lines(NOW))) == 20
        other.close()

    def test_a_file_that_is_none_of_ours(self, tmp_path):
        (tmp_path / "text").write_text("this is no database, " * 100)
        with pytest.raises(StoreFault, match="can't be used"):
            Store(tmp_path / "text")
        later = sqlite3.connect(tmp_path / "later.db")
        later.execute("PRAGMA user_version=7")
        later.close()
        with pytest.raises(StoreFault, match="has form 7"):
            Store(tmp_path / "later.db")


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({}, ("", "")),
        ({"tenant": "login", "campaign": "envid"}, ("shop", "spring")),
        ({"tenant": "sender-domain", "campaign": "sender-detail"}, ("example.org", "detail")),
    ],
)
def test_tenant_and_campaign(options, keys):
    mail = make_mail(sender="news+Detail@Example.org", identity="Shop")
    mail.envelope = Envelope(mail.envelope.sender, envid="Spring")
    assert keys_of(KeyedSettings(**options), mail) == keys


def plugin(**options):
    return Suppression(SuppressionSettings(**options))


async def driven(tmp_path, lines, *, networks=("192.0.2.0/24",), **options):
    store = Store(tmp_path / "suppression.db")
    store.add(lines)
    store.close()
    driver = SessionDriver(plugin(**options), networks=networks, clock=FakeClock(NOW))
    await driver.start(tmp_path)
    return driver


GONE = Suppressed("gone@far.example", class_="hard", reason="5.1.1 unknown", added=NOW)


async def test_refused_at_rcpt_beside_others(tmp_path):
    driver = await driven(tmp_path, [GONE], text="No more news")
    delivery = await driver.deliver(
        MESSAGE, sender="news@example.net", recipients=("gone@far.example", "b@far.example")
    )
    assert delivery.reply.ok
    assert [str(one.address) for one in delivery.sent.recipients] == ["b@far.example"]
    assert driver.upstream.asked == list(delivery.sent.recipients)
    alone = await driver.deliver(MESSAGE, sender="news@example.net", recipients=("Gone@Far.example",))
    assert str(alone.reply) == "550 5.7.1 No more news"
    assert alone.mail.finding("suppression").props == {"kind": "hard", "scope": "global"}


async def test_dropped(tmp_path):
    driver = await driven(tmp_path, [GONE], action="drop")
    delivery = await driver.deliver(MESSAGE, sender="news@example.net", recipients=("gone@far.example",))
    assert delivery.reply.ok
    assert delivery.sent is None
    delivery = await driver.deliver(
        MESSAGE, sender="news@example.net", recipients=("gone@far.example", "b@far.example")
    )
    assert [str(one.address) for one in delivery.sent.recipients] == ["b@far.example"]
    assert driver.upstream.asked == list(delivery.sent.recipients)


async def test_only_outgoing_mail_is_looked_at(tmp_path):
    driver = await driven(tmp_path, [Suppressed("a@example.net")], networks=())
    delivery = await driver.deliver(MESSAGE, sender="x@far.example", recipients=("a@example.net",))
    assert delivery.reply.ok
    assert delivery.sent is not None


async def test_a_list_that_fails_is_a_451(tmp_path):
    driver = await driven(tmp_path, [GONE])
    (entry,) = driver.services.pipeline.entries
    entry.plugin._store._reader.close()
    delivery = await driver.deliver(MESSAGE, sender="news@example.net", recipients=("b@far.example",))
    assert delivery.reply.code == 451
    assert delivery.sent is None


async def test_start_and_shutdown(tmp_path):
    one = plugin(file="deep/list.db")
    await one.startup(App("mx", FakeResolver(), FakeClock(NOW), tmp_path))
    await one.shutdown()
    assert (tmp_path / "deep/list.db").is_file()


def test_a_place_that_can_be_no_file(tmp_path):
    (mistake,) = plugin(file=".").check(Setup(tmp_path))
    assert isinstance(mistake, Mistake)
    assert mistake.at == ("file",)
    assert list(plugin().check(Setup(tmp_path))) == []


def test_a_text_that_is_no_reply():
    for text in ("", "\u00fc", "a\r\nb", "x" * 301):
        with pytest.raises(ValidationError):
            SuppressionSettings(text=text)
