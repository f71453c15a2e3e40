"""Who gets no more mail, and what the list of them has to be able to do, wherever it is kept.

Must not know files or databases, nor how somebody comes to be on the list.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from relayproxy.model.address import to_a_label

GLOBAL = "global"
"""The scope of everybody's mail; others are `tenant:NAME` and `campaign:NAME`."""


@dataclass(frozen=True, slots=True)
class Suppressed:
    """One line of the list.

    `address` is in lower case; `@example.org` stands for all of a domain. `scope` is "global", "tenant:NAME" or
    "campaign:NAME". `added` and `expires` are seconds since the epoch, `expires` None for ever. `source` says who put it
    there.
    """

    address: str
    scope: str = GLOBAL
    class_: str = "manual"
    reason: str = ""
    added: float = 0.0
    expires: float | None = None
    source: str = ""


def key_of(address: str) -> str:
    """Return an address as it is kept: in lower case, as receivers take it, the domain in A-labels."""
    local, at, domain = address.strip().rpartition("@")
    return f"{local.lower()}@{to_a_label(domain.rstrip('.'))}" if at else address.strip().lower()


def keys_for(address: str) -> tuple[str, str]:
    """Return the keys under which a line for an address may stand: its own, and that of its whole domain."""
    key = key_of(address)
    return key, key[key.rfind("@") :] if "@" in key else key


def scopes_of(tenant: str, campaign: str) -> tuple[str, ...]:
    """Return the scopes that a message of this tenant and campaign falls into; either may be ""."""
    named = [(GLOBAL, "x"), (f"tenant:{tenant.lower()}", tenant), (f"campaign:{campaign.lower()}", campaign)]
    return tuple(scope for scope, name in named if name)


def widest_known(wanted: str, tenant: str, campaign: str) -> str:
    """Return the scope `wanted` (global, tenant or campaign), the next wider one where the mail has none such."""
    if wanted == "campaign" and campaign:
        return f"campaign:{campaign}"
    return f"tenant:{tenant}" if wanted != GLOBAL and tenant else GLOBAL


def storable(text: str) -> str:
    """Return a text of others as every database takes it: without NUL, and with nothing that UTF-8 can't say."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


class SuppressionList(Protocol):
    """The open list. Everything that is written is durable when a method returns. The methods raise ListFault.

    Whatever writes, and what looks up where `remote` is true, is for a thread of its own.
    """

    remote: bool
    """Whether a look-up goes over a network."""
    patience: float
    """Seconds for such a look-up."""
    remember: float
    """Seconds for which its answer counts."""

    def find(self, address: str, scopes: Sequence[str], now: float) -> Suppressed | None:
        """Return why an address gets no mail of these scopes, or None; its own line before that of its domain."""
        ...

    def lines(self, now: float, *, scope: str = "", text: str = "") -> Iterator[Suppressed]:
        """Yield what is in force, by address; only of a scope, only addresses that hold `text`."""
        ...

    def unknown(self) -> list[tuple[str, str, str, int, float]]:
        """Return bounces that no rule matches: form, status, an example, how often, and when last; the most frequent first."""
        ...

    def add(self, lines: Iterable[Suppressed]) -> int:
        """Put lines on the list, in one transaction; return how many. One that is there stays if it lasts longer."""
        ...

    def remove(self, address: str, scope: str = "") -> int:
        """Take an address off the list (of one scope, or of all), with what counted against it; return how many lines."""
        ...

    def strike(self, line: Suppressed, message: str, *, count: int, within: float) -> bool:
        """Count a bounce of `message`, once; put the line on the list when there are `count` within `within` seconds."""
        ...

    def note_unknown(self, form: str, status: str, example: str, now: float) -> None:
        """Count a bounce that no rule matches; when there are too many kinds, those not seen for longest are forgotten."""
        ...

    def sweep(self, now: float) -> int:
        """Remove what has expired; return how many lines."""
        ...

    def close(self) -> None:
        """Close it, once a thread that is still at it has ended."""
        ...
