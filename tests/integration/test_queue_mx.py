"""Delivery by MX through a real name server with a zone of the test's own."""

from collections.abc import AsyncIterator

import pytest
from tests.integration.test_queue import MESSAGE, configure, send, until_empty
from tests.servers.relay import Relay
from tests.servers.zones import ZoneServer

from relayproxy.testing.upstream import UpstreamSink

pytestmark = pytest.mark.servers

ZONE = (
    "example.net. MX 10 first.test.",
    "example.net. MX 20 second.test.",
    "first.test. A 127.0.0.2",
    "second.test. A 127.0.0.3",
    "implicit.test. A 127.0.0.3",
    "example.com. MX 0 .",
    "loop.test. MX 10 relay.test.",
    "sender.test. MX 5 second.test.",
)


@pytest.fixture
async def names() -> AsyncIterator[ZoneServer]:
    server = ZoneServer(*ZONE)
    await server.start()
    yield server
    await server.stop()


def by_mx(relay: Relay, names: ZoneServer, port: int) -> None:
    configure(
        relay,
        "",
        upstreams={"sink": {"mx": True, "mx_port": port, "tls": "off"}},
        dns={"servers": [f"127.0.0.1:{names.port}"]},
    )


async def test_each_domain_goes_to_its_own_servers(relay: Relay, names: ZoneServer):
    async with (
        UpstreamSink(host="127.0.0.2") as first,
        UpstreamSink(host="127.0.0.3", port=first.port) as second,
    ):
        by_mx(relay, names, first.port)
        await relay.start()
        heard = await send(
            relay, recipients=("a@example.net", "b@implicit.test", "c@EXAMPLE.net", "d@sender.test")
        )
        assert heard.code == 250
        await first.until_messages(1)
        await second.until_messages(2)
        assert first.messages[0].recipients == ("a@example.net", "c@EXAMPLE.net")
        assert {message.recipients for message in second.messages} == {
            ("b@implicit.test",),
            ("d@sender.test",),
        }
        assert first.messages[0].content.endswith(MESSAGE)
        await until_empty(relay)


async def test_the_second_server_has_it_when_the_first_is_down(relay: Relay, names: ZoneServer):
    async with UpstreamSink(host="127.0.0.3") as second:
        by_mx(relay, names, second.port)
        await relay.start()
        assert (await send(relay, recipients=("a@example.net",))).code == 250
        await second.until_messages(1)
        await until_empty(relay)


@pytest.mark.parametrize(
    ("recipient", "status"),
    [("a@example.com", "5.1.10"), ("a@nowhere.test", "5.1.2"), ("a@loop.test", "5.4.6")],
)
async def test_what_no_server_takes_comes_back(relay: Relay, names: ZoneServer, recipient: str, status: str):
    async with UpstreamSink(host="127.0.0.3") as second:
        by_mx(relay, names, second.port)
        await relay.start()
        assert (await send(relay, sender="ana@sender.test", recipients=(recipient,))).code == 250
        await second.until_messages(1)
        assert second.messages[0].recipients == ("ana@sender.test",)
        assert f"Status: {status}\r\n".encode() in second.messages[0].content
        await until_empty(relay)
