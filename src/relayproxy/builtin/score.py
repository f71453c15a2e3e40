"""score: adds up what the checks found, by weights, and does what the thresholds say.

One number decides between letting pass, greylisting, marking, holding and refusing; the header says how it came
about. Must not check anything itself.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from relayproxy.api import (
    AddHeader,
    Direction,
    DropHeader,
    Edit,
    Edits,
    Finding,
    Mail,
    Opinion,
    Plugin,
    Recipient,
    ReplaceHeader,
    Verdict,
    defer,
    hold,
    hook,
    printable,
    reject,
)
from relayproxy.builtin._score_settings import ScoreSettings, Thresholds
from relayproxy.builtin.headers import is_marked, prefixed

WEIGHTS: Mapping[str, float] = {
    "spf.fail": 2.0,
    "spf.softfail": 1.0,
    "spf.permerror": 0.5,
    "spf_helo.fail": 1.0,
    "iprev.fail": 1.0,
    "iprev.permerror": 1.0,
    "dkim.permerror": 0.5,
    "dmarc.fail": 2.0,
    "arc.fail": 0.5,
}
"""What a result weighs unless the settings say otherwise. A pass weighs nothing: a spammer can have one too."""

_MOST_REMEMBERED = 10_000  # transactions whose first recipient is known; the oldest is forgotten first
_MOST_REASONS = 30
_STARS = 50
_COMMON = (
    "X-Spam-Score",
    "X-Spam-Status",
    "X-Spam-Flag",
    "X-Spam-Level",
    "X-Spam-Report",
    "X-Spam-Checker-Version",
    "X-Spam-Bar",
    "X-Spam",
)

Action = Literal["none", "greylist", "mark", "hold", "reject"]


@dataclass(frozen=True, slots=True)
class Reason:
    """A part of the sum: its name and what it adds."""

    name: str
    score: float


def reasons_of(findings: Iterable[Finding], weights: Mapping[str, float]) -> list[Reason]:
    """Return what adds to the score: a weight once for each METHOD.RESULT, else the findings' own scores.

    The largest comes first; what adds nothing is left out.
    """
    parts: dict[str, float] = {}
    for finding in findings:
        method = finding.method
        if method == "spf" and "smtp.helo" in finding.props:
            method = "spf_helo"
        name = f"{method}.{finding.result}"
        if name in weights:
            parts[name] = weights[name]
        elif finding.score:
            label = f"{name}({finding.props['zone']})" if "zone" in finding.props else name
            parts[label] = parts.get(label, 0.0) + finding.score
    made = [Reason(name, score) for name, score in parts.items() if score]
    return sorted(made, key=lambda reason: -abs(reason.score))


class Score(Plugin[ScoreSettings]):
    """Sum up when the message is known; show the sum before it goes on."""

    name = "score"
    settings = ScoreSettings
    directions = frozenset({Direction.INBOUND})

    def __init__(self, options: ScoreSettings) -> None:
        super().__init__(options)
        self._weights = {**(WEIGHTS if options.defaults else {}), **options.weights}
        self._sets = [override.over(options.thresholds) for override in options.overrides]
        self._by_recipient = any(override.recipients for override in options.overrides)
        self._first: OrderedDict[str, Thresholds] = OrderedDict()
        names = [name for _, name in options.headers if name]
        self._ours = frozenset(name.lower() for name in (*names, *_COMMON))

    @hook
    def rcpt(self, mail: Mail, rcpt: Recipient) -> Opinion:
        """Put off a recipient whose thresholds are not those of the first: one message gets one answer."""
        if not self._by_recipient:
            return None
        mine = self._thresholds(mail.client.listener, rcpt)
        first = self._first.setdefault(mail.id, mine)
        if len(self._first) > _MOST_REMEMBERED:
            self._first.popitem(last=False)
        if first == mine:
            return None
        return defer(
            "Other rules are for this recipient: send it in another transaction",
            code=452,
            status="4.5.3",
            reason="other thresholds than the first recipient's",
        )

    @hook
    def message(self, mail: Mail) -> Opinion:
        """Note "score" (hit from `mark` on, else miss); afterwards `mail.score` is the sum.

        In its properties: `total`, `action`, `greylist` (yes or no), `required` and `reasons`.
        """
        self._first.pop(mail.id, None)
        reasons = reasons_of(mail.findings, self._weights)
        total = round(sum(reason.score for reason in reasons), 3)
        recipients = mail.envelope.recipients
        limits = (
            self._thresholds(mail.client.listener, recipients[0]) if recipients else self.options.thresholds
        )
        action = _action(total, limits)
        shown = [f"{printable(reason.name, 60)}={reason.score:+.1f}" for reason in reasons[:_MOST_REASONS]]
        mail.note(
            "score",
            "hit" if action in ("mark", "hold", "reject") else "miss",
            score=total - mail.score,
            reason=", ".join(shown),
            total=f"{total:.1f}",
            action=action,
            greylist="yes" if action in ("greylist", "mark") and _reached(total, limits.greylist) else "no",
            required="" if limits.mark is None else f"{limits.mark:.1f}",
        )
        return self._verdict(action, total, shown)

    def _thresholds(self, listener: str, recipient: Recipient) -> Thresholds:
        for override, thresholds in zip(self.options.overrides, self._sets, strict=True):
            if override.suits(listener, recipient):
                return thresholds
        return self.options.thresholds

    def _verdict(self, action: Action, total: float, shown: list[str]) -> Verdict | None:
        reason = f"score {total:.1f}: {', '.join(shown)}"
        if action == "reject":
            return reject(self.options.text, reason=reason)
        if action == "hold":
            return hold(reason)
        return None

    @hook
    def before_forward(self, mail: Mail) -> Edits:
        """Remove what strangers say about the score, add what we say, and mark the subject."""
        edits: list[Edit] = []
        if self.options.strip:
            there = {field.name.lower(): field.name for field in mail.message.fields}
            edits += [DropHeader(name) for key, name in there.items() if key in self._ours]
        found = mail.finding("score")
        if found is None:
            return edits
        marked = found.result == "hit"
        for key, name in reversed(list(self.options.headers)):
            if name and (marked or key != "flag"):
                edits.append(AddHeader(name, _SHOWN[key](found, marked)))
        if marked and self.options.subject:
            edits += _subject(mail, self.options.subject)
        return edits


def _reached(total: float, threshold: float | None) -> bool:
    return threshold is not None and total >= threshold


def _action(total: float, limits: Thresholds) -> Action:
    for name in ("reject", "hold", "mark", "greylist"):
        if _reached(total, getattr(limits, name)):
            return name
    return "none"


def _status(found: Finding, marked: bool) -> str:
    required = found.props["required"]
    words = [f"{'Yes' if marked else 'No'}, score={found.props['total']}"]
    words += [f"required={required}"] if required else []
    return f"{' '.join(words)} tests={found.reason or 'none'}"


_SHOWN: Mapping[str, Callable[[Finding, bool], str]] = {
    "score": lambda found, _: found.props["total"],
    "status": _status,
    "flag": lambda _, __: "YES",
    "level": lambda found, _: "*" * min(_STARS, max(0, int(float(found.props["total"])))) or "-",
}


def _subject(mail: Mail, prefix: str) -> list[Edit]:
    fields = mail.message.all("Subject")
    if not fields:
        return [AddHeader("Subject", prefix, bottom=True)]
    if is_marked(fields[0], prefix):
        return []
    return [ReplaceHeader("Subject", prefixed(fields[0].raw.partition(b":")[2], prefix))]
