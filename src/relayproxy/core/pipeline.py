"""The pipeline: asks the hooks of the plugins, in order or at once, within a budget.

pluggy registers plugins and checks their signatures; it can't await, so the calls are made here, behind the fence
(core/fence.py). Whatever a plugin does (raise, hang, return nonsense) becomes a verdict that its `on_error` names;
nothing of it reaches the client or another session. Must not know what any plugin is for.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

from relayproxy.api import Clock
from relayproxy.core.entry import Call, Entry, Result, Scope, is_settled, is_skipped, prepared
from relayproxy.core.fence import Came, Fence, Owned, where
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.hookspecs import DECIDE, IDENTIFY, LIFE, PREPARE, REPORT, REWRITE
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
    SetRoute,
    SetSender,
    apply_to_envelope,
    apply_to_message,
)
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.finding import Finding
from relayproxy.model.mail import Direction, Mail, Step
from relayproxy.model.outcome import Outcome
from relayproxy.model.verdict import Verdict, defer, hold, reject, strongest

_ENVELOPE_EDITS: Final = (AddRecipient, DropRecipient, ReplaceRecipient, RequireTls, SetRoute, SetSender)
_EDITS: Final = (AddHeader, DropHeader, ReplaceHeader, ReplaceBody, *_ENVELOPE_EDITS)


class Pipeline:
    """All entries, arranged by hook."""

    def __init__(self, entries: Sequence[Entry], *, clock: Clock, log: Log, metrics: Metrics) -> None:
        self.entries = tuple(entries)
        self._monotonic = clock.monotonic
        self._log = log
        self._fence = Fence(clock, log)
        self._calls: dict[str, tuple[Call, ...]] = {}
        for hook in (*DECIDE, *PREPARE, *REWRITE, *REPORT, *LIFE, *IDENTIFY):
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
            results = await self._stage(calls, client, None, scope, None, {"client": client, **more})
        except asyncio.CancelledError:
            scope.cancel()
            raise
        verdict = self._weigh(results)
        scope.owe(verdict)
        return verdict, tuple(f for result in results for f in result.findings)

    async def decide(self, hook: str, mail: Mail, scope: Scope, **more: Any) -> Verdict | None:
        """Ask the hooks about a mail; findings are merged into it in pipeline order.

        What `mail` hooks say without a reply is owed by the scope. What `rcpt` hooks say is for that recipient: the
        caller must see that recipients of one transaction share it.
        """
        calls = self._calls[hook]
        if not calls:
            return None
        start = self._monotonic()
        if scope.left:
            scope.deadline = start + scope.left
        try:
            if len(calls) == 1 and not calls[0].background and not scope.running:
                # One hook that waits for nothing before it: no more than the call.
                call = calls[0]
                results: Sequence[Result] = ()
                if call.always or call.entry.when.holds(mail.client, mail.direction):
                    begun = self._begin(call, scope, mail, more, ())
                    results = (begun if isinstance(begun, Result) else await begun,)
            else:
                results = await self._stage(calls, mail.client, mail.direction, scope, mail, more)
        except asyncio.CancelledError:
            scope.cancel()
            raise
        if scope.left:
            scope.left = max(0.001, scope.left - (self._monotonic() - start))
        for result in results:
            if result.findings:
                mail.findings += result.findings
        verdict = self._weigh(results)
        if hook == "mail":
            scope.owe(verdict)
        return verdict

    async def judge(self, mail: Mail, scope: Scope) -> Verdict | None:
        """Settle the message stage: what is owed, what the message hooks say, and what ran behind until now."""
        for call in self._calls["arrived"]:
            if call.always or call.entry.when.holds(mail.client, mail.direction):
                await self._called(call, scope, {"mail": mail.view()})
        verdict = strongest((scope.owed, await self.decide("message", mail, scope)))
        return strongest((verdict, await self._join(mail, scope))) if scope.running else verdict

    async def _join(self, mail: Mail, scope: Scope) -> Verdict | None:
        """Wait for all that still runs behind, in pipeline order; merge what it found."""
        results = [await task for task in scope.running]
        scope.running.clear()
        mail.findings += tuple(f for result in results for f in result.findings)
        return self._weigh(
            result
            for result in results
            if not (result.call.skippers and is_skipped(result.call, mail.findings, None))
        )

    def _weigh(self, results: Iterable[Result]) -> Verdict | None:
        best: Verdict | None = None
        for result in results:
            verdict = result.value
            if verdict is None:
                continue
            call = result.call
            call.verdicts[verdict.action.name].inc()
            if call.entry.observe:
                self._log.info(
                    "would_have",
                    plugin=call.entry.name,
                    hook=call.hook,
                    verdict=verdict.action.name.lower(),
                    reply=str(verdict.reply or ""),
                )
                continue
            if best is None or verdict.action > best.action:
                best = verdict
        return best

    async def _stage(
        self,
        calls: Sequence[Call],
        client: Client,
        direction: Direction | None,
        scope: Scope,
        mail: Mail | None,
        arguments: dict[str, Any],
    ) -> list[Result]:
        """Run the calls of one stage; each waits for those that it needs itself. Results in pipeline order.

        What runs behind and is needed by a hook of this stage that doesn't run behind is settled here.
        """
        asked = [call for call in calls if call.always or call.entry.when.holds(client, direction)]
        if len(asked) == 1 and not asked[0].background and not scope.running:
            begun = self._begin(asked[0], scope, mail, arguments, ())
            return [begun if isinstance(begun, Result) else await begun]
        wanted: set[str] = set()
        if scope.running or any(call.background for call in asked):
            for call in asked:
                if not call.background:
                    wanted |= call.needs
        started: list[tuple[str, Result | asyncio.Future[Result]]] = []
        for task, name in tuple(scope.running.items()):
            if name in wanted:
                del scope.running[task]
                started.append((name, task))
        for call in asked:
            name = call.entry.name
            needed: list[Result | asyncio.Future[Result]] = [
                item for other, item in started if other in call.needs
            ]
            behind = call.background and name not in wanted
            if behind:
                needed += [task for task, other in scope.running.items() if other in call.needs]
            item = self._start(call, needed, scope, mail, arguments)
            if behind:
                scope.running[_settled(item) if isinstance(item, Result) else item] = name
            else:
                started.append((name, item))
        try:
            return [item if isinstance(item, Result) else await item for _, item in started]
        except asyncio.CancelledError:
            for _, item in started:
                if isinstance(item, asyncio.Future):
                    item.cancel()
            raise

    def _start(
        self,
        call: Call,
        needed: Sequence["Result | asyncio.Future[Result]"],
        scope: Scope,
        mail: Mail | None,
        arguments: dict[str, Any],
    ) -> "Result | asyncio.Future[Result]":
        """Begin a call, and return what it came to if it waits for nothing."""
        known: list[Result] = []
        for item in needed:
            if isinstance(item, Result):
                known.append(item)
            elif item.done() and not item.cancelled():
                known.append(item.result())
        if call.waits or len(known) < len(needed):
            return asyncio.create_task(self._following(call, needed, scope, mail, arguments))
        begun = self._begin(call, scope, mail, arguments, known)
        return begun if isinstance(begun, Result) else asyncio.create_task(begun)

    async def _following(
        self,
        call: Call,
        needed: Sequence["Result | asyncio.Future[Result]"],
        scope: Scope,
        mail: Mail | None,
        arguments: dict[str, Any],
    ) -> Result:
        awaited = [item for item in needed if isinstance(item, asyncio.Future)]
        if awaited:
            # Others may need them too: that this one is cancelled must not cancel them.
            await asyncio.wait(awaited)
        before = [item if isinstance(item, Result) else item.result() for item in needed]
        begun = self._begin(call, scope, mail, arguments, before)
        return begun if isinstance(begun, Result) else await begun

    def _begin(
        self,
        call: Call,
        scope: Scope,
        mail: Mail | None,
        arguments: dict[str, Any],
        before: Sequence[Result],
    ) -> Result | Coroutine[Any, Any, Result]:
        """Call one decide hook; return what it came to, or what is to be awaited for that."""
        trace = scope.trace if mail is None else mail.trace
        name = call.entry.name
        if before and is_settled(before):
            # Nothing is stronger, and of equals the earlier wins: the answer is known.
            trace.append(Step(call.hook, name, 0.0, "not run"))
            return Result(call)
        if mail is not None:
            view = mail.view(name)
            for result in before:
                if result.findings:
                    view.findings += result.findings
            if call.skippers and is_skipped(call, view.findings, arguments.get("rcpt")):
                trace.append(Step(call.hook, name, 0.0, "skipped"))
                return Result(call)
            notes = view.noted
            arguments = {"mail": view, **arguments}
        else:
            notes = []
            arguments = {**arguments, "note": _noter(notes)}
        came = self._fence.begin(call, scope, arguments)
        if isinstance(came, tuple):
            return self._result(call, trace, notes, came)
        return self._resulting(call, trace, notes, Owned(came))

    async def _resulting(self, call: Call, trace: list[Step], notes: list[Finding], coming: Owned) -> Result:
        return self._result(call, trace, notes, await coming.taken())

    def _result(self, call: Call, trace: list[Step], notes: list[Finding], came: Came) -> Result:
        value, error, seconds = came
        name = call.entry.name
        if value is None and not error:
            trace.append(Step(call.hook, name, seconds, "ok"))
            return Result(call, None, tuple([_by(finding, name) for finding in notes]) if notes else ())
        if not error and not isinstance(value, Verdict):
            error = f"returned {type(value).__name__}, wanted a Verdict or None"
            self._fence.fault(call, "type", error)
        if error:
            value = self._on_error(call)
        answer = value.action.name.lower() if value is not None else "ok"
        if value is not None and call.entry.observe:
            answer = f"would {answer}"
        trace.append(Step(call.hook, name, seconds, answer, error))
        return Result(call, value, tuple([_by(finding, name) for finding in notes]))

    def _on_error(self, call: Call) -> Verdict | None:
        match call.entry.on_error:
            case "skip":
                return None
            case "reject":
                return reject(
                    "A check failed", code=554, status="5.3.0", reason=f"on_error of {call.entry.name}"
                )
            case "hold":
                return hold(f"{call.entry.name} failed")
            case _:
                return defer(
                    "A check failed, try again later", status="4.3.0", reason=f"{call.entry.name} failed"
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
                self._fence.fault(call, "type", error)
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
                self._fence.fault(call, "type", error)
        if view.noted:
            mail.findings += tuple([_by(finding, call.entry.name) for finding in view.noted])
        mail.trace.append(Step(call.hook, call.entry.name, seconds, _count(edits), error))
        if error:
            return (), None if call.entry.observe else self._on_error(call)
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

    async def session_closed(self, client: Client, totals: SessionTotals) -> None:
        """Tell the report hooks that a connection has ended."""
        for call in self._calls["session_closed"]:
            if call.entry.when.holds(client, None):
                await self._called(call, Scope(), {"client": client, "totals": totals})


def _noter(notes: list[Finding]) -> Callable[..., Finding]:
    def note(method: str, result: str, *, score: float = 0.0, reason: str = "", **props: str) -> Finding:
        finding = Finding(method, result, score, {k.replace("__", "."): v for k, v in props.items()}, reason)
        notes.append(finding)
        return finding

    return note


def _settled(result: Result) -> "asyncio.Future[Result]":
    future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future


def _by(finding: Finding, name: str) -> Finding:
    if finding.by == name:
        return finding
    return Finding(finding.method, finding.result, finding.score, finding.props, finding.reason, name)


def _count(edits: Sequence[Edit]) -> str:
    return "1 edit" if len(edits) == 1 else f"{len(edits)} edits"
