"""Empties the queue: leases what is due, has it delivered within each lane's bounds, writes down what came of it.

One for each worker; the leases keep workers out of each other's way, and the mail of a worker that has died is taken
over when its leases end. Must not know SMTP, nor what follows from a reply (ending.py).
"""

import asyncio
import contextlib
import itertools
from collections.abc import Coroutine, Sequence

from relayproxy.api import Clock
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.shaping import Shape
from relayproxy.model.queued import Lease, Queued
from relayproxy.spool.attempt import Attempt, Heard, Note, attempt, given_up, unreached
from relayproxy.spool.destinations import Destinations
from relayproxy.spool.ending import Ending, Endings
from relayproxy.spool.lane_state import LaneState
from relayproxy.spool.lanes import Lane, pause_after
from relayproxy.spool.pace import is_throttled
from relayproxy.spool.protocol import LeaseLostError, Spool, SpoolError
from relayproxy.spool.rates import Rates

LEASE = 60.0
"""Seconds for which a part is a worker's own; renewed every third of it."""

_POLL = 1.0  # seconds after which a lane looks for what other workers have put there
_SWEEP = 60.0
_BATCH = 100
_LEARN = 1.0
_AFTER_FAULT = 300.0
_JUMP = 15.0


class _StoppedError(Exception):
    """The worker stops between two transactions of a part; what was heard is written down."""


class Scheduler:
    """Implements hop.Courier. `start` begins, `stop` ends. Held mail is deleted after `keep_held` seconds; 0 for never.

    `counts`: it counts what waits, for the metrics, which goes through the index; one worker of a machine is enough.
    """

    def __init__(
        self,
        spool: Spool,
        lanes: Sequence[Lane],
        endings: Endings,
        *,
        owner: str,
        clock: Clock,
        log: Log,
        metrics: Metrics,
        keep_held: float = 0.0,
        rates: Rates | None = None,
        counts: bool = True,
    ) -> None:
        self.owner = owner
        self._counts = counts
        self.lease = LEASE
        self._spool = spool
        self._endings = endings
        self._clock = clock
        self._log = log
        self._states = {
            lane.route: LaneState(
                lane,
                metrics.cell("queue_deliveries", lane.route),
                metrics.cell("queue_paused", lane.route),
                metrics.cell("queue_waiting", lane.route),
            )
            for lane in lanes
        }
        self._throttled = metrics.cell("queue_throttled_total")
        self._broken = metrics.cell("queue_broken_total")
        self._held: dict[tuple[int, int], Lease] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._learning: set[asyncio.Task[Shape | None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self._offset = clock.time() - clock.monotonic()
        self._no_claims_until = 0.0
        self._keep_held = keep_held
        self._rates = rates or Rates(None, clock.monotonic)
        self._held_expired = metrics.cell("queue_held_expired_total")

    # -- what the hop asks -----------------------------------------------------------------------------------

    def reserve(self, route: str) -> bool:
        """See hop.Courier."""
        state = self._states[route]
        if self._stopping or state.failures or state.backlog or state.room <= 0:
            # It goes to the store, and from here on others do too, until those have had their turn.
            state.backlog = True
            return False
        state.reserved += 1
        return True

    def cancel(self, route: str) -> None:
        """See hop.Courier."""
        self._states[route].reserved -= 1

    def offer(self, queued: Queued) -> None:
        """See hop.Courier."""
        state = self._states[queued.lease.route]
        state.reserved -= 1
        self._hold(queued.lease)
        shapes = state.lane.shapes
        if shapes is not None and not shapes.known(queued.lease.destination):
            self._keep(self._offer_later(state, queued))
            return
        state.waiting.append(queued)
        self._start_waiting(state)

    async def _offer_later(self, state: LaneState, queued: Queued) -> None:
        """Begin with a new message when it is known which destinations its own is counted with."""
        await self._learn(state.lane, [queued])
        if self._stopping:
            await self._give_back([queued])
            return
        state.waiting.append(queued)
        self._start_waiting(state)

    def _keep(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _learn(self, lane: Lane, waiting: Sequence[Queued]) -> None:
        """Find out which destinations are counted together; one whose name servers are slow keeps nobody for long."""
        shapes = lane.shapes
        if shapes is None:
            return
        unknown = {queued.lease.destination for queued in waiting}
        tasks = [asyncio.create_task(shapes.learn(one)) for one in unknown if not shapes.known(one)]
        for task in tasks:
            self._learning.add(task)
            task.add_done_callback(self._learning.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=_LEARN)

    def wake(self, route: str) -> None:
        """See hop.Courier."""
        self._states[route].news.set()

    # -- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work."""
        for state in self._states.values():
            self._loops.append(asyncio.create_task(self._serve(state)))
        self._keeper = asyncio.create_task(self._keep_leases())

    async def stop(self, patience: float) -> None:
        """Begin nothing more, let what runs finish for `patience` seconds, and give the rest back."""
        self._stopping = True
        for state in self._states.values():
            state.news.set()
        # A claim that is under way is waited for, so that what it brings can be given back at once.
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self._give_back([queued for state in self._states.values() for queued in state.take_all()])
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=patience)
            for task in late:
                # What it was doing may have been done: its lease ends by itself, and it is tried again.
                task.cancel()
            if late:
                self._log.warning("queue_drain_timeout", deliveries=len(late), seconds=patience)
            await asyncio.gather(*late, return_exceptions=True)
        for question in self._learning:
            question.cancel()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def _give_back(self, waiting: Sequence[Queued]) -> None:
        if not waiting:
            return
        for queued in waiting:
            self._let_go(queued.lease)
        with contextlib.suppress(SpoolError):  # they become due when their leases end
            await self._spool.release([queued.lease for queued in waiting], self._clock.time())

    # -- leases ----------------------------------------------------------------------------------------------

    def _hold(self, lease: Lease) -> None:
        self._held[lease.message, lease.part] = lease

    def _let_go(self, lease: Lease) -> None:
        self._held.pop((lease.message, lease.part), None)

    async def _keep_leases(self) -> None:
        """Renew what is held, and look at the clock."""
        for turn in itertools.count(1):
            await asyncio.sleep(LEASE / 12)
            try:
                if self._held and (await self._look_at_clock() or turn % 4 == 0):
                    held = list(self._held.values())
                    for lease in await self._spool.renew(held, self._clock.time() + LEASE):
                        if self._held.get((lease.message, lease.part)) is lease:
                            # Not one that was settled meanwhile.
                            self._log.warning("lease_lost", message=lease.message, part=lease.part)
                            self._let_go(lease)
                if self._counts and turn % 6 == 1:
                    for state in self._states.values():
                        state.waiting_cell.set(await self._spool.count(state.lane.route))
                if self._keep_held and turn % 12 == 1:
                    await self._expire_held()
            except SpoolError as error:
                self._log.error("queue_fault", problem=str(error))

    async def _expire_held(self) -> None:
        """Delete what nobody has decided about. The log has the only trace of it, so it names each."""
        before = self._clock.time() - self._keep_held
        full = True
        while full and not self._stopping:
            expired = await self._spool.expire_held(before, _BATCH)
            full = len(expired) == _BATCH
            for gone in expired:
                fields = {
                    "id": gone.id,
                    "route": gone.route,
                    "from": gone.sender,
                    "to": list(gone.recipients),
                }
                self._held_expired.inc()
                self._log.warning("held_expired", **fields, reason=gone.reason)

    async def _look_at_clock(self) -> bool:
        """After a jump of the clock leases look ended that are not: claim nothing until all could be renewed."""
        offset = self._clock.time() - self._clock.monotonic()
        jump, self._offset = offset - self._offset, offset
        if abs(jump) < _JUMP:
            return False
        self._log.warning("clock_jumped", seconds=round(jump, 1))
        self._no_claims_until = self._clock.monotonic() + LEASE
        if jump < 0:
            longest = max(state.lane.schedule.retry[-1] for state in self._states.values())
            await self._spool.clamp(longest)
        return True

    # -- a lane ----------------------------------------------------------------------------------------------

    async def _serve(self, state: LaneState) -> None:
        """Keep one lane going."""
        while not self._stopping:
            state.news.clear()
            try:
                wait = await self._turn(state)
            except SpoolError as error:
                self._log.error("queue_fault", route=state.lane.route, problem=str(error))
                wait = 5 * _POLL
            now = self._clock.monotonic()
            if wait > 0 and (rests := state.rests_until(now)) is not None:
                wait = min(wait, rests - now)
            if wait > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await state.news.wait()

    async def _turn(self, state: LaneState) -> float:
        """Do what can be done now; return the seconds to wait for something else to happen."""
        now = self._clock.monotonic()
        if await self._look_at_clock() or now < self._no_claims_until:
            return _POLL
        if now - state.swept_at >= _SWEEP:
            state.swept_at = now
            await self._sweep(state)
        if now < state.paused_until:
            return min(_POLL, state.paused_until - now)
        self._start_waiting(state)
        room = state.room
        if room <= 0:
            if state.lane.by_domain and state.running < state.limit and await self._make_room(state):
                return 0
            return _POLL
        due = await self._spool.due(state.lane.route)
        if due is None:
            state.backlog = False
            return _POLL
        if (wait := due - self._clock.time()) > 0:
            state.backlog = False
            return min(wait, _POLL)
        until = self._clock.time() + LEASE
        most = min(_BATCH, room)
        leases = await self._spool.claim(state.lane.route, self.owner, until, most)
        if len(leases) < most:
            state.backlog = False
        loaded = await self._loaded(leases)
        await self._learn(state.lane, loaded)
        for queued in loaded:
            state.waiting.append(queued)
            state.backlogs.came(state.lane.group(queued.lease.destination))
        self._start_waiting(state)
        return 0 if leases else _POLL

    async def _loaded(self, leases: Sequence[Lease]) -> list[Queued]:
        """Read what was leased; what can't be read is set aside, loudly, and doesn't keep the rest."""
        for lease in leases:
            self._hold(lease)
        good: list[Queued] = []
        for lease, found in zip(leases, await self._spool.load(leases), strict=True):
            if isinstance(found, Queued):
                good.append(found)
                continue
            self._broken.inc()
            self._log.error("queue_broken", message=lease.message, part=lease.part, problem=str(found))
            self._let_go(lease)
            try:
                await self._spool.set_aside(lease, str(found))
            except SpoolError as error:
                self._log.error("queue_fault", message=lease.message, problem=str(error))
        return good

    def _start_waiting(self, state: LaneState) -> None:
        while state.running < state.limit and not self._stopping:
            queued = state.next(self._clock.monotonic())
            if queued is None:
                return
            self._begin(state, queued)

    def _begin(self, state: LaneState, queued: Queued) -> None:
        state.began(queued.lease, self._clock.monotonic())
        state.running_cell.set(state.running)
        self._keep(self._deliver(state, queued))

    async def _may_go(self, state: LaneState, queued: Queued) -> bool:
        """Whether the rate that all workers keep together allows another; if not, it waits with those like it."""
        shapes, destination = state.lane.shapes, queued.lease.destination
        shape = await shapes.learn(destination) if shapes is not None else None
        if shape is None or not shape.rate or queued.lease.given_up or queued.raw:
            return True
        wait = await self._rates.take(shape.group, shape.rate)
        if not wait:
            return True
        if self._stopping:
            await self._give_back([queued])
        else:
            state.put_back(queued, self._clock.monotonic() + wait)
        self._ended(state, queued.lease)
        return False

    async def _deliver(self, state: LaneState, queued: Queued) -> None:
        """One part, from the attempt to the record of it; a fault here puts off this part and nothing else."""
        if state.lane.shapes is not None and not await self._may_go(state, queued):
            return
        try:
            try:
                made = await self._attempt(state, queued)
            finally:
                # The next may begin while this one is written down.
                self._ended(state, queued.lease)
            if made is None:
                ending = Ending(await self._endings.released(queued))
            else:
                ending = await self._endings.of(state.lane, queued, made)
            settlement = ending.settlement
            await self._spool.settle(queued.lease, settlement)
            self._endings.written(ending)
            for deposit in settlement.deposits:
                for part in deposit.parts:
                    self.wake(part.route)
            if made is not None:
                await self._endings.report(state.lane, queued, made, settlement)
        except _StoppedError:
            with contextlib.suppress(SpoolError):  # it becomes due when its lease ends
                await self._spool.release([queued.lease], self._clock.time())
        except LeaseLostError:
            self._log.warning("lease_lost", id=queued.id, route=state.lane.route)
        except SpoolError as error:
            # What was delivered can't be written down: it will be delivered again when the lease ends.
            self._log.error("queue_fault", id=queued.id, route=state.lane.route, problem=str(error))
        except Exception as fault:  # noqa: BLE001  (the fence round one delivery)
            self._log.error("queue_fault", id=queued.id, problem=f"{type(fault).__name__}: {fault}")
            with contextlib.suppress(SpoolError):
                await self._spool.release([queued.lease], self._clock.time() + _AFTER_FAULT)
        finally:
            self._let_go(queued.lease)

    async def _attempt(self, state: LaneState, queued: Queued) -> Attempt | None:
        """Send it, unless an administrator gave it up (failed) or released it (None: it has to be rewritten first)."""
        if queued.raw and not queued.lease.given_up:
            return None
        if queued.lease.given_up:
            return given_up(queued)
        if state.lane.by_domain:
            made = await self._attempt_at(state.destinations, state.lane, queued)
        else:
            made = await attempt(state.lane.hop, queued, self._noter(state.lane, queued))
            if made.heard:
                await self._judge(state, unreachable=made.unreached)
        if made.tried and not made.unreached:
            self._keep_pace(state, state.lane.group(queued.lease.destination), made)
        return made

    def _noter(self, lane: Lane, queued: Queued) -> Note:
        """Return what writes a transaction down before the next one of its part begins."""

        async def note(heard: Sequence[Heard]) -> None:
            self._endings.heard(lane, queued, heard)
            until = self._clock.time() + LEASE
            await self._spool.note(queued.lease, self._endings.progress(heard), until)
            await self._endings.report_taken(lane, queued, heard)
            if self._stopping:
                raise _StoppedError

        return note

    def _keep_pace(self, state: LaneState, destination: str, made: Attempt) -> None:
        """Go slower where the other side asks for it, and faster again when it doesn't any more."""
        slower = next((one.reply for one in made.heard if is_throttled(one.reply)), None)
        rest = state.paces.heard(destination, throttled=slower is not None, now=self._clock.monotonic())
        if rest:
            self._throttled.inc()
            self._log.warning(
                "queue_throttled",
                route=state.lane.route,
                destination=destination,
                reply=str(slower),
                seconds=rest,
                limit=state.paces.limit(destination),
            )

    async def _attempt_at(self, destinations: Destinations, lane: Lane, queued: Queued) -> Attempt:
        """Send it to its own destination, unless that wasn't there a moment ago."""
        destination = queued.lease.destination
        if destinations.is_down(destination, self._clock.monotonic()):
            return unreached(queued)
        shape = lane.shapes.shape(destination) if lane.shapes is not None else None
        most = shape.recipients if shape is not None else 0
        made = await attempt(lane.hop, queued, self._noter(lane, queued), most)
        if made.unreached:
            destinations.failed(destination, self._clock.monotonic())
        elif made.heard:
            destinations.reached(destination)
        return made

    async def _make_room(self, state: LaneState) -> bool:
        """What is at hand for busy destinations is given back for a while, so that others come up; False if there is none."""
        now = self._clock.monotonic()
        busy = state.busy(now)
        for group, waiting in busy.items():
            wait = state.backlogs.put_off(group, len(waiting), state.paces.limit(group), now)
            for queued in waiting:
                self._let_go(queued.lease)
            await self._spool.release([queued.lease for queued in waiting], self._clock.time() + wait)
        return bool(busy)

    def _ended(self, state: LaneState, lease: Lease) -> None:
        state.ended(lease, self._clock.monotonic())
        state.running_cell.set(state.running)
        if not self._stopping and self._clock.monotonic() >= state.paused_until:
            self._start_waiting(state)
        state.news.set()

    async def _judge(self, state: LaneState, *, unreachable: bool) -> None:
        """Leave a next hop alone that isn't there; go on as usual when it is back."""
        if not unreachable:
            if state.failures:
                state.failures, state.paused_until = 0, 0.0
                state.paused_cell.set(0)
                self._log.info("queue_resumed", route=state.lane.route)
            return
        now = self._clock.monotonic()
        if now < state.paused_until:
            return  # begun before the pause
        state.failures += 1
        pause = pause_after(state.failures)
        state.paused_until = now + pause
        state.paused_cell.set(1)
        self._log.warning(
            "queue_paused", route=state.lane.route, failures=state.failures, seconds=round(pause, 1)
        )
        await self._give_back(state.take_all())

    async def _sweep(self, state: LaneState) -> None:
        """End what has expired, and tell the senders of what is late, whether or not it is due."""
        schedule = state.lane.schedule
        until = self._clock.time() + LEASE
        leases = await self._spool.claim_aged(
            state.lane.route, self.owner, until, _BATCH, self._clock.time() - schedule.expire, unwarned=False
        )
        for queued in await self._loaded(leases):
            if self._clock.monotonic() < state.paused_until:
                made = unreached(queued)
                ending = await self._endings.of(state.lane, queued, made)
                if await self._settle_aged(queued, ending):
                    await self._endings.report(state.lane, queued, made, ending.settlement)
            else:
                state.waiting.append(queued)
        if not schedule.warn:
            return
        leases = await self._spool.claim_aged(
            state.lane.route, self.owner, until, _BATCH, self._clock.time() - schedule.warn, unwarned=True
        )
        for queued in await self._loaded(leases):
            await self._settle_aged(queued, Ending(await self._endings.delayed(state.lane, queued)))
        if len(leases) == _BATCH:
            state.swept_at = 0.0

    async def _settle_aged(self, queued: Queued, ending: Ending) -> bool:
        """Write it down; False if others have it meanwhile."""
        try:
            await self._spool.settle(queued.lease, ending.settlement)
        except LeaseLostError:
            self._log.warning("lease_lost", id=queued.id, route=queued.lease.route)
            return False
        finally:
            self._let_go(queued.lease)
        self._endings.written(ending)
        return True
