"""dnsbl, score, greylist and reputation in the running proxy, with a name server that answers over the wire."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.servers.client import Answer, Client
from tests.servers.names import Names, name_server
from tests.servers.relay import LISTENER, Relay

from relayproxy.testing.upstream import UpstreamSink

LISTED, ERROR, CLEAN = "198.51.99.2", "198.51.99.3", "198.51.99.4"
RAW = b"From: a@example.org\r\nSubject: Hello\r\nX-Spam-Flag: NO\r\n\r\nSee http://www.bad.example/\r\n"


@pytest.fixture
async def names() -> AsyncIterator[Names]:
    async with name_server() as server:
        server.records = {
            "2.99.51.198.ip.lists.test": ["127.0.0.2"],
            "3.99.51.198.ip.lists.test": ["127.255.255.254"],
            "bad.example.uri.lists.test": ["127.0.0.8"],
        }
        yield server


async def start(relay: Relay, sink: UpstreamSink, names: Names, pipeline: list[object]) -> None:
    relay.configure(
        sink.address,
        listeners=[
            {
                "name": LISTENER,
                "listen": f"127.0.0.1:{relay.port}",
                "xclient": {"networks": ["127.0.0.1/32"]},
            }
        ],
        relay={"domains": ["example.net"]},
        dns={"servers": [f"127.0.0.1:{names.port}"], "timeout": "1s"},
        state={"url": f"sqlite://{relay.folder}/state.db"},
        pipeline=pipeline,
    )
    await relay.start()


async def send(relay: Relay, ip: str, raw: bytes = RAW) -> Answer:
    async with await Client.open(relay.port) as client:
        assert (await client.say(f"XCLIENT ADDR={ip}")).code == 220
        await client.ehlo()
        return await client.message(raw, sender="a@example.org", recipients=["b@example.net"])


def dnsbl(action: str = "score") -> dict[str, object]:
    lists = [
        {"zone": "ip.lists.test", "action": action},
        {"zone": "uri.lists.test", "of": "uri", "weight": 2.5},
    ]
    return {"dnsbl": {"lists": lists}}


async def test_a_list_that_refuses_and_one_that_refused_us(relay: Relay, names: Names):
    async with UpstreamSink() as sink:
        await start(relay, sink, names, [dnsbl("reject"), "score"])
        answer = await send(relay, LISTED)
        assert (answer.code, answer.text) == (554, f"5.7.1 Client {LISTED} is listed by ip.lists.test")
        assert (await send(relay, ERROR)).code == 250
        assert any("which is an error and no listing" in str(event) for event in relay.events)
        assert (await send(relay, CLEAN)).code == 250
        content = sink.messages[-1].content
        assert b"X-Spam-Score: 2.5\r\n" in content
        assert b"tests=dnsbl.hit(uri.lists.test)=+2.5\r\n" in content
        assert b"X-Spam-Flag" not in content


async def test_a_name_server_that_says_nothing_delays_and_stops_no_mail(relay: Relay, names: Names):
    async with UpstreamSink() as sink:
        await start(relay, sink, names, [dnsbl("reject"), "score"])
        names.silent = True
        assert (await send(relay, LISTED)).code == 250
        assert b"X-Spam-Score: 0.0\r\n" in sink.messages[-1].content
        names.silent = False


async def test_a_doubtful_message_waits_and_a_bad_one_is_remembered(relay: Relay, names: Names):
    pipeline = [
        dnsbl(),
        {"reputation": {"bad": 4.0, "doubt": 1.0}},
        {"score": {"thresholds": {"greylist": 5, "mark": 5, "reject": None}, "subject": "[SPAM]"}},
        {"greylist": {"delay": "1s", "passes": 0}},
    ]
    async with UpstreamSink() as sink:
        await start(relay, sink, names, pipeline)
        answer = await send(relay, LISTED)
        assert (answer.code, answer.text.partition(" id=")[0]) == (
            451,
            "4.7.1 Greylisted, try again in 1 second",
        )
        assert sink.messages == []
        async with asyncio.timeout(30):
            while (answer := await send(relay, LISTED)).code == 451:
                assert sink.messages == []
        assert answer.code == 250
        content = sink.messages[-1].content
        assert b"X-Spam-Flag: YES\r\n" in content
        assert b"Subject: [SPAM] Hello\r\n" in content
        assert (await send(relay, LISTED)).code == 250
        assert b"reputation.hit=+1.0" in sink.messages[-1].content
