"""The pipeline: calls the hooks of the plugins, in order or at once, within a budget, behind a fence.

pluggy registers plugins and checks their signatures; it can't await, so the calls are made here. Whatever a plugin
does (raise, hang, return nonsense) becomes a verdict that its `on_error` names; nothing of it reaches the client or
another session. Must not know what any plugin is for.
"""

import asyncio
import inspect
import traceback
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from relayproxy.api import Clock, Unavailable
from relayproxy.core.log import Log
from relayproxy.core.metrics import Cell, Metrics, Timer
from relayproxy.hookspecs import DECIDE, IDENTIFY, LIFE, REPORT, REWRITE
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
    SetSender,
    apply_to_envelope,
    apply_to_message,
)
from relayproxy.model.envelope import Recipient
from relayproxy.model.finding import Finding
from relayproxy.model.mail import Direction, Mail, Step
from relayproxy.model.outcome import Outcome
from relayproxy.model.verdict import Action, Verdict, defer, hold, reject, strongest

_EDITS: Final = (
    AddHeader,
    AddRecipient,
    DropHeader,
    DropRecipient,
    ReplaceBody,
    ReplaceHeader,
    ReplaceRecipient,
    SetSender,
)
_ENVELOPE_EDITS: Final = (AddRecipient, DropRecipient, ReplaceRecipient, SetSender)


@dataclass(frozen=True, slots=True)
class When:
    """Which mail an entry is asked about; None means any."""

    listeners: frozenset[str] | None = None
    directions: frozenset[Direction] | None = None
    authenticated: bool | None = None
    tls: bool | None = None

    def holds(self, client: Client, direction: Direction | None) -> bool:
        """Whether it applies; before MAIL the direction isn't known (None) and doesn't matter."""
        return (
            (self.listeners is None or client.listener in self.listeners)
            and (self.directions is None or direction is None or direction in self.directions)
            and (self.authenticated is None or bool(client.identity) == self.authenticated)
            and (self.tls is None or (client.tls is not None) == self.tls)
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the pipeline: a plugin and how it is run. `hooks` maps hook names to what is called."""

    name: str
    plugin: Any
    hooks: dict[str, Callable[..., Any]]
    after: tuple[str, ...] | None = None
    when: When = field(default_factory=When)
    observe: bool = False
    on_error: str = "defer"
    timeout: float = 10.0
    signer: bool = False


@dataclass(slots=True)
class Call:
    """One hook of one entry, ready to be called."""

    entry: Entry
    hook: str
    function: Callable[..., Any]
    names: tuple[str, ...]
    background: bool
    waits: bool
    needs: frozenset[str]
    timer: Timer
    errors: dict[str, Cell]
    verdicts: dict[str, Cell]


@dataclass(slots=True)
class Result:
    """What a call came to."""

    call: Call
    value: Any = None
    findings: tuple[Finding, ...] = ()


class Scope:
    """What belongs to one connection or one message while hooks run: the time left and what runs behind.

    `budget` is in seconds of hooks' time and 0 for no limit. A message's scope has its connection's as `parent`.
    """

    __slots__ = ("deadline", "left", "parent", "running")

    def __init__(self, budget: float = 0.0, parent: "Scope | None" = None) -> None:
        self.left = budget
        self.deadline = 0.0
        self.running: dict[str, asyncio.Task[Result]] = {}
        self.parent = parent
        if parent is not None and parent.running:
            self.running.update(parent.running)

    def cancel(self) -> None:
        """Drop what still runs for this scope alone: nobody will ask for it."""
        for name, task in self.running.items():
            if self.parent is None or name not in self.parent.running:
                task.cancel()
        self.running.clear()


class Pipeline:
    """All entries, arranged by hook."""

    def __init__(self, entries: Sequence[Entry], *, clock: Clock, log: Log, metrics: Metrics) -> None:
        self.entries = tuple(entries)
        self._clock = clock
        self._log = log
        self._calls: dict[str, tuple[Call, ...]] = {}
        for hook in (*DECIDE, *REWRITE, *REPORT, *LIFE, *IDENTIFY):
            users = [entry for entry in entries if hook in entry.hooks]
            if hook == "before_forward":
                users.sort(key=lambda entry: entry.signer)
            self._calls[hook] = tuple(
                self._prepare(entry, hook, [other.name for other in entries[: entries.index(entry)]], metrics)
                for entry in users
            )
        # What is asked for every message is looked up once.
        self.asks_mail = bool(self._calls["mail"])
        self.asks_rcpt = bool(self._calls["rcpt"])
        self.rewrites_envelope = bool(self._calls["rewrite_envelope"])
        self.rewrites = bool(self._calls["before_forward"])
        self.reports = bool(self._calls["after_forward"])
        self.decides_message = bool(self._calls["message"]) or any(
            call.background for hook in DECIDE for call in self._calls[hook]
        )

    def _prepare(self, entry: Entry, hook: str, before: list[str], metrics: Metrics) -> Call:
        function = entry.hooks[hook]
        mode = "observe" if entry.observe else "enforce"
        return Call(
            entry=entry,
            hook=hook,
            function=function,
            names=tuple(inspect.signature(function).parameters),
            background=bool(getattr(function, "relayproxy_background", False)) and hook in DECIDE,
            waits=inspect.iscoroutinefunction(function),
            needs=frozenset(before if entry.after is None else _transitive(entry, self.entries)),
            timer=metrics.timer("hook_duration_seconds", hook, entry.name),
            errors={
                kind: metrics.cell("plugin_errors_total", entry.name, kind)
                for kind in ("raise", "timeout", "type", "unavailable")
            },
            verdicts={
                action.name: metrics.cell("verdicts_total", hook, entry.name, action.name.lower(), mode)
                for action in (Action if hook in DECIDE else ())
            },
        )

    def calls(self, hook: str) -> tuple[Call, ...]:
        """The calls of one hook in the order in which they are made."""
        return self._calls[hook]

    # -- decide ----------------------------------------------------------------------------------------------

    async def decide_client(
        self, hook: str, client: Client, scope: Scope, **more: Any
    ) -> tuple[Verdict | None, tuple[Finding, ...]]:
        """Ask the hooks of a connection (connect, helo); return the verdict and what was noted."""
        calls = self._calls[hook]
        if not calls:
            return None, ()
        results = await self._stage(calls, client, None, scope, None, {"client": client, **more})
        return self._weigh(results), tuple(f for result in results for f in result.findings)

    async def decide(self, hook: str, mail: Mail, scope: Scope, **more: Any) -> Verdict | None:
        """Ask the hooks about a mail; findings are merged into it in pipeline order."""
        calls = self._calls[hook]
        if not calls and not (hook == "message" and scope.running):
            return None
        start = self._clock.monotonic()
        if scope.left:
            scope.deadline = start + scope.left
        results = await self._stage(calls, mail.client, mail.direction, scope, mail, more)
        if scope.left:
            scope.left = max(0.001, scope.left - (self._clock.monotonic() - start))
        mail.findings += tuple(f for result in results for f in result.findings)
        return self._weigh(results)

    async def join(self, mail: Mail, scope: Scope) -> Verdict | None:
        """Wait for all that still runs behind, in pipeline order; merge what it found."""
        results = [await task for task in scope.running.values()]
        scope.running.clear()
        mail.findings += tuple(f for result in results for f in result.findings)
        return self._weigh(results)

    def _weigh(self, results: Iterable[Result]) -> Verdict | None:
        kept: list[Verdict] = []
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
            kept.append(verdict)
        return strongest(kept)

    async def _stage(
        self,
        calls: Sequence[Call],
        client: Client,
        direction: Direction | None,
        scope: Scope,
        mail: Mail | None,
        arguments: dict[str, Any],
    ) -> list[Result]:
        """Run the calls of one stage; those that need no other run at once. Results in pipeline order."""
        asked = [call for call in calls if call.entry.when.holds(client, direction)]
        joined = await self._joined(asked, scope) if scope.running else []
        if len(asked) == 1 and not asked[0].background:
            return [*joined, await self._call(asked[0], scope, mail, arguments, joined)]
        started: dict[str, Result | asyncio.Task[Result]] = {}
        for call in asked:
            needed = [started[name] for name in started if name in call.needs]
            if call.background:
                needed += [task for name, task in scope.running.items() if name in call.needs]
                scope.running[call.entry.name] = asyncio.create_task(
                    self._following(call, needed, joined, scope, mail, arguments)
                )
            elif call.waits or any(isinstance(item, asyncio.Task) for item in needed):
                started[call.entry.name] = asyncio.create_task(
                    self._following(call, needed, joined, scope, mail, arguments)
                )
            else:
                seen = [*joined, *(item for item in needed if isinstance(item, Result))]
                started[call.entry.name] = await self._call(call, scope, mail, arguments, seen)
        try:
            results = [item if isinstance(item, Result) else await item for item in started.values()]
        except asyncio.CancelledError:
            for item in started.values():
                if isinstance(item, asyncio.Task):
                    item.cancel()
            raise
        return [*joined, *results]

    async def _joined(self, asked: Sequence[Call], scope: Scope) -> list[Result]:
        """Wait for what runs behind and is needed by a call of this stage."""
        needed = frozenset[str]().union(*(call.needs for call in asked if not call.background))
        names = [name for name in scope.running if name in needed]
        return [await scope.running.pop(name) for name in names]

    async def _following(
        self,
        call: Call,
        needed: Sequence["Result | asyncio.Task[Result]"],
        joined: Sequence[Result],
        scope: Scope,
        mail: Mail | None,
        arguments: dict[str, Any],
    ) -> Result:
        before = [item if isinstance(item, Result) else await item for item in needed]
        return await self._call(call, scope, mail, arguments, [*joined, *before])

    async def _call(
        self,
        call: Call,
        scope: Scope,
        mail: Mail | None,
        arguments: dict[str, Any],
        before: Sequence[Result],
    ) -> Result:
        """Call one decide hook behind the fence."""
        if any(
            result.value is not None
            and result.value.action is Action.REJECT
            and not result.call.entry.observe
            for result in before
        ):
            # Nothing is stronger, and of equals the earlier wins: the answer is known.
            if mail is not None:
                mail.trace.append(Step(call.hook, call.entry.name, 0.0, "not run"))
            return Result(call)
        notes: list[Finding] = []
        if mail is not None:
            view = mail.view()
            view.findings += tuple(f for result in before for f in result.findings)
            notes = view.noted
            arguments = {"mail": view, **arguments}
        else:
            arguments = {**arguments, "note": _noter(notes)}
        value, error, seconds = await self._fenced(call, scope, arguments)
        if not error and value is not None and not isinstance(value, Verdict):
            error = f"returned {type(value).__name__}, wanted a Verdict or None"
            self._fault(call, "type", error)
        if error:
            value = self._on_error(call)
        if mail is not None:
            answer = value.action.name.lower() if value is not None else "ok"
            if value is not None and call.entry.observe:
                answer = f"would {answer}"
            mail.trace.append(Step(call.hook, call.entry.name, seconds, answer, error))
        named = tuple(_by(finding, call.entry.name) for finding in notes)
        return Result(call, value, named)

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

    async def _fenced(self, call: Call, scope: Scope, arguments: dict[str, Any]) -> tuple[Any, str, float]:
        """Return (value, what went wrong or "", seconds)."""
        monotonic = self._clock.monotonic
        start = monotonic()
        value: Any = None
        error = ""
        try:
            value = call.function(*[arguments[name] for name in call.names])
            if isinstance(value, Awaitable):
                room = call.entry.timeout
                if scope.deadline:
                    room = min(room, scope.deadline - start)
                async with asyncio.timeout(room):
                    value = await value
        except TimeoutError as fault:
            error = f"no answer within {monotonic() - start:.1f} s"
            self._fault(call, "timeout", error, fault)
        except asyncio.CancelledError as fault:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            error = "was cancelled from within"
            self._fault(call, "raise", error, fault)
        except Unavailable as fault:
            # Once an outage is enough: whoever noticed has logged it.
            error = str(fault)
            call.errors["unavailable"].inc()
        except BaseExceptionGroup as fault:
            error = _where(fault)
            self._fault(call, "raise", error, fault)
        except (Exception, SystemExit, KeyboardInterrupt) as fault:  # noqa: BLE001  (the fence round foreign code)
            error = _where(fault)
            self._fault(call, "raise", error, fault)
        seconds = monotonic() - start
        call.timer.observe(seconds)
        return value, error, seconds

    def _fault(self, call: Call, kind: str, error: str, fault: BaseException | None = None) -> None:
        call.errors[kind].inc()
        self._log.error(
            "plugin_fault",
            plugin=call.entry.name,
            hook=call.hook,
            kind=kind,
            error=error,
            on_error=call.entry.on_error,
            traceback="".join(traceback.format_exception(fault))
            if fault is not None and kind == "raise"
            else "",
        )

    # -- identify, rewrite, report ---------------------------------------------------------------------------

    async def identify(self, client: Client, credentials: Credentials) -> tuple[str | None, bool]:
        """Ask the auth hooks; return the identity (or None) and whether a plugin failed to tell."""
        failed = False
        for call in self._calls["auth"]:
            if not call.entry.when.holds(client, None):
                continue
            value, error, _ = await self._fenced(
                call, Scope(), {"client": client, "credentials": credentials}
            )
            if not error and value is not None and not isinstance(value, str):
                error = f"returned {type(value).__name__}, wanted a login or None"
                self._fault(call, "type", error)
            if error:
                failed = failed or call.entry.on_error != "skip"
            elif value and not call.entry.observe:
                return value, False
        return None, failed

    async def rewritten(
        self, mail: Mail, rcpt: Recipient | None, scope: Scope
    ) -> tuple[tuple[Edit, ...], Verdict | None]:
        """Ask for edits of the sender (`rcpt` None) or of one recipient; all apply to that one address."""
        edits: list[Edit] = []
        for call in self._calls["rewrite_envelope"]:
            if call.entry.when.holds(mail.client, mail.direction):
                mine, verdict = await self._edits(call, mail, scope, {"rcpt": rcpt}, _ENVELOPE_EDITS)
                if verdict is not None:
                    return (), verdict
                edits.extend(mine)
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
            if not call.entry.when.holds(mail.client, mail.direction):
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
        view = mail.view()
        value, error, seconds = await self._fenced(call, scope, {"mail": view, **arguments})
        edits: tuple[Edit, ...] = ()
        if not error and value is not None:
            try:
                found: Iterable[Any] = (value,) if isinstance(value, allowed) else value
                edits = tuple(found)
            except TypeError:
                error = f"returned {type(value).__name__}, wanted edits"
            except Exception as fault:  # noqa: BLE001  (a generator is foreign code too)
                error = _where(fault)
            if not error and not all(isinstance(edit, allowed) for edit in edits):
                error = "returned something that is no edit of this hook"
            if error:
                self._fault(call, "type", error)
        mail.findings += tuple(_by(finding, call.entry.name) for finding in view.noted)
        mail.trace.append(Step(call.hook, call.entry.name, seconds, f"{len(edits)} edits", error))
        if error:
            return (), self._on_error(call)
        if call.entry.observe:
            if edits:
                self._log.info("would_have", plugin=call.entry.name, hook=call.hook, edits=len(edits))
            return (), None
        return edits, None

    async def after_forward(self, mail: Mail, outcomes: tuple[Outcome, ...]) -> None:
        """Tell the report hooks what became of a mail."""
        for call in self._calls["after_forward"]:
            if call.entry.when.holds(mail.client, mail.direction):
                await self._fenced(call, Scope(), {"mail": mail.view(), "outcomes": outcomes})

    async def session_closed(self, client: Client, totals: SessionTotals) -> None:
        """Tell the report hooks that a connection has ended."""
        for call in self._calls["session_closed"]:
            if call.entry.when.holds(client, None):
                await self._fenced(call, Scope(), {"client": client, "totals": totals})


def _noter(notes: list[Finding]) -> Callable[..., Finding]:
    def note(method: str, result: str, *, score: float = 0.0, reason: str = "", **props: str) -> Finding:
        finding = Finding(method, result, score, {k.replace("__", "."): v for k, v in props.items()}, reason)
        notes.append(finding)
        return finding

    return note


def _by(finding: Finding, name: str) -> Finding:
    return Finding(finding.method, finding.result, finding.score, finding.props, finding.reason, name)


def _where(fault: BaseException) -> str:
    frames = traceback.extract_tb(fault.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(fault).__name__}: {fault}{place}"


def _transitive(entry: Entry, entries: Sequence[Entry]) -> set[str]:
    """All plugins that `entry` needs, directly or through others."""
    by_name = {other.name: other for other in entries}
    found: set[str] = set()
    todo = list(entry.after or ())
    while todo:
        name = todo.pop()
        if name in found or name not in by_name:
            continue
        found.add(name)
        todo.extend(by_name[name].after or ())
    return found
