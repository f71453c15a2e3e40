"""One stage of decide hooks: which wait for which, what each comes to, and what they come to together.

Hooks that don't need each other run side by side. Must not know which stage it is, nor when it comes.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from relayproxy.core.entry import Call, Entry, Result, Scope, is_settled, is_skipped
from relayproxy.core.fence import Came, Fence, Owned
from relayproxy.core.log import Log
from relayproxy.model.client import Client
from relayproxy.model.finding import Finding
from relayproxy.model.mail import Direction, Mail, Step
from relayproxy.model.verdict import Verdict, defer, hold, reject


class Stage:
    """Runs the calls of one stage behind the fence."""

    def __init__(self, fence: Fence, log: Log, *, tells_idle: bool = False) -> None:
        self._tells_idle = tells_idle
        self._fence = fence
        self._log = log

    def weigh(self, results: Iterable[Result]) -> Verdict | None:
        """Return the strongest verdict, of equals the first; what an entry in observe mode says is logged."""
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

    async def run(
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
            begun = self.begin(asked[0], scope, mail, arguments, ())
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
        begun = self.begin(call, scope, mail, arguments, known)
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
        begun = self.begin(call, scope, mail, arguments, before)
        return begun if isinstance(begun, Result) else await begun

    def begin(
        self,
        call: Call,
        scope: Scope,
        mail: Mail | None,
        arguments: dict[str, Any],
        before: Sequence[Result],
        *,
        screened: bool = False,
    ) -> Result | Coroutine[Any, Any, Result]:
        """Call one decide hook; return what it came to, or what is to be awaited for that.

        `screened`: it has been asked already whether it has anything to do.
        """
        trace = scope.trace if mail is None else mail.trace
        name = call.entry.name
        if before and is_settled(before):
            # Nothing is stronger, and of equals the earlier wins: the answer is known.
            trace.append(Step(call.hook, name, 0.0, "not run"))
            return Result(call)
        if mail is not None:
            view: Mail | None = None
            screen = call.screen is not None and not screened
            if before or call.skippers or not screen:
                view = mail.view(name)
                for result in before:
                    if result.findings:
                        view.findings += result.findings
                if call.skippers and is_skipped(call, view.findings, arguments.get("rcpt")):
                    trace.append(Step(call.hook, name, 0.0, "skipped"))
                    return Result(call)
            if screen and self._fence.is_idle(call, view or mail, arguments):
                if self._tells_idle:
                    trace.append(call.idle)
                return Result(call)
            view = view or mail.view(name)
            notes = view.noted
            arguments = {"mail": view, **arguments}
        else:
            notes = []
            arguments = {**arguments, "note": _noter(notes)}
        came = self._fence.begin(call, scope, arguments)
        if isinstance(came, tuple):
            return self._result(call, trace, notes, came, arguments)
        return self._resulting(call, trace, notes, Owned(came), arguments)

    async def _resulting(
        self,
        call: Call,
        trace: list[Step],
        notes: list[Finding],
        coming: Owned,
        arguments: dict[str, Any],
    ) -> Result:
        return self._result(call, trace, notes, await coming.taken(), arguments)

    def _result(
        self,
        call: Call,
        trace: list[Step],
        notes: list[Finding],
        came: Came,
        arguments: dict[str, Any],
    ) -> Result:
        value, error, seconds = came
        name = call.entry.name
        if value is None and not error:
            trace.append(Step(call.hook, name, seconds, "ok"))
            return Result(call, None, tuple([by(finding, name) for finding in notes]) if notes else ())
        if not error and not isinstance(value, Verdict):
            error = f"returned {type(value).__name__}, wanted a Verdict or None"
            self._fence.fault(call, "type", error, arguments)
        if error:
            value = on_error(call.entry)
        answer = value.action.name.lower() if value is not None else "ok"
        if value is not None and call.entry.observe:
            answer = f"would {answer}"
        trace.append(Step(call.hook, name, seconds, answer, error))
        return Result(call, value, tuple([by(finding, name) for finding in notes]))


def on_error(entry: Entry) -> Verdict | None:
    """Return what a fault of an entry's hook comes to."""
    match entry.on_error:
        case "skip":
            return None
        case "reject":
            return reject("A check failed", code=554, status="5.3.0", reason=f"on_error of {entry.name}")
        case "hold":
            return hold(f"{entry.name} failed")
        case _:
            return defer("A check failed, try again later", status="4.3.0", reason=f"{entry.name} failed")


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


def by(finding: Finding, name: str) -> Finding:
    """Return a finding that says which plugin noted it."""
    if finding.by == name:
        return finding
    return Finding(finding.method, finding.result, finding.score, finding.props, finding.reason, name)
