"""The scheduler against a real store and a next hop that answers what the test says."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.core.making import plugin
from tests.spool.making import a_mail, deposit, recipients

from relayproxy.core.entry import Entry
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.pipeline import Pipeline
from relayproxy.core.policy import Route
from relayproxy.core.ports import Capabilities
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.mail import Mail
from relayproxy.model.message import Message
from relayproxy.model.queued import Part, Standing, share_key
from relayproxy.model.reply import Reply
from relayproxy.spool.bounces import Bounces
from relayproxy.spool.ending import Endings
from relayproxy.spool.hop import QueueHop
from relayproxy.spool.lanes import Lane, Schedule, pause_after
from relayproxy.spool.scheduler import Scheduler
from relayproxy.spool.sqlite import Floors, SqliteSpool
from relayproxy.testing.mail import make_address
from relayproxy.testing.session import entry_for

OK = Reply(250, "2.0.0", "taken")
LATER = Reply(451, "4.2.0", "later")
NEVER = Reply(550, "5.1.1", "nobody")


class SetClock:
    """The loop's own time, with an offset that a test sets."""

    def __init__(self) -> None:
        self.offset = 1_790_000_000.0
        self.ahead = 0.0

    def time(self) -> float:
        return self.monotonic() + self.offset

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead


class Hop:
    """A next hop. `answers` maps recipients to replies, `final` is the reply to the content; `down` can't be reached."""

    name = "mx.example.net"

    def __init__(self, *, per_recipient: bool = False) -> None:
        self.per_recipient = per_recipient
        self.capabilities: Capabilities | None = Capabilities(frozenset({"8BITMIME", "SMTPUTF8"}))
        self.answers: dict[str, Reply] = {}
        self.final = OK
        self.down = False
        self.gate: asyncio.Event | None = None
        self.most = self.busy = self.begun = 0
        self.got: list[tuple[str, tuple[str, ...], bytes]] = []
        self.envelopes: list[Envelope] = []
        self.news = asyncio.Event()

    def begin(self, mail: Mail, _size: int) -> "Transaction":
        self.begun += 1
        self.envelopes.append(mail.envelope)
        self.news.set()
        return Transaction(self, mail.envelope)

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not what():
                self.news.clear()
                await self.news.wait()


class Transaction:
    queued = False

    def __init__(self, hop: Hop, envelope: Envelope) -> None:
        self.per_recipient = hop.per_recipient
        self.unreached = hop.down
        self.capabilities = hop.capabilities
        self._hop = hop
        self._envelope = envelope
        self._taken: list[Recipient] = []

    async def recipients(self, wanted: Sequence[Recipient]) -> list[Reply]:
        if self.unreached:
            return [Reply(451, "4.4.1", "down")] * len(wanted)
        replies = [self._hop.answers.get(str(one.address), OK) for one in wanted]
        self._taken += [one for one, reply in zip(wanted, replies, strict=True) if reply.ok]
        return replies

    async def send(self, lead: bytes, message: Message) -> list[Reply]:
        hop = self._hop
        hop.busy += 1
        hop.most = max(hop.most, hop.busy)
        hop.news.set()
        if hop.gate is not None:
            await hop.gate.wait()
        hop.busy -= 1
        if hop.final.ok:
            names = tuple(str(one.address) for one in self._taken)
            hop.got.append((str(self._envelope.sender), names, lead + bytes(message)))
        hop.news.set()
        return [hop.final] * (len(self._taken) if self.per_recipient else 1)

    def abort(self) -> None:
        pass


class Bench:
    """A store, a hop, and workers on them."""

    def __init__(self, folder, schedule: Schedule, hop: Hop) -> None:
        self.clock = SetClock()
        self.folder = folder
        self.hop = hop
        self.schedule = schedule
        self.log: list[dict[str, Any]] = []
        self.lane: dict[str, Any] = {}
        self.history: Kept | None = None
        self.plugins: tuple[Entry, ...] = ()
        self.workers: list[tuple[SqliteSpool, Scheduler]] = []
        self.store = self.open_store()

    def open_store(self) -> SqliteSpool:
        store = SqliteSpool(self.folder / "spool.db", now=self.clock.time, floors=Floors(0, 0))
        store.start()
        return store

    def worker(self, **options: Any) -> Scheduler:
        store, metrics = self.open_store(), Metrics()
        log = Log(lambda line: self.log.append(json.loads(line)), self.clock.time)
        lanes = [Lane("up", self.hop, self.schedule, **self.lane)]
        common = {"clock": self.clock, "log": log, "metrics": metrics}
        pipeline = Pipeline(list(self.plugins), **common)
        ids = iter(range(1000))
        scheduler: Scheduler

        def route(client, sender, to):
            return queue.parts(client, sender, to)

        bounces = Bounces("relay.test", pipeline, route, lambda: f"dsn{next(ids)}", **common)
        endings = Endings(bounces, lanes, pipeline, **common, history=self.history)
        scheduler = Scheduler(store, lanes, endings, owner=f"w{len(self.workers)}", **common, **options)
        queue = QueueHop(store, scheduler, (Route("up", "+queue"),), {"up": lanes[0]}, **common)
        self.queue = queue
        self.workers.append((store, scheduler))
        return scheduler

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.log if event["event"] == name]

    async def put(self, number: int = 1, **changes: Any) -> None:
        now = self.clock.time()
        await self.store.store(
            deposit(number, **({"received_at": now, "due": now, "vouched": True} | changes))
        )

    async def left(self) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = await self.store._read(
            lambda db: db.execute("SELECT standing, attempts, reason, warned FROM part").fetchall()
        )
        return rows

    async def until_left(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(await self.left()) != count:
                self.hop.news.clear()
                await asyncio.wait({asyncio.ensure_future(self.hop.news.wait())}, timeout=0.05)

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not what():
                self.hop.news.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await self.hop.news.wait()

    async def close(self) -> None:
        for store, scheduler in self.workers:
            await scheduler.stop(0.0)
            await store.close()
        await self.store.close()


@pytest.fixture
async def make(tmp_path):
    made: list[Bench] = []

    def one(hop: Hop | None = None, **schedule: Any) -> Bench:
        usual = {"retry": (0.05,), "expire": 3600.0, "warn": 0.0, "concurrency": 3}
        made.append(Bench(tmp_path / "spool", Schedule(**(usual | schedule)), hop or Hop()))
        return made[-1]

    yield one
    for bench in made:
        await bench.close()


async def test_what_is_there_is_delivered_within_the_bounds(make):
    bench = make()
    for number in range(20):
        await bench.put(number)
    bench.worker().start()
    await bench.until_left(0)
    assert len(bench.hop.got) == 20
    assert bench.hop.most <= 3


async def test_two_workers_deliver_each_message_once(make):
    bench = make()
    for number in range(60):
        await bench.put(number, message=Message(b"Subject: %d\r\n\r\n" % number))
    for scheduler in (bench.worker(), bench.worker()):
        scheduler.start()
    await bench.until_left(0)
    assert len(bench.hop.got) == len({content for _, _, content in bench.hop.got}) == 60


async def test_a_temporary_refusal_is_tried_again(make):
    bench = make()
    bench.hop.answers["b@example.net"] = LATER
    await bench.put()
    bench.worker().start()
    await bench.hop.until(lambda: bench.hop.begun >= 3)
    bench.hop.answers.clear()
    await bench.until_left(0)
    assert bench.events("queue_delivery")[0]["reply"] == "451 4.2.0 later"


@pytest.mark.parametrize("per_recipient", [False, True])
async def test_a_mixed_part_is_taken_apart(make, per_recipient):
    bench = make(Hop(per_recipient=per_recipient))
    to = recipients("ok@example.net", "no@example.net", "wait@example.net")
    bench.hop.answers = {"no@example.net": NEVER, "wait@example.net": LATER}
    await bench.put(envelope=Envelope(make_address("s@example.org"), to), parts=(Part("up", to),))
    bench.worker().start()
    await bench.hop.until(lambda: len(bench.hop.got) >= 2)
    bench.hop.answers.clear()
    await bench.until_left(0)
    names = sorted(names for _, names, _ in bench.hop.got)
    assert names == [("ok@example.net",), ("s@example.org",), ("wait@example.net",)]


async def test_international_mail_comes_back_where_the_next_hop_can_not_take_it(make):
    bench = make()
    bench.hop.capabilities = Capabilities(frozenset({"8BITMIME"}))
    to = recipients("ö@example.net")
    envelope = Envelope(make_address("a@example.org"), to, smtputf8=True)
    await bench.put(envelope=envelope, parts=(Part("up", to),))
    bench.worker().start()
    await bench.hop.until(lambda: len(bench.hop.got) == 1)
    assert bench.hop.got[0][1] == ("a@example.org",)
    assert "Final-Recipient: utf-8; ö@example.net\r\n".encode() in bench.hop.got[0][2]
    event = bench.events("queue_delivery")[0]
    assert (event["ended"], event["reply"][:9]) == ("bounced", "550 5.6.7")


async def test_what_needs_requiretls_comes_back_where_the_next_hop_does_not_take_it(make):
    bench = make()
    to = recipients("b@example.net")
    envelope = Envelope(make_address("a@example.org"), to, ret="FULL", requiretls=True)
    await bench.put(envelope=envelope, parts=(Part("up", to),))
    bench.worker().start()
    await bench.until_left(0)
    first, second = bench.events("queue_delivery")
    assert (first["ended"], first["reply"][:10]) == ("bounced", "550 5.7.30")
    # The notification is bound by it too, and nobody is told of a notification.
    assert (second["from"], second["ended"], second["reply"][:10]) == ("", "dropped", "550 5.7.30")


async def test_tls_is_no_condition_where_the_sender_says_so(make):
    bench = make()
    to = recipients("b@example.net")
    for number, head in enumerate((b"", b"TLS-Required: No\r\n"), 1):
        message = Message.from_bytes(head + b"Subject: x\r\n\r\nbody\r\n")
        await bench.put(number, message=message, parts=(Part("up", to),))
    bench.worker().start()
    await bench.until_left(0)
    assert sorted(envelope.tls_optional for envelope in bench.hop.envelopes) == [False, True]


async def test_a_thousand_recipients_go_out_a_hundred_at_a_time(make):
    bench = make()
    to = recipients(*(f"u{number}@example.net" for number in range(1000)))
    await bench.put(envelope=Envelope(make_address("s@example.org"), to), parts=(Part("up", to),))
    bench.worker().start()
    await bench.until_left(0)
    assert [len(names) for _, names, _ in bench.hop.got] == [100] * 10


async def test_a_next_hop_that_is_not_there_is_left_alone_and_the_rest_waits(make):
    bench = make(concurrency=1)
    bench.hop.down = True
    for number in range(10):
        await bench.put(number)
    bench.worker().start()
    await bench.hop.until(lambda: bool(bench.events("queue_paused")))
    attempts = sorted(row[1] for row in await bench.left())
    assert attempts[:9] == [0] * 9
    bench.hop.down = False
    await bench.until_left(0)
    assert len(bench.hop.got) == 10
    assert bench.events("queue_resumed")


async def test_what_is_late_is_told_once_and_what_has_expired_comes_back(make):
    bench = make(warn=50.0, expire=100.0, retry=(3600.0,))
    bench.hop.answers["b@example.net"] = LATER
    bench.clock.offset -= 60
    await bench.put()
    bench.clock.offset += 60
    bench.worker().start()
    await bench.hop.until(lambda: len(bench.hop.got) == 1)
    ((sender, names, report),) = bench.hop.got
    assert (sender, names) == ("", ("a@example.org",))
    assert b"Action: delayed\r\n" in report
    assert b"Will-Retry-Until: " in report
    await bench.until_left(1)
    assert [row[3] for row in await bench.left()] == [1]
    await bench.workers[0][1].stop(1.0)
    bench.clock.offset += 60
    bench.worker().start()
    await bench.hop.until(lambda: len(bench.hop.got) == 2)
    assert b"Action: failed\r\nStatus: 4.4.7\r\n" in bench.hop.got[1][2]
    await bench.until_left(0)


async def test_what_expires_while_the_next_hop_is_down_comes_back_too(make):
    bench = make(expire=100.0, retry=(3600.0,))
    bench.hop.down = True
    bench.clock.offset -= 200
    await bench.put()
    bench.clock.offset += 200
    bench.worker().start()
    await bench.hop.until(lambda: bool(bench.events("notified")))
    bench.hop.down = False
    await bench.hop.until(lambda: len(bench.hop.got) == 1)
    assert bench.hop.got[0][0] == ""


async def test_a_stop_gives_back_what_was_not_begun(make):
    bench = make(concurrency=1)
    bench.hop.gate = asyncio.Event()
    for number in range(5):
        await bench.put(number)
    scheduler = bench.worker()
    scheduler.start()
    await bench.hop.until(lambda: bench.hop.busy == 1)
    stopping = asyncio.create_task(scheduler.stop(5.0))
    await asyncio.sleep(0)
    bench.hop.gate.set()
    await stopping
    assert len(bench.hop.got) == 1
    now = bench.clock.time()
    assert len(await bench.store.claim("up", "x", now + 60, 10)) == 4


async def test_a_worker_that_lost_its_lease_writes_nothing_down(make):
    bench = make()
    bench.hop.gate = asyncio.Event()
    await bench.put()
    scheduler = bench.worker()
    scheduler.start()
    await bench.hop.until(lambda: bench.hop.busy == 1)
    late = bench.open_store()
    late._now = lambda: bench.clock.time() + 120
    (lease,) = await late.claim("up", "other", bench.clock.time() + 999, 10)
    bench.hop.gate.set()
    await bench.hop.until(lambda: len(bench.hop.got) == 1)
    await scheduler.stop(5.0)
    assert [event["id"] for event in bench.events("lease_lost")] == ["id1"]
    (still,) = await late.load([lease])
    assert still.id == "id1"
    await late.close()


async def test_a_broken_entry_is_set_aside_and_the_rest_delivered(make):
    bench = make()
    await bench.put(1)
    await bench.put(2)
    await bench.store._writer.do(
        lambda db, _: [db.execute("UPDATE message SET digest = x'00' WHERE id = 'id1'").rowcount], None
    )
    bench.worker().start()
    await bench.until_left(1)
    assert [row[0] for row in await bench.left()] == ["broken"]
    assert len(bench.events("queue_broken")) == 1
    assert len(bench.hop.got) == 1


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0])
async def test_after_a_jump_of_the_clock_nothing_is_claimed_for_a_while(make, jump):
    bench = make()
    scheduler = bench.worker()
    scheduler.start()
    await bench.put(1)
    await bench.until_left(0)
    bench.clock.offset += jump
    assert await scheduler._look_at_clock()
    await bench.put(2)
    state = scheduler._states["up"]
    assert await scheduler._turn(state) > 0
    assert len(await bench.left()) == 1
    assert len(bench.hop.got) == 1
    assert bench.events("clock_jumped")


async def test_the_hop_hands_a_message_on_at_once_and_no_more_than_there_is_room_for(make):
    bench = make(concurrency=2)
    bench.hop.gate = asyncio.Event()
    scheduler = bench.worker()
    envelope = Envelope(make_address("a@example.org"))

    async def give(number: int) -> list[Reply]:
        transaction = bench.queue.begin(a_mail(envelope), 0)
        assert [r.code for r in await transaction.recipients(recipients("b@example.net"))] == [250]
        return await transaction.send(b"", Message(b"Subject: %d\r\n\r\n" % number))

    replies = await asyncio.gather(*(give(number) for number in range(5)))
    assert [str(reply) for (reply,) in replies] == ["250 2.0.0 Ok: queued"] * 5
    await bench.hop.until(lambda: bench.hop.busy == 2)
    assert len(await bench.left()) == 5
    bench.hop.gate.set()
    scheduler.start()
    await bench.until_left(0)
    assert len(bench.hop.got) == 5


def test_pauses_and_retries_grow_within_their_bounds():
    assert [round(pause_after(n, lambda: 0.5)) for n in (1, 2, 3, 4, 5, 6, 99)] == [1, 2, 5, 10, 30, 60, 60]
    schedule = Schedule((10.0, 100.0))
    assert [round(schedule.after(n, lambda: 0.5)) for n in (0, 1, 2, 9)] == [10, 10, 100, 100]
    assert schedule.after(1, lambda: 0.0) == pytest.approx(8.0)
    assert schedule.after(1, lambda: 1.0) == pytest.approx(12.0)


async def test_what_was_held_too_long_is_deleted_and_named(make):
    bench = make()
    now = bench.clock.time()
    for number in range(250):
        await bench.put(number, standing=Standing.HELD, reason="odd", due=now - 2000)
    await bench.put(999, standing=Standing.HELD, reason="odd", due=now - 10)
    scheduler = bench.worker(keep_held=1000.0)
    await scheduler._expire_held()
    assert await bench.left() == [("held", 0, "odd", 0)]
    events = bench.events("held_expired")
    assert len(events) == 250
    assert (events[0]["from"], events[0]["to"], events[0]["reason"]) == (
        "a@example.org",
        ["b@example.net"],
        "odd",
    )


class Kept:
    def __init__(self) -> None:
        self.events: list[Any] = []

    def record(self, event: Any) -> None:
        self.events.append(event)

    def notes(self) -> list[tuple[str, str, str]]:
        return [
            (one.kind, str(one.recipient or ""), str(one.reply.status) if one.reply else "")
            for one in self.events
        ]


async def test_the_history_hears_of_each_attempt_and_of_each_end(make):
    bench = make()
    bench.history = Kept()
    bench.hop.answers = {"b@example.net": LATER, "c@example.net": NEVER}
    to = recipients("b@example.net", "c@example.net", "d@example.net")
    await bench.put(envelope=Envelope(make_address("a@example.org"), to), parts=(Part("up", to),))
    bench.worker().start()
    await bench.hop.until(lambda: len(bench.hop.got) >= 1)
    await bench.until(lambda: len(bench.history.events) >= 4)
    assert bench.history.notes()[:4] == [
        ("attempt", "b@example.net", "4.2.0"),
        ("attempt", "c@example.net", "5.1.1"),
        ("attempt", "d@example.net", "2.0.0"),
        ("bounce", "c@example.net", ""),
    ]
    bounce = bench.history.events[3]
    assert (bounce.id, bounce.route) == ("id1", "up")
    assert (bounce.details["end"], bounce.details["notice"], bounce.details["attempt"]) == (
        "bounced",
        "dsn0",
        1,
    )


async def test_report_hooks_hear_of_each_attempt(make):
    told: list[tuple[Any, ...]] = []
    campaigns: set[tuple[str, str]] = set()

    def after_attempt(_self, mail, outcomes, attempt):
        if mail.origin == "smtp":
            told.extend(
                (attempt, str(one.recipient.address), one.state, one.reply.status) for one in outcomes
            )
            found = mail.finding("campaign").props
            campaigns.add((found["tenant"], found["name"]))
        bench.hop.news.set()

    bench = make()
    bench.plugins = (entry_for(plugin("reporter", after_attempt=after_attempt)),)
    bench.hop.answers = {"b@example.net": LATER, "c@example.net": NEVER}
    to = recipients("b@example.net", "c@example.net", "d@example.net")
    await bench.put(
        envelope=Envelope(make_address("a@example.org"), to),
        parts=(Part("up", to, tenant=share_key("shop", "spring")),),
    )
    bench.worker().start()
    await bench.hop.until(lambda: len(told) >= 3)
    bench.hop.answers.clear()
    await bench.hop.until(lambda: told[-1][2] == "done" and len(told) > 3)
    assert told[:3] == [
        (1, "b@example.net", "pending", "4.2.0"),
        (1, "c@example.net", "failed", "5.1.1"),
        (1, "d@example.net", "done", "2.0.0"),
    ]
    assert told[-1][1:] == ("b@example.net", "done", "2.0.0")
    assert [one[0] for one in told[3:]] == list(range(2, len(told) - 1))
    assert campaigns == {("shop", "spring")}


@pytest.mark.parametrize("vouched", [True, False])
async def test_report_hooks_hear_of_who_expires_as_failed(make, vouched):
    told: list[tuple[Any, ...]] = []

    def after_attempt(_self, mail, outcomes):
        told.extend((mail.id, one.state, one.reply.status) for one in outcomes)
        bench.hop.news.set()

    bench = make(expire=10.0)
    bench.plugins = (entry_for(plugin("reporter", after_attempt=after_attempt)),)
    bench.hop.answers = {"b@example.net": LATER}
    await bench.put(received_at=bench.clock.time() - 20, vouched=vouched)
    bench.worker().start()
    await bench.hop.until(lambda: bool(told))
    assert told[0] == ("id1", "failed", "5.4.7")


async def test_the_history_has_a_reply_for_what_expires(make):
    bench = make(Hop(), expire=10.0)
    bench.history = Kept()
    bench.hop.down = True
    await bench.put(received_at=bench.clock.time() - 20, vouched=False)
    bench.worker().start()
    await bench.until_left(1)
    await bench.until(lambda: len(bench.history.events) >= 2)
    assert bench.history.notes()[:2] == [("attempt", "", "4.4.1"), ("bounce", "b@example.net", "5.4.7")]
    assert bench.history.events[0].details["recipients"] == 1
    assert bench.history.events[1].details["end"] == "held"


async def test_a_destination_that_asks_for_less_rests_and_gets_less(make):
    bench = make(concurrency=4)
    bench.hop.final = Reply(421, "4.7.0", "too many messages")
    for number in range(8):
        await bench.put(number)
    scheduler = bench.worker()
    scheduler.start()
    await bench.until(lambda: bool(bench.events("queue_throttled")))
    (event,) = bench.events("queue_throttled")
    assert (event["limit"], event["seconds"], event["destination"]) == (2, 5.0, "")
    begun = bench.hop.begun
    assert begun <= 4
    bench.hop.final = OK
    bench.clock.ahead += 6.0
    bench.hop.most = 0
    await bench.until_left(0)
    assert len(bench.hop.got) == 8
    assert 1 <= bench.hop.most <= 3


async def test_tenants_at_hand_take_turns(make):
    bench = make(concurrency=1)
    to = recipients("b@example.net")
    for number, tenant in enumerate(("flood", "flood", "flood", "small")):
        sender = make_address(f"s@{tenant}.example")
        await bench.put(
            number,
            envelope=Envelope(sender, to),
            parts=(Part("up", to, tenant=tenant, priority=int(tenant == "flood")),),
        )
    bench.worker().start()
    await bench.until_left(0)
    assert bench.hop.got[0][0] == "s@small.example"
