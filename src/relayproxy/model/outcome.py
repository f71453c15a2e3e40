"""What became of one recipient: done, pending (somebody will try again) or failed, with the next hop's reply."""

from dataclasses import dataclass
from enum import StrEnum

from relayproxy.model.envelope import Recipient
from relayproxy.model.reply import Reply


class State(StrEnum):
    """A recipient is pending once, then done or failed for good."""

    DONE = "done"
    PENDING = "pending"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The fate of `recipient` over `route` (its upstream's name)."""

    recipient: Recipient
    state: State
    reply: Reply
    route: str


def state_of(reply: Reply) -> State:
    """Return what a final reply means."""
    return State.DONE if reply.ok else State.FAILED if reply.permanent else State.PENDING


def outcome_of(recipient: Recipient, reply: Reply, route: str) -> Outcome:
    """Return the outcome that a next hop's final `reply` means for `recipient`."""
    return Outcome(recipient, state_of(reply), reply, route)
