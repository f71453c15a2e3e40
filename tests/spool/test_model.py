"""The store against a model in memory: whatever workers do, and whichever leases have run out, they agree."""

import asyncio
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from tests.spool.making import NOW, deposit, recipients

from relayproxy.model.envelope import Envelope
from relayproxy.model.queued import Lease, Part, Progress, Queued, Settlement
from relayproxy.spool.postgres import PostgresSpool
from relayproxy.spool.protocol import LeaseLostError, Store
from relayproxy.spool.sqlite import Floors, SqliteSpool
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.mail import make_address

LEASE = 60.0


class StoreMachine(RuleBasedStateMachine):
    """`left` are the recipients of each part that are not finished, `epoch` who may speak for it."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock(NOW)
        self.stores = self.two_stores()
        for store in self.stores:
            store.start()
        self.count = 0
        self.left: dict[tuple[str, str], set[str]] = {}
        self.due: dict[tuple[str, str], float] = {}
        self.names: dict[tuple[int, int], tuple[str, str]] = {}
        self.epochs: dict[tuple[int, int], int] = {}

    def two_stores(self) -> Sequence[Store]:
        """Two workers' ways to one store that is empty."""
        self.folder = Path(tempfile.mkdtemp(prefix="rp-model-"))
        return [
            SqliteSpool(self.folder / "spool.db", now=self.clock.time, floors=Floors(0, 0)) for _ in range(2)
        ]

    def messages(self) -> int:
        return self.run(
            self.stores[0]._read(lambda db: db.execute("SELECT count(*) FROM message").fetchone())
        )[0]

    def forget(self) -> None:
        shutil.rmtree(self.folder)

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    @rule(near=st.integers(0, 3), far=st.integers(0, 3), which=st.integers(0, 1))
    def store(self, near: int, far: int, which: int) -> None:
        if not near + far:
            return
        self.count += 1
        places = {"near": near, "far": far}
        parts = tuple(
            Part(route, recipients(*(f"{route}{n}@example.net" for n in range(count))))
            for route, count in places.items()
            if count
        )
        everybody = tuple(one for part in parts for one in part.recipients)
        given = deposit(
            self.count,
            envelope=Envelope(make_address("a@example.org"), everybody),
            parts=parts,
            due=self.clock.time(),
        )
        self.run(self.stores[which].store(given))
        for part in parts:
            place = given.id, part.route
            self.left[place] = {str(one.address) for one in part.recipients}
            self.due[place] = self.clock.time()

    @rule(
        target=leases,
        route=st.sampled_from(("near", "far")),
        which=st.integers(0, 1),
        limit=st.integers(1, 3),
    )
    def claim(self, route: str, which: int, limit: int):
        store = self.stores[which]
        now = self.clock.time()
        claimed = self.run(store.claim(route, f"w{which}", now + LEASE, limit))
        ready = [place for place in self.left if place[1] == route and self.due[place] <= now]
        assert len(claimed) == min(limit, len(ready))
        for lease, found in zip(claimed, self.run(store.load(claimed)), strict=True):
            assert isinstance(found, Queued)
            place = found.id, route
            assert place in ready
            assert {str(one.address) for one in found.envelope.recipients} == self.left[place]
            self.names[lease.message, lease.part] = place
            self.epochs[lease.message, lease.part] = lease.epoch
            self.due[place] = now + LEASE
        return multiple(*((lease, which) for lease in claimed))

    def _is_good(self, lease: Lease) -> bool:
        key = lease.message, lease.part
        return self.names[key] in self.left and self.epochs[key] == lease.epoch

    @rule(taken=leases, most=st.integers(0, 3), wait=st.sampled_from((0.0, 30.0, 90.0)))
    def settle(self, taken: tuple[Lease, int], most: int, wait: float) -> None:
        lease, which = taken
        store, good = self.stores[which], self._is_good(lease)
        (found,) = self.run(store.load([lease]))
        numbers = found.numbers if isinstance(found, Queued) else (0,)
        finished, rest = numbers[:most], numbers[most:]
        due = self.clock.time() + wait if rest else 0.0
        settlement = Settlement(finished, tuple((number, "451 later") for number in rest), due)
        try:
            self.run(store.settle(lease, settlement))
        except LeaseLostError:
            assert not good
            return
        assert good
        place = self.names[lease.message, lease.part]
        assert isinstance(found, Queued)
        names = [str(one.address) for one in found.envelope.recipients]
        self.left[place] -= set(names[:most])
        self.due[place] = due
        self.epochs[lease.message, lease.part] += 1
        if not rest:
            del self.left[place]

    @rule(taken=leases, most=st.integers(0, 2))
    def note(self, taken: tuple[Lease, int], most: int) -> None:
        lease, which = taken
        store, good = self.stores[which], self._is_good(lease)
        (found,) = self.run(store.load([lease]))
        numbers = found.numbers if isinstance(found, Queued) else (0, 1)
        finished = numbers[: min(most, len(numbers) - 1)]  # there is always somebody left
        rest = tuple((number, "550 nobody") for number in numbers[len(finished) :])
        until = self.clock.time() + LEASE
        try:
            self.run(store.note(lease, Progress(finished, rest), until))
        except LeaseLostError:
            assert not good
            return
        assert good
        place = self.names[lease.message, lease.part]
        assert isinstance(found, Queued)
        self.left[place] -= {str(one.address) for one in found.envelope.recipients[: len(finished)]}
        self.due[place] = until
        (now,) = self.run(store.load([lease]))
        assert isinstance(now, Queued)
        assert set(now.replies) == {"550 nobody"}

    @rule(taken=leases)
    def release(self, taken: tuple[Lease, int]) -> None:
        lease, which = taken
        good = self._is_good(lease)
        self.run(self.stores[which].release([lease], self.clock.time()))
        if good:
            self.due[self.names[lease.message, lease.part]] = self.clock.time()
            self.epochs[lease.message, lease.part] += 1

    @rule(taken=leases)
    def renew(self, taken: tuple[Lease, int]) -> None:
        lease, which = taken
        until = self.clock.time() + LEASE
        lost = self.run(self.stores[which].renew([lease], until))
        assert (lost == []) == self._is_good(lease)
        if not lost:
            self.due[self.names[lease.message, lease.part]] = until

    @rule(seconds=st.sampled_from((1.0, 31.0, 61.0)))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def nothing_is_lost_or_left_over(self) -> None:
        for route in ("near", "far"):
            wanted = sum(place[1] == route for place in self.left)
            assert self.run(self.stores[0].count(route)) == wanted
        assert self.messages() == len({place[0] for place in self.left})

    def teardown(self) -> None:
        for store in self.stores:
            self.run(store.close())
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()
        self.forget()


SOME = settings(
    max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
StoreMachine.TestCase.settings = SOME
TestStoreAgainstAModel = StoreMachine.TestCase


def test_the_store_in_postgresql_against_a_model(postgres_server, postgres_database):
    """The same, with a server in place of the file."""

    class PostgresMachine(StoreMachine):
        def two_stores(self) -> Sequence[Store]:
            return [PostgresSpool(postgres_database, now=self.clock.time) for _ in range(2)]

        def messages(self) -> int:
            return self.run(self.stores[0]._row("SELECT count(*) FROM message", ()))[0]

        def forget(self) -> None:
            with postgres_server.connect(postgres_database.database) as database:
                database.execute("TRUNCATE message, part, recipient, chunk")

    run_state_machine_as_test(PostgresMachine, settings=SOME)
