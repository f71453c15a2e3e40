"""Sources that a destination refuses for their reputation, and how long each is left alone there.

What a refusal means is said by the rules for bounces: their class `block`. Must not know connections.
"""

import re
from collections.abc import Sequence

from relayproxy.bounces.report import Fate, Kind, Report
from relayproxy.bounces.rules import Rule, classify
from relayproxy.model.reply import Reply, printable

_BLOCK = "block"
_LONGEST = 24 * 3600.0
_MOST = 10_000
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


class Rests:
    """Which source is left alone by which destination group, and until when: `rest` seconds, twice as long each time."""

    def __init__(self, rest: float) -> None:
        self._rest = rest
        self._until: dict[tuple[str, str], tuple[float, float]] = {}

    def until(self, source: str, group: str, now: float) -> float:
        """Return when a source may be used again, or 0.0 if it may be now."""
        found = self._until.get((source, group))
        return found[0] if found is not None and now < found[0] else 0.0

    def begin(self, source: str, group: str, now: float) -> float:
        """Leave a source alone; return for how many seconds, or 0.0 if that is so already."""
        known = self._until.get((source, group))
        if known is not None and now < known[0]:
            return 0.0
        length = min(2 * known[1], _LONGEST) if known is not None else self._rest
        if len(self._until) >= _MOST:
            del self._until[next(iter(self._until))]
        self._until[source, group] = now + length, length
        return length

    def end(self, source: str, group: str) -> None:
        """It was taken well: the next rest is a short one again."""
        self._until.pop((source, group), None)
