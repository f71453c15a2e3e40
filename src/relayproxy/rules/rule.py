"""Rules as values: one rule, the rules of a phase, all of them.

Must not know how a rule is written or asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from relayproxy.rules.acts import Act, Decide, Rate
from relayproxy.rules.condition import Condition
from relayproxy.rules.facts import Fact, Phase
from relayproxy.rules.index import Index
from relayproxy.rules.lists import ListSpec


@dataclass(frozen=True, slots=True)
class Rule:
    """One compiled rule. `where` is `file:line`; `until` is in seconds since the epoch; `why` explains the phase."""

    id: str
    number: int
    condition: Condition
    acts: tuple[Act, ...]
    phase: Phase
    why: str = ""
    where: str = ""
    description: str = ""
    observe: bool = False
    sample: float = 1.0
    until: float | None = None
    on_error: str = "defer"

    @property
    def verdict(self) -> Decide | None:
        """The verdict among its actions."""
        return next((act for act in self.acts if isinstance(act, Decide)), None)

    @property
    def skip(self) -> frozenset[str]:
        """The plugins that it wants not to be asked."""
        verdict = self.verdict
        return verdict.skip if verdict is not None and not self.observe else frozenset()

    @property
    def rates(self) -> tuple[Rate, ...]:
        """Its rate limits."""
        return tuple(act for act in self.acts if isinstance(act, Rate))

    @property
    def certain(self) -> bool:
        """Whether it acts on all that it matches, always."""
        return not self.observe and self.sample >= 1 and self.until is None and not self.rates


@dataclass(frozen=True, slots=True)
class Stage:
    """The rules that are asked in one phase, with their index; an accept at RCPT is among those of the message too."""

    phase: Phase
    rules: tuple[Rule, ...]
    index: Index


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All rules, arranged by phase. `splits` are those whose answer at the message may differ by recipient."""

    rules: tuple[Rule, ...] = ()
    lists: Mapping[str, ListSpec] = field(default_factory=dict)
    table: Mapping[str, Fact] = field(default_factory=dict)
    stages: Mapping[Phase, Stage] = field(default_factory=dict)
    splits: tuple[Rule, ...] = ()

    def __len__(self) -> int:
        return len(self.rules)
