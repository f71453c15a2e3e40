"""An open transaction as the core knows it, from MAIL to the last octet of the content.

Must not know how recipients are judged nor what becomes of the content.
"""

from dataclasses import dataclass, field

from relayproxy.core.entry import Scope
from relayproxy.core.policy import Route
from relayproxy.core.ports import Transaction
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.mail import Mail
from relayproxy.model.verdict import Action, Verdict
from relayproxy.smtp.commands import Offered

NOWHERE = -1
"""The place of a recipient whose mail is discarded: it became no target."""


@dataclass(slots=True)
class Draft:
    """The mail so far, the recipients as given and as they went on, the next hop's side.

    `offered` is what EHLO offered, `base` the envelope as it was after MAIL. `places` says, for each recipient as given,
    which of `targets` it became, or NOWHERE. `held` is the verdict that all targets share, if they are held;
    `discarded` the first one that dropped a recipient. `committing` from the moment that content may go upstream.
    """

    mail: Mail
    scope: Scope
    offered: Offered
    declared: int = 0
    base: Envelope = field(default_factory=Envelope)
    route: Route | None = None
    transaction: Transaction | None = None
    given: list[Recipient] = field(default_factory=list)
    targets: list[Recipient] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    refused_temporarily: bool = False
    held: Verdict | None = None
    discarded: Verdict | None = None
    committing: bool = False
    counts_queries: bool = False

    @property
    def fate(self) -> Verdict | None:
        """What was said of all recipients before the content came and no reply could tell: hold or discard."""
        return self.held if self.targets else self.discarded

    @property
    def addressed(self) -> list[Recipient]:
        """The recipients as given, without those whose mail is discarded; all of them if it is for all."""
        if self.discarded is None or not self.targets:
            return self.given
        pairs = zip(self.given, self.places, strict=True)
        return [recipient for recipient, place in pairs if place != NOWHERE]

    def shares(self, verdict: Verdict | None, waiting: int) -> bool:
        """Whether another recipient may come along whose hooks say this, beside `waiting` that aren't given yet.

        To hold one recipient's mail must not do so to another's. The first recipient decides.
        """
        held = verdict if verdict is not None and verdict.action is Action.HOLD else None
        if not self.targets and not waiting:
            self.held = held
        return (held is None) == (self.held is None)

    def drop(self) -> None:
        """End it without a message."""
        self.scope.cancel()
        if self.transaction is not None:
            self.transaction.abort()
