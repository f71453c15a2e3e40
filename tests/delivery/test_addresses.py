"""An upstream of several addresses: failover, weights, the breaker; and what it says it can take."""

import asyncio
import random
from collections import Counter

from tests.delivery.harness import LOST, THREE, Hop, a_hop, codes, sent
from tests.servers.tls import Certificates

from relayproxy.delivery.settings import Address, UpstreamSettings
from relayproxy.model.reply import Reply
from relayproxy.testing.upstream import Capabilities, Disconnect, Fault, Step, UpstreamSink, answer


class TestAddresses:
    async def test_the_next_one_when_one_is_down(self):
        async with UpstreamSink() as down, UpstreamSink() as up:
            await down.close()
            async with a_hop(down, up, choose=lambda: 0.5) as hop:
                for number in range(3):
                    assert await sent(hop, number)
                assert (up.sessions, down.sessions) == (1, 0)

    async def test_all_down_is_a_451_with_every_reason_in_the_log(self):
        async with UpstreamSink() as one, UpstreamSink() as two:
            await one.close()
            two.plan.add(Fault(Step.BANNER, answer(554, "5.7.1 not you"), times=0))
            async with a_hop(one, two) as hop:
                heard, _ = await hop.deliver(envelope=THREE)
                assert heard == [Reply(451, "4.4.1", "Upstream up can't be reached now, try again later")] * 3
                problem = hop.events("upstream_trouble")[0]["problem"]
                assert one.address in problem
                assert "554 5.7.1 not you" in problem
                assert hop.connects("failed") == 2

    async def test_no_failover_once_a_transaction_has_begun(self):
        async with UpstreamSink() as one, UpstreamSink() as two, a_hop(one, two, choose=lambda: 0.5) as hop:
            one.plan.add(Fault(Step.RCPT, Disconnect()))
            two.plan.add(Fault(Step.RCPT, Disconnect()))
            assert await hop.deliver() == (LOST, [])
            assert one.sessions + two.sessions == 1

    def test_weights_are_shares_of_the_connections(self):
        addresses = (Address("a", 25, weight=1), Address("b", 25, weight=3), Address("c", 25, weight=0))
        drawn: Counter[str] = Counter()

        async def draw() -> None:
            hop = Hop(UpstreamSettings("up", addresses, "relay.test"), random.Random(7).random)
            for _ in range(4000):
                order = hop.upstream._order()
                assert len(order) == 3
                assert order[-1].host == "c", "of weight 0: only when all others are down"
                drawn[order[0].host] += 1

        asyncio.run(draw())
        assert 0.22 < drawn["a"] / 4000 < 0.28

    async def test_weight_0_is_the_last_resort(self):
        async with UpstreamSink() as main, UpstreamSink() as spare:
            places = (Address("127.0.0.1", main.port), Address("127.0.0.1", spare.port, weight=0))
            async with a_hop(main, spare, addresses=places, reuse=1) as hop:
                for _ in range(5):
                    assert await sent(hop)
                assert (main.sessions, spare.sessions) == (5, 0)
                await main.close()
                assert await sent(hop)
                assert spare.sessions == 1


class TestBreaker:
    async def test_after_so_many_failures_an_address_is_asked_last_for_a_while(self):
        async with UpstreamSink() as ill, UpstreamSink() as well:
            ill.plan.add(Fault(Step.BANNER, answer(421, "4.3.2 busy", close=True), times=3))
            order = iter([0.9, 0.1] * 100)
            async with a_hop(
                ill, well, choose=lambda: next(order), reuse=1, breaker_failures=3, breaker_retry=10.0
            ) as hop:
                for tried in (1, 2, 3, 3, 3):
                    assert await sent(hop)
                    assert ill.sessions == tried
                assert [e["failures"] for e in hop.events("upstream_unreachable")] == [1, 3]
                hop.clock.advance(9.9)
                assert await sent(hop)
                assert ill.sessions == 3
                hop.clock.advance(0.2)
                assert await sent(hop)
                assert ill.sessions == 4
                (back,) = hop.events("upstream_back")
                assert (back["address"], back["failures"]) == (ill.address, 3)
                assert well.sessions == 6

    async def test_a_failure_more_after_the_pause_is_another_pause(self):
        async with UpstreamSink() as ill, UpstreamSink() as well:
            ill.plan.add(Fault(Step.BANNER, Disconnect(), times=0))
            order = iter([0.9, 0.1] * 100)
            async with a_hop(
                ill, well, choose=lambda: next(order), reuse=1, breaker_failures=2, breaker_retry=10.0
            ) as hop:
                for tried in (1, 2, 2):
                    assert await sent(hop)
                    assert ill.sessions == tried
                hop.clock.advance(10.1)
                for _ in range(2):
                    assert await sent(hop)
                    assert ill.sessions == 3

    async def test_the_only_address_is_tried_nevertheless(self):
        """The first message after an outage must not be refused because of those before it."""
        async with UpstreamSink() as sink, a_hop(sink, breaker_failures=1) as hop:
            await sink.close()
            for _ in range(3):
                assert codes((await hop.deliver())[0]) == [451]
            await sink.start()
            assert await sent(hop)

    async def test_all_ill_the_one_that_is_due_first_comes_first(self):
        async with UpstreamSink() as one, UpstreamSink() as two:
            one.plan.add(Fault(Step.BANNER, Disconnect(), times=1))
            two.plan.add(Fault(Step.BANNER, Disconnect(), times=1))
            async with a_hop(one, two, choose=lambda: 0.5, breaker_failures=1) as hop:
                assert codes((await hop.deliver())[0]) == [451]
                assert await sent(hop)
                assert (one.sessions, two.sessions) == (2, 1)


class TestCapabilities:
    async def test_what_was_said_last(self):
        async with UpstreamSink(Capabilities(size=1000, dsn=True)) as sink, a_hop(sink) as hop:
            assert hop.upstream.capabilities is None
            assert await hop.upstream.probe()
            known = hop.upstream.capabilities
            assert known is not None
            assert ("DSN" in known, known.size) == (True, 1000)
            sink.capabilities = Capabilities(size=500)
            hop.clock.advance(100.0)
            assert await sent(hop)
            known = hop.upstream.capabilities
            assert known is not None
            assert ("DSN" in known, known.size) == (False, 500)

    async def test_a_probe_that_finds_nobody(self):
        async with UpstreamSink() as sink, a_hop(sink) as hop:
            await sink.close()
            assert not await hop.upstream.probe()
            assert hop.upstream.capabilities is None
            assert hop.connects("failed") == 1

    async def test_a_probe_is_kept_for_the_first_message(self, certificates: Certificates):
        context = certificates.server_context()
        async with (
            UpstreamSink(Capabilities(starttls=context)) as sink,
            a_hop(sink, tls="verify", tls_context=certificates.client_context()) as hop,
        ):
            assert await hop.upstream.probe()
            assert await sent(hop)
            assert sink.sessions == 1
