"""Destinations that are counted together, long lists, and fairness between campaigns and destinations, over a real store."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from tests.spool.making import a_mail, recipients
from tests.spool.test_scheduler import LATER, OK, Bench, Hop, Transaction, make

from relayproxy.core.shaping import Shape, Shapes
from relayproxy.model.envelope import Envelope
from relayproxy.model.mail import Mail
from relayproxy.model.message import Message
from relayproxy.model.queued import Part, share_key
from relayproxy.model.reply import Reply
from relayproxy.spool.rates import Rates
from relayproxy.testing import FakeResolver
from relayproxy.testing.mail import make_address

__all__ = ["make"]  # the fixture

ZONE = {
    ("one.example", "MX"): [(10, "mx1.provider.example")],
    ("two.example", "MX"): [(10, "mx2.provider.example"), (20, "backup.example")],
    ("other.example", "MX"): [(10, "mx.other.example"), (20, "mx1.provider.example")],
}
LEASED = "SELECT count(*) FROM part WHERE owner <> ''"
PROVIDER = {"name": "provider", "exchanges": frozenset({".provider.example"})}


class Waiting(Transaction):
    """One that takes as many recipients as its hop has room for."""

    waits = 0.0

    async def recipients(self, wanted):
        room = self._hop.room
        some = wanted[:room]
        self._hop.room -= len(some)
        if not some:
            self.waits = self._hop.waits
            return []
        return await super().recipients(some)


class Bounded(Hop):
    """A next hop with room for `room` recipients, which says that more may come after `waits` seconds."""

    def __init__(self, room: int, waits: float) -> None:
        super().__init__()
        self.room, self.waits = room, waits

    def begin(self, mail: Mail, _size: int) -> Waiting:
        return Waiting(self, mail.envelope)


def shaped(bench: Bench, **rule: Any) -> FakeResolver:
    """Have the lane deliver by domain, with one rule for a provider."""
    resolver = FakeResolver(ZONE)
    shapes = Shapes([Shape(**PROVIDER, **rule)], resolver, bench.clock.monotonic)
    bench.lane = {"by_domain": True, "shapes": shapes}
    return resolver


def to(domain: str, count: int = 1, tenant: str = "") -> dict[str, Any]:
    """A deposit's changes: recipients in one domain."""
    names = recipients(*(f"r{number}@{domain}" for number in range(count)))
    return {
        "envelope": Envelope(make_address("a@example.org"), names),
        "parts": (Part("up", names, domain, tenant),),
    }


# -- the rules ---------------------------------------------------------------------------------------------------


def shapes_for(resolver: FakeResolver, *shapes: Shape, now: float = 0.0) -> Shapes:
    return Shapes(shapes, resolver, lambda: now)


async def test_the_best_servers_tell_the_group_and_are_asked_for_once():
    resolver = FakeResolver(ZONE)
    shapes = shapes_for(resolver, Shape(**PROVIDER))
    assert not shapes.known("one.example")
    for domain in ("one.example", "two.example", "other.example", "none.example", "one.example"):
        await shapes.learn(domain)
    found = {domain: shapes.group(domain) for domain in ("one.example", "two.example", "other.example")}
    assert found == {
        "one.example": "+provider",
        "two.example": "+provider",
        "other.example": "other.example",
    }
    assert resolver.asked.count(("one.example", "MX")) == 1
    assert shapes.group("") == ""


async def test_the_first_rule_counts_and_domains_need_no_question():
    resolver = FakeResolver(ZONE)
    own = Shape("own", frozenset({"one.example", ".below.example"}))
    shapes = shapes_for(resolver, own)
    assert shapes.known("anything.example")
    assert [shapes.group(one) for one in ("one.example", "a.below.example", "below.example")] == [
        "+own",
        "+own",
        "below.example",
    ]
    assert resolver.asked == []
    both = shapes_for(resolver, own, Shape(**PROVIDER))
    assert (await both.learn("one.example")).name == "own"
    assert (await both.learn("two.example")).name == "provider"


# -- in the queue ------------------------------------------------------------------------------------------------


async def test_all_domains_of_a_provider_share_its_places(make):
    bench = make(concurrency=20)
    shaped(bench, concurrency=2)
    bench.hop.gate = asyncio.Event()
    for number in range(8):
        await bench.put(number, **to("one.example" if number % 2 else "two.example"))
    for number in range(8, 11):
        await bench.put(number, **to("other.example"))
    bench.worker().start()
    await bench.hop.until(lambda: bench.hop.busy == 5)
    bench.hop.gate.set()
    await bench.until_left(0)
    assert bench.hop.most == 5


async def test_a_new_message_waits_until_its_group_is_known(make):
    bench = make(concurrency=20)
    resolver = shaped(bench, concurrency=1)
    bench.hop.gate = asyncio.Event()
    bench.worker().start()
    for domain in ("one.example", "two.example"):
        envelope = Envelope(make_address("a@example.org"))
        transaction = bench.queue.begin(a_mail(envelope), 0)
        assert [reply.code for reply in await transaction.recipients(recipients(f"b@{domain}"))] == [250]
        assert (await transaction.send(b"", Message(b"Subject: x\r\n\r\n")))[0].ok
    await bench.until(lambda: bench.hop.busy == 1 and len(resolver.asked) == 2)
    assert {name for name, _ in resolver.asked} == {"one.example", "two.example"}
    assert bench.hop.most == 1
    bench.hop.gate.set()
    await bench.until_left(0)
    assert bench.hop.most == 1


async def test_a_rate_holds_for_the_group_and_nobody_else(make):
    bench = make(concurrency=20)
    shaped(bench, rate=0.001)
    for number in range(4):
        await bench.put(number, **to("one.example" if number % 2 else "two.example"))
    for number in range(4, 8):
        await bench.put(number, **to("other.example"))
    scheduler = bench.worker(rates=Rates(None, bench.clock.monotonic))
    scheduler.start()
    await bench.until(lambda: len(bench.hop.got) == 5)
    assert Counter(names[0].partition("@")[2] for _, names, _ in bench.hop.got)["other.example"] == 4
    await bench.until_left(3)
    assert [row[1] for row in await bench.left()] == [0, 0, 0]
    bench.clock.ahead += 1001
    await bench.until(lambda: len(bench.hop.got) == 6)
    await scheduler.stop(1.0)
    assert len(await bench.left()) == 2


async def test_a_rule_has_waits_of_its_own(make):
    bench = make(retry=(5000.0,))
    shaped(bench, retry=(100.0,))
    bench.hop.final = LATER
    await bench.put(1, **to("one.example"))
    await bench.put(2, **to("other.example"))
    bench.worker().start()
    await bench.until(lambda: bench.hop.begun == 2)
    await until(bench, "SELECT min(attempts) FROM part", 1)
    rows = await bench.store._read(lambda db: db.execute("SELECT destination, due FROM part").fetchall())
    waits = {destination: due - bench.clock.time() for destination, due in rows}
    assert 75 < waits["one.example"] <= 120
    assert 3900 < waits["other.example"] <= 6000


# -- what has to wait --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", ["", "one.example"])
async def test_what_is_beyond_the_room_waits_and_is_no_attempt(make, domain):
    bench = make(hop=Bounded(130, waits=1000.0))
    await bench.put(
        1,
        **to("one.example", 150)
        | {"parts": (Part("up", to("one.example", 150)["parts"][0].recipients, domain),)},
    )
    bench.worker().start()
    await bench.until(lambda: len(bench.hop.got) == 2)
    await until(bench, LEASED, 0)
    assert [len(names) for _, names, _ in bench.hop.got] == [100, 30]
    (left,) = await bench.store._read(
        lambda db: db.execute("SELECT count(*), max(reply) FROM recipient").fetchall()
    )
    assert left[0] == 20
    assert left[1].startswith("451 4.5.0 Waits")
    await bench.put(2, **to("one.example"))
    bench.workers[0][1].wake("up")
    await until(bench, "SELECT count(DISTINCT message) FROM recipient WHERE reply LIKE '451 4.5.0%'", 2)
    bench.hop.room = 1000
    bench.clock.ahead += 1300
    await bench.until_left(0)
    assert sum(len(names) for _, names, _ in bench.hop.got) == 151


async def until(bench: Bench, query: str, wanted: int) -> None:
    """Wait until the store answers that."""
    async with asyncio.timeout(10):
        while (await bench.store._read(lambda db: db.execute(query).fetchone()))[0] != wanted:
            bench.hop.news.clear()
            await asyncio.wait({asyncio.ensure_future(bench.hop.news.wait())}, timeout=0.05)


# -- long lists and fairness -------------------------------------------------------------------------------------


async def test_ten_thousand_recipients_of_one_message_leave_others_their_turn(make):
    bench = make(concurrency=2)
    bench.worker().start()
    names = recipients(*(f"r{number}@example.net" for number in range(10_000)))
    envelope = Envelope(make_address("news@list.example"))
    transaction = bench.queue.begin(a_mail(envelope), 0)
    assert all(reply.ok for reply in await transaction.recipients(names))
    assert (await transaction.send(b"", Message(b"Subject: news\r\n\r\n")))[0].ok
    small = bench.queue.begin(a_mail(Envelope(make_address("a@small.example"))), 0)
    await small.recipients(recipients("b@example.net"))
    assert (await small.send(b"", Message(b"Subject: small\r\n\r\n")))[0].ok
    await bench.until_left(0)
    sizes = [len(to) for sender, to, _ in bench.hop.got if sender == "news@list.example"]
    assert sizes == [100] * 100
    assert len({name for _, to, _ in bench.hop.got for name in to}) == 10_001
    place = [sender for sender, _, _ in bench.hop.got].index("a@small.example")
    assert place < 30, "behind the parts that had begun, and before most of the others"


async def test_a_small_campaign_does_not_wait_for_a_large_one_of_its_tenant(make):
    bench = make(concurrency=2)
    for number in range(150):
        await bench.put(
            number, parts=(Part("up", recipients("b@example.net"), "", share_key("shop", "sale")),)
        )
    for number in range(150, 155):
        parts = (Part("up", recipients("c@example.net"), "", share_key("shop", "receipts")),)
        await bench.put(
            number, envelope=Envelope(make_address("a@example.org"), parts[0].recipients), parts=parts
        )
    bench.worker().start()
    await bench.until_left(0)
    places = [place for place, (_, names, _) in enumerate(bench.hop.got) if names == ("c@example.net",)]
    assert len(places) == 5
    assert max(places) < 40


async def test_a_destination_that_is_slow_does_not_hold_up_others(make):
    bench = make(concurrency=8)
    shaped(bench, concurrency=2)
    stuck = asyncio.Event()

    class Slow(Transaction):
        async def send(self, lead: bytes, message: Message) -> list[Reply]:
            if str(self._taken[0].address).endswith("one.example"):
                await stuck.wait()
            return await super().send(lead, message)

    bench.hop.begin = lambda mail, _size: Slow(bench.hop, mail.envelope)
    for number in range(100):
        await bench.put(number, **to("one.example"))
    for number in range(100, 130):
        await bench.put(number, **to("other.example"))
    bench.worker().start()
    await bench.until(lambda: len(bench.hop.got) == 30)
    assert {names[0] for _, names, _ in bench.hop.got} == {"r0@other.example"}
    stuck.set()
    assert bench.hop.final is OK
