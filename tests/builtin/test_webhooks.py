"""Events are kept until somebody has taken them, and told in order."""

import asyncio
import hashlib
import hmac
import itertools
import json

import pytest
from pydantic import ValidationError
from tests.servers.process import wait_for

from relayproxy.api import QUEUE, App, Origin, SecretError, Unsubscription
from relayproxy.builtin import webhooks
from relayproxy.builtin._outbox import Outbox
from relayproxy.builtin.webhooks import SIGNATURE, Webhooks, WebhooksSettings
from relayproxy.config.base import Context
from relayproxy.model.outcome import outcome_of
from relayproxy.model.reply import Reply
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.mail import make_mail
from relayproxy.testing.resolver import FakeResolver
from relayproxy.testing.session import SessionDriver
from relayproxy.testing.standin import Standin

NOW = 1_790_000_000.0
SECRET = "a secret of ours, long enough"
MESSAGE = b"From: a@example.org\r\n\r\nHello\r\n"


def settings(url="https://hooks.example/x", **options):
    given = {"url": url, "secret": {"env": "HOOKS"}, **options}
    return WebhooksSettings.model_validate(
        given, context=Context(environ={"HOOKS": SECRET, "SHORT": "short"})
    )


class Receiver:
    """An HTTP server that answers with the `statuses`, then 200; `taken` are the events of requests that got 200."""

    def __init__(self, *statuses):
        self.statuses = list(statuses)
        self.taken, self.requests = [], 0
        self._changed = asyncio.Condition()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/hook"
        return self

    async def __aexit__(self, *_):
        self._server.close()

    async def _serve(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                body = await reader.readexactly(int(fields["Content-Length"]))
                stamp, mark = (part.partition("=")[2] for part in fields[SIGNATURE].split(","))
                assert (
                    mark == hmac.new(SECRET.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
                )
                status = self.statuses.pop(0) if self.statuses else 200
                async with self._changed:
                    self.requests += 1
                    if status == 200:
                        self.taken += json.loads(body)["events"]
                    self._changed.notify_all()
                writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n".encode())
        except asyncio.IncompleteReadError:
            writer.close()

    async def until(self, test):
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(lambda: test(self))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(webhooks, "_FIRST_WAIT", 0.0)
    monkeypatch.setattr(webhooks, "_IDLE", 0.01)


async def started(folder, url, **options):
    driver = SessionDriver(Webhooks(settings(url, **options)), upstream=Standin(), clock=FakeClock(NOW))
    await driver.start(folder)
    return driver, driver.services.pipeline.entries[0].plugin


async def test_what_became_of_mail(tmp_path):
    async with Receiver() as receiver:
        driver, plugin = await started(tmp_path, receiver.url)
        delivery = await driver.deliver(MESSAGE, sender="a@far.example", recipients=("b@example.net",))
        driver.upstream.final = Reply(554, "5.7.1", "Spam")
        await driver.deliver(MESSAGE, sender="a@far.example", recipients=("c@example.net",))
        await receiver.until(lambda r: len(r.taken) == 2)
        await plugin.shutdown()
    first, second = receiver.taken
    assert first == {
        "id": first["id"],
        "event": "delivered",
        "time": NOW,
        "message": delivery.mail.id,
        "sender": "a@far.example",
        "recipient": "b@example.net",
        "tenant": "",
        "campaign": "",
        "reply": "250 2.0.0 Ok: queued as TEST",
        "upstream": "upstream",
    }
    assert (second["event"], second["reply"]) == ("failed", "554 5.7.1 Spam")


async def test_queued_mail_is_told_of_by_its_attempts(tmp_path):
    async with Receiver() as receiver:
        _, plugin = await started(tmp_path, receiver.url)
        mail = make_mail(MESSAGE)
        to = mail.envelope.recipients[0]

        def outcome(reply, route="main"):
            return (outcome_of(to, reply, route),)

        later = Reply(451, "4.2.1", "later")
        await plugin.after_forward(mail, outcome(Reply(250, "2.0.0", "Ok: queued"), QUEUE))
        for attempt in (1, 2):
            await plugin.after_attempt(mail, outcome(later), attempt)
        await plugin.after_attempt(mail, outcome(Reply(250, "2.0.0", "taken")), 3)
        ours = make_mail(MESSAGE)
        ours.origin = Origin.DSN
        await plugin.after_attempt(ours, outcome(later), 1)
        await plugin.after_forward(mail, outcome(Reply(550, "5.7.1", "No"), QUEUE))
        await receiver.until(lambda r: len(r.taken) == 4)
        await plugin.shutdown()
    told = [(one["event"], one["upstream"], one["reply"]) for one in receiver.taken]
    assert told == [
        ("deferred", "main", "451 4.2.1 later"),
        ("deferred", "main", "451 4.2.1 later"),
        ("delivered", "main", "250 2.0.0 taken"),
        ("failed", "", "550 5.7.1 No"),
    ]
    assert len({one["id"] for one in receiver.taken}) == 4


async def test_bounces_and_complaints(tmp_path):
    async with Receiver() as receiver:
        _, plugin = await started(tmp_path, receiver.url, events=["bounced", "complained"])
        mail = make_mail(MESSAGE)
        mail.note("bounces", "pass", address="b+x@y", id="m.1")
        mail.note("bounces", "hit", kind="hard", rule="r", recipient="gone@far.example")
        mail.note("bounces", "hit", kind="complaint", rule="c", recipient="angry@far.example")
        mail.findings = tuple(mail.noted)
        assert await plugin.message(mail) is None
        await receiver.until(lambda r: len(r.taken) == 2)
        await plugin.shutdown()
    told = [(one["event"], one["recipient"], one["class"], one["about"]) for one in receiver.taken]
    assert told == [
        ("bounced", "gone@far.example", "hard", "m.1"),
        ("complained", "angry@far.example", "complaint", "m.1"),
    ]


async def test_a_receiver_that_fails_gets_all_of_them_in_order_later(tmp_path):
    async with Receiver(500, 503, 302, 404) as receiver:
        driver, plugin = await started(tmp_path, receiver.url)
        for number in range(5):
            await driver.deliver(MESSAGE, sender="a@far.example", recipients=(f"u{number}@example.net",))
        await receiver.until(lambda r: len(r.taken) == 5)
        await plugin.shutdown()
    assert [one["recipient"] for one in receiver.taken] == [f"u{number}@example.net" for number in range(5)]
    assert len({one["id"] for one in receiver.taken}) == 5
    assert receiver.requests > 4


async def test_28_a_receiver_that_fails_for_an_hour_gets_all_events_in_order(tmp_path, monkeypatch):
    """Test 28 of the list that the queue and its neighbours are held to."""
    monkeypatch.setattr(webhooks, "_FIRST_WAIT", 1.0)
    monkeypatch.setattr(webhooks, "_BATCH", 7)
    failing = [500] * 1000
    async with Receiver() as receiver:
        receiver.statuses = failing
        driver, plugin = await started(tmp_path, receiver.url)
        clock, outbox, tries, mails = driver.clock, Outbox(tmp_path / "webhooks.db"), [], 0
        while clock.time() < NOW + 3600:
            await driver.deliver(MESSAGE, sender="a@far.example", recipients=(f"u{mails}@example.net",))
            mails += 1
            await receiver.until(lambda r: r.requests > len(tries))
            tries.append(clock.time())
            await wait_for(lambda: outbox.sending().failures == len(tries), "the failure to be kept")
            clock.advance(outbox.sending().due - clock.time())
        assert receiver.taken == []
        assert outbox.waiting() == mails
        failing.clear()
        await receiver.until(lambda r: len(r.taken) == mails)
        await wait_for(lambda: not outbox.waiting(), "the last events to be forgotten")
        await plugin.shutdown()
        outbox.close()
    waits = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, *[300] * (len(waits) - 9)]
    assert [one["recipient"] for one in receiver.taken] == [f"u{n}@example.net" for n in range(mails)]
    assert len({one["id"] for one in receiver.taken}) == mails


async def test_who_has_unsubscribed(tmp_path):
    async with Receiver() as receiver:
        _, plugin = await started(tmp_path, receiver.url)
        for day in (1, 1, 2):
            await plugin.unsubscribed(Unsubscription("news", "a@far.example", day, "tenant:shop"))
        await receiver.until(lambda r: len({one["id"] for one in r.taken}) == 2)
        await plugin.shutdown()
    told = receiver.taken[0]
    expected = {"event": "unsubscribed", "recipient": "a@far.example", "list": "news", "scope": "tenant:shop"}
    assert told.items() >= expected.items()
    assert told["time"] == NOW


async def test_what_is_left_is_sent_after_the_next_start(tmp_path):
    driver, plugin = await started(tmp_path, "http://127.0.0.1:9/nobody")
    await driver.deliver(MESSAGE, sender="a@far.example", recipients=("b@example.net",))
    await plugin.shutdown()
    async with Receiver() as receiver:
        _, plugin = await started(tmp_path, receiver.url)
        await receiver.until(lambda r: r.taken)
        await plugin.shutdown()


def test_one_worker_sends_at_a_time(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db")
    assert outbox.lease("one", NOW, 60)
    assert outbox.lease("one", NOW + 10, 60)
    assert not outbox.lease("two", NOW + 69, 60)
    assert outbox.lease("two", NOW + 70, 60)
    outbox.release("one")
    assert not outbox.lease("one", NOW + 71, 60)
    outbox.release("two")
    assert outbox.lease("one", NOW + 71, 60)
    outbox.close()


def test_the_outbox(tmp_path):
    outbox = Outbox(tmp_path / "deep/outbox.db")
    outbox.put([("1", "one"), ("2", "two"), ("1", "again")], NOW)
    outbox.put([("3", "three")], NOW + 1)
    assert [text for _, text in outbox.next(2)] == ["one", "two"]
    outbox.done([number for number, _ in outbox.next(1)])
    assert outbox.expire(NOW + 1) == 1
    assert [text for _, text in outbox.next(9)] == ["three"]
    outbox.close()


async def test_a_short_secret(tmp_path):
    plugin = Webhooks(settings(secret={"env": "SHORT"}))
    with pytest.raises(SecretError):
        await plugin.startup(App("mx", FakeResolver(), FakeClock(NOW), tmp_path))


@pytest.mark.parametrize("url", ["http://hooks.example/", "ftp://127.0.0.1/", "hooks", "https:///x"])
def test_where_events_are_not_sent(url):
    with pytest.raises(ValidationError, match="write https"):
        settings(url)
