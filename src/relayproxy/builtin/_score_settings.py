"""The settings of score: weights, thresholds and for whom there are others, names of header fields.

Must not add anything up.
"""

import re
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from relayproxy.api import Recipient, Settings, reject, to_a_label
from relayproxy.model.finding import RESULTS

_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\Z")
_FIELD = re.compile(r"[!-9;-~]{1,60}\Z")


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
