"""score: adds up what the checks found, by weights, and does what the thresholds say.

One number decides between letting pass, greylisting, marking, holding and refusing; the header says how it came
about. Must not check anything itself.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

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
    Settings,
    Verdict,
    defer,
    hold,
    hook,
    printable,
    reject,
    to_a_label,
)
from relayproxy.builtin.headers import is_marked, prefixed
from relayproxy.model.finding import RESULTS

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
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\Z")
_FIELD = re.compile(r"[!-9;-~]{1,60}\Z")
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


def _weight_name(text: str) -> str:
    method, _, result = text.rpartition(".")
    if not _NAME.match(method) or result not in RESULTS:
        raise ValueError(
            f"{text!r} is not METHOD.RESULT, such as spf.fail; results are {', '.join(sorted(RESULTS))}"
        )
    return text


def _field_name(text: str) -> str:
    if not _FIELD.match(text):
        raise ValueError(f"{text!r} is not the name of a header field")
    return text


def _domain(text: str) -> str:
    local, at, domain = text.strip().rpartition("@")
    return f"{local.lower()}{at}{to_a_label(domain.rstrip('.'))}"


WeightName = Annotated[str, AfterValidator(_weight_name)]
FieldName = Annotated[str, AfterValidator(_field_name)]
Domain = Annotated[str, AfterValidator(_domain)]


class Thresholds(Settings):
    """From which score on what happens; null for never. The strongest that is reached counts."""

    greylist: float | None = 4.0
    """The `greylist` plugin, if it stands after this one, puts the message off."""
    mark: float | None = 6.0
    """The header says that it is spam, and the subject gets its prefix."""
    hold: float | None = None
    """It is held for a human."""
    reject: float | None = 15.0
    """It is refused."""

    @model_validator(mode="after")
    def _rising(self) -> "Thresholds":
        there = [(name, value) for name, value in self if value is not None]
        for (one, low), (other, high) in pairwise(there):
            if low > high:
                raise ValueError(f"{one} ({low:g}) is above {other} ({high:g}), so it would never count")
        return self


class Override(Settings):
    """Other thresholds for some mail; what is left out is as in `thresholds`."""

    listeners: frozenset[str] = frozenset()
    """Names of listeners. Left out: all."""
    recipients: frozenset[Domain] = frozenset()
    """Recipient domains (`example.org`, or `.example.org` for all below it) or addresses. Left out: all."""
    greylist: float | None = None
    """As in `thresholds`, and so are the next three."""
    mark: float | None = None
    """See `thresholds`."""
    hold: float | None = None
    """See `thresholds`."""
    reject: float | None = None
    """See `thresholds`."""

    @model_validator(mode="after")
    def _for_some(self) -> "Override":
        if not (self.listeners or self.recipients):
            raise ValueError("name listeners or recipients that this is for")
        return self

    def over(self, usual: Thresholds) -> Thresholds:
        """Return the thresholds with what this one says."""
        said = {
            name: getattr(self, name) for name in Thresholds.model_fields if name in self.model_fields_set
        }
        return Thresholds.model_validate({**usual.model_dump(), **said})

    def suits(self, listener: str, recipient: Recipient) -> bool:
        """Whether it is for mail to this recipient on this listener."""
        if self.listeners and listener not in self.listeners:
            return False
        if not self.recipients:
            return True
        domain = recipient.address.ascii_domain
        names = {domain, f"{recipient.address.local.lower()}@{domain}"}
        while "." in domain:
            domain = domain.partition(".")[2]
            names.add(f".{domain}")
        return bool(names & self.recipients)


class HeaderNames(Settings):
    """The header fields that are added; null for none."""

    score: FieldName | None = "X-Spam-Score"
    """The number alone."""
    status: FieldName | None = "X-Spam-Status"
    """Yes or No, the number, the threshold, and each reason with what it weighs."""
    flag: FieldName | None = "X-Spam-Flag"
    """YES, only on marked messages."""
    level: FieldName | None = None
    """As many asterisks as the score, for filters that can't compare numbers."""


class ScoreSettings(Settings):
    """Weights, thresholds, and what the message shows of them."""

    weights: dict[WeightName, float] = Field(default_factory=dict)
    """What a result weighs, as METHOD.RESULT: `spf.fail: 3`. It counts once, in place of the score that the check
    gave itself. `spf_helo` is SPF of the HELO name."""
    defaults: bool = True
    """Whether the built-in weights count for what `weights` does not name."""
    thresholds: Thresholds = Thresholds()
    """From which score on what happens."""
    overrides: tuple[Override, ...] = ()
    """Other thresholds for listeners and recipients; the first that suits counts."""
    headers: HeaderNames = HeaderNames()
    """The header fields that are added."""
    strip: bool = True
    """Whether such fields are removed from what strangers send, so that nobody clears himself."""
    subject: str = ""
    """Put in front of the subject of marked messages, such as `[SPAM]`. It breaks the author's DKIM signature."""
    text: str = "This message looks like spam"
    """What the refusal says; US-ASCII."""

    @model_validator(mode="after")
    def _sensible(self) -> "ScoreSettings":
        reject(self.text)
        for override in self.overrides:
            override.over(self.thresholds)
        return self


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
