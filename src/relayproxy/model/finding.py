"""A fact that a check noted. Never a decision: what follows from it is the configuration's business."""

from collections.abc import Mapping
from dataclasses import dataclass, field

RESULTS = frozenset(
    {"none", "pass", "fail", "softfail", "neutral", "policy", "temperror", "permerror", "hit", "miss"}
)
"""The result vocabulary: RFC 8601 section 2.7, and hit/miss for lists and scanners."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of one method.

    `method` is a name such as "spf", `result` a word of RESULTS, `score` adds to the message's total,
    `props` are RFC 8601 property values ("smtp.mailfrom", "header.d"), `reason` is for people, `by` the plugin
    (the pipeline fills it in). Raises ValueError and TypeError for what is none of these.
    """

    method: str
    result: str
    score: float = 0.0
    props: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    by: str = ""

    def __post_init__(self) -> None:
        # What is wrong shows here, in the hook that noted it, and not where scores are added up after the commit.
        props = self.props
        for word in (self.method, self.result, self.reason, *props, *props.values()):
            if not isinstance(word, str):
                raise TypeError("a finding is made of text, its score is a number")
        if not isinstance(self.score, (int, float)):
            raise TypeError("a finding is made of text, its score is a number")
        if self.result not in RESULTS:
            raise ValueError(f"{self.result!r} is not a result; use one of {', '.join(sorted(RESULTS))}")
