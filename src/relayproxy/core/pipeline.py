"""The pipeline: asks the hooks of the plugins, in order or at once, within a budget.

pluggy registers plugins and checks their signatures; it can't await, so the calls are made here, behind the fence
(core/fence.py). Whatever a plugin does (raise, hang, return nonsense) becomes a verdict that its `on_error` names;
nothing of it reaches the client or another session. Must not know what any plugin is for.
"""

import asyncio
import inspect
from collections.abc import Iterable, Sequence
from typing import Any, Final

from relayproxy.api import Clock
from relayproxy.core.entry import Call, Entry, Result, Scope, is_skipped, prepared
from relayproxy.core.fence import Came, Fence, where
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.stage import Stage, by, on_error
from relayproxy.hookspecs import DECIDE, IDENTIFY, LIFE, PREPARE, REPORT, REWRITE, SERVE
from relayproxy.model.client import Client, Credentials, SessionTotals
from relayproxy.model.edits import (
    AddHeader,
    AddRecipient,
    DropHeader,
    DropRecipient,
    Edit,
    ReplaceBody,
    ReplaceHeader,
    ReplaceRecipient,
    RequireTls,
    SetCampaign,
    SetRoute,
    SetSender,
    apply_to_envelope,
    apply_to_message,
)
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.finding import Finding
from relayproxy.model.mail import Mail, Step
from relayproxy.model.outcome import Outcome
from relayproxy.model.verdict import Verdict, strongest

_ENVELOPE_EDITS: Final = (
    AddRecipient,
    DropRecipient,
    ReplaceRecipient,
    RequireTls,
    SetCampaign,
    SetRoute,
    SetSender,
)
_EDITS: Final = (AddHeader, DropHeader, ReplaceHeader, ReplaceBody, *_ENVELOPE_EDITS)


async def live(call: Call, **arguments: Any) -> None:
    """Call a hook of the life kind, and wait for it if it has to wait itself. Raises whatever it raises."""
    answer = call.function(*[arguments[name] for name in call.names])
    if inspect.isawaitable(answer):
        await answer


class Pipeline:
    """All entries, arranged by hook. `tells_idle`: hooks that had nothing to do are steps of the trace too."""

    def __init__(
        self, entries: Sequence[Entry], *, clock: Clock, log: Log, metrics: Metrics, tells_idle: bool = False
    ) -> None:
        self.entries = tuple(entries)
        self._tells_idle = tells_idle
        self._monotonic = clock.monotonic
        self._log = log
        self._fence = Fence(clock, log)
        self._stage = Stage(self._fence, log, tells_idle=tells_idle)
        self._calls: dict[str, tuple[Call, ...]] = {}
        for hook in (*DECIDE, *PREPARE, *REWRITE, *REPORT, *LIFE, *IDENTIFY, *SERVE):
            users = [entry for entry in entries if hook in entry.hooks]
            if hook == "before_forward":
                users.sort(key=lambda entry: entry.signer)
            self._calls[hook] = tuple(prepared(entry, hook, self.entries, metrics) for entry in users)
        # What is asked for every message is looked up once.
        self.asks_mail = bool(self._calls["mail"])
        self.asks_rcpt = bool(self._calls["rcpt"])
        self.rewrites_envelope = bool(self._calls["rewrite_envelope"])
        self.rewrites = bool(self._calls["before_forward"])
        self.reports = bool(self._calls["after_forward"])
        # What was said before the content may be owed until it is judged.
        self.decides_message = self.rewrites_envelope or any(
            self._calls[hook] for hook in (*DECIDE, *PREPARE)
        )

    def calls(self, hook: str) -> tuple[Call, ...]:
        """The calls of one hook in the order in which they are made."""
        return self._calls[hook]

    async def shutdown(self) -> None:
        """Call the shutdown hooks; one that fails keeps nobody from ending."""
        for call in self._calls["shutdown"]:
            try:
                await live(call)
            except Exception as error:  # noqa: BLE001  (the fence round foreign code)
                self._log.error("plugin_fault", plugin=call.entry.name, hook="shutdown", error=str(error))

    # -- decide ----------------------------------------------------------------------------------------------

    async def decide_client(
        self, hook: str, client: Client, scope: Scope, **more: Any
    ) -> tuple[Verdict | None, tuple[Finding, ...]]:
        """Ask the hooks of a connection (connect, helo); return the verdict and what was noted.

        A verdict without a reply is owed by the scope: it counts for every message.
        """
        calls = self._calls[hook]
        if not calls:
            return None, ()
        try:
            results = await self._stage.run(calls, client, None, scope, None, {"client": client, **more})
        except asyncio.CancelledError:
            scope.cancel()
            raise
        verdict = self._stage.weigh(results)
        scope.owe(verdict)
        return verdict, tuple(f for result in results for f in result.findings)

    def is_idle(self, hook: str, mail: Mail, scope: Scope, **more: Any) -> bool:
        """Whether the hooks have nothing to do with a mail, so that none has to be called; False if that can't be told."""
        calls = self._calls[hook]
        if len(calls) != 1 or scope.running or calls[0].background:
            return False
        call = calls[0]
        if not (call.always or call.entry.when.holds(mail.client, mail.direction)):
            return True
        if call.screen is None or call.skippers or not self._fence.is_idle(call, mail, more):
            return False
        # Most mail has nothing to do with most of what is looked for, and the log has no use for that.
        if self._tells_idle:
            mail.trace.append(call.idle)
        return True

    async def decide(
        self, hook: str, mail: Mail, scope: Scope, *, screened: bool = False, **more: Any
    ) -> Verdict | None:
        """Ask the hooks about a mail; findings are merged into it in pipeline order.

        What `mail` hooks say without a reply is owed by the scope. What `rcpt` hooks say is for that recipient: the
        caller must see that recipients of one transaction share it. `screened`: `is_idle` was asked just now, in vain.
        """
        calls = self._calls[hook]
        if not calls or (not screened and self.is_idle(hook, mail, scope, **more)):
            return None
        alone = len(calls) == 1 and not calls[0].background and not scope.running
        start = self._monotonic()
        if scope.left:
            scope.deadline = start + scope.left
        try:
            if alone:
                # One hook that waits for nothing before it: no more than the call.
                screens = calls[0].screen is not None and not calls[0].skippers
                begun = self._stage.begin(calls[0], scope, mail, more, (), screened=screens)
                results: Sequence[Result] = (begun if isinstance(begun, Result) else await begun,)
            else:
                results = await self._stage.run(calls, mail.client, mail.direction, scope, mail, more)
        except asyncio.CancelledError:
            scope.cancel()
            raise
        if scope.left:
            scope.left = max(0.001, scope.left - (self._monotonic() - start))
        for result in results:
            if result.findings:
                mail.findings += result.findings
        verdict = self._stage.weigh(results)
        if hook == "mail":
            scope.owe(verdict)
        return verdict

    async def judge(self, mail: Mail, scope: Scope) -> Verdict | None:
        """Settle the message stage: what is owed, what the message hooks say, and what ran behind until now."""
        for call in self._calls["arrived"]:
            if call.always or call.entry.when.holds(mail.client, mail.direction):
                await self._called(call, scope, {"mail": mail.view()})
        verdict = await self.decide("message", mail, scope)
        if scope.owed is not None:
            verdict = strongest((scope.owed, verdict))
        return strongest((verdict, await self._join(mail, scope))) if scope.running else verdict

    async def _join(self, mail: Mail, scope: Scope) -> Verdict | None:
        """Wait for all that still runs behind, in pipeline order; merge what it found."""
        results = [await task for task in scope.running]
        scope.running.clear()
        mail.findings += tuple(f for result in results for f in result.findings)
        return self._stage.weigh(
            result
            for result in results
            if not (result.call.skippers and is_skipped(result.call, mail.findings, None))
        )

    async def _called(self, call: Call, scope: Scope, arguments: dict[str, Any]) -> Came:
        """Call a hook that isn't of the decide kind."""
        came = self._fence.begin(call, scope, arguments)
        return came if isinstance(came, tuple) else await came

    # -- identify, rewrite, report ---------------------------------------------------------------------------

    async def identify(self, client: Client, credentials: Credentials) -> tuple[str | None, bool]:
        """Ask the auth hooks; return the identity (or None) and whether a plugin failed to tell."""
        failed = False
        for call in self._calls["auth"]:
            if not call.entry.when.holds(client, None):
                continue
            value, error, _ = await self._called(
                call, Scope(), {"client": client, "credentials": credentials}
            )
            if not error and value is not None and not isinstance(value, str):
                error = f"returned {type(value).__name__}, wanted a login or None"
                self._fence.fault(call, "type", error, {"client": client})
            if error:
                failed = failed or not (call.entry.observe or call.entry.on_error == "skip")
            elif value and not call.entry.observe:
                return value, False
        return None, failed

    async def rewritten(
        self, mail: Mail, rcpt: Recipient | None, scope: Scope
    ) -> tuple[tuple[Edit, ...], Verdict | None]:
        """Ask for edits of the sender (`rcpt` None) or of one recipient; all apply to that one address.

        A plugin is asked about what those before it have made of a recipient, one by one where it has become several,
        so that a list of aliases behind a rewriter finds the rewritten address. A fault under `on_error: hold` is owed by the scope: the message will not pass.
        """
        edits: list[Edit] = []
        targets: tuple[Recipient | None, ...] = (rcpt,)
        for call in self._calls["rewrite_envelope"]:
            if not (call.always or call.entry.when.holds(mail.client, mail.direction)):
                continue
            before = len(edits)
            for target in targets:
                mine, verdict = await self._edits(call, mail, scope, {"rcpt": target}, _ENVELOPE_EDITS)
                if verdict is not None:
                    scope.owe(verdict)
                    return (), verdict
                edits.extend(mine)
            if rcpt is not None and len(edits) > before:
                made = apply_to_envelope(Envelope(mail.envelope.sender, (rcpt,)), edits).recipients
                targets = tuple({target.address.key: target for target in made}.values())
        return tuple(edits), None

    async def before_forward(
        self, mail: Mail, route: str, scope: Scope
    ) -> tuple[tuple[Edit, ...], Verdict | None]:
        """Let each plugin edit the mail, one after another; `mail` is changed in place.

        A fault under `on_error: defer` stops it all (a verdict is returned): a message that should have been
        signed or marked does not leave without.
        """
        edits: list[Edit] = []
        for call in self._calls["before_forward"]:
            if not (call.always or call.entry.when.holds(mail.client, mail.direction)):
                continue
            mine, verdict = await self._edits(call, mail, scope, {"route": route}, _EDITS)
            if verdict is not None:
                return (), verdict
            if mine:
                mail.message = apply_to_message(mail.message, mine)
                mail.envelope = apply_to_envelope(mail.envelope, mine)
                edits.extend(mine)
        return tuple(edits), None

    async def _edits(
        self, call: Call, mail: Mail, scope: Scope, arguments: dict[str, Any], allowed: tuple[type, ...]
    ) -> tuple[tuple[Edit, ...], Verdict | None]:
        view = mail.view(call.entry.name)
        came = self._fence.begin(call, scope, {"mail": view, **arguments})
        value, error, seconds = came if isinstance(came, tuple) else await came
        edits: tuple[Edit, ...] = ()
        if not error and value is not None:
            try:
                found: Iterable[Any] = (value,) if isinstance(value, allowed) else value
                edits = tuple(found)
            except TypeError:
                error = f"returned {type(value).__name__}, wanted edits"
            except BaseException as fault:  # noqa: BLE001  (a generator is foreign code too)
                error = where(fault)
            if not error and not all(isinstance(edit, allowed) for edit in edits):
                error = "returned something that is no edit of this hook"
            if error:
                self._fence.fault(call, "type", error, {"mail": view})
        if view.noted:
            mail.findings += tuple([by(finding, call.entry.name) for finding in view.noted])
        mail.trace.append(Step(call.hook, call.entry.name, seconds, _count(edits), error))
        if error:
            return (), None if call.entry.observe else on_error(call.entry)
        if call.entry.observe:
            if edits:
                self._log.info("would_have", plugin=call.entry.name, hook=call.hook, edits=len(edits))
            return (), None
        return edits, None

    async def after_forward(self, mail: Mail, outcomes: tuple[Outcome, ...]) -> None:
        """Tell the report hooks what became of a mail."""
        for call in self._calls["after_forward"]:
            if call.always or call.entry.when.holds(mail.client, mail.direction):
                await self._called(call, Scope(), {"mail": mail.view(), "outcomes": outcomes})

    async def after_attempt(self, mail: Mail, outcomes: tuple[Outcome, ...], attempt: int) -> None:
        """Tell the report hooks what an attempt of the queue came to."""
        for call in self._calls["after_attempt"]:
            if call.always or call.entry.when.holds(mail.client, mail.direction):
                given = {"mail": mail.view(), "outcomes": outcomes, "attempt": attempt}
                await self._called(call, Scope(), given)

    async def session_closed(self, client: Client, totals: SessionTotals) -> None:
        """Tell the report hooks that a connection has ended."""
        for call in self._calls["session_closed"]:
            if call.entry.when.holds(client, None):
                await self._called(call, Scope(), {"client": client, "totals": totals})


def _count(edits: Sequence[Edit]) -> str:
    return "1 edit" if len(edits) == 1 else f"{len(edits)} edits"
