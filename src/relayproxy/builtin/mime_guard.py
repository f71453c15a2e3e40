"""mime_guard: messages that two readers can be made to understand differently, and those that are made to cost.

Notes everything that is wrong with the form of a message; refuses what is dangerous. Must not know how anything is
found.
"""

import asyncio
from typing import Literal, TypeAlias

from pydantic import Field

from relayproxy.api import Direction, Mail, Opinion, Plugin, Settings, hold, hook, printable, reject
from relayproxy.builtin._anomalies import DANGEROUS, IN_WORDS, Anomaly, find

Action: TypeAlias = Literal["refuse", "hold", "note", "allow"]

_LARGE = 1_048_576  # octets of a message above which another thread looks at it


class MimeGuardSettings(Settings):
    """What is done about each anomaly, and the limits of the header."""

    actions: dict[Anomaly, Action] = Field(default_factory=dict)
    """What is done about an anomaly, by its name, where it isn't the default: `refuse` for the dangerous ones, `note`
    for the others. `hold` keeps the message for a human, `allow` does nothing."""
    score: float = 1.0
    """What each anomaly that is noted adds to the score of the message."""
    max_fields: int = Field(1000, ge=10)
    """Header fields that a message may have."""
    max_header: int = Field(262_144, ge=1024)
    """Octets that the header of a message may have."""


class MimeGuard(Plugin[MimeGuardSettings]):
    """Looks once the message is there."""

    name = "mime_guard"
    settings = MimeGuardSettings
    after = ()
    directions = frozenset({Direction.INBOUND})

    @hook
    async def message(self, mail: Mail) -> Opinion:
        """Note every anomaly; refuse or hold for the first that asks for it."""
        look = asyncio.to_thread(self._found, mail) if mail.message.size > _LARGE else None
        found = self._found(mail) if look is None else await look
        held: Opinion = None
        refused: Opinion = None
        for anomaly, detail in found:
            action = self._action(anomaly)
            words = IN_WORDS[anomaly]
            reason = f"{words}: {printable(detail)}" if detail else words
            mail.note("mime", "hit", score=self.options.score, reason=reason, anomaly=anomaly, action=action)
            if action == "refuse":
                refused = refused or reject(
                    f"The message is malformed: {words}", reason=f"mime_guard: {anomaly}: {reason}"
                )
            elif action == "hold":
                held = held or hold(f"mime_guard: {anomaly}: {reason}")
        if not found:
            mail.note("mime", "pass")
        return refused or held

    def _found(self, mail: Mail) -> list[tuple[Anomaly, str]]:
        found = find(mail, self.options.max_fields, self.options.max_header)
        return [(anomaly, detail) for anomaly, detail in found if self._action(anomaly) != "allow"]

    def _action(self, anomaly: Anomaly) -> Action:
        return self.options.actions.get(anomaly, "refuse" if anomaly in DANGEROUS else "note")
