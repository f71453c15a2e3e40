"""From a message that goes out to the bounce that comes back, and what follows."""

import pytest
from pydantic import ValidationError
from tests.bounces.messages import DSN, EXIM

from relayproxy.api import App, SecretError, Setup
from relayproxy.bounces.rules import RuleFault
from relayproxy.builtin.bounces import HEADER, Bounces, BouncesSettings, default_rules
from relayproxy.builtin.suppression import Suppression, SuppressionSettings
from relayproxy.config.base import Context
from relayproxy.config.yaml import read_file
from relayproxy.model.message import Message
from relayproxy.suppression.sqlite import SqliteList
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.resolver import FakeResolver
from relayproxy.testing.session import SessionDriver

NOW = 1_790_000_000.0
DAY = 86_400.0
NEWS = b"From: news@example.net\r\nX-Relayproxy-Trace: forged\r\nSubject: news\r\n\r\nHello\r\n"
SENDER = "news+spring@example.net"
GONE = "gone@far.example"


ENVIRON = {"BOUNCES": "a secret of ours, long enough", "SHORT": "short"}


def settings(**options):
    usual = {
        "domain": "bounce.example.net",
        "secrets": [{"env": "BOUNCES"}],
        "senders": ["example.net"],
        "mailbox": "robot@example.net",
    }
    return BouncesSettings.model_validate(usual | options, context=Context(environ=ENVIRON))


class World:
    """Clients that may send, and strangers that bounce, before the same list."""

    def __init__(self, folder, **options):
        self.folder = folder
        self.clock = FakeClock(NOW)
        self._drivers = {}
        keys = {key: options[key] for key in ("tenant", "campaign") if key in options}
        self._plugins = lambda: [Suppression(SuppressionSettings(**keys)), Bounces(settings(**options))]

    async def driver(self, networks, **more):
        """One client's conversation; the next one of the same client is the same."""
        key = (networks, *more.values())
        if key not in self._drivers:
            domains = ("example.net", "bounce.example.net")
            self._drivers[key] = SessionDriver(
                *self._plugins(), domains=domains, networks=networks, clock=self.clock, **more
            )
            await self._drivers[key].start(self.folder)
        return self._drivers[key]

    async def send(self, *recipients, sender=SENDER, identity=""):
        driver = await self.driver(("192.0.2.0/24",), identity=identity)
        return await driver.deliver(NEWS, sender=sender, recipients=recipients or (GONE,))

    async def bounce(self, octets, *recipients, sender=""):
        driver = await self.driver(())
        driver.upstream.asked.clear()
        delivery = await driver.deliver(octets, sender=sender, recipients=recipients)
        self.asked = [str(one.address) for one in driver.upstream.asked]
        return delivery

    def lines(self):
        store = SqliteList(self.folder / "suppression.db")
        try:
            return [
                (line.address, line.scope, line.class_, line.expires)
                for line in store.lines(self.clock.time())
            ]
        finally:
            store.close()


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def dsn(sent=None, *, to=GONE, status="5.1.1", words="550 5.1.1 User unknown", action="failed"):
    """A bounce for `to`; with the message that was sent, if it is given."""
    returned = sent.decode() if sent else "Subject: news\r\n\r\n"
    text = (
        f"From: MAILER-DAEMON@far.example\nSubject: failure\nContent-Type: multipart/report; boundary=b\n\n--b\n\nSorry\n--b\n"
        f"Content-Type: message/delivery-status\n\nReporting-MTA: dns; far.example\n\nFinal-Recipient: rfc822; {to}\n"
        f"Action: {action}\nStatus: {status}\nDiagnostic-Code: smtp; {words}\n\n--b\nContent-Type: message/rfc822\n\n"
    ).replace("\n", "\r\n")
    return (text + returned + "\r\n--b--\r\n").encode()


async def test_out_and_back_and_nobody_writes_to_them_again(world):
    out = await world.send()
    verp = str(out.sent.envelope.sender)
    assert verp.startswith("b+")
    assert verp.endswith("@bounce.example.net")
    (field,) = Message.from_bytes(out.sent.data).all(HEADER)
    assert field.value != "forged"
    back = await world.bounce(dsn(out.sent.data), verp)
    assert back.reply.ok
    assert back.sent is None
    assert world.asked == ["robot@example.net"]
    assert world.lines() == [(GONE, "global", "hard", None)]
    hit = [one for one in back.mail.findings if one.result == "hit"]
    assert [one.props for one in hit] == [{"kind": "hard", "rule": "no-such-mailbox", "recipient": GONE}]
    assert str((await world.send()).reply).startswith("550 5.7.1")


async def test_the_signed_recipient_counts_and_not_the_one_that_the_bounce_names(world):
    out = await world.send()
    await world.bounce(dsn(to="victim@example.com"), str(out.sent.envelope.sender))
    assert [line[0] for line in world.lines()] == [GONE]


async def test_several_recipients_are_in_no_token_and_nobody_is_suppressed_by_words(world):
    out = await world.send(GONE, "other@far.example")
    back = await world.bounce(dsn(out.sent.data), str(out.sent.envelope.sender))
    assert back.reply.ok
    assert world.lines() == []


async def test_unless_the_admin_says_so(tmp_path):
    world = World(tmp_path, unsigned=True)
    out = await world.send(GONE, "other@far.example")
    await world.bounce(dsn(out.sent.data), str(out.sent.envelope.sender))
    assert [line[0] for line in world.lines()] == [GONE]


async def test_bounces_that_are_counted(tmp_path):
    world = World(tmp_path, count=2)
    full = {"status": "5.2.2", "words": "552 mailbox full"}
    first, second = [(await world.send()).sent for _ in range(2)]
    for _ in range(2):
        await world.bounce(dsn(first.data, **full), str(first.envelope.sender))
    assert world.lines() == []
    await world.bounce(dsn(second.data, **full), str(second.envelope.sender))
    assert world.lines() == [(GONE, "global", "mailbox-full", NOW + 30 * DAY)]


async def test_a_delay_and_an_automatic_answer_suppress_nobody(world):
    out = await world.send()
    verp = str(out.sent.envelope.sender)
    assert (await world.bounce(dsn(action="delayed", status="4.4.1"), verp)).sent is None
    away = b"From: gone@far.example\r\nSubject: Automatic reply: news\r\n\r\nAway.\r\n"
    assert (await world.bounce(away, verp, sender=GONE)).sent is None
    assert world.lines() == []


async def test_what_is_not_understood_is_delivered_and_listed(world):
    verp = str((await world.send()).sent.envelope.sender)
    back = await world.bounce(dsn(status="5.0.0", words="599 qwertz"), verp)
    assert [str(one.address) for one in back.sent.recipients] == ["robot@example.net"]
    letter = b"From: gone@far.example\r\nSubject: Hello\r\n\r\nThanks!\r\n"
    assert (await world.bounce(letter, verp, sender=GONE)).sent is not None
    store = SqliteList(world.folder / "suppression.db")
    assert [(row[0], row[3]) for row in store.unknown()] == [("599 qwertz", 1)]
    store.close()


@pytest.mark.parametrize(
    ("deliver", "known", "unknown"), [("none", False, False), ("unknown", False, True), ("all", True, True)]
)
async def test_which_bounces_are_delivered(tmp_path, deliver, known, unknown):
    world = World(tmp_path, deliver=deliver)
    verp = str((await world.send()).sent.envelope.sender)
    for words, delivered in (("550 User unknown", known), ("599 qwertz", unknown)):
        back = await world.bounce(dsn(status="5.0.0", words=words), verp)
        assert back.reply.ok
        assert (back.sent is not None) is delivered


async def test_other_recipients_of_a_bounce_still_get_it(world):
    verp = str((await world.send()).sent.envelope.sender)
    back = await world.bounce(dsn(), verp, "admin@example.net")
    assert [str(one.address) for one in back.sent.recipients] == ["robot@example.net", "admin@example.net"]
    assert [line[0] for line in world.lines()] == [GONE]


async def test_bad_addresses(world):
    verp = str((await world.send()).sent.envelope.sender)
    changed = verp.replace("b+", "b+a", 1)[:2] + ("b" if verp[2] == "a" else "a") + verp[3:]
    back = await world.bounce(dsn(), changed)
    assert (
        str(back.reply)
        == "550 5.7.1 No bounces to this address: the bounce address was not made here, or was changed"
    )
    assert str((await world.bounce(dsn(), "b+x@bounce.example.net")).reply).endswith(
        "not a complete bounce address"
    )
    world.clock.advance(31 * DAY)
    assert "was good for 30 days" in str((await world.bounce(dsn(), verp)).reply)
    assert world.lines() == []


async def test_what_is_not_traced(world):
    for sender in ("a@other.example", ""):
        out = await world.send(sender=sender)
        assert str(out.sent.envelope.sender) == sender
        assert Message.from_bytes(out.sent.data).header(HEADER) == "forged"
    inbound = await world.bounce(NEWS, "a@example.net", sender=SENDER)
    assert str(inbound.sent.envelope.sender) == SENDER


@pytest.mark.parametrize(
    ("options", "scope"),
    [
        ({"scope": "tenant", "tenant": "login"}, "tenant:shop"),
        ({"scope": "campaign", "campaign": "sender-detail"}, "campaign:spring"),
        ({"scope": "campaign", "tenant": "login"}, "tenant:shop"),
        ({"scope": "tenant"}, "global"),
        ({"tenant": "login", "campaign": "sender-detail"}, "global"),
    ],
)
async def test_scopes(tmp_path, options, scope):
    world = World(tmp_path, **options)
    out = await world.send(identity="shop")
    await world.bounce(dsn(out.sent.data), str(out.sent.envelope.sender))
    assert [line[:2] for line in world.lines()] == [(GONE, scope)]
    assert (await world.send(identity="shop")).reply.code == 550
    assert (await world.send(identity="other", sender="news+autumn@example.net")).reply.ok is (
        scope != "global"
    )


def complaint(returned):
    text = (
        "From: fbl@isp.example\nSubject: FW\nContent-Type: multipart/report; report-type=feedback-report; boundary=f\n\n--f\n\n"
        "x\n--f\nContent-Type: message/feedback-report\n\nFeedback-Type: abuse\nOriginal-Rcpt-To: victim@example.com\n--f\n"
        "Content-Type: message/rfc822\n\n"
    ).replace("\n", "\r\n")
    return text.encode() + returned + b"\r\n--f--\r\n"


async def test_complaints_count_with_a_token_of_ours_alone(tmp_path):
    world = World(tmp_path, complaints=["fbl@example.net"])
    out = await world.send()
    for returned in (
        b"Subject: x\r\n\r\n",
        out.sent.data.replace(b"=test", b"=tost").replace(b"Trace: ", b"Trace: a"),
    ):
        back = await world.bounce(complaint(returned), "fbl@example.net", sender="fbl@isp.example")
        assert back.sent is not None
        assert world.lines() == []
    back = await world.bounce(complaint(out.sent.data), "FBL@example.net", sender="fbl@isp.example")
    assert back.sent is not None
    assert world.lines() == [(GONE, "global", "complaint", None)]


async def test_text_bounces_name_their_recipient_by_the_address(world):
    verp = str((await world.send()).sent.envelope.sender)
    for text in (EXIM, DSN):
        octets = text.format(original="").replace("\n", "\r\n").encode()
        assert (await world.bounce(octets, verp)).reply.ok
        assert [line[0] for line in world.lines()] == [GONE]


async def test_a_list_that_fails_is_a_451_and_the_bounce_comes_again(world):
    verp = str((await world.send()).sent.envelope.sender)
    driver = await world.driver(())
    driver.services.pipeline.entries[1].plugin._store._writer.close()
    delivery = await driver.deliver(dsn(), sender="", recipients=(verp,))
    assert delivery.reply.code == 451
    assert delivery.sent is None


def app(folder, domains=frozenset({".example.net"})):
    return App(
        "mx", FakeResolver(), FakeClock(NOW), folder, domains, read_yaml=read_file, suppression=SqliteList
    )


async def test_what_start_refuses(tmp_path):
    (tmp_path / "rules.yaml").write_text("version: 1\nrules: [{name: a}]\n")
    for options, error in (
        ({"domain": "other.example"}, ValueError),
        ({"secrets": [{"env": "SHORT"}]}, SecretError),
        ({"rules": "rules.yaml"}, RuleFault),
        ({"rules": "missing.yaml"}, FileNotFoundError),
    ):
        with pytest.raises(error):
            await Bounces(settings(**options)).startup(app(tmp_path))
    plugin = Bounces(settings())
    await plugin.startup(app(tmp_path))
    await plugin.shutdown()


def test_check_reads_the_rules(tmp_path):
    (tmp_path / "bad.yaml").write_text("version: 1\nrules: [\n")
    (tmp_path / "good.yaml").write_text(default_rules().read_text())
    found = {
        name: [
            mistake.at
            for mistake in Bounces(settings(rules=name)).check(Setup(tmp_path, read_yaml=read_file))
        ]
        for name in ("bad.yaml", "good.yaml", "missing.yaml")
    }
    assert found == {"bad.yaml": [("rules",)], "good.yaml": [], "missing.yaml": [("rules",)]}
    assert list(Bounces(settings()).check(Setup(tmp_path))) == []


def test_settings_that_make_no_sense():
    for options in ({"mailbox": "robot"}, {"senders": []}, {"prefix": "B+"}, {"secrets": []}, {"count": 0}):
        with pytest.raises(ValidationError):
            settings(**options)
