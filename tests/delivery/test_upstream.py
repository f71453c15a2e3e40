"""The pool: what is kept and for whom, how long, how many, and who waits."""

import asyncio
from collections import Counter

import pytest
from tests.delivery.harness import LOST, MESSAGE, a_client, a_hop, an_envelope, codes, sent
from tests.servers.process import wait_for

from relayproxy.delivery.settings import Timeouts
from relayproxy.model.reply import Reply
from relayproxy.testing.upstream import (
    Capabilities,
    Disconnect,
    Fault,
    Reset,
    Say,
    Step,
    UpstreamSink,
    answer,
)

XCLIENT = Capabilities(xclient=("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN"))


class TestKeeping:
    async def test_clients_share_a_connection_where_the_upstream_does_not_know_them(self):
        async with UpstreamSink() as sink, a_hop(sink) as hop:
            for number in range(4):
                assert await sent(hop, number)
            assert (sink.sessions, hop.state("idle"), hop.connects("ok")) == (1, 1, 1)

    async def test_one_clients_connection_never_serves_another(self):
        async with UpstreamSink(XCLIENT) as sink, a_hop(sink, send_client="xclient") as hop:
            for number in (1, 2, 1, 2, 3, 1):
                assert await sent(hop, number)
            assert sink.sessions == 3
            told = [sunk.peer.xclient[b"ADDR"] for sunk in sink.messages]
            assert told == [b"192.0.2.%d" % number for number in (1, 2, 1, 2, 3, 1)]
            by_session = Counter((sunk.peer.session, sunk.peer.xclient[b"ADDR"]) for sunk in sink.messages)
            assert len(by_session) == 3

    @pytest.mark.parametrize(
        "change",
        [
            {"ip": "192.0.2.99"},
            {"port": 9},
            {"helo": "other.example"},
            {"identity": "ana"},
            {"ptr": "other.example"},
            {"id": "c2"},
        ],
        ids=lambda change: next(iter(change)),
    )
    async def test_whatever_the_upstream_was_told_makes_a_connection_another(self, change: dict[str, str]):
        async with UpstreamSink(XCLIENT) as sink, a_hop(sink, send_client="xclient") as hop:
            assert codes((await hop.deliver(a_client()))[1]) == [250]
            assert codes((await hop.deliver(a_client(**change)))[1]) == [250]
            assert sink.sessions == 2

    async def test_a_probe_for_nobody_is_not_kept_for_somebody(self):
        async with UpstreamSink(XCLIENT) as sink, a_hop(sink, send_client="xclient") as hop:
            assert await hop.upstream.probe()
            assert hop.state("idle") == 0
            assert await sent(hop)
            assert sink.sessions == 2

    async def test_idle_too_long(self):
        async with UpstreamSink() as sink, a_hop(sink, pool_idle=60.0) as hop:
            assert await sent(hop)
            hop.clock.advance(59.9)
            assert await sent(hop)
            hop.clock.advance(60.0)
            assert await sent(hop)
            assert (sink.sessions, hop.state("idle")) == (2, 1)

    async def test_what_idles_is_closed_by_and_by(self):
        """Without anybody asking for it: the sweeper's timer runs in real time, on the hop's own clock."""
        async with UpstreamSink() as sink, a_hop(sink, pool_idle=0.02) as hop:
            for _ in range(3):
                assert await sent(hop)
                hop.clock.advance(1.0)
                await sink.until(lambda: sink.open_sessions == 0)
                assert hop.state("idle") == 0
            assert sink.sessions == 3

    async def test_the_sweeper_leaves_what_is_fresh(self):
        async with UpstreamSink() as sink, a_hop(sink) as hop:
            both = [hop.begin(), hop.begin()]
            for transaction in both:
                await transaction.recipients(an_envelope().recipients)
            both[0].abort()
            hop.clock.advance(60.0)
            both[1].abort()
            hop.upstream._sweep()
            await sink.until(lambda: sink.open_sessions == 1)
            assert hop.state("idle") == 1
            assert await sent(hop)
            assert sink.sessions == 2

    async def test_so_many_messages_and_no_more(self):
        async with UpstreamSink() as sink, a_hop(sink, reuse=3) as hop:
            for _ in range(7):
                assert await sent(hop)
            assert sink.sessions == 3
            per_session = Counter(sunk.peer.session for sunk in sink.messages)
            assert sorted(per_session.values()) == [1, 3, 3]

    async def test_an_upstream_that_hung_up_in_between_is_noticed(self):
        async with UpstreamSink() as sink, a_hop(sink) as hop:
            assert await sent(hop)
            sink.plan.add(Fault(Step.AFTER, Disconnect()))
            assert await sent(hop)
            await sink.until(lambda: sink.open_sessions == 0)
            assert await sent(hop)
            assert (sink.sessions, len(sink.messages)) == (2, 3)

    async def test_close_closes_what_is_kept(self):
        async with UpstreamSink() as sink, a_hop(sink) as hop:
            assert await sent(hop)
            hop.upstream.close()
            hop.outbox.flush()
            await sink.until(lambda: sink.open_sessions == 0)
            assert await sent(hop)


class TestStale:
    """A connection that was kept may be dead without anybody knowing; the client must not pay for it."""

    @pytest.mark.parametrize("pipelining", [True, False])
    @pytest.mark.parametrize("step", [Step.RSET, Step.MAIL])
    @pytest.mark.parametrize(
        "action", [Disconnect(), Reset(), answer(421, "4.4.2 timeout", close=True), Say(b"what?\r\n")]
    )
    async def test_it_is_replaced_once(self, action, step: Step, pipelining: bool):
        async with UpstreamSink(Capabilities(pipelining=pipelining)) as sink, a_hop(sink) as hop:
            assert await sent(hop)
            sink.plan.add(Fault(step, action))
            assert await sent(hop)
            assert (sink.sessions, len(sink.messages)) == (2, 2)
            assert sink.duplicates(lambda sunk: sunk.peer.session) == {}

    async def test_and_not_twice(self):
        async with UpstreamSink() as sink, a_hop(sink) as hop:
            assert await sent(hop)
            sink.plan.add(Fault(Step.RSET, Disconnect()))
            sink.plan.add(Fault(Step.MAIL, Disconnect(), times=0))
            assert await hop.deliver() == (LOST, [])
            assert sink.sessions == 2

    async def test_not_when_it_has_spoken_of_this_message(self):
        async with UpstreamSink() as sink, a_hop(sink) as hop:
            assert await sent(hop)
            sink.plan.add(Fault(Step.RCPT, Disconnect()))
            assert await hop.deliver() == (LOST, [])
            assert sink.sessions == 1

    async def test_not_after_data_has_begun(self):
        for step in (Step.DATA, Step.CONTENT, Step.DOT):
            async with UpstreamSink() as sink, a_hop(sink) as hop:
                assert await sent(hop)
                sink.plan.add(Fault(step, Disconnect(), after=5))
                _, final = await hop.deliver()
                assert codes(final) == [451]
                assert sink.sessions == 1


class TestPlaces:
    async def test_no_more_than_there_are_places(self):
        async with UpstreamSink() as sink, a_hop(sink, pool_size=3) as hop:
            most = 0

            async def one(number: int) -> bool:
                nonlocal most
                done = await sent(hop, number)
                most = max(most, sink.open_sessions)
                return done

            assert all(await asyncio.gather(*(one(number) for number in range(20))))
            assert most <= 3
            assert len(sink.messages) == 20

    async def test_whoever_waits_gets_the_next_free_place(self):
        async with UpstreamSink() as sink, a_hop(sink, pool_size=1) as hop:
            first = hop.begin()
            await first.recipients(an_envelope().recipients)
            waiting = [asyncio.create_task(hop.deliver(a_client(n))) for n in range(2, 5)]
            await wait_for(lambda: len(hop.upstream._waiting) == 3, "three to wait")
            assert sink.sessions == 1
            first.abort()
            assert [codes(final) for _, final in await asyncio.gather(*waiting)] == [[250]] * 3
            assert sink.open_sessions <= 1 + 1

    async def test_whoever_waits_too_long_hears_so_and_takes_no_place(self):
        """That one gives up must not let the next one in while all places are taken."""
        quick = Timeouts(connect=0.1, command=5, data=5, final=5)
        async with UpstreamSink() as sink, a_hop(sink, pool_size=1, timeouts=quick) as hop:
            first = hop.begin()
            await first.recipients(an_envelope().recipients)
            waiting = []
            for number in range(2, 12):
                waiting.append(asyncio.create_task(hop.deliver(a_client(number))))
                for _ in range(10):
                    assert codes(await first.recipients(an_envelope().recipients)) == [250]
            unreached = [Reply(451, "4.4.1", "Upstream up can't be reached now, try again later")]
            assert await asyncio.gather(*waiting) == [(unreached, [])] * 10
            assert sink.sessions == 1
            assert hop.events("upstream_trouble")[0]["problem"] == "all 1 connections are in use"
            assert codes(await first.send(b"", MESSAGE)) == [250]
            assert await sent(hop)
            assert sink.sessions == 1

    async def test_whoever_is_cancelled_while_waiting_takes_no_place(self):
        async with UpstreamSink() as sink, a_hop(sink, pool_size=1) as hop:
            first = hop.begin()
            await first.recipients(an_envelope().recipients)
            gone, stays = (asyncio.create_task(hop.deliver(a_client(n))) for n in (2, 3))
            await wait_for(lambda: len(hop.upstream._waiting) == 2, "two to wait")
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            for number in range(20):
                # Rounds that leave the other one time enough to come in, if it were let.
                assert codes(await first.recipients(an_envelope(f"u{number}@example.net").recipients)) == [
                    250
                ]
            assert sink.sessions == 1
            first.abort()
            assert codes((await stays)[1]) == [250]

    async def test_a_place_that_was_given_to_one_who_has_gone_is_passed_on(self):
        async with UpstreamSink() as sink, a_hop(sink, pool_size=1) as hop:
            first = hop.begin()
            await first.recipients(an_envelope().recipients)
            gone, stays = (asyncio.create_task(hop.deliver(a_client(n))) for n in (2, 3))
            await wait_for(lambda: len(hop.upstream._waiting) == 2, "two to wait")
            first.abort()
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            async with asyncio.timeout(4):
                assert codes((await stays)[1]) == [250]

    async def test_what_is_kept_for_another_makes_room(self):
        async with UpstreamSink(XCLIENT) as sink, a_hop(sink, send_client="xclient", pool_size=2) as hop:
            for number in range(1, 6):
                assert await sent(hop, number)
            await sink.until(lambda: sink.open_sessions <= 2)
            assert (sink.sessions, hop.state("idle")) == (5, 2)
            assert await sent(hop, 5)
            assert sink.sessions == 5

    async def test_a_place_comes_back_when_connecting_fails(self):
        async with UpstreamSink() as sink, a_hop(sink, pool_size=1, breaker_failures=100) as hop:
            sink.plan.add(Fault(Step.BANNER, Disconnect(), times=3))
            for _ in range(3):
                assert codes((await hop.deliver())[0]) == [451]
            assert await sent(hop)
