"""How long mail of a busy destination is put off, so that others come up behind it: as long as those before it will take.

A short time would bring it back before all of it has been put off, a long one would leave the destination idle. Must not
know stores or loops: time comes as an argument, in seconds.
"""

from collections import deque
from dataclasses import dataclass, field

_LEAST, _LONGEST = 1.0, 600.0
_USUAL = 1.0  # seconds for a transaction, as long as none has ended
_MOST = 10_000


@dataclass(slots=True)
class _Backlog:
    began: deque[float] = field(default_factory=deque)
    usual: float = _USUAL
    away: int = 0
    at: float = 0.0


class Backlogs:
    """Counts, for one worker, how long transactions take with each destination of a lane, and what was put off of it."""

    def __init__(self) -> None:
        self._known: dict[str, _Backlog] = {}

    def began(self, destination: str, now: float) -> None:
        """A transaction with it has begun."""
        self._of(destination).began.append(now)

    def ended(self, destination: str, now: float) -> None:
        """One is over; which one makes no difference to the mean."""
        known = self._of(destination)
        if known.began:
            known.usual += (now - known.began.popleft() - known.usual) / 4

    def put_off(self, destination: str, count: int, limit: int, now: float) -> float:
        """Return the seconds for which `count` more are put off; `limit` is how many transactions it may have at once."""
        known = self._of(destination)
        if now > known.at + 2 * _LONGEST:
            known.away = 0  # others have taken what was away
        known.away += count
        known.at = now
        takes = max(known.usual, now - known.began[0] if known.began else 0.0)
        return min(max(_LEAST, known.away * takes / limit), _LONGEST)

    def came(self, destination: str) -> None:
        """One of what was put off is at hand, or a new one."""
        known = self._known.get(destination)
        if known is not None and known.away:
            known.away -= 1

    def _of(self, destination: str) -> _Backlog:
        known = self._known.get(destination)
        if known is None:
            if len(self._known) >= _MOST:
                idle = next((name for name, one in self._known.items() if not one.began), "")
                self._known.pop(idle, None)
            known = self._known[destination] = _Backlog()
        return known
