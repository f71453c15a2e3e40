"""Sources, pools, warm-up and shaping at the outer contract: a real process, and sinks that see where mail comes from."""

import itertools
import json
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.integration.test_queue import MESSAGE, QUICK, parts, spool, until_empty
from tests.integration.test_queue import send as send_same
from tests.servers.process import free_port, wait_for
from tests.servers.relay import Relay
from tests.servers.zones import ZoneServer

from relayproxy.model.queued import share_key
from relayproxy.testing.upstream import Fault, FaultPlan, Step, UpstreamSink, answer

pytestmark = pytest.mark.servers

TODAY = time.strftime("%Y-%m-%d", time.gmtime())
BLOCKED = answer(550, "5.7.1 Your IP is listed at zen.spamhaus.example")
NUMBERS = itertools.count()


async def send(relay: Relay, **arguments: Any):
    """Send a message that is like no other, as a resend would not go out twice."""
    return await send_same(relay, content=MESSAGE + b"%d\r\n" % next(NUMBERS), **arguments)


async def event_of(relay: Relay, name: str) -> dict[str, Any]:
    """Wait for the first event of that name."""
    await relay.until_logged(name)
    return next(event for event in relay.events if event["event"] == name)


def bulk(relay: Relay, upstreams: dict[str, Any], *, route: dict[str, Any], **changes: Any) -> None:
    """Routes over these upstreams, behind a queue; counters in a state of the test's own."""
    usual = {"delivery": "queue", "queue": QUICK}
    relay.configure(
        "",
        upstreams={name: {"tls": "off", **one} for name, one in upstreams.items()},
        routes=[{**usual, **route}],
        spool=spool(relay),
        state={"url": f"sqlite://{relay.folder}/state.db"},
        **changes,
    )


def peers(*sinks: UpstreamSink) -> Counter[str]:
    """How many recipients came from where."""
    return Counter(
        {
            ip: sum(len(sunk.rcpts) for sink in sinks for sunk in sink.messages if sunk.peer.ip == ip)
            for ip in {sunk.peer.ip for sink in sinks for sunk in sink.messages}
        }
    )


async def test_all_sources_are_used_and_each_says_its_name(relay: Relay):
    async with UpstreamSink() as sink:
        sources = [{"address": "127.0.0.3", "hostname": "three.test", "weight": 3}, "127.0.0.2"]
        bulk(relay, {"sink": {"address": sink.address, "sources": sources}}, route={"upstream": "sink"})
        await relay.start()
        for _ in range(40):
            assert (await send(relay)).code == 250
        await sink.until_messages(40)
        found = peers(sink)
        assert set(found) == {"127.0.0.2", "127.0.0.3"}
        assert found["127.0.0.3"] > found["127.0.0.2"]
        names = {(sunk.peer.ip, sunk.peer.helo) for sunk in sink.messages}
        assert names == {("127.0.0.2", b"relay.test"), ("127.0.0.3", b"three.test")}
        await until_empty(relay)


async def test_each_source_reaches_the_addresses_of_its_kind(relay: Relay):
    async with UpstreamSink() as four, UpstreamSink(host="::1") as six:
        upstream = {"addresses": [four.address, f"[::1]:{six.port}"], "sources": ["127.0.0.2", "::1"]}
        bulk(relay, {"sink": upstream}, route={"upstream": "sink"})
        await relay.start()
        for _ in range(20):
            assert (await send(relay)).code == 250
        await wait_for(lambda: len(four.messages) + len(six.messages) == 20, "all messages")
        assert set(peers(four)) == {"127.0.0.2"}
        assert set(peers(six)) == {"::1"}
        await until_empty(relay)
        assert "upstream_unreachable" not in relay.log


async def test_pass_through_uses_them_too(relay: Relay):
    async with UpstreamSink() as sink:
        bulk(
            relay,
            {"sink": {"address": sink.address, "sources": ["127.0.0.2", "127.0.0.3"]}},
            route={"upstream": "sink", "delivery": "pass-through"},
        )
        await relay.start()
        for _ in range(20):
            assert (await send(relay)).code == 250
        assert set(peers(sink)) == {"127.0.0.2", "127.0.0.3"}


async def test_large_messages_stay_with_one_source(relay: Relay):
    async with UpstreamSink() as sink:
        sources = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
        bulk(
            relay,
            {"sink": {"address": sink.address, "sources": sources}},
            route={"upstream": "sink"},
            limits={"recipients": 1000},
        )
        await relay.start()
        names = tuple(f"r{number}@example.net" for number in range(450))
        assert (await send(relay, recipients=names)).code == 250
        await sink.until_messages(5)
        assert {sunk.recipients for sunk in sink.messages} == {
            names[at : at + 100] for at in range(0, 450, 100)
        }
        assert len(peers(sink)) == 1
        await until_empty(relay)


async def test_an_address_that_is_not_here_loses_nothing(relay: Relay):
    async with UpstreamSink() as sink:
        sources = [{"address": "192.0.2.1", "weight": 1000}, "127.0.0.3"]
        bulk(relay, {"sink": {"address": sink.address, "sources": sources}}, route={"upstream": "sink"})
        await relay.start()
        for _ in range(5):
            assert (await send(relay)).code == 250
        await sink.until_messages(5)
        assert set(peers(sink)) == {"127.0.0.3"}
        event = await event_of(relay, "source_unusable")
        assert (event["source"], event["way"]) == ("192.0.2.1", "sink/192.0.2.1")
        await until_empty(relay)


async def test_only_an_address_that_is_not_here_is_a_451(relay: Relay):
    async with UpstreamSink() as sink:
        upstream = {"address": sink.address, "sources": ["192.0.2.1"]}
        bulk(relay, {"sink": upstream}, route={"upstream": "sink", "delivery": "pass-through"})
        await relay.start()
        assert (await send(relay)).code == 451
        await relay.until_logged("source_unusable")
        assert sink.messages == []


async def test_a_source_that_is_refused_rests_and_another_takes_the_message(relay: Relay):
    plan = FaultPlan(Fault(Step.MAIL, BLOCKED))
    async with UpstreamSink(plan=plan) as sink:
        sources = [{"address": "127.0.0.2", "weight": 1000}, {"address": "127.0.0.3", "weight": 0}]
        bulk(relay, {"sink": {"address": sink.address, "sources": sources}}, route={"upstream": "sink"})
        await relay.start()
        assert (await send(relay)).code == 250
        await sink.until_messages(1)
        event = await event_of(relay, "source_rested")
        assert (event["way"], event["destination"]) == ("sink/127.0.0.2", "example.net")
        assert (await send(relay)).code == 250
        await sink.until_messages(2)
        assert peers(sink) == {"127.0.0.3": 2}
        assert (await send(relay, recipients=("c@example.com",))).code == 250  # not refused there
        await sink.until_messages(3)
        assert peers(sink) == {"127.0.0.3": 2, "127.0.0.2": 1}
        await until_empty(relay)


async def test_a_banner_that_refuses_is_a_refusal_too(relay: Relay):
    plan = FaultPlan()
    async with UpstreamSink(plan=plan) as sink:
        sources = [{"address": "127.0.0.2", "weight": 1000}, {"address": "127.0.0.3", "weight": 0}]
        # No connection is kept, so that each message meets the banner.
        upstream = {"address": sink.address, "sources": sources, "pool": {"reuse": 1}}
        bulk(relay, {"sink": upstream}, route={"upstream": "sink", "delivery": "pass-through"})
        await relay.start()
        plan.add(Fault(Step.BANNER, answer(554, "5.7.1 127.0.0.2 is on our block list")))
        assert (await send(relay)).code == 250
        assert peers(sink) == {"127.0.0.3": 1}
        event = await event_of(relay, "source_rested")
        assert event["reply"].startswith("554 5.7.1 127.0.0.2 is on")


async def test_a_pool_goes_on_without_the_upstream_that_is_down(relay: Relay):
    async with UpstreamSink() as sink:
        bulk(
            relay,
            {"gone": {"address": f"127.0.0.1:{free_port()}"}, "there": {"address": sink.address}},
            route={"name": "news", "pool": [{"upstream": "gone", "weight": 100}, "there"]},
        )
        await relay.start()
        for _ in range(5):
            assert (await send(relay)).code == 250
        await sink.until_messages(5)
        await until_empty(relay)


async def test_what_a_source_may_send_is_all_it_sends_and_the_rest_overflows(relay: Relay):
    async with UpstreamSink() as sink:
        sources = [
            {"address": "127.0.0.2", "weight": 1000, "warmup": {"start": TODAY, "days": [7, 7]}},
            {"address": "127.0.0.3", "weight": 0},
        ]
        bulk(
            relay,
            {"sink": {"address": sink.address, "sources": sources}},
            route={"upstream": "sink"},
            workers=2,
        )
        await relay.start()
        for number in range(10):
            names = (f"a{number}@example.net", f"b{number}@example.net")
            assert (await send(relay, recipients=names)).code == 250
        await wait_for(lambda: sum(peers(sink).values()) == 20, "all recipients")
        assert peers(sink) == {"127.0.0.2": 7, "127.0.0.3": 13}
        await until_empty(relay)
        status, printed = await relay.output("queue", "budget", "-C", str(relay.config_file), "--json")
        assert status == 0
        row = {"name": "source 127.0.0.2", "destinations": "other", "day": 1, "budget": 7, "used": 7}
        assert json.loads(printed) == [row]
        status, printed = await relay.output("queue", "budget", "-C", str(relay.config_file))
        assert printed.split() == ["source", "127.0.0.2", "other", "day", "1", "7", "of", "7"]


async def test_without_another_source_the_rest_waits_and_that_is_no_attempt(relay: Relay):
    async with UpstreamSink() as sink:
        upstream = {"address": sink.address, "warmup": {"start": TODAY, "days": [150, 150]}}
        bulk(relay, {"sink": upstream}, route={"upstream": "sink"}, limits={"recipients": 1000})
        await relay.start()
        names = tuple(f"r{number}@example.net" for number in range(400))
        assert (await send(relay, recipients=names)).code == 250
        await sink.until_messages(2)
        assert peers(sink) == {"127.0.0.1": 150}
        await wait_for(lambda: not is_leased(relay), "what is left given back")
        assert [row[:2] for row in parts(relay)] == [("queued", 1)]
        assert (await send(relay, recipients=("late@example.net",))).code == 250
        await wait_for(lambda: len(parts(relay)) == 2 and not is_leased(relay), "the second to wait too")
        assert sorted(row[1] for row in parts(relay)) == [0, 1]
        assert peers(sink) == {"127.0.0.1": 150}


def is_leased(relay: Relay) -> bool:
    database = sqlite3.connect(relay.folder / "spool" / "spool.db")
    try:
        return bool(database.execute("SELECT count(*) FROM part WHERE owner <> ''").fetchone()[0])
    finally:
        database.close()


async def test_beyond_the_budget_the_queue_takes_what_pass_through_can_not(relay: Relay):
    async with UpstreamSink() as sink:
        upstream = {"address": sink.address, "warmup": {"start": TODAY, "days": [1, 1]}}
        bulk(
            relay,
            {"sink": upstream},
            route={"upstream": "sink", "delivery": "pass-through", "when_down": "queue"},
        )
        await relay.start()
        assert "queued" not in (await send(relay)).text
        assert "queued" in (await send(relay)).text
        assert len(parts(relay)) == 1
        assert len(sink.messages) == 1


async def test_the_header_names_the_campaign_and_does_not_leave(relay: Relay):
    plugin = {"tenant": "sender-domain", "campaign": "header:X-Campaign", "remove": ["X-Campaign"]}
    port = free_port()
    bulk(
        relay,
        {"sink": {"address": f"127.0.0.1:{port}"}},
        route={"upstream": "sink"},
        pipeline=[{"campaign": plugin}],
    )
    await relay.start()
    content = b"X-Campaign: Spring\r\n" + MESSAGE
    assert (await send_same(relay, sender="a@shop.example", content=content)).code == 250
    database = sqlite3.connect(relay.folder / "spool" / "spool.db")
    assert database.execute("SELECT tenant FROM part").fetchall() == [(share_key("shop.example", "spring"),)]
    database.close()
    async with UpstreamSink(port=port) as sink:
        await sink.until_messages(1)
        assert b"X-Campaign" not in sink.messages[0].content
        await until_empty(relay)


# -- by MX -------------------------------------------------------------------------------------------------------

ZONE = (
    "one.test. MX 10 mx1.provider.test.",
    "two.test. MX 10 mx2.provider.test.",
    "mx1.provider.test. A 127.0.0.5",
    "mx2.provider.test. A 127.0.0.5",
    "mx1.provider.test. AAAA ::1",
    "other.test. MX 10 mail.other.test.",
    "mail.other.test. A 127.0.0.5",
)


@pytest.fixture
async def names() -> AsyncIterator[ZoneServer]:
    server = ZoneServer(*ZONE)
    await server.start()
    yield server
    await server.stop()


def by_mx(relay: Relay, names: ZoneServer, port: int, rule: dict[str, Any], **upstream: Any) -> None:
    bulk(
        relay,
        {"internet": {"mx": True, "mx_port": port, **upstream}},
        route={"upstream": "internet"},
        dns={"servers": [f"127.0.0.1:{names.port}"]},
        bulk={"shaping": [{"name": "provider", "mx": [".provider.test"], **rule}]},
    )


async def test_by_mx_a_source_reaches_servers_of_its_kind(relay: Relay, names: ZoneServer):
    async with UpstreamSink(host="127.0.0.5") as sink:
        by_mx(relay, names, sink.port, {}, sources=["127.0.0.2", "127.0.0.3"])
        await relay.start()
        for _ in range(15):
            assert (await send(relay, recipients=("a@one.test",))).code == 250
        await sink.until_messages(15)
        assert set(peers(sink)) == {"127.0.0.2", "127.0.0.3"}
        await until_empty(relay)


async def test_recipients_and_messages_are_as_the_rule_says(relay: Relay, names: ZoneServer):
    async with UpstreamSink(host="127.0.0.5") as sink:
        by_mx(relay, names, sink.port, {"recipients": 2, "messages": 1})
        await relay.start()
        five = tuple(f"r{number}@one.test" for number in range(5))
        assert (await send(relay, recipients=five)).code == 250
        assert (
            await send(relay, recipients=tuple(f"r{number}@other.test" for number in range(5)))
        ).code == 250
        await sink.until_messages(4)
        found = sorted(len(sunk.recipients) for sunk in sink.messages)
        assert found == [1, 2, 2, 5]
        ours = [sunk.peer.session for sunk in sink.messages if sunk.recipients[0].endswith("one.test")]
        assert len(set(ours)) == 3
        await until_empty(relay)


async def test_domains_of_one_provider_share_its_rate_and_others_do_not_wait(relay: Relay, names: ZoneServer):
    async with UpstreamSink(host="127.0.0.5") as sink:
        by_mx(relay, names, sink.port, {"rate": 1})
        await relay.start()
        for domain in ("one.test", "two.test", "one.test", "other.test", "other.test"):
            assert (await send(relay, recipients=(f"a@{domain}",))).code == 250
        await sink.until_messages(3)
        found = Counter(sunk.recipients[0].partition("@")[2] for sunk in sink.messages)
        assert found["other.test"] == 2
        assert found["one.test"] + found["two.test"] == 1
        await wait_for(lambda: len(parts(relay)) == 2, "two that wait")
