"""Mail of our own takes the way of all mail: a route, before_forward, the next hop's answer."""

from relayproxy.api import AddHeader, Envelope, Message, Origin, Plugin, Recipient, hook
from relayproxy.core.originate import originate
from relayproxy.core.policy import Route
from relayproxy.model.address import NULL_SENDER
from relayproxy.model.reply import Reply
from relayproxy.testing.mail import make_address
from relayproxy.testing.session import SessionDriver, Standin

RAW = b"From: a@example.org\r\n\r\nbody\r\n"


class Marks(Plugin):
    name = "marks"
    seen = ()

    @hook
    def before_forward(self, mail, route):
        Marks.seen = (mail.origin, mail.direction, mail.client.trusted, route)
        return AddHeader("X-Mark", "yes")


class Broken(Plugin):
    name = "broken"

    @hook
    def before_forward(self, mail):
        raise ValueError("no key")


async def sent(driver, to="b@example.net"):
    envelope = Envelope(NULL_SENDER, (Recipient(make_address(to)),))
    return await originate(driver.services, "x.1", envelope, Message.from_bytes(RAW), Origin.REPORT)


async def test_it_is_rewritten_and_handed_on():
    driver = SessionDriver(Marks)
    assert (await sent(driver)).ok
    (there,) = driver.upstream.sent
    assert there.lead.startswith(b"Received: by mx.example.net (relayproxy) id x.1;")
    assert there.data == there.lead + b"X-Mark: yes\r\n" + RAW
    assert driver.upstream.aborted == 0
    assert Marks.seen == (Origin.REPORT, "outbound", True, driver.upstream.name)


async def test_a_fault_of_a_plugin_keeps_it_here():
    driver = SessionDriver(Broken)
    assert (await sent(driver)).code == 451
    assert driver.upstream.sent == []


async def test_without_a_route_it_goes_nowhere():
    driver = SessionDriver(routes=(Route("one", "upstream", recipient_domains=frozenset({"example.com"})),))
    assert (await sent(driver)).code == 550


async def test_the_next_hops_refusals_are_the_answer():
    no = Reply(550, "5.1.1", "nobody")
    driver = SessionDriver(upstream=Standin(answers={"b@example.net": no}))
    assert await sent(driver) == no
    assert driver.upstream.aborted == 1
    later = Reply(451, "4.3.0", "later")
    driver = SessionDriver(upstream=Standin(final=later))
    assert await sent(driver) == later
