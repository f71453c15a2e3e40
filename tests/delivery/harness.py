"""An upstream of relayproxy's against a sink in the same process, with its log and its numbers at hand."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.outbox import Outbox
from relayproxy.delivery.connect import Connection, connect
from relayproxy.delivery.settings import Address, Timeouts, UpstreamSettings
from relayproxy.delivery.transaction import SmtpTransaction
from relayproxy.delivery.upstream import Upstream
from relayproxy.model.client import Client
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.mail import Mail
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.mail import make_address
from relayproxy.testing.upstream import Capabilities, UpstreamSink

LEAD = b"Received: from here\r\n"
MESSAGE = Message.from_bytes(b"Subject: one\r\n\r\n.dot\r\nbody\r\n")
LOST = [Reply(451, "4.4.1", "Lost upstream up, try again later")]
QUICK = Timeouts(connect=5.0, command=5.0, data=5.0, final=5.0)


def a_client(number: int = 1, **changes: Any) -> Client:
    """One client of many; each number is another connection from another address."""
    facts = {
        "id": f"c{number}",
        "listener": "main",
        "ip": f"192.0.2.{number}",
        "port": 40000 + number,
        "peer": f"192.0.2.{number}",
        "helo": f"c{number}.example",
        "proto": "ESMTP",
        "ptr": f"ptr{number}.example",
        "local_ip": "203.0.113.25",
        "local_port": 25,
    }
    return Client(**(facts | changes))


def an_envelope(*recipients: str, sender: str = "a@example.org", **options: Any) -> Envelope:
    names = recipients or ("b@example.net",)
    return Envelope(make_address(sender), tuple(Recipient(make_address(name)) for name in names), **options)


def a_mail(client: Client | None = None, envelope: Envelope | None = None) -> Mail:
    """A mail whose content has yet to come."""
    return Mail("id1", client or a_client(), envelope or an_envelope(), Message(b""))


def place_of(sink: UpstreamSink) -> Address:
    return Address(path=str(sink.path)) if sink.path else Address(sink.host, sink.port)


def settings_for(*sinks: UpstreamSink, **changes: Any) -> UpstreamSettings:
    """How to reach the sinks; `changes` are fields of the settings."""
    usual: dict[str, Any] = {
        "protocol": "lmtp" if sinks and sinks[0].lmtp else "smtp",
        "addresses": tuple(place_of(sink) for sink in sinks),
        "timeouts": QUICK,
    }
    return UpstreamSettings(name="up", hostname="relay.test", **(usual | changes))


THREE = an_envelope("b@example.net", "c@example.net", "d@example.net")
KINDS = {
    "plain": Capabilities(pipelining=False),
    "pipelining": Capabilities(),
    "chunking": Capabilities(chunking=True),
    "chunking alone": Capabilities(pipelining=False, chunking=True),
}


def codes(replies: list[Reply]) -> list[int]:
    return [reply.code for reply in replies]


class Hop:
    """An Upstream that runs; `log` holds its events as data, `clock` is its time."""

    def __init__(self, settings: UpstreamSettings, choose: Callable[[], float] | None) -> None:
        self.log: list[dict[str, Any]] = []
        self.metrics = Metrics()
        self.clock = FakeClock()
        self.outbox = Outbox(asyncio.get_running_loop().call_soon)
        log = Log(lambda line: self.log.append(json.loads(line)), self.clock.time)
        more = {"choose": choose} if choose else {}
        self.upstream = Upstream(
            settings,
            log=log,
            metrics=self.metrics,
            monotonic=self.clock.monotonic,
            outbox=self.outbox,
            **more,
        )

    def state(self, name: str) -> float:
        """How many connections are busy or idle."""
        return self.metrics.cell("upstream_connections", "up", name).value

    def connects(self, result: str) -> float:
        return self.metrics.cell("upstream_connects_total", "up", result).value

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.log if event["event"] == name]

    def begin(
        self, client: Client | None = None, envelope: Envelope | None = None, size: int = 0
    ) -> SmtpTransaction:
        return self.upstream.begin(a_mail(client, envelope), size)

    async def deliver(
        self,
        client: Client | None = None,
        envelope: Envelope | None = None,
        message: Message = MESSAGE,
        size: int = 0,
    ) -> tuple[list[Reply], list[Reply]]:
        """A whole transaction; the replies to the recipients, and to the content where one was accepted."""
        envelope = envelope or an_envelope()
        transaction = self.begin(client, envelope, size)
        heard = await transaction.recipients(envelope.recipients)
        if not any(reply.ok for reply in heard):
            transaction.abort()
            return heard, []
        return heard, await transaction.send(LEAD, message)


@asynccontextmanager
async def a_hop(
    *sinks: UpstreamSink, choose: Callable[[], float] | None = None, **changes: Any
) -> AsyncIterator[Hop]:
    """An upstream for these sinks; in the end nothing may be counted as busy, and nothing stays open."""
    hop = Hop(settings_for(*sinks, **changes), choose)
    try:
        yield hop
        assert hop.state("busy") == 0
    finally:
        hop.upstream.close()
        hop.outbox.flush()
        for sink in sinks:
            await sink.until(lambda sink=sink: sink.open_sessions == 0)
    assert hop.state("idle") == 0
    assert hop.upstream._open == 0


@asynccontextmanager
async def connected(
    sink: UpstreamSink, client: Client | None = None, **changes: Any
) -> AsyncIterator[Connection]:
    """A connection to the sink; it is closed in the end, and the sink has no session left."""
    settings = settings_for(sink, **changes)
    outbox = Outbox(asyncio.get_running_loop().call_soon)
    try:
        connection = await connect(settings, settings.addresses[0], client, ("key",), outbox)
        yield connection
        connection.wire.quit()
        outbox.flush()
    finally:
        sink.release()
        await sink.until(lambda: sink.open_sessions == 0)


async def sent(hop: Hop, number: int = 1) -> bool:
    """Whether a message of client `number` went through."""
    return codes((await hop.deliver(a_client(number)))[1]) == [250]
