"""Several ways as one next hop: who is tried, what each recipient hears, what has to wait."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from relayproxy.bounces import rules
from relayproxy.bounces.rules import rules_of
from relayproxy.config.yaml import read_file
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.ports import Capabilities
from relayproxy.core.shaping import Shape, Shapes
from relayproxy.delivery.pool import PoolHop, Terms
from relayproxy.delivery.reputation import Rests
from relayproxy.delivery.warmup import DAY, Budgets, Warmup
from relayproxy.delivery.ways import Way
from relayproxy.model.client import Client
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.mail import Mail
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply
from relayproxy.state.memory import MemoryState
from relayproxy.testing import FakeClock, FakeResolver
from relayproxy.testing.mail import make_address

OK = Reply(250, "2.1.5", "Ok")
BLOCKED = Reply(550, "5.7.1", "Your IP is on our block list")
UNKNOWN = Reply(550, "5.1.1", "No such user")
RULES = rules_of(read_file(Path(rules.__file__).with_name("rules.yaml")))
MAIL = Mail("m1", Client("m1", "main", "192.0.2.7", 4711), Envelope(), Message(b""))
MESSAGE = Message(b"Subject: x\r\n\r\n")


class Hop:
    """A next hop that answers `reply` to recipients and `final` to the content, and remembers who came."""

    per_recipient = False

    def __init__(
        self, name: str, *, reply: Reply = OK, final: Reply = OK, problem: str | None = None
    ) -> None:
        self.name = name
        self.reply, self.final, self.problem = reply, final, problem
        self.capabilities: Capabilities | None = None
        self.came: list[str] = []
        self.sent = self.aborted = 0

    def begin(self, _mail: Mail, size: int) -> "Transaction":
        assert size >= 0
        return Transaction(self)


class Transaction:
    per_recipient = False
    waits = 0.0

    def __init__(self, hop: Hop) -> None:
        self._hop = hop
        self.unreached = hop.problem is not None
        self.problem = hop.problem or ""
        self.capabilities = hop.capabilities

    async def recipients(self, recipients: Sequence[Recipient]) -> list[Reply]:
        self._hop.came += [str(one.address) for one in recipients]
        return [self._hop.reply] * len(recipients)

    async def send(self, lead: bytes, message: Message) -> list[Reply]:
        self._hop.sent += 1
        return [self._hop.final]

    def abort(self) -> None:
        self._hop.aborted += 1


class Bench:
    """A pool whose first hop has all of the weight and the others none, so that they come in their order."""

    def __init__(
        self, *hops: Hop, queued: bool = True, budgets: Sequence[int] = (), source: str = ""
    ) -> None:
        self.clock = FakeClock()
        self.log: list[dict[str, object]] = []
        today = self.clock.time() // DAY * DAY
        warmups = [(Warmup(f"w{number}", today, (count, count)),) for number, count in enumerate(budgets)]
        warmups += [()] * (len(hops) - len(warmups))
        shapes = Shapes([Shape("big", frozenset({"big.example"}))], FakeResolver({}), self.clock.monotonic)
        self.terms = Terms(
            shapes,
            Budgets(MemoryState(self.clock.time), self.clock.time),
            Rests(3600.0),
            RULES,
            Log(lambda line: self.log.append(json.loads(line)), self.clock.time),
            Metrics(),
            self.clock.time,
        )
        ways = [
            Way(hop.name, lambda _, hop=hop: hop, 0 if number else 1, source, warmups[number])
            for number, hop in enumerate(hops)
        ]
        self.pool = PoolHop("pool", ways, self.terms, queued=queued)

    def begin(self):
        return self.pool.begin(MAIL, 0)


def to(*names: str) -> list[Recipient]:
    return [Recipient(make_address(name)) for name in names]


def numbered(count: int, domain: str = "example.net") -> list[Recipient]:
    return to(*(f"r{number}@{domain}" for number in range(count)))


async def test_one_way_has_the_whole_transaction():
    one, other = Hop("one"), Hop("other")
    transaction = Bench(one, other).begin()
    assert await transaction.recipients(to("a@example.net")) == [OK]
    assert await transaction.recipients(to("b@example.net")) == [OK]
    assert await transaction.send(b"", MESSAGE) == [OK]
    assert (one.came, one.sent, other.came) == (["a@example.net", "b@example.net"], 1, [])


async def test_the_next_one_where_none_is_reached_and_all_down_is_unreached():
    down, there = Hop("down", problem="connection refused"), Hop("there")
    transaction = Bench(down, there).begin()
    assert await transaction.recipients(to("a@example.net")) == [OK]
    assert there.came == ["a@example.net"]
    transaction = Bench(down, down).begin()
    (reply,) = await transaction.recipients(to("a@example.net"))
    assert transaction.unreached
    assert reply.code == 451
    assert await transaction.send(b"", MESSAGE) == [reply]


async def test_a_refusal_of_the_recipient_is_the_answer_and_nobody_rests():
    one, other = Hop("one", reply=UNKNOWN), Hop("other")
    bench = Bench(one, other)
    assert await bench.begin().recipients(to("a@example.net")) == [UNKNOWN]
    assert (other.came, bench.log) == ([], [])


async def test_all_that_are_refused_for_their_reputation_give_that_answer():
    one, other = Hop("one", reply=BLOCKED), Hop("other", reply=BLOCKED)
    bench = Bench(one, other)
    transaction = bench.begin()
    assert await transaction.recipients(to("a@example.net")) == [BLOCKED]
    assert await transaction.recipients(to("b@example.net")) == [BLOCKED]
    assert await transaction.send(b"", MESSAGE) == [BLOCKED]
    assert [(event["event"], event["way"]) for event in bench.log] == [
        ("source_rested", "one"),
        ("source_rested", "other"),
    ]
    assert not transaction.unreached
    again = bench.begin()
    assert await again.recipients(to("a@example.net")) == []
    assert again.waits == 3600.0
    assert await bench.begin().recipients(to("a@example.com")) == [BLOCKED]


async def test_after_the_content_nothing_is_tried_elsewhere_but_the_way_rests():
    one, other = Hop("one", final=BLOCKED), Hop("other")
    bench = Bench(one, other)
    transaction = bench.begin()
    await transaction.recipients(to("a@example.net"))
    assert await transaction.send(b"", MESSAGE) == [BLOCKED]
    assert other.came == []
    await bench.begin().recipients(to("a@example.net"))
    assert other.came == ["a@example.net"]


async def test_a_banner_that_refuses_rests_too():
    one, other = Hop("one", problem="192.0.2.1:25: 554 5.7.1 You are on our block list"), Hop("other")
    bench = Bench(one, other)
    await bench.begin().recipients(to("a@example.net"))
    (event,) = bench.log
    assert (event["event"], event["way"], event["destination"]) == ("source_rested", "one", "example.net")


async def test_an_address_that_is_not_here_is_not_tried_again_at_once():
    one, other = Hop("one", problem="cannot assign"), Hop("other", problem="cannot assign")
    bench = Bench(one, other, source="192.0.2.1")
    for _ in range(2):
        transaction = bench.begin()
        await transaction.recipients(to("a@example.net"))
        assert transaction.unreached
    assert len(one.came) == len(other.came) == 1
    bench.clock.advance(60.0)
    await bench.begin().recipients(to("a@example.net"))
    assert len(one.came) == 2


async def test_in_the_queue_as_many_as_there_is_room_for_then_the_other_way():
    one, other = Hop("one"), Hop("other")
    bench = Bench(one, other, budgets=[3])
    assert await bench.begin().recipients(numbered(5)) == [OK] * 3
    assert await bench.begin().recipients(numbered(5)[3:]) == [OK] * 2
    assert (len(one.came), len(other.came)) == (3, 2)


async def test_where_no_way_has_room_it_waits_but_not_for_another_group():
    bench = Bench(Hop("one"), budgets=[3])
    assert await bench.begin().recipients(numbered(3)) == [OK] * 3
    transaction = bench.begin()
    assert await transaction.recipients(numbered(1)) == []
    assert 0 < transaction.waits <= 3600.0
    assert not transaction.unreached
    assert await bench.begin().recipients(numbered(4, "big.example")) == [OK] * 3
    bench.clock.advance(DAY)
    assert await bench.begin().recipients(numbered(1)) == [OK]


async def test_the_first_without_room_ends_the_batch():
    bench = Bench(Hop("one"), budgets=[1])
    mixed = to("a@example.net", "b@big.example", "c@example.com", "d@big.example")
    assert await bench.begin().recipients(mixed) == [OK] * 2
    assert await bench.begin().recipients(mixed[2:]) == []


@pytest.mark.parametrize("trouble", [{"reply": UNKNOWN}, {"problem": "connection refused"}])
async def test_who_is_not_accepted_uses_up_nothing(trouble):
    hop = Hop("one", **trouble)
    bench = Bench(hop, budgets=[2])
    for _ in range(5):
        await bench.begin().recipients(numbered(2))
    hop.reply, hop.problem = OK, None
    assert await bench.begin().recipients(numbered(3)) == [OK] * 2


async def test_in_pass_through_everybody_has_an_answer():
    bench = Bench(Hop("one"), queued=False, budgets=[2])
    transaction = bench.begin()
    codes = [reply.code for reply in await transaction.recipients(numbered(3))]
    assert codes == [250, 250, 452]
    assert [reply.code for reply in await transaction.recipients(numbered(1))] == [452]
    assert await transaction.send(b"", MESSAGE) == [OK]
    late = bench.begin()
    assert [reply.code for reply in await late.recipients(numbered(1))] == [451]
    assert late.unreached, "so that a queue may take it"


def test_what_all_that_are_known_can_take():
    one, other, unknown = Hop("one"), Hop("other"), Hop("unknown")
    pool = Bench(one, other, unknown).pool
    assert pool.capabilities is None
    one.capabilities = Capabilities(frozenset({"8BITMIME", "DSN"}), 1000)
    other.capabilities = Capabilities(frozenset({"8BITMIME"}))
    assert pool.capabilities == Capabilities(frozenset({"8BITMIME"}), 1000)
