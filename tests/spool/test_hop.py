"""The queue as a next hop: what it offers, what it answers, and when it stands in for an upstream."""

import json
from dataclasses import replace

import pytest
from tests.spool.making import CLIENT, LEAD, MESSAGE, a_mail, recipients
from tests.spool.test_scheduler import Hop, SetClock

from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.policy import Route
from relayproxy.core.ports import Capabilities
from relayproxy.model.client import Client
from relayproxy.model.envelope import Envelope
from relayproxy.model.mail import Direction
from relayproxy.model.queued import HIGH, LOW, NORMAL, Deposit, Lease
from relayproxy.model.reply import Reply
from relayproxy.spool.hop import QueueHop
from relayproxy.spool.lanes import Lane, Schedule
from relayproxy.spool.protocol import SpoolError, SpoolFullError
from relayproxy.spool.when_down import WhenDownHop
from relayproxy.testing.mail import make_address

TRUSTED = Client("c1", "main", "127.0.0.1", trusted=True)
ENVELOPE = Envelope(make_address("a@example.org"))
TRACE = b"Received: from x\r\n\tby relay.test (relayproxy) with ESMTP id 0k3v9q2m1.3;\r\n\tdate\r\n"


class Shelf:
    """A store that keeps deposits in a list, or fails as it is told."""

    def __init__(self) -> None:
        self.kept: list[Deposit] = []
        self.error: Exception | None = None
        self.has_room = True

    def room(self) -> bool:
        return self.has_room

    async def store(self, deposit: Deposit) -> tuple[Lease, ...]:
        if self.error is not None:
            raise self.error
        self.kept.append(deposit)
        return tuple(Lease(1, n, 1, part.route) for n, part in enumerate(deposit.parts) if deposit.owner)


class Clerk:
    """A courier with `places`."""

    owner, lease = "w", 60.0

    def __init__(self) -> None:
        self.places = 0
        self.offered: list[object] = []
        self.woken: list[str] = []

    def reserve(self, _route: str) -> bool:
        self.places -= 1
        return self.places >= 0

    def cancel(self, _route: str) -> None:
        self.places += 1

    def offer(self, queued) -> None:
        self.offered.append(queued)

    def wake(self, route: str) -> None:
        self.woken.append(route)


class Bench:
    def __init__(self, *hops: Hop) -> None:
        self.shelf, self.clerk, self.log = Shelf(), Clerk(), []
        clock = SetClock()
        lanes = {f"r{n}": Lane(f"r{n}", hop, Schedule(retry=(100.0,))) for n, hop in enumerate(hops)}
        routes = (
            Route("r0", "+queue", recipient_domains=frozenset({"example.net"})),
            Route("r1", "+queue", recipient_domains=frozenset({"example.com"})),
        )
        log = Log(lambda line: self.log.append(json.loads(line)), clock.time)
        self.hop = QueueHop(self.shelf, self.clerk, routes, lanes, clock=clock, log=log, metrics=Metrics())

    async def send(self, *names: str, hop=None, client: Client = TRUSTED, lead: bytes = TRACE):
        transaction = (hop or self.hop).begin(a_mail(ENVELOPE, client, direction=Direction.INTERNAL), 0)
        heard = await transaction.recipients(recipients(*names))
        return heard, await transaction.send(lead, MESSAGE)


@pytest.mark.parametrize(
    ("known", "offered", "size"),
    [
        ([None], {"8BITMIME", "SMTPUTF8", "DSN"}, 0),
        ([Capabilities(frozenset({"PIPELINING"}), 5000)], {"DSN"}, 5000),
        ([Capabilities(frozenset({"REQUIRETLS"}))], {"DSN", "REQUIRETLS"}, 0),
        ([Capabilities(frozenset({"REQUIRETLS"})), None], {"DSN"}, 0),
        (
            [
                Capabilities(frozenset({"8BITMIME", "SMTPUTF8"}), 0),
                Capabilities(frozenset({"8BITMIME", "DSN"}), 70),
            ],
            {"8BITMIME", "DSN"},
            70,
        ),
        (
            [Capabilities(frozenset({"8BITMIME"}), 90), Capabilities(frozenset({"8BITMIME"}), 70)],
            {"8BITMIME", "DSN"},
            70,
        ),
    ],
)
async def test_what_is_offered(known, offered, size):
    hops = [Hop() for _ in known]
    for hop, capabilities in zip(hops, known, strict=True):
        hop.capabilities = capabilities
    assert Bench(*hops).hop.capabilities == Capabilities(frozenset(offered), size)


async def test_what_is_stored():
    bench = Bench(Hop(), Hop())
    heard, (reply,) = await bench.send("b@example.net", "x@elsewhere.test", "c@example.com", "d@example.net")
    assert [one.code for one in heard] == [250, 550, 250, 250]
    assert reply == Reply(250, "2.0.0", "Ok: queued")
    (kept,) = bench.shelf.kept
    assert kept.id == "0k3v9q2m1.3"
    assert [(part.route, len(part.recipients)) for part in kept.parts] == [("r0", 2), ("r1", 1)]
    assert (kept.direction, kept.vouched, kept.owner) == (Direction.INTERNAL, True, "")
    assert bench.clerk.woken == ["r0", "r1"]


async def test_a_place_is_used_or_given_back():
    bench = Bench(Hop())
    bench.clerk.places = 1
    bench.shelf.error = SpoolError("no")
    await bench.send("b@example.net")
    assert bench.clerk.places == 1
    bench.shelf.error = None
    await bench.send("b@example.net")
    assert len(bench.clerk.offered) == 1
    assert bench.shelf.kept[0].owner == "w"


@pytest.mark.parametrize(
    ("error", "reply"), [(SpoolFullError("full"), "452 4.3.1"), (SpoolError("broken"), "451 4.3.0")]
)
async def test_what_can_not_be_stored(error, reply):
    bench = Bench(Hop())
    bench.shelf.error = error
    _, (heard,) = await bench.send("b@example.net")
    assert str(heard).startswith(reply)
    assert bench.log[0]["event"] == "queue_store_failed"


async def test_without_room_recipients_are_refused():
    bench = Bench(Hop())
    bench.shelf.has_room = False
    heard, (final,) = await bench.send("b@example.net")
    assert [one.code for one in heard] == [452]
    assert final.temporary
    assert bench.shelf.kept == []


async def test_an_aborted_transaction_stores_nothing():
    bench = Bench(Hop())
    transaction = bench.hop.begin(a_mail(ENVELOPE, TRUSTED), 0)
    await transaction.recipients(recipients("b@example.net"))
    transaction.abort()
    assert [reply.code for reply in await transaction.send(LEAD, MESSAGE)] == [451]
    assert bench.shelf.kept == []


@pytest.mark.parametrize("per_recipient", [False, True])
async def test_it_stands_in_only_for_what_can_not_be_reached(per_recipient):
    upstream = Hop(per_recipient=per_recipient)
    bench = Bench(upstream)
    hop = WhenDownHop(upstream, bench.hop)
    assert (hop.name, hop.capabilities) == ("mx.example.net+queue", upstream.capabilities)
    _, replies = await bench.send("b@example.net", "c@example.net", hop=hop)
    assert [reply.text for reply in replies] == ["taken"] * (2 if per_recipient else 1)
    upstream.down = True
    heard, replies = await bench.send("b@example.net", "c@example.net", hop=hop)
    assert [one.code for one in heard] == [250, 250]
    assert [reply.text for reply in replies] == ["Ok: queued"] * (2 if per_recipient else 1)
    transaction = hop.begin(a_mail(ENVELOPE, TRUSTED), 0)
    assert not transaction.queued
    await transaction.recipients(recipients("b@example.net"))
    assert transaction.queued
    transaction.abort()
    (kept,) = bench.shelf.kept
    assert kept.due > kept.received_at + 70
    assert bench.clerk.woken == []


async def test_it_does_not_stand_in_for_unverified_strangers():
    upstream = Hop()
    upstream.down = True
    bench = Bench(upstream)
    _, (reply,) = await bench.send("b@example.net", hop=WhenDownHop(upstream, bench.hop), client=CLIENT)
    assert str(reply).startswith("451 4.4.1")
    assert bench.shelf.kept == []


async def test_parts_have_a_tenant_and_a_priority():
    bench = Bench(Hop(), Hop())
    first, second = bench.hop._routes
    bench.hop._priorities = {first: HIGH, second: NORMAL}
    await bench.send("a@example.net", "b@example.com")
    (deposit,) = bench.shelf.kept
    assert [(part.tenant, part.priority) for part in deposit.parts] == [
        (ENVELOPE.sender.ascii_domain, HIGH),
        (ENVELOPE.sender.ascii_domain, NORMAL),
    ]
    await bench.send("a@example.net", client=replace(TRUSTED, identity="ana"))
    assert bench.shelf.kept[1].parts[0].tenant == "ana"


async def test_what_is_large_is_of_low_priority():
    bench = Bench(Hop())
    size = len(TRACE) + MESSAGE.size
    for above, priority in ((size, NORMAL), (size - 1, LOW), (0, NORMAL)):
        lane = bench.hop.lanes["r0"]
        bench.hop.lanes["r0"] = replace(lane, schedule=Schedule(low_above=above))
        await bench.send("a@example.net")
        assert bench.shelf.kept[-1].parts[0].priority == priority
