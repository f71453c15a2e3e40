"""What a decide hook answers: an opinion, and the reply that goes with it.

Verdicts are ordered; the strongest of a stage wins. They say nothing about signing or logging, which always
happen.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from relayproxy.model.reply import Reply


class Action(IntEnum):
    """From weakest to strongest; keeping mail (hold) beats dropping it (discard)."""

    ACCEPT = 0
    DISCARD = 1
    HOLD = 2
    DEFER = 3
    REJECT = 4


@dataclass(frozen=True, slots=True)
class Verdict:
    """An action with the reply for the client (defer and reject) and a reason for the admin's log."""

    action: Action
    reply: Reply | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        wanted = {Action.DEFER: 4, Action.REJECT: 5}.get(self.action)
        if wanted is None:
            return
        if self.reply is None or self.reply.code // 100 != wanted:
            raise ValueError(f"{self.action.name.lower()} needs a {wanted}yz reply")


def accept(reason: str = "") -> Verdict:
    """No objection. Other hooks are still asked, and signing, headers and logging still happen."""
    return Verdict(Action.ACCEPT, None, reason)


def discard(reason: str = "") -> Verdict:
    """Tell the client 250 and drop the message."""
    return Verdict(Action.DISCARD, None, reason)


def hold(reason: str = "") -> Verdict:
    """Keep the message for a human to release or delete; the client hears 250 once it is stored."""
    return Verdict(Action.HOLD, None, reason)


def defer(
    text: str = "Try again later", *, code: int = 451, status: str = "4.7.1", reason: str = ""
) -> Verdict:
    """Make the client keep the message and try again. Raises ValueError for a text with control characters."""
    return Verdict(Action.DEFER, Reply(code, status, text), reason)


def reject(
    text: str = "Refused by policy", *, code: int = 550, status: str = "5.7.1", reason: str = ""
) -> Verdict:
    """Refuse for good. Raises ValueError for a text with control characters."""
    return Verdict(Action.REJECT, Reply(code, status, text), reason)


def strongest(verdicts: Iterable[Verdict | None]) -> Verdict | None:
    """Return the strongest verdict; of equals the first, so the order in the pipeline decides."""
    best: Verdict | None = None
    for verdict in verdicts:
        if verdict is not None and (best is None or verdict.action > best.action):
            best = verdict
    return best
