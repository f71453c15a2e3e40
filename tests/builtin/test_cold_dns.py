"""What a message costs when DNS knows nothing yet: the longest chain of questions that depend on each other.

Every answer takes 50 ms of a clock that only the test moves, so times are counted and not measured.
"""

from collections.abc import Mapping
from typing import Any

import pytest
from tests.mailauth.dkim_craft import NOW, RAW, RSA, craft

from relayproxy.api import Answer, App, DnsStatus, Mail, Plugin, Settings, hook
from relayproxy.builtin.dkim_verify import DkimVerify
from relayproxy.builtin.dmarc import Dmarc
from relayproxy.builtin.iprev import Iprev
from relayproxy.builtin.spf import SpfPlugin
from relayproxy.resolver import Budgeted, CachingResolver
from relayproxy.testing import FakeClock, FakeResolver
from relayproxy.testing.session import Delivery, SessionDriver

DELAY = 0.05
ZONE: dict[tuple[str, str], Any] = {
    ("1.2.0.192.in-addr.arpa", "PTR"): "mx.example.org",
    ("mx.example.org", "A"): "192.0.2.1",
    ("example.org", "TXT"): "v=spf1 include:a.example.org -all",
    ("a.example.org", "TXT"): "v=spf1 include:b.example.org -all",
    ("b.example.org", "TXT"): "v=spf1 ip4:192.0.2.1 -all",
    ("client.example.org", "TXT"): "v=spf1 ip4:192.0.2.1 -all",
    ("s1._domainkey.example.org", "TXT"): RSA.record(),
    ("_dmarc.example.org", "TXT"): "v=DMARC1; p=reject",
    ("1.2.0.192.one.test", "A"): DnsStatus.NXDOMAIN,
    ("1.2.0.192.two.test", "A"): "127.0.0.2",
}


class List(Plugin[Settings]):
    """A DNS list as a plugin of the test's own."""

    after = ()
    zone = ""

    @hook
    def startup(self, app: App) -> None:
        self._resolver = app.resolver

    @hook(background=True)
    async def mail(self, mail: Mail) -> None:
        answer = await self._resolver.query(f"1.2.0.192.{self.zone}", "A")
        mail.note("dnsbl", "hit" if answer.records else "miss", zone=self.zone)


class One(List):
    name = "one"
    zone = "one.test"


class Two(List):
    name = "two"
    zone = "two.test"


class _Slow:
    """In the place of the stub that puts questions over the wire."""

    def __init__(self, resolver: FakeResolver) -> None:
        self._resolver = resolver

    async def ask(self, name: str, rdtype: str) -> Answer:
        return await self._resolver.query(name, rdtype)


class Cold:
    """A session whose resolver has an empty cache and a slow server behind it."""

    def __init__(self, zone: Mapping[tuple[str, str], Any], *plugins: Any) -> None:
        self.clock = FakeClock(NOW)
        self.server = FakeResolver(zone, clock=self.clock, delay=DELAY)
        resolver = CachingResolver([("127.0.0.1", 1)], clock=self.clock)
        resolver._stub = _Slow(self.server)
        self._session = SessionDriver(
            *plugins, domains=["example.net"], ip="192.0.2.1", resolver=Budgeted(resolver), clock=self.clock
        )

    async def send(self, raw: bytes, sender: str = "a@example.org") -> tuple[Delivery, int]:
        """Send a message; return what became of it, and how many answers one after the other it took."""
        begun = self.clock.monotonic()
        delivery = await self.clock.run(self._session.deliver(raw, sender=sender))
        return delivery, round((self.clock.monotonic() - begun) / DELAY)


def results(delivery: Delivery) -> set[tuple[str, str]]:
    return {(finding.method, finding.result) for finding in delivery.mail.findings}


async def test_a_message_takes_as_long_as_its_longest_chain():
    cold = Cold(ZONE, Iprev, SpfPlugin, DkimVerify, One, Two, Dmarc)
    delivery, rounds = await cold.send(craft())
    assert delivery.reply.code == 250
    assert results(delivery) == {
        ("iprev", "pass"),
        ("spf", "pass"),
        ("dkim", "pass"),
        ("dnsbl", "miss"),
        ("dnsbl", "hit"),
        ("dmarc", "pass"),
    }
    assert rounds == 3  # SPF's includes; all else is asked meanwhile
    assert len(cold.server.asked) == len(set(cold.server.asked)) == 10
    _, rounds = await cold.send(craft())
    assert rounds == 0


@pytest.mark.parametrize(
    ("plugins", "rounds"),
    [((DkimVerify,), 1), ((Dmarc,), 1), ((DkimVerify, Dmarc), 1), ((SpfPlugin, Dmarc), 3), ((Iprev,), 2)],
)
async def test_each_check_takes_its_own_chain(plugins: tuple[Any, ...], rounds: int):
    assert (await Cold(ZONE, *plugins).send(craft()))[1] == rounds


async def test_the_walk_for_a_signer_above_the_author_is_done_meanwhile():
    zone = {name: value for name, value in ZONE.items() if name[0] != "_dmarc.example.org"}
    zone["_dmarc.news.example.org", "TXT"] = "v=DMARC1; p=reject"
    zone["_dmarc.example.org", "TXT"] = "v=DMARC1; p=none"
    cold = Cold(zone, SpfPlugin, DkimVerify, Dmarc)
    raw = craft(RAW.replace(b"joe@example.org", b"joe@news.example.org"))
    delivery, rounds = await cold.send(raw)
    assert ("dmarc", "pass") in results(delivery)
    assert rounds == 3


async def test_an_author_that_is_left_alone_is_not_asked_about():
    cold = Cold(ZONE, Dmarc(Dmarc.settings(domains={"example.org": "ignore"})))
    _, rounds = await cold.send(craft())
    assert rounds == 0
    assert cold.server.asked == []


async def test_an_author_that_can_not_be_read_is_not_asked_about():
    cold = Cold(ZONE, Dmarc)
    delivery, rounds = await cold.send(b"From: a@example.org, b@example.com\r\n\r\nx\r\n")
    assert delivery.reply.code == 550
    assert rounds == 0
