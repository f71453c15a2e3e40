"""What a rule does, as values: an action of the YAML, compiled. The engine does what they say.

Must not know how they are written, nor how mail is edited or answered.
"""

from dataclasses import dataclass
from typing import TypeAlias

from relayproxy.api import Action
from relayproxy.rules.texts import Text


@dataclass(frozen=True, slots=True)
class Decide:
    """A verdict: `text` is the client's reply or the admin's reason; `skip` names plugins that are not asked."""

    action: Action
    text: Text
    code: int = 0
    status: str = ""
    skip: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Score:
    """Add to the score, under a name if there is one."""

    points: float
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class Tag:
    """Tag the message, for later rules and for the log."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """Change header fields: `how` is add, replace, remove or prefix."""

    how: str
    name: str
    value: Text | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """Change recipients: `how` is redirect, local, domain or add."""

    how: str
    value: Text


@dataclass(frozen=True, slots=True)
class Onward:
    """How the message goes on: by the route of this name, or ("") over TLS only."""

    route: str = ""


@dataclass(frozen=True, slots=True)
class Rate:
    """Go on with the rule only above `count` in `seconds` for the same key; `burst` at once."""

    key: Text
    count: int
    seconds: float
    burst: float
    per_recipient: bool


@dataclass(frozen=True, slots=True)
class Note:
    """Write a line to the log."""

    text: Text


Act: TypeAlias = Decide | Score | Tag | Field | Address | Onward | Rate | Note
