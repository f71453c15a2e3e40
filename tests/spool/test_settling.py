"""A part that takes several transactions: each is written down before the next begins, whatever happens between them."""

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.spool.delivering import ASKED, COUNT, NAMES, REFUSED
from tests.spool.making import recipients
from tests.spool.test_scheduler import LATER, NEVER, OK, Kept, make

from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.queued import Part, Settlement
from relayproxy.spool.listing import Filter, Listing
from relayproxy.spool.protocol import SpoolError
from relayproxy.testing.mail import make_address

__all__ = ["make"]  # the fixture

ROOT = Path(__file__).parents[2]
TRANSACTIONS = COUNT // 100


def run(folder: Path, number: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        (sys.executable, "-m", "tests.spool.delivering", str(folder), str(number)),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


async def killed(child: subprocess.Popen[bytes], took: int, seconds: float) -> str:
    """Return what it said before it was killed, so long after the next hop had answered so many transactions."""
    assert child.stdout is not None
    output = b""
    while output.count(b"\ntook") + output.startswith(b"took") < took:
        piece = await asyncio.to_thread(os.read, child.stdout.fileno(), 65_536)
        assert piece, output[-500:]
        output += piece
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    child.kill()
    output += child.stdout.read()
    child.stdout.close()
    child.wait()
    return output.decode()


def said(output: str, *words: str) -> list[list[str]]:
    """Return what follows these words in each line that begins with them."""
    lines = [line.split() for line in output.splitlines()]
    return [line[len(words) :] for line in lines if tuple(line[: len(words)]) == words]


@pytest.mark.parametrize("seed", range(int(os.environ.get("RELAYPROXY_CRASHES", "5"))))
async def test_a_kill_doubles_only_the_transaction_that_was_in_flight(tmp_path, seed):
    chance = random.Random(seed)
    outputs: list[str] = []
    for _ in range(chance.choice((1, 2))):
        child = run(tmp_path / "spool", len(outputs))
        outputs.append(await killed(child, chance.choice((1, 2, 3)), chance.random() * 0.004))
    last = run(tmp_path / "spool", len(outputs))
    rest, _ = await asyncio.to_thread(last.communicate, timeout=60)
    outputs.append(rest.decode())
    whole = "".join(outputs)
    assert outputs[-1].endswith("end\n"), outputs[-1][-500:]

    in_flight: Counter[str] = Counter()
    for output in outputs[:-1]:
        if not output.endswith("end\n"):
            in_flight.update(said(output, "begin")[-1])
    assert max(in_flight.values(), default=0) <= len(outputs) - 1
    took = Counter(name for names in said(whole, "took") for name in names)
    assert set(took) == set(NAMES) - REFUSED
    doubled = {name for name, times in took.items() if times > 1}
    assert doubled <= set(in_flight)
    assert all(times <= 1 + in_flight[name] for name, times in took.items())
    # Nobody who was refused in a transaction that was written down is asked again.
    asked = Counter(name for names in said(whole, "begin") for name in names)
    assert all(asked[name] == 1 for name in NAMES if not in_flight[name])

    attempts = Counter(name for (name,) in said(whole, "event", "attempt"))
    for name in NAMES:
        assert attempts[name] <= asked[name]
        assert attempts[name] == 1 or name in in_flight
    # What ends a part tells of all of it, once, whoever delivered the beginning.
    assert [set(names) for names in said(whole, "told", "failed")] == [REFUSED]
    assert [set(names) for names in said(whole, "told", "relayed")] == [ASKED]
    assert Counter(name for (name,) in said(whole, "event", "bounce")) == Counter(REFUSED)


async def put_many(bench, count: int, **changes) -> tuple[Recipient, ...]:
    to = recipients(*(f"u{number}@example.net" for number in range(count)))
    await bench.put(envelope=Envelope(make_address("s@example.org"), to), parts=(Part("up", to),), **changes)
    return to


async def rows(bench) -> dict[str, str]:
    found = await bench.store._read(lambda db: db.execute("SELECT address, reply FROM recipient").fetchall())
    return dict(found)


async def test_a_part_of_one_transaction_is_written_down_once(make):
    bench = make()
    await put_many(bench, 100)
    scheduler = bench.worker()
    noted = []
    scheduler._spool.note = lambda *words: noted.append(words)
    scheduler.start()
    await bench.until_left(0)
    assert noted == []
    assert bench.events("queue_transaction") == []
    (event,) = bench.events("queue_delivery")
    assert event["delivered"] == 100


async def test_between_two_transactions_the_first_is_in_the_store(make):
    bench = make()
    bench.hop.answers = {"u1@example.net": NEVER, "u2@example.net": LATER}
    bench.history = Kept()
    await put_many(bench, 150)
    bench.worker().start()
    await bench.hop.until(lambda: len(bench.hop.got) == 1)
    bench.hop.gate = asyncio.Event()
    await bench.hop.until(lambda: bench.hop.busy == 1)
    left = await rows(bench)
    assert len(left) == 52
    assert (left.pop("u1@example.net"), left.pop("u2@example.net")) == (str(NEVER), str(LATER))
    assert set(left.values()) == {""}
    bench.hop.answers.pop("u2@example.net")
    bench.hop.gate.set()
    await bench.until_left(0)
    (event,) = bench.events("queue_transaction")
    assert (event["delivered"], event["deferred"], event["failed"], len(event["to"])) == (98, 1, 1, 100)
    notes = Counter(bench.history.notes())
    assert max(notes.values()) == 1
    assert sum(kind == "attempt" and name.startswith("u") for kind, name, _ in notes) == 151
    assert bench.events("queue_delivery")[0]["delivered"] == 148


async def test_a_worker_that_is_overtaken_between_two_transactions_begins_no_other(make):
    bench = make()
    bench.hop.gate = asyncio.Event()
    await put_many(bench, 300)
    scheduler = bench.worker()
    scheduler.start()
    await bench.hop.until(lambda: bench.hop.busy == 1)
    other = bench.open_store()
    other._now = lambda: bench.clock.time() + 120
    (lease,) = await other.claim("up", "other", bench.clock.time() + 999, 10)
    bench.hop.gate.set()
    await bench.until(lambda: bool(bench.events("lease_lost")))
    await scheduler.stop(5.0)
    assert len(bench.hop.got) == 1
    (found,) = await other.load([lease])
    assert (len(found.numbers), set(found.replies)) == (300, {""})
    await other.close()


async def test_a_worker_that_stops_gives_back_the_rest_of_a_list(make):
    bench = make()
    bench.hop.gate = asyncio.Event()
    await put_many(bench, 300)
    scheduler = bench.worker()
    scheduler.start()
    await bench.hop.until(lambda: bench.hop.busy == 1)
    stopping = asyncio.create_task(scheduler.stop(5.0))
    await asyncio.sleep(0)
    bench.hop.gate.set()
    await stopping
    assert len(bench.hop.got) == 1
    assert len(await rows(bench)) == 200
    bench.worker().start()
    await bench.until_left(0)
    assert [len(names) for _, names, _ in bench.hop.got] == [100, 100, 100]
    assert len({name for _, names, _ in bench.hop.got for name in names}) == 300
    assert bench.events("queue_drain_timeout") == []


async def test_where_it_can_not_be_written_down_no_other_transaction_begins(make):
    bench = make()
    await put_many(bench, 300)
    scheduler = bench.worker()

    async def fails(*_):
        raise SpoolError("the disk is gone")

    scheduler._spool.note = fails
    scheduler.start()
    await bench.until(lambda: bool(bench.events("queue_fault")))
    assert len(bench.hop.got) == 1
    assert len(await rows(bench)) == 300


async def test_what_was_heard_before_the_next_hop_went_is_kept(make):
    bench = make()
    bench.history = Kept()
    await put_many(bench, 250)
    bench.worker().start()
    await bench.hop.until(lambda: len(bench.hop.got) == 1)
    bench.hop.down = True
    await bench.until(lambda: bool(bench.events("queue_paused")))
    taken = len(bench.hop.got) * 100
    await bench.until(lambda: len(bench.history.events) > taken)
    missed = next(one for one in bench.history.events if one.recipient is None)
    assert missed.details["recipients"] == 250 - taken
    bench.hop.down = False
    await bench.until_left(0)
    assert Counter(name for _, names, _ in bench.hop.got for name in names) == Counter(
        f"u{number}@example.net" for number in range(250)
    )


async def test_who_is_refused_for_good_is_not_asked_again_while_the_notification_waits(make):
    bench = make()
    to = await put_many(bench, 2)
    lease, queued = await leased(bench)
    await bench.store.settle(lease, settled(queued, (str(NEVER), str(OK)), bench.clock.time()))
    bench.worker().start()
    await bench.until_left(0)
    ((sender, names, report),) = bench.hop.got
    assert (sender, names) == ("", ("s@example.org",))
    assert str(to[0].address).encode() in report
    assert b"Diagnostic-Code: smtp; 550 5.1.1 nobody" in report
    assert str(to[1].address).encode() not in report


async def test_who_is_let_go_or_sent_elsewhere_is_asked_again_but_nobody_who_has_it(make):
    bench = at_real_time(make())
    for changes in ({}, {"hold": True}):
        await put_many(bench, 3)
        lease, queued = await leased(bench)
        await bench.store.settle(
            lease, settled(queued, (str(NEVER), str(OK), str(LATER)), bench.clock.time() + 900)
        )
        with Listing(bench.folder / "spool.db") as listing:
            if changes:
                assert listing.hold(Filter(), "") == 1
                assert listing.unhold(Filter()) == 1
            else:
                assert listing.reroute(Filter(), "up") == 1
        assert list((await rows(bench)).values()) == ["", str(OK), str(LATER)]
        worker = bench.worker()
        worker.start()
        await bench.until_left(0)
        await worker.stop(5.0)
        assert bench.hop.got.pop()[1] == ("u0@example.net", "u2@example.net")
        assert bench.hop.got == []


async def test_given_up_is_who_has_had_no_last_answer(make):
    bench = at_real_time(make())
    await put_many(bench, 3)
    lease, queued = await leased(bench)
    await bench.store.settle(
        lease, settled(queued, (str(NEVER), str(OK), str(LATER)), bench.clock.time() + 900)
    )
    with Listing(bench.folder / "spool.db") as listing:
        assert listing.fail(Filter()) == 1
    bench.worker().start()
    await bench.until_left(0)
    ((_, _, report),) = bench.hop.got
    assert report.count(b"Action: failed") == 2
    assert b"550 5.1.1 nobody" in report
    assert b"554 5.3.0 Given up" in report


def at_real_time(bench):
    """An administrator's changes are by the real clock."""
    bench.clock.offset = time.time() - asyncio.get_running_loop().time()
    return bench


async def leased(bench):
    (lease,) = await bench.store.claim("up", "test", bench.clock.time() + 60, 1)
    (queued,) = await bench.store.load([lease])
    return lease, queued


def settled(queued, replies: tuple[str, ...], due: float):
    return Settlement((), tuple(zip(queued.numbers, replies, strict=True)), due)
