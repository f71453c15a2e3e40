"""The list, and RCPT for those who are on it."""

import threading

import pytest
from pydantic import ValidationError

from relayproxy.api import App, ListFault, Mistake, Setup, Suppressed, Unsubscription
from relayproxy.builtin._campaign import KeyedSettings, keys_of
from relayproxy.builtin.suppression import Suppression, SuppressionSettings
from relayproxy.model.envelope import Envelope
from relayproxy.suppression.sqlite import SqliteList
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.mail import make_mail
from relayproxy.testing.resolver import FakeResolver
from relayproxy.testing.session import SessionDriver, entry_for

NOW = 1_790_000_000.0
DAY = 86_400.0
MESSAGE = b"From: news@example.net\r\nSubject: news\r\n\r\nHello\r\n"


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
    store = SqliteList(tmp_path / "suppression.db")
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
    await one.startup(App("mx", FakeResolver(), FakeClock(NOW), tmp_path, suppression=SqliteList))
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


async def test_who_unsubscribes_is_on_it_for_ever(tmp_path):
    driver = await driven(tmp_path, [], tenant="sender-domain")
    (entry,) = driver.services.pipeline.entries
    wish = Unsubscription("news", "Reader@far.example", 20_000, "tenant:example.net")
    for _ in range(2):
        await entry.plugin.unsubscribed(wish)
    refused = await driver.deliver(MESSAGE, sender="news@example.net", recipients=("reader@far.example",))
    assert refused.reply.code == 550
    assert refused.mail.finding("suppression").props == {
        "kind": "unsubscribed",
        "scope": "tenant:example.net",
    }
    other = await driver.deliver(MESSAGE, sender="shop@example.org", recipients=("reader@far.example",))
    assert other.reply.ok


class Far:
    """A list that is a network away, and may be down, or hang."""

    remote, patience, remember = True, 0.05, 30.0

    def __init__(self, *gone):
        self.gone, self.asked, self.down, self.answering = gone, 0, False, threading.Event()
        self.answering.set()

    def find(self, address, scopes, now):
        self.asked += 1
        self.answering.wait()
        if self.down:
            raise ListFault("the server is down")
        return Suppressed(address) if address in self.gone else None

    def add(self, lines):
        self.gone = (*self.gone, *(line.address for line in lines))

    def sweep(self, now):
        return 0

    def close(self):
        self.answering.set()


async def asking(far, tmp_path, on_error="defer"):
    entry = entry_for(plugin(), on_error=on_error)
    clock = FakeClock(NOW)
    driver = SessionDriver(entry, networks=("192.0.2.0/24",), clock=clock)
    await driver.start(tmp_path)
    await entry.plugin.shutdown()
    app = App("mx", FakeResolver(), clock, tmp_path, suppression=lambda _: far)
    await entry.plugin.startup(app)

    async def code(recipient="b@far.example"):
        delivery = await driver.deliver(MESSAGE, sender="news@example.net", recipients=(recipient,))
        return delivery.reply.code

    return code, entry.plugin, clock


async def test_what_a_server_said_counts_for_a_while(tmp_path):
    far = Far("gone@far.example")
    code, one, clock = await asking(far, tmp_path)
    assert [await code("gone@far.example"), await code("gone@far.example")] == [550, 550]
    assert [await code(), await code(), far.asked] == [250, 250, 2]
    far.gone = ("b@far.example",)
    clock.advance(29)
    assert await code() == 250
    clock.advance(1)
    assert [await code(), await code("gone@far.example")] == [550, 250]
    await one.unsubscribed(Unsubscription("news", "gone@far.example", 20_000))
    assert await code("gone@far.example") == 550
    await one.shutdown()


@pytest.mark.parametrize(("on_error", "expected"), [("defer", 451), ("skip", 250)])
async def test_an_outage_is_what_on_error_says_and_is_logged_once(tmp_path, on_error, expected, caplog):
    far = Far()
    far.down = True
    code, one, _ = await asking(far, tmp_path, on_error)
    assert [await code(), await code("c@far.example")] == [expected] * 2
    far.down = False
    assert await code() == 250
    await one.shutdown()
    said = [record.message for record in caplog.records if "looked up" in record.message]
    assert said == ["recipients can't be looked up: the server is down", "recipients can be looked up again"]


async def test_a_server_that_hangs_is_not_waited_for(tmp_path):
    far = Far()
    far.answering.clear()
    code, one, _ = await asking(far, tmp_path)
    assert [await code(), await code("c@far.example")] == [451, 451]
    far.answering.set()
    await one.shutdown()
