"""What stands round a session in a rehearsal, and remembers what passes.

A log, a pipeline, a next hop and a password check for `relayproxy test`. Must not know which message is played.
"""

import time
from collections.abc import Sequence
from typing import Any

from relayproxy.core.entry import Entry, Scope
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.pipeline import Pipeline
from relayproxy.core.ports import Capabilities, NextHop, Transaction
from relayproxy.model.client import Client, Credentials
from relayproxy.model.envelope import Recipient
from relayproxy.model.finding import Finding
from relayproxy.model.mail import Mail, Step
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply
from relayproxy.process import SystemClock


class Memory(Log):
    """A log that keeps its events."""

    def __init__(self) -> None:
        super().__init__(lambda _line: None, time.time)
        self.events: list[dict[str, Any]] = []

    def event(self, fields: dict[str, Any]) -> None:
        """Keep an event."""
        self.events.append(fields)


class Review:
    """Implements ports.Quarantine: says what the real one would, and keeps nothing."""

    async def hold(self, mail: Mail, lead: bytes, message: Message, reason: str) -> Reply:  # noqa: ARG002  (the port's names)
        """See ports.Quarantine."""
        return Reply(250, "2.0.0", "Ok: held for review")


class Watched(Pipeline):
    """A pipeline that remembers which mail it was asked about, and what was asked before there was a mail."""

    def __init__(self, entries: Sequence[Entry], memory: Memory, metrics: Metrics) -> None:
        super().__init__(entries, clock=SystemClock(), log=memory, metrics=metrics, tells_idle=True)
        self.mail: Mail | None = None
        self.noted: tuple[Finding, ...] = ()
        self._scopes: list[Scope] = []

    @property
    def steps(self) -> tuple[Step, ...]:
        """What was asked of the connection and its greeting."""
        return tuple(step for scope in self._scopes for step in scope.trace)

    async def decide_client(
        self, hook: str, client: Client, scope: Scope, **more: Any
    ) -> tuple[Any, tuple[Finding, ...]]:
        """See Pipeline."""
        self._scopes.append(scope)
        verdict, findings = await super().decide_client(hook, client, scope, **more)
        self.noted += findings
        return verdict, findings

    async def decide(self, hook: str, mail: Mail, scope: Scope, **more: Any) -> Any:
        """See Pipeline."""
        self.mail = mail
        return await super().decide(hook, mail, scope, **more)

    async def rewritten(self, mail: Mail, rcpt: Recipient | None, scope: Scope) -> Any:
        """See Pipeline."""
        self.mail = mail
        return await super().rewritten(mail, rcpt, scope)


class Recorder:
    """Passes everything on to another next hop and keeps what was sent (ports.NextHop)."""

    def __init__(self, hop: NextHop) -> None:
        self.name = hop.name
        self.per_recipient = hop.per_recipient
        self.sent: bytes | None = None
        self._hop = hop

    @property
    def capabilities(self) -> Capabilities | None:
        """See ports.NextHop."""
        return self._hop.capabilities

    def begin(self, mail: Mail, size: int) -> Transaction:
        """See ports.NextHop."""
        return _Recorded(self, self._hop.begin(mail, size))


class _Recorded:
    """Implements ports.Transaction."""

    def __init__(self, recorder: Recorder, inner: Transaction) -> None:
        self.per_recipient = inner.per_recipient
        self._recorder = recorder
        self._inner = inner

    @property
    def queued(self) -> bool:
        """See ports.Transaction."""
        return self._inner.queued

    async def recipients(self, recipients: Sequence[Recipient]) -> list[Reply]:
        """See ports.Transaction."""
        return await self._inner.recipients(recipients)

    async def send(self, lead: bytes, message: Message) -> list[Reply]:
        """See ports.Transaction."""
        self._recorder.sent = lead + bytes(message)
        return await self._inner.send(lead, message)

    def abort(self) -> None:
        """See ports.Transaction."""
        self._inner.abort()


class Believes:
    """An authenticator for logins that are only supposed (ports.Authenticator)."""

    async def check(self, client: Client, credentials: Credentials) -> bool:  # noqa: ARG002  (the port's names)
        """Take everybody for who they say they are."""
        return True
