"""The upstream goes away after every octet of each of its replies, in both modes: told is what was taken, and no more."""

import re
from collections import Counter

import pytest
from tests.integration.test_queue import configure, until_empty
from tests.servers.client import Client, HangUpError
from tests.servers.relay import Relay

from relayproxy.testing.upstream import Fault, Say, Step, UpstreamSink

REPLIES = {
    Step.BANNER: b"220 sink.example.net ESMTP\r\n",
    Step.EHLO: b"250-sink.example.net\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
    Step.MAIL: b"250-2.1.0 the sender\r\n250 2.1.0 is fine\r\n",
    Step.RCPT: b"250 2.1.5 so is this one\r\n",
    Step.DATA: b"354 go on\r\n",
    Step.DOT: b"250-2.0.0 taken\r\n250 2.0.0 as 4711\r\n",
}


def _cuts(step: Step) -> range:
    return range(len(REPLIES[step]))


def _content(name: str) -> bytes:
    return b"From: a@example.org\r\nSubject: cut\r\nX-Name: %s\r\n\r\nbody\r\n" % name.encode()


def _taken(sink: UpstreamSink) -> Counter[str]:
    return Counter(
        found[1].decode()
        for message in sink.messages
        if (found := re.search(rb"X-Name: (\S+)", message.content))
    )


@pytest.mark.parametrize("step", REPLIES)
async def test_pass_through(relay: Relay, step: Step):
    async with UpstreamSink() as sink:
        relay.configure(
            sink.address,
            upstreams={
                "sink": {
                    "address": sink.address,
                    "breaker": {"failures": 10_000, "retry": "1ms"},
                    "pool": {"reuse": 1},
                }
            },
        )
        await relay.start()
        for at in _cuts(step):
            sink.plan.add(Fault(step, Say(REPLIES[step][:at], close=True), times=0))
            try:
                async with await Client.open(relay.port) as client:
                    heard = await client.message(_content(f"cut{at}"))
            except HangUpError:
                heard = None
            sink.plan.clear()
            assert heard is not None, f"no reply at all, cut after {at} octets"
            assert heard.kind == 4, (at, heard)
            if step is not Step.DOT:
                assert _taken(sink)[f"cut{at}"] == 0
            async with await Client.open(relay.port) as client:
                heard = await client.message(_content(f"whole{at}"))
            assert heard.code == 250, (at, heard)
            assert _taken(sink)[f"whole{at}"] == 1


async def test_queue_within_a_transaction(relay: Relay):
    """Each cut happens once, to whichever attempt comes first; all is delivered, and doubled only at the dot."""
    steps = (Step.MAIL, Step.RCPT, Step.DATA, Step.DOT)
    cuts = [(step, at) for step in steps for at in _cuts(step)]
    async with UpstreamSink() as sink:
        for step, at in cuts:
            sink.plan.add(Fault(step, Say(REPLIES[step][:at], close=True)))
        configure(relay, sink.address, route={"queue": {"retry": ["50ms"], "expire": "1h"}})
        await relay.start()
        async with await Client.open(relay.port) as client:
            for number in range(len(cuts)):
                assert (await client.message(_content(str(number)))).code == 250
        await until_empty(relay)
        taken = _taken(sink)
        assert set(taken) == {str(number) for number in range(len(cuts))}
        # Doubled is at most what the sink took while its answer was cut.
        assert sum(taken.values()) - len(taken) <= len(_cuts(Step.DOT))
        assert all(sink.plan.upcoming(step) is None for step in steps)
        assert {message.recipients for message in sink.messages} == {("b@example.net",)}, "a bounce"


async def test_queue_before_a_transaction(relay: Relay):
    """Routes of their own, as an upstream that can't be reached is left alone for a while."""
    cuts = [(step, at) for step in (Step.BANNER, Step.EHLO) for at in _cuts(step)]
    async with UpstreamSink() as sink:
        for step, at in cuts:
            sink.plan.add(Fault(step, Say(REPLIES[step][:at], close=True)))
        names = [f"up{number}" for number in range(len(cuts))]
        configure(
            relay,
            sink.address,
            upstreams={name: {"address": sink.address} for name in names},
            routes=[
                {
                    "upstream": name,
                    "delivery": "queue",
                    "recipient_domains": [f"{name}.example"],
                    "queue": {"retry": ["50ms"], "expire": "1h"},
                }
                for name in names
            ],
        )
        await relay.start()
        async with await Client.open(relay.port) as client:
            for name in names:
                heard = await client.message(_content(name), recipients=(f"b@{name}.example",))
                assert heard.code == 250
        await until_empty(relay)
        assert _taken(sink) == Counter(names)
        assert all(sink.plan.upcoming(step) is None for step, _ in cuts)
