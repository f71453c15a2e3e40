"""What follows from an attempt: who is done with, who is tried again and when, who is told.

Turns an attempt into one Settlement. Must not know the store or how an attempt is made.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from relayproxy.api import Clock
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.pipeline import Pipeline
from relayproxy.core.ports import History
from relayproxy.model.event import NoteEvent
from relayproxy.model.finding import Finding
from relayproxy.model.mail import Origin
from relayproxy.model.outcome import Outcome, State
from relayproxy.model.queued import Deposit, Progress, Queued, Settlement, campaign_of, tenant_of
from relayproxy.smtp.dsn import Fate, Kind, status_of, wants
from relayproxy.spool.attempt import WAITS, Attempt, Heard, unanswered
from relayproxy.spool.bounces import Answer, Bounces
from relayproxy.spool.lanes import Lane, spread
from relayproxy.spool.remembering import EXPIRED, attempts, bounces

OUTCOMES = ("delivered", "deferred", "bounced", "dropped", "held")
_UNTELLABLE = (
    "undeliverable, and its sender was never verified: a bounce could go to somebody who did not write"
)
_PATIENCE = 86_400.0  # for a notification that can't be made, before the message is held
_AGAIN = 300.0
_EXPIRED = "4.4.7"  # RFC 3463: delivery time expired


@dataclass(frozen=True, slots=True)
class Ending:
    """What is to be written down, and what the history is to hear of once it is: who was given up."""

    settlement: Settlement
    events: tuple[NoteEvent, ...] = ()


class Endings:
    """Decides for the lanes of one worker, and has the report hooks of `pipeline` told."""

    def __init__(
        self,
        bounces: Bounces,
        lanes: Sequence[Lane],
        pipeline: Pipeline,
        *,
        clock: Clock,
        log: Log,
        metrics: Metrics,
        history: History | None = None,
    ) -> None:
        self._bounces = bounces
        self._pipeline = pipeline
        self._clock = clock
        self._log = log
        self._history = history
        self._cells = {
            lane.route: {
                outcome: metrics.cell("queue_recipients_total", lane.route, outcome) for outcome in OUTCOMES
            }
            for lane in lanes
        }

    def progress(self, heard: Sequence[Heard]) -> Progress:
        """Return what is to be written down of a transaction, while others of its part have yet to come.

        Who is still to be told of, or tried again, is kept with the reply.
        """
        asked = [one for one in heard if one.reply is not WAITS]
        kept = [one for one in asked if one.state is not State.DONE or _to_be_relayed(one)]
        ended = {one.number for one in asked} - {one.number for one in kept}
        return Progress(tuple(sorted(ended)), tuple((one.number, str(one.reply)) for one in kept))

    def heard(self, lane: Lane, queued: Queued, heard: Sequence[Heard]) -> None:
        """Count, log and record a transaction that others of its part follow."""
        at = self._clock.time()
        states = [one.state for one in heard if one.reply is not WAITS]
        self._cells[lane.route]["delivered"].inc(states.count(State.DONE))
        if self._history is not None:
            for event in attempts(queued, heard, at=at, route=lane.route):
                self._history.record(event)
        self._log.info(
            "queue_transaction",
            id=queued.id,
            route=lane.route,
            to=[str(one.recipient.address) for one in heard if one.reply is not WAITS],
            delivered=states.count(State.DONE),
            deferred=states.count(State.PENDING),
            failed=states.count(State.FAILED),
            attempt=queued.lease.attempts + 1,
        )

    def written(self, ending: Ending) -> None:
        """Record what ends with a settlement that is written down: before, another worker may have to end it."""
        if self._history is not None:
            for event in ending.events:
                self._history.record(event)

    async def of(self, lane: Lane, queued: Queued, attempt: Attempt) -> Ending:
        """Return what an attempt comes to."""
        now = self._clock.time()
        age = now - queued.received_at
        done, pending, failed = (attempt.of(state) for state in (State.DONE, State.PENDING, State.FAILED))
        expired = age >= lane.schedule.expire
        lost = (*failed, *pending) if expired else failed
        left = () if expired else pending
        deposits: list[Deposit] = []
        held = ""
        told = await self._tell(lane, queued, lost, expired=expired)
        if isinstance(told, Deposit):
            deposits.append(told)
        elif told is Answer.LATER and age < lane.schedule.expire + _PATIENCE:
            left, lost = (*left, *lost), ()
        elif told in (Answer.UNVERIFIED, Answer.LATER) and left:
            # What can't be told is held when nothing else is left of the part.
            left, lost = (*left, *lost), ()
        elif told in (Answer.UNVERIFIED, Answer.LATER):
            held = (
                _UNTELLABLE
                if told is Answer.UNVERIFIED
                else "undeliverable, and its sender could not be told"
            )
        relayed = await self._relayed(lane, queued, done)
        if relayed is not None:
            deposits.append(relayed)
        events = self._count(lane, queued, attempt, left, lost, told, held)
        finished = tuple(one.number for one in (*done, *(() if held else lost)))
        kept = lost if held else left
        if not kept:
            return Ending(Settlement(finished, deposits=tuple(deposits)), events)
        due = now + (_AGAIN if told is Answer.LATER else self._wait(lane, queued, attempt, kept))
        if held:
            due = now  # held since
        replies = tuple((one.number, str(one.reply)) for one in kept)
        return Ending(
            Settlement(finished, replies, due, tuple(deposits), attempted=attempt.tried, held=held), events
        )

    async def report(self, lane: Lane, queued: Queued, attempt: Attempt, settlement: Settlement) -> None:
        """Tell the report hooks what an attempt came to, as it was written down. Raises nothing."""
        if self._pipeline.calls("after_attempt"):
            await self._reported(queued, tuple(_outcomes(lane, attempt, settlement)))

    async def report_taken(self, lane: Lane, queued: Queued, heard: Sequence[Heard]) -> None:
        """Tell them who was taken in a transaction that others of its part follow. Raises nothing."""
        if self._pipeline.calls("after_attempt"):
            taken = [one for one in heard if one.state is State.DONE]
            outcomes = tuple(Outcome(one.recipient, State.DONE, one.reply, lane.route) for one in taken)
            await self._reported(queued, outcomes)

    async def _reported(self, queued: Queued, outcomes: tuple[Outcome, ...]) -> None:
        if not outcomes:
            return
        whose = queued.lease.tenant
        props = {"tenant": tenant_of(whose), "name": campaign_of(whose)}
        mail = queued.mail(findings=(Finding("campaign", "hit", props=props),))
        await self._pipeline.after_attempt(mail, outcomes, queued.lease.attempts + 1)

    @staticmethod
    def _wait(lane: Lane, queued: Queued, attempt: Attempt, kept: Sequence[Heard]) -> float:
        """Return the seconds to the next attempt: by the schedule, or when what some wait for may have come."""
        waits = [spread(attempt.waits)] if any(one.reply is WAITS for one in kept) else []
        if any(one.reply is not WAITS for one in kept):
            waits.append(lane.schedule_of(queued.lease.destination).after(queued.lease.attempts + 1))
        return min(waits)

    async def _tell(
        self, lane: Lane, queued: Queued, lost: Sequence[Heard], *, expired: bool
    ) -> Deposit | Answer:
        if not lost:
            return Answer.UNWANTED
        fates = [_fate(lane, one, _EXPIRED if expired and one.state is State.PENDING else "") for one in lost]
        return await self._bounces.notify(queued, Kind.FAILED, fates)

    async def _relayed(self, lane: Lane, queued: Queued, done: Sequence[Heard]) -> Deposit | None:
        """Say "relayed" to who asked for success."""
        asked = [one for one in done if _to_be_relayed(one)]
        if not asked:
            return None
        made = await self._bounces.notify(queued, Kind.RELAYED, [_fate(lane, one, "") for one in asked])
        return made if isinstance(made, Deposit) else None

    async def delayed(self, lane: Lane, queued: Queued) -> Settlement:
        """Return what a part comes to that has waited for so long that its sender should know."""
        until = queued.received_at + lane.schedule.expire
        fates = [
            Fate(one.recipient, "" if one.reply is WAITS else str(one.reply), "4.4.7", lane.hop.name)
            for one in unanswered(queued)
        ]
        told = await self._bounces.notify(queued, Kind.DELAYED, fates, until)
        return Settlement(
            (),
            due=self._clock.time(),
            deposits=(told,) if isinstance(told, Deposit) else (),
            attempted=False,
            warned=True,
        )

    async def released(self, queued: Queued) -> Settlement:
        """Return what takes the place of a message that a human let go: itself, as the rewriting hooks left it."""
        mail = queued.mail(origin=Origin.RELEASE, findings=queued.findings)
        made = await self._bounces.passed_on(mail, vouched=queued.vouched)
        if isinstance(made, Deposit):
            return Settlement(queued.numbers, deposits=(made,))
        return Settlement((), due=self._clock.time() + _AGAIN)

    def _count(
        self,
        lane: Lane,
        queued: Queued,
        attempt: Attempt,
        left: Sequence[Heard],
        lost: Sequence[Heard],
        told: Deposit | Answer,
        held: str,
    ) -> tuple[NoteEvent, ...]:
        """Count, log and record an attempt; return what is to be recorded when it is written down."""
        cells = self._cells[lane.route]
        done = [one.state for one in attempt.heard].count(State.DONE)
        cells["delivered"].inc([one.state for one in attempt.fresh].count(State.DONE))
        cells["deferred"].inc(len(left))
        end = "held" if held else "bounced" if isinstance(told, Deposit) else "dropped"
        cells[end].inc(len(lost))
        at = self._clock.time()
        if self._history is not None:
            for event in attempts(queued, attempt.fresh, at=at, route=lane.route):
                self._history.record(event)
        dropped = end == "dropped" and lost
        fields: dict[str, object] = {
            "id": queued.id,
            "route": lane.route,
            "from": str(queued.envelope.sender),
            "to": [str(one.recipient.address) for one in attempt.heard],
            "delivered": done,
            "deferred": len(left),
            "failed": len(lost),
            "ended": end if lost else "",
            "reply": str(attempt.heard[0].reply) if attempt.heard else "",
            "attempt": queued.lease.attempts + 1,
            "seconds_queued": round(at - queued.received_at, 3),
            "reason": held or ("nobody is to be told" if dropped else ""),
        }
        if lost:
            self._log.warning("queue_delivery", **fields)
        else:
            self._log.info("queue_delivery", **fields)
        notice = told.id if isinstance(told, Deposit) else ""
        return tuple(bounces(queued, lost, at=at, route=lane.route, end=end, notice=notice))


def _fate(lane: Lane, one: Heard, status: str) -> Fate:
    reply = one.reply
    return Fate(one.recipient, str(reply), status or status_of(reply), lane.hop.name)


def _to_be_relayed(one: Heard) -> bool:
    """Whether we are to say that it was relayed, as the next hop will not (RFC 3461 section 5.2.2)."""
    return one.state is State.DONE and not one.confirms and wants(one.recipient, Kind.RELAYED)


def _outcomes(lane: Lane, attempt: Attempt, settlement: Settlement) -> Iterator[Outcome]:
    """Yield what became of each recipient: of those who were not taken, failed are those who won't be tried again.

    Whoever was taken in a transaction that others of the part followed has been reported then.
    """
    reported = {one.number for one in attempt.heard[: attempt.noted] if one.state is State.DONE}
    for one in attempt.heard:
        if one.number in reported:
            continue
        if one.state is State.DONE:
            yield Outcome(one.recipient, State.DONE, one.reply, lane.route)
        elif settlement.held or one.number in settlement.finished:
            reply = one.reply if one.reply.permanent else EXPIRED
            yield Outcome(one.recipient, State.FAILED, reply, lane.route)
        elif one.reply is not WAITS:
            yield Outcome(one.recipient, State.PENDING, one.reply, lane.route)
