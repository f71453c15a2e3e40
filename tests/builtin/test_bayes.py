import sqlite3
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from relayproxy.api import App, Message, Setup
from relayproxy.builtin._bayes_score import spam_probability
from relayproxy.builtin._bayes_store import Store, StoreFault
from relayproxy.builtin._bayes_words import MOST, digest_of, words_of
from relayproxy.builtin.bayes import Bayes, BayesSettings
from relayproxy.cli.root import main
from relayproxy.testing import FakeClock, FakeResolver
from relayproxy.testing.mail import call, make_mail

SPAM = "Cheap pills and a lottery prize wait at http://pills.example/{n} claim {n} now"
HAM = "The meeting about the quarterly budget is moved to room {n} on Tuesday {n}"


def message(text, number=0, sender="a@example.org", more=""):
    body = text.format(n=number)
    raw = f"From: {sender}\r\nSubject: {body[:20]}\r\nMessage-ID: <{number}@x>\r\n{more}\r\n{body}\r\n"
    return raw.encode()


@pytest.fixture
def learned(tmp_path):
    store = Store(tmp_path / "bayes.db", create=True)
    for number in range(20):
        for text, spam in ((SPAM, True), (HAM, False)):
            one = Message.from_bytes(message(text, number))
            assert store.learn(digest_of(one), words_of(one), spam=spam) == "new"
    assert store.totals() == (20, 20)
    store.close()
    return tmp_path


async def finding(folder, raw, **settings):
    plugin = Bayes(BayesSettings(**{"min_messages": 10, **settings}))
    await call(plugin, "startup", app=App("mx.example.net", FakeResolver(), FakeClock(), folder))
    mail = make_mail(raw)
    assert await call(plugin, "message", mail=mail) is None
    await call(plugin, "shutdown")
    return mail.finding("bayes")


async def test_what_was_learned_is_known_again(learned):
    spam = await finding(learned, message("A lottery prize and cheap pills", 99))
    assert (spam.result, spam.score) == ("hit", 4.0)
    assert float(spam.props["probability"]) > 0.95
    ham = await finding(learned, message("the budget meeting on Tuesday", 99))
    assert (ham.result, ham.score) == ("pass", -2.0)
    neutral = await finding(learned, message("something else entirely", 99, "x@y.example"))
    assert (neutral.result, neutral.score) == ("neutral", 0.0)


async def test_with_too_little_learned_there_is_no_result(learned, tmp_path):
    assert (await finding(learned, message(SPAM), min_messages=21)).result == "none"
    assert (await finding(tmp_path / "elsewhere", message(SPAM))).result == "none"


async def test_a_store_that_is_made_later_is_found(tmp_path):
    plugin = Bayes(BayesSettings(min_messages=1))
    await call(plugin, "startup", app=App("mx.example.net", FakeResolver(), FakeClock(), tmp_path))
    await call(plugin, "shutdown")
    store = Store(tmp_path / "bayes.db", create=True)
    for text, spam in ((SPAM, True), (HAM, False)):
        one = Message.from_bytes(message(text))
        store.learn(digest_of(one), words_of(one), spam=spam)
    mail = make_mail(message(SPAM))
    await call(plugin, "message", mail=mail)
    assert float(mail.finding("bayes").props["probability"]) > 0.5
    await call(plugin, "shutdown")
    store.close()


def test_a_store_that_is_not_there_is_a_warning(learned):
    assert list(Bayes(BayesSettings()).check(Setup(learned))) == []
    [mistake] = Bayes(BayesSettings(file="other.db")).check(Setup(learned))
    assert mistake.warning
    assert "nothing was learned yet" in mistake.message


async def test_a_file_that_is_no_store_keeps_the_worker_from_starting(tmp_path):
    (tmp_path / "bayes.db").write_bytes(b"nonsense" * 100)
    with pytest.raises(StoreFault, match=r"bayes\.db"):
        await finding(tmp_path, message(SPAM))
    (tmp_path / "bayes.db").unlink()
    sqlite3.connect(tmp_path / "bayes.db").close()
    (tmp_path / "bayes.db").touch()
    with pytest.raises(StoreFault, match="no store of this program's version"):
        await finding(tmp_path, message(SPAM))


@pytest.mark.parametrize(
    "settings", [{"spam_at": 0.4}, {"ham_at": 0.6}, {"ham_score": 1}, {"file": ""}, {"min_messages": 0}]
)
def test_settings_that_can_not_be_used(settings):
    with pytest.raises(ValidationError):
        BayesSettings(**settings)


def test_a_message_is_learned_once_and_can_be_moved(tmp_path):
    store = Store(tmp_path / "bayes.db", create=True)
    digest, words = b"d", frozenset({1, 2, -3})
    assert store.learn(digest, words, spam=True) == "new"
    assert store.learn(digest, words, spam=True) == "known"
    assert (store.totals(), store.counts(words)) == ((1, 0), [(1, 0)] * 3)
    assert store.learn(digest, words, spam=False) == "moved"
    assert (store.totals(), store.counts(words)) == ((0, 1), [(0, 1)] * 3)
    assert store.counts([7]) == []
    store.close()


def test_many_may_learn_and_read_at_once(tmp_path):
    Store(tmp_path / "bayes.db", create=True).close()

    def work(start):
        store = Store(tmp_path / "bayes.db")
        for number in range(start, start + 20):
            store.learn(str(number).encode(), [1, number], spam=number % 2 == 0)
            store.counts([1])
        store.close()

    threads = [threading.Thread(target=work, args=(start,)) for start in (100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = Store(tmp_path / "bayes.db")
    assert store.totals() == (30, 30)
    assert store.counts([1]) == [(30, 30)]
    store.close()


def test_the_words_of_a_message():
    plain = words_of(Message.from_bytes(message("Cheap pills")))
    for same in (
        message("CHEAP   pills").replace(b"Subject: CHEAP   pills", b"Subject: cheap pills"),
        message("Cheap pills", more="Content-Transfer-Encoding: quoted-printable\r\n").replace(
            b"\r\n\r\nCheap", b"\r\n\r\nCh=65ap"
        ),
        message("Cheap pills", more="Content-Type: text/html\r\n").replace(
            b"\r\n\r\nCheap pills",
            b"\r\n\r\n<b class=x>Cheap</b> pi<!-- -->&#108;ls".replace(b"<!-- -->", b""),
        ),
    ):
        assert words_of(Message.from_bytes(same)) == plain
    assert len(words_of(Message.from_bytes(b"\r\n" + b" ".join(b"w%d" % n for n in range(9999))))) == MOST
    chinese = "\u514d\u8d39\u4e2d\u5956\u901a\u77e5\u8bf7\u7acb\u5373\u70b9\u51fb"
    found = words_of(Message.from_bytes(message(chinese)))
    other = words_of(Message.from_bytes(message(f"\u60a8\u597d{chinese}")))
    assert len(found & other) > len(found) / 2


def test_a_message_is_the_same_however_it_travelled():
    one = message(SPAM)
    other = b"Received: from a by b\r\n" + one
    assert digest_of(Message.from_bytes(one)) == digest_of(Message.from_bytes(other))
    assert digest_of(Message.from_bytes(one)) != digest_of(Message.from_bytes(message(SPAM, 1)))


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=400),
    st.integers(0, 50),
    st.integers(0, 50),
)
def test_a_probability_is_one(counts, spam, ham):
    counts = [(min(a, spam), min(b, ham)) for a, b in counts]
    found = spam_probability(counts, spam, ham)
    assert 0 <= found <= 1
    assert found + spam_probability([(b, a) for a, b in counts], ham, spam) == pytest.approx(1)


def test_probabilities():
    assert spam_probability([], 10, 10) == 0.5
    assert spam_probability([(10, 0)] * 10, 10, 0) == 0.5
    assert spam_probability([(10, 0)] * 10, 10, 10) > 0.999
    assert spam_probability([(0, 10)] * 1000, 10, 10) < 0.001
    assert spam_probability([(10, 0)] * 20 + [(0, 10)] * 20, 10, 10) == pytest.approx(0.5)


@given(st.binary(max_size=300))
def test_any_octets_have_words(raw):
    assert len(words_of(Message.from_bytes(raw))) >= 1


def learn(*arguments, code=0, given=None):
    done = CliRunner().invoke(main, ["learn", *map(str, arguments)], input=given)
    assert done.exit_code == code, done.output
    return done.output


def test_learning_from_files_folders_mailboxes_and_a_pipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "Maildir"
    for name in ("cur/1", "new/2", "new/.hidden", "dovecot.index"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(message(SPAM, len(name)).replace(b"\r\n", b"\n"))
    (folder / "new/2").write_bytes(message(SPAM, 2))
    box = b"".join(
        b"From x Mon Sep 21 14:00:00 2026\n" + message(HAM, n).replace(b"\r\n", b"\n") + b"\n" for n in (1, 2)
    )
    (tmp_path / "mbox").write_bytes(box)
    assert learn("spam", folder) == "spam: 2 new; learned in all: 2 spam, 0 ham\n"
    assert learn("ham", "mbox") == "ham: 2 new; learned in all: 2 spam, 2 ham\n"
    assert learn("spam", "-", given=message(SPAM, 2)) == "spam: 1 known; learned in all: 2 spam, 2 ham\n"
    assert learn("ham", folder / "new/2") == "ham: 1 moved; learned in all: 1 spam, 3 ham\n"
    (tmp_path / "empty").mkdir()
    assert learn("ham", "empty") == "ham: no messages; learned in all: 1 spam, 3 ham\n"
    assert (tmp_path / "bayes.db").is_file()


def test_the_store_of_the_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/relayproxy.yaml").write_text(
        "version: 1\nhostname: mx.example.org\nlisteners: [{name: in, listen: 127.0.0.1:2525}]\n"
        "relay: {networks: [127.0.0.0/8]}\nupstreams: {out: {address: 127.0.0.1:2526}}\n"
        "pipeline: [bayes: {file: my.db}]\n"
    )
    learn("spam", "-", "-C", "conf/relayproxy.yaml", given=message(SPAM))
    assert (tmp_path / "conf/my.db").is_file()
    learn("spam", "-", "--store", "third.db", given=message(SPAM))
    assert (tmp_path / "third.db").is_file()


def test_a_store_that_can_not_be_used(tmp_path):
    (tmp_path / "x").write_bytes(b"nonsense" * 100)
    assert "relayproxy: " in learn("spam", "-", "--store", tmp_path / "x", code=1, given=message(SPAM))
    missing = Path(tmp_path / "none" / "x")
    assert "unable to open" in learn("spam", "-", "--store", missing, code=1, given=message(SPAM))
