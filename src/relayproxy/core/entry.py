"""What a pipeline is made of: its lines, their hooks ready to be called, and what belongs to a run of hooks.

Must not know how a hook is called.
"""

import asyncio
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from relayproxy.core.metrics import Cell, Metrics, Timer
from relayproxy.hookspecs import DECIDE
from relayproxy.model.client import Client
from relayproxy.model.envelope import Recipient
from relayproxy.model.finding import Finding
from relayproxy.model.mail import Direction, Step
from relayproxy.model.verdict import Action, Verdict, strongest

_SCREENED = ("rcpt", "message")


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
    """One line of the pipeline: a plugin and how it is run. `hooks` maps hook names to what is called.

    `skips` are later entries that its findings `skip` can keep from being asked.
    """

    name: str
    plugin: Any
    hooks: dict[str, Callable[..., Any]]
    after: tuple[str, ...] | None = None
    when: When = field(default_factory=When)
    observe: bool = False
    on_error: str = "defer"
    timeout: float = 10.0
    signer: bool = False
    skips: frozenset[str] = frozenset()


@dataclass(slots=True)
class Call:
    """One hook of one entry, ready to be called.

    `always` says that it is asked about any mail, `skippers` are entries whose findings can make it be left out. `screen`
    tells whether it has anything to do, and `idle` is the step of one that hasn't.
    """

    entry: Entry
    hook: str
    function: Callable[..., Any]
    names: tuple[str, ...]
    always: bool
    background: bool
    waits: bool
    needs: frozenset[str]
    skippers: frozenset[str]
    timer: Timer
    errors: dict[str, Cell]
    verdicts: dict[str, Cell]
    screen: Callable[..., bool] | None
    idle: Step


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


def prepared(entry: Entry, hook: str, entries: Sequence[Entry], metrics: Metrics) -> Call:
    """Return a hook of an entry, ready to be called. Raises KeyError if it has none of that name."""
    function = entry.hooks[hook]
    mode = "observe" if entry.observe else "enforce"
    return Call(
        entry=entry,
        hook=hook,
        function=function,
        names=tuple(inspect.signature(function).parameters),
        always=entry.when == When(),
        background=bool(getattr(function, "relayproxy_background", False)) and hook in DECIDE,
        waits=inspect.iscoroutinefunction(function),
        needs=frozenset(_transitive(entry, entries)),
        skippers=frozenset(_skippers(entry, entries)),
        timer=metrics.timer("hook_duration_seconds", hook, entry.name),
        errors={
            kind: metrics.cell("plugin_errors_total", entry.name, kind)
            for kind in ("abandoned", "raise", "service", "timeout", "type", "unavailable")
        },
        verdicts={
            action.name: metrics.cell("verdicts_total", hook, entry.name, action.name.lower(), mode)
            for action in (Action if hook in DECIDE else ())
        },
        screen=_screen(entry, hook),
        idle=Step(hook, entry.name, 0.0, "ok"),
    )


def _screen(entry: Entry, hook: str) -> Callable[..., bool] | None:
    """Return what tells whether a hook has anything to do, if it has named something."""
    name = getattr(entry.hooks[hook], "relayproxy_screen", "")
    if not name or hook not in _SCREENED:
        return None
    screen: Callable[..., bool] = getattr(getattr(type(entry.plugin), "module", entry.plugin), name)
    return screen


def is_settled(results: Iterable[Result]) -> bool:
    """Whether one of them refuses."""
    for result in results:
        verdict = result.value
        if verdict is not None and verdict.action is Action.REJECT and not result.call.entry.observe:
            return True
    return False


def is_skipped(call: Call, findings: Iterable[Finding], rcpt: Recipient | None) -> bool:
    """Whether an entry that may do so has said to leave this one out: for all, or (at RCPT) for this recipient."""
    for finding in findings:
        if finding.method == "skip" and finding.by in call.skippers:
            props = finding.props
            whom = props.get("rcpt", "")
            if props.get("plugin") == call.entry.name and (
                not whom or (rcpt is not None and whom == str(rcpt.address))
            ):
                return True
    return False


def _skippers(entry: Entry, entries: Sequence[Entry]) -> list[str]:
    """The entries before it whose findings can keep it from being asked; one in observe mode can't."""
    before = entries[: [other.name for other in entries].index(entry.name)]
    return [other.name for other in before if entry.name in other.skips and not other.observe]


def _transitive(entry: Entry, entries: Sequence[Entry]) -> set[str]:
    """All plugins that `entry` needs, directly or through others."""
    places = {other.name: place for place, other in enumerate(entries)}
    found: set[str] = set()
    todo = [entry.name]
    while todo:
        place = places[todo.pop()]
        after = entries[place].after
        names = [other.name for other in entries[:place]] if after is None else after
        names = [*names, *_skippers(entries[place], entries)]
        fresh = [name for name in names if name in places and name not in found]
        found.update(fresh)
        todo.extend(fresh)
    return found
