"""Everything that a plugin needs, in one import.

A plugin is a class derived from Plugin, or simply a module with hooks in it. Built-in plugins use this module
and nothing beside it (and the pure algorithms of relayproxy.mailauth), so what they can do, yours can.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, overload

import pluggy
from pydantic import BaseModel, ConfigDict

from relayproxy.dns import Answer, DnsStatus, Resolver, fetch_from
from relayproxy.hookspecs import PROJECT, Edits, Opinion
from relayproxy.mailauth.unsubscribe_token import Unsubscription
from relayproxy.model.address import NULL_SENDER, Address, domain_in, to_a_label
from relayproxy.model.client import Client, Credentials, SessionTotals, TlsInfo
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
)
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.finding import Finding
from relayproxy.model.mail import Direction, Mail, Origin
from relayproxy.model.message import HeaderField, Message
from relayproxy.model.outcome import Outcome, State
from relayproxy.model.queued import QUEUE
from relayproxy.model.reply import Reply, printable
from relayproxy.model.shared import Add, Bucket, Delete, Get, Operation, Put, PutNew, Take, shared_key
from relayproxy.model.suppressed import Suppressed, SuppressionList
from relayproxy.model.verdict import Action, Verdict, accept, defer, discard, hold, reject
from relayproxy.secrets import Secret, SecretError, SecretRef

__all__ = [
    "NULL_SENDER",
    "QUEUE",
    "Action",
    "Add",
    "AddHeader",
    "AddRecipient",
    "Address",
    "Answer",
    "App",
    "Bucket",
    "Client",
    "Clock",
    "Credentials",
    "Delete",
    "Direction",
    "DnsStatus",
    "DropHeader",
    "DropRecipient",
    "Edit",
    "Edits",
    "Envelope",
    "Finding",
    "Get",
    "HeaderField",
    "ListFault",
    "Mail",
    "Message",
    "Meter",
    "Mistake",
    "Operation",
    "Opinion",
    "Origin",
    "Outcome",
    "Plugin",
    "Put",
    "PutNew",
    "Recipient",
    "ReplaceBody",
    "ReplaceHeader",
    "ReplaceRecipient",
    "Reply",
    "RequireTls",
    "Resolver",
    "Secret",
    "SecretError",
    "SecretRef",
    "ServiceError",
    "SessionTotals",
    "SetCampaign",
    "SetRoute",
    "SetSender",
    "Settings",
    "Setup",
    "SharedState",
    "State",
    "Suppressed",
    "SuppressionList",
    "Take",
    "TlsInfo",
    "Unavailable",
    "Unsubscription",
    "Verdict",
    "accept",
    "defer",
    "discard",
    "domain_in",
    "fetch_from",
    "hold",
    "hook",
    "printable",
    "reject",
    "shared_key",
    "to_a_label",
]

API_VERSION = "1"

F = TypeVar("F", bound=Callable[..., Any])
_marker = pluggy.HookimplMarker(PROJECT)


@overload
def hook(function: F) -> F: ...
@overload
def hook(*, background: bool = ..., screen: str = ...) -> Callable[[F], F]: ...
def hook(function: F | None = None, *, background: bool = False, screen: str = "") -> F | Callable[[F], F]:
    """Mark a function as a hook; its name says which.

    `background=True` lets a decide hook start early (at its own stage) and be waited for only where something
    needs it: before a hook of a plugin that names it in `after`, or when the message stage is settled. Its
    verdict counts there; that of an `rcpt` hook then counts for the whole message.

    `screen` names a method of the plugin that tells at once whether an `rcpt` or `message` hook has anything to do: a
    plain function of the same arguments, which notes and changes nothing. Where it says False the hook is not called,
    which spares most of what a call costs. If it raises, the hook is called.
    """

    def mark(f: F) -> F:
        marked = _marker(f)
        marked.relayproxy_background = background  # type: ignore[attr-defined]
        marked.relayproxy_screen = screen  # type: ignore[attr-defined]
        return marked

    return mark if function is None else mark(function)


class Settings(BaseModel):
    """A plugin's settings: unknown keys are errors, values are checked, and the schema and docs come from it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


S = TypeVar("S", bound=Settings)


class ServiceError(Exception):
    """A service that the plugin asks gave no usable answer.

    A fault as any other, so `on_error` decides; but its text says all there is to say, and the log shows no traceback.
    """


def _no_yaml(path: Path) -> Any:
    """Take the place of a reader where there is none."""
    raise ValueError(f"{path}: nothing here reads YAML")


@dataclass(frozen=True, slots=True)
class Setup:
    """What a plugin may compare its settings with when a configuration is checked.

    `folder` is that of the configuration file: relative paths start there. `listeners` are the names there are,
    `plugins` those in the pipeline. `can_hold` says whether there is a spool for messages that are held.
    `read_yaml(path)` is that of App. `queue_routes` are the names of the routes with `delivery: queue`.
    """

    folder: Path
    listeners: frozenset[str] = frozenset()
    plugins: frozenset[str] = frozenset()
    can_hold: bool = False
    read_yaml: Callable[[Path], Any] = _no_yaml
    queue_routes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Mistake:
    """Something that is wrong with a plugin's settings, and what might help.

    `at` leads to the setting by keys and places in lists, as in `("sign", 0, "key")`; left out, it is the plugin as a
    whole. A `warning` doesn't keep the proxy from starting.
    """

    message: str
    at: tuple[str | int, ...] = ()
    hint: str = ""
    warning: bool = False


class Plugin(Generic[S]):
    """The base of a plugin with settings.

    `name` is how the YAML calls it, `settings` the class of its settings. `after` names the plugins whose findings
    it reads: with it, the hook runs at once beside those it does not name; without it (None), it waits for all
    that stand before it in the YAML and sees what they found. `timeout` is how many seconds a hook may take, as the
    YAML or `default_timeout` says. Its defaults for `mode`, `on_error` and `timeout` stand unless the YAML says otherwise.
    `uses_state` says that it keeps something in `app.state`, which `check` then wants to be shared and lasting.
    `directions` says which mail it is asked about when the YAML has no `when`. `signer` puts its
    before_forward after all others. `skips` names plugins behind it that are not asked about a mail, or (at `rcpt`) about
    the recipient `rcpt`, when it notes a finding `skip` with the property `plugin`; they wait for it.
    """

    name: ClassVar[str] = ""
    settings: ClassVar[type[Settings]] = Settings
    after: ClassVar[tuple[str, ...] | None] = None
    uses_state: ClassVar[bool] = False
    api: ClassVar[str] = API_VERSION
    directions: ClassVar[frozenset[Direction]] = frozenset(Direction)
    signer: ClassVar[bool] = False
    default_timeout: ClassVar[float] = 10.0
    skips: frozenset[str] = frozenset()

    def __init__(self, options: S) -> None:
        self.options = options
        self.timeout = self.default_timeout
        self.log = logging.getLogger(f"relayproxy.plugin.{self.name or type(self).__name__}")

    @classmethod
    def keeps_state(cls, options: S) -> bool:  # noqa: ARG003  (for those that override it)
        """Whether it keeps something in `app.state` under these settings: `uses_state`, if it doesn't depend on them."""
        return cls.uses_state

    def check(self, setup: Setup) -> Iterable[Mistake]:  # noqa: ARG002  (for those that override it)
        """Return what is wrong with the settings that they alone can't tell: files, names of other things.

        Called by `relayproxy check`, at start and at each reload, before `startup` and without any hook having been
        called; it may read files and must change nothing.
        """
        return ()


class Clock(Protocol):
    """Time as plugins see it, so that tests can set it."""

    def time(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that only ever grow."""
        ...


def _unheard(plugin: str, count: int) -> None:
    """Take the number of alarms where nobody listens."""


class Unavailable(ServiceError):  # noqa: N818  (says what is the matter, as asyncio's TimeoutError does)
    """A service that a plugin needs gives no answer now, and whoever noticed has logged it once for the outage.

    A plugin lets it pass: its `on_error` then says what becomes of the mail.
    """


class ListFault(ServiceError):  # noqa: N818  (says what is the matter)
    """The list of who gets no more mail can't be used; the text says why."""


def _no_list(path: Path) -> SuppressionList:
    """Take the place of what opens a list where there is none."""
    raise ListFault(f"{path}: nothing here keeps lists")


class SharedState:
    """Counters, token buckets and short texts that all workers share. Losing them never loses mail.

    A store implements `do`; the other methods are one operation each. Every method raises Unavailable when the
    store does not answer. Keys come from `shared_key`.
    """

    async def do(self, *operations: Operation) -> list[Any]:  # noqa: ARG002  (a store has a use for them)
        """Carry out operations in their order and at once, unseen by others in between; return their answers."""
        raise Unavailable("there is no shared state")

    async def close(self) -> None:
        """Put things away."""

    async def take(self, key: str, rate: float, burst: float, cost: float = 1.0) -> float:
        """Take `cost` tokens from a bucket; return 0.0, or the seconds to wait when nothing was taken."""
        ((wait,),) = await self.do(Take((Bucket(key, rate, burst, cost),)))
        return float(wait)

    async def add(self, key: str, amount: float = 1.0, *, ttl: float, half_life: float = 0.0) -> float:
        """Add to a counter that ends `ttl` seconds later, and decays if it has a half-life; return its value."""
        (value,) = await self.do(Add(key, amount, ttl, half_life))
        return float(value)

    async def get(self, key: str) -> str | None:
        """Return the text that is kept, or None."""
        (text,) = await self.do(Get(key))
        return text  # type: ignore[no-any-return]

    async def put(self, key: str, text: str, *, ttl: float) -> None:
        """Keep a text for `ttl` seconds."""
        await self.do(Put(key, text, ttl))

    async def put_new(self, key: str, text: str, *, ttl: float) -> str | None:
        """Keep a text for `ttl` seconds unless there is one: return that, or None."""
        (found,) = await self.do(PutNew(key, text, ttl))
        return found  # type: ignore[no-any-return]


def _uncounted(*_: object) -> None:
    """Take a number where nobody counts."""


@dataclass(frozen=True, slots=True)
class Meter:
    """Counts what an external service does: the metrics relayproxy_service_*.

    `asked(result, seconds)` takes how a question ended ("ok", "error", "timeout" or "refused", when the breaker kept it
    from being asked) and how long it took; `breaker(is_open)` the state of the circuit breaker; `remembered(hit)` whether
    an answer that was given lately could be used again.
    """

    asked: Callable[[str, float], None] = _uncounted
    breaker: Callable[[bool], None] = _uncounted
    remembered: Callable[[bool], None] = _uncounted


def _unmetered(service: str) -> Meter:  # noqa: ARG001  (the shape of App.meter)
    """Return a meter where nobody counts."""
    return Meter()


def _no_counter(plugin: str, name: str, outcome: str) -> Callable[[], None]:  # noqa: ARG001  (the shape of App.counter)
    """Return a counter where nobody counts."""
    return _uncounted


@dataclass(frozen=True, slots=True)
class App:
    """What a plugin gets at startup. `folder` is that of the configuration file: relative paths start there.

    `unencrypted` names the upstreams that mail goes to over a network and without TLS.
    `alarm(name, count)` tells how many things of the plugin `name` need an admin just now: the gauge
    relayproxy_plugin_alarms. `meter(service)` is for those that ask a service over the network; call it in
    startup only. `counter(plugin, name, outcome)` returns what counts one event of the thing called `name`: the metric
    relayproxy_plugin_events_total. Names come from the configuration, never from mail; this too in startup only.
    `read_yaml(path)` returns what a YAML file holds, read as the configuration is; it raises OSError, and ValueError with
    the place of the mistake.
    `unsubscribe(wish, ip)` has all plugins write down that somebody has unsubscribed, and raises if one can't; None where
    no plugin would, and in a rehearsal.
    `suppression(path)` opens the list of who gets no more mail: that which the configuration names for all, or else the file.
    It raises ListFault.
    """

    hostname: str
    resolver: Resolver
    clock: Clock
    folder: Path
    local_domains: frozenset[str] = frozenset()
    environ: Mapping[str, str] | None = None
    unencrypted: frozenset[str] = frozenset()
    alarm: Callable[[str, int], None] = _unheard
    state: SharedState = field(default_factory=SharedState)
    meter: Callable[[str], Meter] = _unmetered
    counter: Callable[[str, str, str], Callable[[], None]] = _no_counter
    read_yaml: Callable[[Path], Any] = _no_yaml
    unsubscribe: Callable[[Unsubscription, str], Awaitable[None]] | None = None
    suppression: Callable[[Path], SuppressionList] = _no_list
