"""Sources that a destination refuses for their reputation, and how long each is left alone there.

What a refusal means is said by the rules for bounces: their class `block`. Must not know connections.
"""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from relayproxy.api import SharedState, Unavailable, shared_key
from relayproxy.bounces.report import Fate, Kind, Report
from relayproxy.bounces.rules import Rule, classify
from relayproxy.model.reply import Reply, printable
from relayproxy.model.shared import Delete, Get

_BLOCK = "block"
_LONGEST = 24 * 3600.0
_MOST = 10_000
_LOOK = 10.0  # seconds for which what others have learnt is not looked up again
_REMEMBERED = 24 * 3600.0
_REPLY = re.compile(r"(?<![\d.])([45]\d\d)[ -](?:([45]\.\d{1,3}\.\d{1,3})\s+)?")
_REPORT = Report(Kind.DSN)


def is_block(rules: Sequence[Rule], reply: Reply) -> bool:
    """Whether a refusal is about us who send, rather than about the recipient or the message."""
    if reply.code < 400:
        return False
    fate = Fate("", status=reply.status, diagnosis=reply.text)
    return classify(rules, _REPORT, fate).class_ == _BLOCK


def reply_in(text: str) -> Reply | None:
    """Return the refusal that is quoted in the reason why no connection came about, or None."""
    found = _REPLY.search(text)
    if found is None:
        return None
    status = found[2] or ""
    return Reply(
        int(found[1]),
        status if status[:1] == found[1][0] else "",
        printable(text[found.end() :]) or "Refused",
    )


@dataclass(frozen=True, slots=True)
class _Rest:
    """Until when (0.0: it is over), for how many seconds that was (0.0: never yet), and when that was looked up."""

    until: float
    length: float
    looked: float


_NONE = _Rest(0.0, 0.0, 0.0)


class Rests:
    """Which source is left alone by which destination group, and until when: `rest` seconds, twice as long each time.

    Workers and machines that share a `state` learn it from each other; while it gives no answer, and without one, each
    keeps to what it knows itself. All times are in seconds since the epoch.
    """

    def __init__(self, rest: float, state: SharedState | None = None) -> None:
        self._rest = rest
        self._state = state
        self._known: dict[tuple[str, str], _Rest] = {}

    async def until(self, source: str, group: str, now: float) -> float:
        """Return when a source may be used again, or 0.0 if it may be now."""
        known = self._known.get((source, group), _NONE)
        if self._state is not None and not known.looked <= now < known.looked + _LOOK:
            known = await self._look_up(self._state, source, group, known, now)
        return known.until if now < known.until else 0.0

    async def _look_up(self, state: SharedState, source: str, group: str, known: _Rest, now: float) -> _Rest:
        try:
            until, length = await state.do(*(Get(key) for key in _keys(source, group)))
        except Unavailable:  # logged once for the outage by whoever noticed
            return self._keep(source, group, replace(known, looked=now))
        return self._keep(source, group, _Rest(float(until or 0.0), float(length or 0.0), now))

    def _keep(self, source: str, group: str, rest: _Rest) -> _Rest:
        if len(self._known) >= _MOST and (source, group) not in self._known:
            del self._known[next(iter(self._known))]
        self._known[source, group] = rest
        return rest

    async def begin(self, source: str, group: str, now: float) -> float:
        """Leave a source alone; return for how many seconds, or 0.0 if that is so already."""
        known = self._known.get((source, group), _NONE)
        if self._state is not None:
            known = await self._look_up(self._state, source, group, known, now)
        if now < known.until:
            return 0.0
        length = min(2 * known.length, _LONGEST) if known.length else self._rest
        if self._state is not None and not await self._share(self._state, source, group, now, length):
            await self._look_up(self._state, source, group, known, now)
            return 0.0
        self._keep(source, group, _Rest(now + length, length, now))
        return length

    @staticmethod
    async def _share(state: SharedState, source: str, group: str, now: float, length: float) -> bool:
        """Tell the others; return whether none of them was quicker."""
        until, lengths = _keys(source, group)
        try:
            if await state.put_new(until, repr(now + length), ttl=length) is not None:
                return False
            # It outlasts the rest, so that the next one is longer.
            await state.put(lengths, repr(length), ttl=length + _REMEMBERED)
        except Unavailable:
            pass  # as above
        return True

    async def end(self, source: str, group: str) -> None:
        """It was taken well: the next rest is a short one again."""
        known = self._known.get((source, group), _NONE)
        if not known.length:
            return
        self._keep(source, group, _Rest(0.0, 0.0, known.looked))
        if self._state is not None:
            with contextlib.suppress(Unavailable):  # as above
                await self._state.do(*(Delete(key) for key in _keys(source, group)))


def _keys(source: str, group: str) -> tuple[str, str]:
    """Return what the end and the length of a rest are kept under."""
    return shared_key("rest", source, group), shared_key("rest-length", source, group)
