"""What every store must do, as a class of tests: a store's own test module derives from it and gives `open_store`."""

import asyncio
from collections import Counter

import pytest
from tests.spool.making import CLIENT, LEAD, NOW, deposit, recipients, stored_octets

from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.finding import Finding
from relayproxy.model.mail import Direction, Origin
from relayproxy.model.message import Message
from relayproxy.model.queued import HIGH, LOW, NORMAL, Lease, Part, Progress, Settlement, Standing, share_key
from relayproxy.spool.protocol import LeaseLostError
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.mail import make_address

MINUTE = 60.0


async def _put(store, count, tenant, priority=NORMAL, due=NOW - 10):
    to = recipients("b@example.net")
    for _ in range(count):
        await store.store(deposit(due=due, parts=(Part("up", to, "", tenant, priority),)))


async def _claimed(store, limit):
    leases = await store.claim("up", "w1", NOW + 60, limit)
    assert len({(lease.message, lease.part) for lease in leases}) == len(leases)
    return leases


class StoreConformance:
    """Tests that take `open_store(clock)`: a fixture that opens one more worker's way to the same store."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock(NOW)

    async def test_what_goes_in_comes_out_octet_for_octet(self, open_store, clock):
        store = open_store(clock)
        to = (
            Recipient(make_address("b@example.net"), ("SUCCESS", "FAILURE"), "rfc822;b+2B1@example.net"),
            Recipient(make_address('"o d@d"@example.net')),
        )
        envelope = Envelope(
            make_address("a@example.org"),
            to,
            "8BITMIME",
            ret="HDRS",
            envid="e+2B1",
            smtputf8=True,
            auth="<>",
            route="up",
            tls_onward=True,
        )
        message = Message.from_bytes(b"Subject: x\r\n\r\n" + bytes(range(256)) * 3)
        given = deposit(
            envelope=envelope,
            message=message,
            parts=(Part("up", to),),
            origin=Origin.RELEASE,
            direction=Direction.OUTBOUND,
            vouched=True,
            raw=True,
            findings=(
                Finding("score", "hit", 5.5, {"total": "5.5"}, "of \xe4", "score"),
                Finding("odd", "none", reason="\udcff"),
            ),
        )
        await store.store(given)
        (lease,) = await store.claim("up", "w1", NOW + MINUTE, 10)
        (found,) = await store.load([lease])
        assert bytes(found.message) == stored_octets(given)
        assert found.message.head == given.lead + message.head
        assert (found.id, found.client, found.envelope) == ("id1", CLIENT, envelope)
        assert (found.origin, found.direction, found.received_at) == (
            Origin.RELEASE,
            Direction.OUTBOUND,
            NOW,
        )
        assert (found.vouched, found.raw) == (True, True)
        assert found.findings == (given.findings[0], Finding("odd", "none", reason="?"))
        assert len(found.numbers) == 2

    @pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
    async def test_contents_of_every_size(self, open_store, clock, size):
        store = open_store(clock)
        given = deposit(message=Message(b"Subject: x\r\n\r\n", b"\xff" * size))
        await store.store(given)
        (lease,) = await store.claim("up", "w1", NOW + MINUTE, 10)
        (found,) = await store.load([lease])
        assert bytes(found.message) == stored_octets(given)
        del found
        await store.settle(lease, Settlement((0,)))
        assert await store.due("up") is None

    async def test_another_worker_sees_it_at_once(self, open_store, clock):
        one, other = open_store(clock), open_store(clock)
        await one.store(deposit())
        assert await other.due("up") == NOW
        (lease,) = await other.claim("up", "w2", NOW + MINUTE, 10)
        assert await one.claim("up", "w1", NOW + MINUTE, 10) == []
        await other.settle(lease, Settlement((0,)))
        assert await one.due("up") is None

    async def test_claims_are_by_route_oldest_due_first_and_limited(self, open_store, clock):
        store = open_store(clock)
        for number, due in enumerate((NOW - 1, NOW - 3, NOW - 2, NOW + 5)):
            await store.store(deposit(number, due=due))
        await store.store(deposit(9, parts=(Part("other", recipients("x@example.com")),)))
        first = await store.claim("up", "w1", NOW + MINUTE, 2)
        assert sorted(one.id for one in await store.load(first)) == ["id1", "id2"]
        (last,) = await store.load(await store.claim("up", "w1", NOW + MINUTE, 10))
        assert last.id == "id0"
        assert await store.due("up") == NOW + 5
        assert await store.due("nowhere") is None
        assert (await store.count("up"), await store.count("nowhere")) == (4, 0)

    async def test_a_deposit_with_an_owner_is_leased_from_the_start(self, open_store, clock):
        store, other = open_store(clock), open_store(clock)
        (lease,) = await store.store(deposit(owner="w1", due=NOW + MINUTE))
        assert await other.claim("up", "w2", NOW + MINUTE, 10) == []
        await store.settle(lease, Settlement((0,)))

    async def test_a_lease_that_ran_out_is_taken_over_and_fences_its_owner(self, open_store, clock):
        one, other = open_store(clock), open_store(clock)
        await one.store(deposit())
        (old,) = await one.claim("up", "w1", NOW + MINUTE, 10)
        clock.advance(MINUTE - 1)
        assert await other.claim("up", "w2", NOW + 2 * MINUTE, 10) == []
        clock.advance(1)
        (new,) = await other.claim("up", "w2", NOW + 2 * MINUTE, 10)
        assert new.epoch > old.epoch
        for late in (
            one.settle(old, Settlement((0,))),
            one.settle(old, Settlement((), ((0, "451 later"),), due=NOW)),
            one.settle(old, Settlement((0,), deposits=(deposit(7),))),
            one.set_aside(old, "broken"),
        ):
            with pytest.raises(LeaseLostError):
                await late
        await one.release([old], NOW)
        assert await one.renew([old], NOW + 9 * MINUTE) == [old]
        assert await other.due("up") == NOW + 2 * MINUTE
        await other.settle(new, Settlement((0,)))
        assert await other.due("up") is None

    async def test_a_renewed_lease_is_not_taken_over(self, open_store, clock):
        one, other = open_store(clock), open_store(clock)
        await one.store(deposit())
        (lease,) = await one.claim("up", "w1", NOW + MINUTE, 10)
        assert await one.renew([lease], NOW + 3 * MINUTE) == []
        clock.advance(2 * MINUTE)
        assert await other.claim("up", "w2", NOW + 9 * MINUTE, 10) == []
        await one.settle(lease, Settlement((0,)))

    async def test_a_released_part_is_due_again_and_counts_no_attempt(self, open_store, clock):
        store = open_store(clock)
        await store.store(deposit())
        (lease,) = await store.claim("up", "w1", NOW + MINUTE, 10)
        await store.release([lease], NOW)
        (again,) = await store.claim("up", "w1", NOW + MINUTE, 10)
        assert again.attempts == 0
        assert again.epoch > lease.epoch

    async def test_recipients_are_finished_one_by_one(self, open_store, clock):
        store = open_store(clock)
        to = recipients("a@example.net", "b@example.net", "c@example.net")
        await store.store(
            deposit(envelope=Envelope(make_address("s@example.org"), to), parts=(Part("up", to),))
        )
        (lease,) = await store.claim("up", "w1", NOW + MINUTE, 10)
        await store.settle(lease, Settlement((0, 2), ((1, "451 4.2.0 later"),), due=NOW + 5))
        clock.advance(5)
        (lease,) = await store.claim("up", "w1", NOW + MINUTE, 10)
        (found,) = await store.load([lease])
        assert (lease.attempts, found.numbers) == (1, (1,))
        assert found.envelope.recipients == to[1:2]
        await store.settle(lease, Settlement((1,)))
        assert await store.due("up") is None

    async def test_what_a_transaction_came_to_is_written_down_before_the_part_ends(self, open_store, clock):
        one, other = open_store(clock), open_store(clock)
        to = recipients(*(f"{name}@example.net" for name in "abcde"))
        await one.store(
            deposit(envelope=Envelope(make_address("s@example.org"), to), parts=(Part("up", to),))
        )
        (lease,) = await one.claim("up", "w1", NOW + MINUTE, 10)
        progress = Progress((0,), ((1, "550 5.1.1 nobody"), (2, "451 4.2.0 later"), (3, "250 2.0.0 taken")))
        await one.note(lease, progress, NOW + 2 * MINUTE)
        # It is still its owner's, and for longer.
        clock.advance(MINUTE)
        assert await other.claim("up", "w2", NOW + 9 * MINUTE, 10) == []
        assert await one.renew([lease], NOW + 2 * MINUTE) == []
        # Who takes it over finds what had been written down, and the attempt did not count.
        clock.advance(MINUTE)
        (next_,) = await other.claim("up", "w2", NOW + 9 * MINUTE, 10)
        (found,) = await other.load([next_])
        assert (next_.attempts, found.numbers, found.envelope.recipients) == (0, (1, 2, 3, 4), to[1:])
        assert found.replies == ("550 5.1.1 nobody", "451 4.2.0 later", "250 2.0.0 taken", "")
        await other.note(next_, Progress((4,)), NOW + 9 * MINUTE)
        await other.settle(next_, Settlement((1, 3, 4), ((2, "451 4.2.0 still"),), due=NOW))
        (last,) = await one.claim("up", "w1", NOW + 9 * MINUTE, 10)
        (found,) = await one.load([last])
        assert (last.attempts, found.numbers, found.replies) == (1, (2,), ("451 4.2.0 still",))
        await one.settle(last, Settlement((2,)))
        assert await one.due("up") is None

    async def test_between_two_transactions_whoever_was_overtaken_is_fenced_out(self, open_store, clock):
        one, other = open_store(clock), open_store(clock)
        to = recipients("a@example.net", "b@example.net", "c@example.net")
        await one.store(
            deposit(envelope=Envelope(make_address("s@example.org"), to), parts=(Part("up", to),))
        )
        (old,) = await one.claim("up", "w1", NOW + MINUTE, 10)
        await one.note(old, Progress((0,)), NOW + MINUTE)
        clock.advance(MINUTE)
        (new,) = await other.claim("up", "w2", NOW + 2 * MINUTE, 10)
        with pytest.raises(LeaseLostError):
            await one.note(old, Progress((1,), ((2, "550 5.1.1 nobody"),)), NOW + 99 * MINUTE)
        (found,) = await other.load([new])
        assert (found.numbers, found.replies) == ((1, 2), ("", ""))
        assert await one.due("up") == NOW + 2 * MINUTE
        await other.settle(new, Settlement((1, 2)))
        for late in (old, new):
            with pytest.raises(LeaseLostError):
                await one.note(late, Progress((1,)), NOW + 99 * MINUTE)

    async def test_notes_of_many_parts_at_the_same_time_are_each_their_own(self, open_store, clock):
        store = open_store(clock)
        to = recipients("a@example.net", "b@example.net")
        for number in range(20):
            await store.store(deposit(number, parts=(Part("up", to),)))
        leases = await store.claim("up", "w1", NOW + MINUTE, 20)
        for lease in leases[::2]:
            await store.settle(lease, Settlement((0,), ((1, "451 later"),), due=NOW + MINUTE))
        results = await asyncio.gather(
            *(store.note(lease, Progress((lease.message % 2,)), NOW + MINUTE) for lease in leases),
            return_exceptions=True,
        )
        assert [isinstance(result, LeaseLostError) for result in results] == [True, False] * 10
        for found in await store.load(leases[1::2]):
            assert found.numbers == (1 - found.lease.message % 2,)

    async def test_parts_of_a_message_go_their_own_ways(self, open_store, clock):
        store = open_store(clock)
        near, far = recipients("a@example.net", "b@example.net"), recipients("c@example.com")
        await store.store(
            deposit(
                envelope=Envelope(make_address("s@example.org"), near + far),
                parts=(Part("near", near), Part("far", far, "example.com")),
            )
        )
        (one,) = await store.claim("near", "w1", NOW + MINUTE, 10)
        (two,) = await store.claim("far", "w1", NOW + MINUTE, 10)
        assert two.destination == "example.com"
        loaded = await store.load([one, two])
        assert [found.envelope.recipients for found in loaded] == [near, far]
        await store.settle(one, Settlement(loaded[0].numbers))
        (still,) = await store.load([two])
        assert bytes(still.message) == stored_octets(deposit())
        await store.settle(two, Settlement(loaded[1].numbers))
        assert await store.due("far") is None

    async def test_what_takes_its_place_is_written_with_the_end(self, open_store, clock):
        store = open_store(clock)
        await store.store(deposit(1))
        (lease,) = await store.claim("up", "w1", NOW + MINUTE, 10)
        bounce = deposit(2, parts=(Part("back", recipients("s@example.org")),))
        await store.settle(lease, Settlement((0,), deposits=(bounce,)))
        assert await store.due("up") is None
        (lease,) = await store.claim("back", "w1", NOW + MINUTE, 10)
        (found,) = await store.load([lease])
        assert found.id == "id2"

    async def test_aged_parts_come_oldest_first_whether_due_or_not(self, open_store, clock):
        store = open_store(clock)
        await store.store(deposit(1, due=NOW + 3600))
        clock.advance(10)
        await store.store(deposit(2, due=NOW + 3600))
        assert await store.claim_aged("up", "w1", NOW + MINUTE, 10, NOW - 1, unwarned=False) == []
        (lease,) = await store.claim_aged("up", "w1", NOW + MINUTE, 10, NOW + 5, unwarned=False)
        (found,) = await store.load([lease])
        assert found.id == "id1"
        assert await store.claim_aged("up", "w2", NOW + MINUTE, 10, NOW + 5, unwarned=False) == []
        await store.settle(
            lease, Settlement((), ((0, "451 x"),), due=NOW + 7200, attempted=False, warned=True)
        )
        assert await store.claim_aged("up", "w1", NOW + MINUTE, 10, NOW + 5, unwarned=True) == []
        (lease,) = await store.claim_aged("up", "w1", NOW + MINUTE, 10, NOW + 5, unwarned=False)
        assert (lease.warned, lease.attempts) == (True, 0)

    async def test_held_and_broken_parts_are_never_due(self, open_store, clock):
        store = open_store(clock)
        await store.store(deposit(1))
        await store.store(deposit(2))
        one, two = await store.claim("up", "w1", NOW + MINUTE, 10)
        await store.settle(one, Settlement((), held="a human decides"))
        await store.set_aside(two, "torn")
        clock.advance(10 * MINUTE)
        assert await store.claim("up", "w1", NOW + MINUTE, 10) == []
        assert await store.due("up") is None

    async def test_after_the_clock_went_back_nothing_waits_for_too_long(self, open_store, clock):
        store = open_store(clock)
        await store.store(deposit(1, due=NOW + 86_400))
        await store.store(deposit(2, due=NOW + 10))
        assert await store.clamp(3600) == 1
        clock.advance(3600)
        assert len(await store.claim("up", "w1", NOW + 2 * 3600, 10)) == 2

    async def test_ten_thousand_recipients_in_one_message(self, open_store, clock):
        store = open_store(clock)
        to = recipients(*(f"u{number}@example.net" for number in range(10_000)))
        given = deposit(envelope=Envelope(make_address("s@example.org"), to), parts=(Part("up", to),))
        await store.store(given)
        (lease,) = await store.claim("up", "w1", NOW + MINUTE, 10)
        (found,) = await store.load([lease])
        assert found.envelope.recipients == to
        await store.settle(lease, Settlement(found.numbers[:-1], ((9_999, "452 full"),), due=NOW))
        (lease,) = await store.claim("up", "w1", NOW + MINUTE, 10)
        (found,) = await store.load([lease])
        assert found.numbers == (9_999,)

    async def test_many_at_once_from_two_workers_are_each_delivered_once(self, open_store, clock):
        stores = [open_store(clock), open_store(clock)]
        await asyncio.gather(*(stores[n % 2].store(deposit(n)) for n in range(200)))
        seen: list[str] = []

        async def work(number: int) -> None:
            store = stores[number % 2]
            while leases := await store.claim("up", f"w{number}", NOW + MINUTE, 7):
                for found in await store.load(leases):
                    await store.settle(found.lease, Settlement(found.numbers))
                    seen.append(found.id)

        await asyncio.gather(*(work(number) for number in range(6)))
        assert sorted(seen) == sorted(f"id{n}" for n in range(200))

    async def test_a_lease_of_a_message_that_is_gone_is_lost(self, open_store, clock):
        store = open_store(clock)
        (lease,) = await store.store(deposit(owner="w1", due=NOW + MINUTE))
        await store.settle(lease, Settlement((0,)))
        with pytest.raises(LeaseLostError):
            await store.settle(lease, Settlement((0,)))
        assert await store.renew([Lease(1, 0, 1, "up")], NOW) == [Lease(1, 0, 1, "up")]

    async def test_the_lead_may_be_empty_as_in_what_comes_back(self, open_store, clock):
        store = open_store(clock)
        await store.store(deposit(lead=b"", message=Message(LEAD)))
        (lease,) = await store.claim("up", "w1", NOW + MINUTE, 10)
        (found,) = await store.load([lease])
        assert bytes(found.message) == LEAD

    # -- whose turn it is ----------------------------------------------------------------------------------------

    async def test_a_flood_of_one_leaves_the_others_their_share(self, open_store, clock):
        store = open_store(clock)
        await _put(store, 300, "flood", due=NOW - 100)
        await _put(store, 3, "small")
        await _put(store, 2, "other")
        await _put(store, 1, "later", due=NOW + 100)
        found = Counter(lease.tenant for lease in await _claimed(store, 40))
        assert found == {"flood": 35, "small": 3, "other": 2}
        assert len(await _claimed(store, 40)) == 40

    async def test_a_campaign_leaves_the_others_of_its_tenant_their_share(self, open_store, clock):
        store = open_store(clock)
        await _put(store, 300, share_key("shop", "flood"), due=NOW - 100)
        await _put(store, 4, share_key("shop", "receipts"))
        await _put(store, 3, "shop")
        await _put(store, 5, "other")
        found = Counter(lease.tenant for lease in await _claimed(store, 40))
        assert found[share_key("shop", "receipts")] == 4
        assert (found["shop"], found["other"]) == (3, 5)
        assert sum(found.values()) == 40

    async def test_single_claims_go_round(self, open_store, clock):
        store = open_store(clock)
        for tenant in ("a", "b", "c"):
            await _put(store, 20, tenant)
        order = [(await _claimed(store, 1))[0].tenant for _ in range(9)]
        assert Counter(order) == {"a": 3, "b": 3, "c": 3}

    async def test_high_comes_before_low_and_low_never_stands_still(self, open_store, clock):
        store = open_store(clock)
        await _put(store, 50, "bulk", LOW)
        await _put(store, 50, "alerts", HIGH)
        order = [(await _claimed(store, 1))[0].priority for _ in range(16)]
        assert Counter(order) == {HIGH: 14, LOW: 2}

    async def test_of_one_tenant_the_longest_due_come_first(self, open_store, clock):
        store = open_store(clock)
        for late in (2, 1, 3):
            await _put(store, 1, "a", due=NOW - late)
        first, second = await _claimed(store, 2)
        assert first.message > second.message  # the last that was stored has been due longest

    async def test_more_tenants_than_one_claim_looks_at(self, open_store, clock):
        store = open_store(clock)
        for number in range(150):
            await _put(store, 1, f"t{number:03}", due=NOW + 100)
        await _put(store, 60, "z")
        seen = (
            len(await _claimed(store, 25)) + len(await _claimed(store, 25)) + len(await _claimed(store, 25))
        )
        assert seen == 60

    # -- held for too long ---------------------------------------------------------------------------------------

    async def test_what_is_held_too_long_is_deleted_and_told(self, open_store, clock):
        store = open_store(clock)
        usual = {"standing": Standing.HELD, "reason": "odd"}
        near, far = recipients("a@example.net", "b@example.net"), recipients("c@example.com")
        both = {
            "envelope": Envelope(make_address("s@example.org"), near + far),
            "parts": (Part("near", near), Part("far", far)),
        }
        await store.store(
            deposit(1, due=NOW - 20, message=Message(b"Subject: x\r\n\r\n", b"x" * 100_000), **usual)
        )
        await store.store(deposit(2, due=NOW - 30, **both, **usual))
        await store.store(deposit(3, due=NOW - 5, **usual))
        await store.store(deposit(4, due=NOW - 99))
        found = await store.expire_held(NOW - 10, 2)
        assert {(one.id, one.route, one.recipients) for one in found} == {
            ("id2", "near", ("a@example.net", "b@example.net")),
            ("id2", "far", ("c@example.com",)),
        }
        (last,) = await store.expire_held(NOW - 10, 2)
        assert (last.id, last.reason, last.sender) == ("id1", "odd", "a@example.org")
        assert await store.expire_held(NOW - 10, 2) == []
        (lease,) = await store.claim("up", "w1", NOW + MINUTE, 10)
        (left,) = await store.load([lease])
        assert left.id == "id4"
