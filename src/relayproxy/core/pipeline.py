"""The pipeline: calls the hooks of the plugins, in order or at once, within a budget, behind a fence.

pluggy registers plugins and checks their signatures; it can't await, so the calls are made here. Whatever a plugin
does (raise, hang, return nonsense) becomes a verdict that its `on_error` names; nothing of it reaches the client or
another session. Must not know what any plugin is for.
"""

import asyncio
import inspect
import traceback
import types
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from relayproxy.api import Clock, Unavailable
from relayproxy.core.log import Log
from relayproxy.core.metrics import Cell, Metrics, Timer
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
    SetSender,
    apply_to_envelope,
    apply_to_message,
)
from relayproxy.model.envelope import Envelope, Recipient
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
    """What belongs to a connection, a greeting or a message while hooks run: time left, what runs behind, what is owed.

    `budget` is in seconds of hooks' time and 0 for no limit. A greeting's scope has its connection's as `parent`, a
    message's that of the greeting. `running` maps what runs behind to the plugin's name. `owed` is a verdict that no
    reply could tell when it was given (hold, discard): it counts when the message is judged. `trace` has the steps of
    hooks that ran before there was a mail.
    """

    __slots__ = ("deadline", "left", "owed", "parent", "running", "trace")

    def __init__(self, budget: float = 0.0, parent: "Scope | None" = None) -> None:
        self.left = budget
        self.deadline = 0.0
        self.parent = parent
        self.running: dict[asyncio.Future[Result], str] = {}
        self.owed: Verdict | None = None
        self.trace: list[Step] = []
        if parent is not None:
            self.owed = parent.owed
            if parent.running:
                self.running.update(parent.running)

    def owe(self, verdict: Verdict | None) -> None:
        """Keep a verdict that has no reply of its own; the others have been told, or object to nothing."""
        if is_silent(verdict):
            self.owed = strongest((self.owed, verdict))

    def cancel(self) -> None:
        """Drop what still runs for this scope alone: nobody will ask for it."""
        for task in self.running:
            if self.parent is None or task not in self.parent.running:
                task.cancel()
        self.running.clear()


def is_silent(verdict: Verdict | None) -> bool:
    """Whether a verdict decides something that no reply before the content can say (hold, discard)."""
    return verdict is not None and verdict.action in (Action.HOLD, Action.DISCARD)


class Pipeline:
    """All entries, arranged by hook."""

    def __init__(self, entries: Sequence[Entry], *, clock: Clock, log: Log, metrics: Metrics) -> None:
        self.entries = tuple(entries)
        self._clock = clock
        self._log = log
        self._calls: dict[str, tuple[Call, ...]] = {}
        for hook in (*DECIDE, *PREPARE, *REWRITE, *REPORT, *LIFE, *IDENTIFY):
            users = [entry for entry in entries if hook in entry.hooks]
            if hook == "before_forward":
                users.sort(key=lambda entry: entry.signer)
            self._calls[hook] = tuple(self._prepare(entry, hook, metrics) for entry in users)
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

    def _prepare(self, entry: Entry, hook: str, metrics: Metrics) -> Call:
        function = entry.hooks[hook]
        mode = "observe" if entry.observe else "enforce"
        return Call(
            entry=entry,
            hook=hook,
            function=function,
            names=tuple(inspect.signature(function).parameters),
            background=bool(getattr(function, "relayproxy_background", False)) and hook in DECIDE,
            waits=inspect.iscoroutinefunction(function),
            needs=frozenset(_transitive(entry, self.entries)),
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
        start = self._clock.monotonic()
        if scope.left:
            scope.deadline = start + scope.left
        try:
            results = await self._stage(calls, mail.client, mail.direction, scope, mail, more)
        except asyncio.CancelledError:
            scope.cancel()
            raise
        if scope.left:
            scope.left = max(0.001, scope.left - (self._clock.monotonic() - start))
        mail.findings += tuple(f for result in results for f in result.findings)
        verdict = self._weigh(results)
        if hook == "mail":
            scope.owe(verdict)
        return verdict

    async def judge(self, mail: Mail, scope: Scope) -> Verdict | None:
        """Settle the message stage: what is owed, what the message hooks say, and what ran behind until now."""
        for call in self._calls["arrived"]:
            if call.entry.when.holds(mail.client, mail.direction):
                await self._fenced(call, scope, {"mail": mail.view()})
        verdict = strongest((scope.owed, await self.decide("message", mail, scope)))
        return strongest((verdict, await self._join(mail, scope))) if scope.running else verdict

    async def _join(self, mail: Mail, scope: Scope) -> Verdict | None:
        """Wait for all that still runs behind, in pipeline order; merge what it found."""
        results = [await task for task in scope.running]
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
        """Run the calls of one stage; each waits for those that it needs itself. Results in pipeline order.

        What runs behind and is needed by a hook of this stage that doesn't run behind is settled here.
        """
        asked = [call for call in calls if call.entry.when.holds(client, direction)]
        if len(asked) == 1 and not asked[0].background and not scope.running:
            return [await self._call(asked[0], scope, mail, arguments, ())]
        wanted: set[str] = set()
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
        coroutine = self._call(call, scope, mail, arguments, known)
        try:
            coroutine.send(None)
        except StopIteration as end:
            result: Result = end.value
            return result
        # It stands at the point where `_fenced` found that it has to wait, and goes on in a task.
        return asyncio.create_task(coroutine)

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
        return await self._call(call, scope, mail, arguments, before)

    async def _call(
        self,
        call: Call,
        scope: Scope,
        mail: Mail | None,
        arguments: dict[str, Any],
        before: Sequence[Result],
    ) -> Result:
        """Call one decide hook behind the fence."""
        trace = scope.trace if mail is None else mail.trace
        if _is_settled(before):
            # Nothing is stronger, and of equals the earlier wins: the answer is known.
            trace.append(Step(call.hook, call.entry.name, 0.0, "not run"))
            return Result(call)
        notes: list[Finding] = []
        if mail is not None:
            view = mail.view(call.entry.name)
            for result in before:
                view.findings += result.findings
            notes = view.noted
            arguments = {"mail": view, **arguments}
        else:
            arguments = {**arguments, "note": _noter(notes)}
        value, error, seconds = await self._fenced(call, scope, arguments)
        if not error and value is not None and not isinstance(value, Verdict):
            error = f"returned {type(value).__name__}, wanted a Verdict or None"
            self._fault(call, "type", error, arguments)
        if error:
            value = self._on_error(call)
        answer = value.action.name.lower() if value is not None else "ok"
        if value is not None and call.entry.observe:
            answer = f"would {answer}"
        trace.append(Step(call.hook, call.entry.name, seconds, answer, error))
        named = tuple([_by(finding, call.entry.name) for finding in notes])
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
            if value is not None and isinstance(value, Awaitable):
                if not call.waits:
                    await _turn()
                room = call.entry.timeout
                if scope.deadline:
                    room = min(room, scope.deadline - start)
                async with asyncio.timeout(room):
                    value = await value
        except TimeoutError as fault:
            error = f"no answer within {monotonic() - start:.1f} s"
            self._fault(call, "timeout", error, arguments, fault)
        except asyncio.CancelledError as fault:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                _put_away(value)
                raise
            error = "was cancelled from within"
            self._fault(call, "raise", error, arguments, fault)
        except Unavailable as fault:
            # Once an outage is enough: whoever noticed has logged it.
            error = str(fault)
            call.errors["unavailable"].inc()
        except GeneratorExit:
            _put_away(value)
            raise
        except BaseException as fault:  # noqa: BLE001  (the fence round foreign code; a panic in Rust is no Exception)
            error = _where(fault)
            self._fault(call, "raise", error, arguments, fault)
        seconds = monotonic() - start
        call.timer.observe(seconds)
        return value, error, seconds

    def _fault(
        self,
        call: Call,
        kind: str,
        error: str,
        arguments: Mapping[str, Any],
        fault: BaseException | None = None,
    ) -> None:
        call.errors[kind].inc()
        about: Mail | Client | None = arguments.get("mail", arguments.get("client"))
        self._log.error(
            "plugin_fault",
            id=about.id if about is not None else "",
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
                self._fault(call, "type", error, {"client": client})
            if error:
                failed = failed or not (call.entry.observe or call.entry.on_error == "skip")
            elif value and not call.entry.observe:
                return value, False
        return None, failed

    async def rewritten(
        self, mail: Mail, rcpt: Recipient | None, scope: Scope
    ) -> tuple[tuple[Edit, ...], Verdict | None]:
        """Ask for edits of the sender (`rcpt` None) or of one recipient; all apply to that one address.

        A fault under `on_error: hold` is owed by the scope: the message will not pass.
        """
        edits: list[Edit] = []
        for call in self._calls["rewrite_envelope"]:
            if call.entry.when.holds(mail.client, mail.direction):
                mine, verdict = await self._edits(call, mail, scope, {"rcpt": rcpt}, _ENVELOPE_EDITS)
                if verdict is not None:
                    scope.owe(verdict)
                    return (), verdict
                edits.extend(mine)
                if mine and rcpt is not None:  # the next plugin sees where the recipient leads by now
                    left = apply_to_envelope(Envelope(mail.envelope.sender, (rcpt,)), mine).recipients
                    rcpt = left[0] if left else rcpt
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
        view = mail.view(call.entry.name)
        value, error, seconds = await self._fenced(call, scope, {"mail": view, **arguments})
        edits: tuple[Edit, ...] = ()
        if not error and value is not None:
            try:
                found: Iterable[Any] = (value,) if isinstance(value, allowed) else value
                edits = tuple(found)
            except TypeError:
                error = f"returned {type(value).__name__}, wanted edits"
            except BaseException as fault:  # noqa: BLE001  (a generator is foreign code too)
                error = _where(fault)
            if not error and not all(isinstance(edit, allowed) for edit in edits):
                error = "returned something that is no edit of this hook"
            if error:
                self._fault(call, "type", error, {"mail": view})
        mail.findings += tuple(_by(finding, call.entry.name) for finding in view.noted)
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


def _is_settled(results: Iterable[Result]) -> bool:
    """Whether one of them refuses."""
    for result in results:
        verdict = result.value
        if verdict is not None and verdict.action is Action.REJECT and not result.call.entry.observe:
            return True
    return False


def _settled(result: Result) -> "asyncio.Future[Result]":
    future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future


@types.coroutine
def _turn() -> Generator[None, None, None]:
    """Wait for one turn of the event loop: where a call that was begun on the spot can be handed to a task."""
    yield


def _put_away(value: Any) -> None:
    """End a coroutine that may not have begun yet: Python warns of one that is only dropped."""
    if inspect.iscoroutine(value):
        value.close()


def _by(finding: Finding, name: str) -> Finding:
    if finding.by == name:
        return finding
    return Finding(finding.method, finding.result, finding.score, finding.props, finding.reason, name)


def _count(edits: Sequence[Edit]) -> str:
    return "1 edit" if len(edits) == 1 else f"{len(edits)} edits"


def _where(fault: BaseException) -> str:
    frames = traceback.extract_tb(fault.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    try:
        text = str(fault)
    except Exception:  # noqa: BLE001  (how an exception shows itself is foreign code)
        text = "(can't be shown)"
    return f"{type(fault).__name__}: {text}{place}"


def _transitive(entry: Entry, entries: Sequence[Entry]) -> set[str]:
    """All plugins that `entry` needs, directly or through others."""
    places = {other.name: place for place, other in enumerate(entries)}
    found: set[str] = set()
    todo = [entry.name]
    while todo:
        place = places[todo.pop()]
        after = entries[place].after
        names = [other.name for other in entries[:place]] if after is None else after
        fresh = [name for name in names if name in places and name not in found]
        found.update(fresh)
        todo.extend(fresh)
    return found
