"""A whole worker with a history: what the file holds afterwards."""

from tests.history.making import database
from tests.test_app import MESSAGE, a_config, logging_as_before, working

from relayproxy.api import Plugin, hook, reject
from relayproxy.history import queries
from relayproxy.postgres import Server
from relayproxy.testing.session import SessionDriver
from relayproxy.testing.upstream import UpstreamSink

__all__ = ["logging_as_before"]

EVER = (0.0, 1e11)


def as_setting(place, folder):
    if not isinstance(place, Server):
        return {"url": f"sqlite://{place}"}
    host, port = place.hosts[0]
    secret = folder / "password"
    secret.touch(mode=0o600)
    secret.write_text(place.password)
    url = f"postgresql://{host}:{port}/{place.database}"
    return {"url": url, "login": place.login, "password": {"file": str(secret)}}


async def test_messages_refusals_and_tls_are_kept(place, tmp_path):
    history = as_setting(place, tmp_path)
    async with UpstreamSink(refusals={"no@example.net": b"550 5.1.1 nobody\r\n"}) as sink:
        config = a_config(
            history=history, upstreams={"sink": {"address": sink.address, "tls": "opportunistic"}}
        )
        async with working(config) as running, await running.client() as client:
            assert (await client.message(MESSAGE)).code == 250
            assert (await client.message(MESSAGE, recipients=("no@example.net",))).code == 550
    connection = database(place)
    try:
        (total,) = queries.totals(connection, *EVER, by="route")
        assert (total.key, total.messages, total.relayed) == ("sink", 1, 1)
        (refusal,) = queries.refusals(connection, *EVER)
        assert (refusal.stage, refusal.status, refusal.count) == ("rcpt", "5.1.1", 1)
        (tls, *_) = queries.tls_results(connection, *EVER)
        assert (tls.policy, tls.result) == ("opportunistic", "starttls-not-supported")
        ((mail, ident),) = connection.rows("SELECT mail, message_id FROM event WHERE kind = 'message'")
        assert ident == "<1@example.org>"
        assert mail in sink.messages[0].content.decode()
    finally:
        connection.close()


class Kept:
    def __init__(self):
        self.events = []

    def record(self, event):
        self.events.append(event)


class Early(Plugin):
    name = "early"

    @hook
    def connect(self, client):
        return reject("go away") if client.ip == "192.0.2.66" else None

    @hook
    def helo(self, name):
        return reject("not you") if name == "bad.example" else None

    @hook
    def mail(self, mail):
        return reject("no mail") if mail.envelope.sender.local == "bad" else None


async def refused(ip="192.0.2.1", **options):
    driver = SessionDriver(Early, ip=ip)
    kept = driver.services.history = Kept()
    await driver.start()
    if not driver.session.closing:
        await driver.say(f"EHLO {options.get('helo', 'good.example')}")
        await driver.say(f"MAIL FROM:<{options.get('sender', 'bad@example.org')}>")
    return [(event.stage, event.reply.code) for event in kept.events]


async def test_each_stage_that_refuses_is_told():
    assert await refused(ip="192.0.2.66") == [("connect", 554)]
    assert await refused(helo="bad.example") == [("helo", 550)]
    assert await refused() == [("mail", 550)]


async def test_a_message_is_told_with_what_was_found_and_said():
    def message(self, mail):
        mail.note("spf", "pass", score=1.5)
        return reject("not this one", reason="because")

    judge = type("Judge", (Plugin,), {"name": "judge", "message": hook(message), "__module__": __name__})
    driver = SessionDriver(judge)
    kept = driver.services.history = Kept()
    delivery = await driver.deliver(b"Message-ID:\r\n <x@y>\r\n\r\nbody\r\n", recipients=["b@example.net"])
    (event,) = kept.events
    assert (event.outcome, event.reason, event.message_id) == ("rejected", "because", "<x@y>")
    assert event.replies == delivery.replies
    assert [(finding.method, finding.score) for finding in event.findings] == [("spf", 1.5)]
    assert [str(one.address) for one in event.recipients] == ["b@example.net"]
    assert event.route == ""
