"""How fast a destination may be sent to: as many transactions at once, and as many in a time, as it puts up with.

Servers say "not so fast" in a few ways (421, 450 4.7.x, words about rates). Then a destination rests, longer each time,
and goes on with half of the transactions; each success in a row as long as the limit brings one more. Must not know
messages, stores or loops: time comes as an argument, in seconds.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from relayproxy.model.reply import Reply

_RESTS = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0)
_MOST = 10_000
_WORDS = re.compile(
    r"\brates?\b|rate.?limit|too (?:many|much|fast)|throttl|slow(?:ing)? down|\bquota\b|deferred due to|"
    r"try again later.*(?:volume|reputation)|unusual|excessive|concurren|connection limit",
    re.IGNORECASE,
)


def is_throttled(reply: Reply) -> bool:
    """Whether a reply means "not so fast" rather than "not this recipient now"."""
    if not 400 <= reply.code < 500:
        return False
    # RFC 3463: 4.7.x is policy, 4.3.2 "not accepting messages", 4.4.5 congestion. Greylisting is 4.7.x too, and says so.
    if re.search(r"gr[ae]y.?list", reply.text, re.IGNORECASE):
        return False
    return (
        reply.code == 421
        or reply.status in ("4.3.2", "4.4.5", "4.7.28", "4.7.32", "4.7.650")
        or bool(_WORDS.search(reply.text))
    )


@dataclass(slots=True)
class _Pace:
    limit: int
    successes: int = 0
    throttled: int = 0
    until: float = 0.0
    next: float = 0.0


class Paces:
    """The paces of all destinations of a lane: `most` transactions at once with each, `rate` in a second (0: any).

    `limits` are those of destinations that have another. A destination is a domain, or what stands for several.
    What it knows of a destination begins anew when it is forgotten: kept are the last ten thousand.
    """

    def __init__(self, most: int, rate: float = 0.0, limits: Mapping[str, int] | None = None) -> None:
        self._most = most
        self._limits = limits or {}
        self._gap = 1.0 / rate if rate else 0.0
        self._paces: dict[str, _Pace] = {}

    def limit(self, destination: str) -> int:
        """Return how many transactions it may have at once now."""
        known = self._paces.get(destination)
        return known.limit if known is not None else self._most_of(destination)

    def _most_of(self, destination: str) -> int:
        return self._limits.get(destination, self._most)

    def may_begin(self, destination: str, running: int, now: float) -> bool:
        """Whether one more may begin beside those that are `running`."""
        known = self._paces.get(destination)
        if known is None:
            return running < self._most_of(destination)
        return running < known.limit and now >= known.until and now >= known.next

    def began(self, destination: str, now: float) -> None:
        """One has begun; the next has to keep its distance."""
        if self._gap:
            known = self._of(destination)
            known.next = max(known.next, now) + self._gap

    def hold(self, destination: str, until: float) -> None:
        """None may begin before that time."""
        known = self._of(destination)
        known.next = max(known.next, until)

    def heard(self, destination: str, *, throttled: bool, now: float) -> float:
        """Note how one ended; return the seconds for which the destination rests from now, or 0."""
        known = self._paces.get(destination)
        if not throttled:
            if known is not None and known.throttled and now >= known.until:
                self._recover(destination, known)
            return 0.0
        known = self._of(destination)
        known.successes = 0
        if now < known.until:
            return 0.0  # begun before the rest
        known.limit = max(1, known.limit // 2)
        known.throttled += 1
        rest = _RESTS[min(known.throttled, len(_RESTS)) - 1]
        known.until = now + rest
        return rest

    def _recover(self, destination: str, known: _Pace) -> None:
        known.successes += 1
        if known.successes < known.limit:
            return
        known.successes = 0
        known.limit += 1
        known.throttled = max(1, known.throttled - 1)
        most = self._most_of(destination)
        if known.limit >= most:
            if self._gap:
                known.limit, known.throttled = most, 0
            else:
                del self._paces[destination]

    def next_at(self, destinations: Iterator[str], now: float) -> float | None:
        """Return when the first of these may begin that may not now for its pace alone, or None."""
        waits = (
            max(known.until, known.next)
            for destination in destinations
            if (known := self._paces.get(destination)) is not None
        )
        return min((at for at in waits if at > now), default=None)

    def _of(self, destination: str) -> _Pace:
        if destination not in self._paces and len(self._paces) >= _MOST:
            del self._paces[next(iter(self._paces))]
        return self._paces.setdefault(destination, _Pace(self._most_of(destination)))
