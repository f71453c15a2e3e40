"""A whole conversation without a socket, for tests of plugins: commands in, replies out, and what went upstream.

Drives the very session that the listeners drive, with a next hop that records. Must not open sockets or files.
"""

import difflib
import fnmatch
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from relayproxy.api import (
    App,
    Client,
    Clock,
    Direction,
    Envelope,
    Mail,
    Message,
    Plugin,
    Recipient,
    Reply,
    Resolver,
    TlsInfo,
)
from relayproxy.catalogue import hooks_of
from relayproxy.core.ledger import REGION, SharedLedger
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.pipeline import Entry, Pipeline, When
from relayproxy.core.policy import ListenerPolicy, Relay, Route
from relayproxy.core.ports import Capabilities
from relayproxy.core.services import Budget, ListenerServices, Services
from relayproxy.core.session import Session
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.resolver import FakeResolver

OK = Reply(250, "2.1.5", "Ok")
TAKEN = Reply(250, "2.0.0", "Ok: queued as TEST")
_EVERYTHING = Capabilities(
    frozenset({"PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"})
)


@dataclass(frozen=True, slots=True)
class Sent:
    """One message that went upstream: its envelope and its octets, trace fields included."""

    envelope: Envelope
    recipients: tuple[Recipient, ...]
    data: bytes


@dataclass(slots=True)
class Standin:
    """A next hop that says what it is told to and records what it gets (ports.NextHop).

    `answers` maps a recipient ("b@example.net") to its reply at RCPT; `final` is the answer to the content.
    """

    name: str = "upstream"
    per_recipient: bool = False
    capabilities: Capabilities | None = _EVERYTHING
    answers: dict[str, Reply] = field(default_factory=dict)
    final: Reply = TAKEN
    sent: list[Sent] = field(default_factory=list)
    aborted: int = 0

    def begin(self, client: Client, envelope: Envelope, size: int) -> "StandinTransaction":  # noqa: ARG002
        """Start a transaction."""
        return StandinTransaction(self, envelope)


class StandinTransaction:
    """Implements ports.Transaction."""

    def __init__(self, hop: Standin, envelope: Envelope) -> None:
        self.per_recipient = hop.per_recipient
        self._hop = hop
        self._envelope = envelope
        self._accepted: list[Recipient] = []
        self._over = False

    async def recipients(self, recipients: Sequence[Recipient]) -> list[Reply]:
        """Answer each recipient."""
        replies = [self._hop.answers.get(str(recipient.address), OK) for recipient in recipients]
        self._accepted += [one for one, reply in zip(recipients, replies, strict=True) if reply.ok]
        return replies

    async def send(self, lead: bytes, message: Message) -> list[Reply]:
        """Record the message."""
        self._over = True
        if self._hop.final.ok:
            self._hop.sent.append(Sent(self._envelope, tuple(self._accepted), lead + bytes(message)))
        return [self._hop.final] * (len(self._accepted) if self.per_recipient else 1)

    def abort(self) -> None:
        """Count an end without a message."""
        if not self._over:
            self._over = True
            self._hop.aborted += 1


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one message: the replies to its content, the mail as it ended, what went upstream."""

    replies: tuple[Reply, ...]
    mail: Mail
    sent: Sent | None

    @property
    def reply(self) -> Reply:
        """The first reply."""
        return self.replies[0]


def entry_for(plugin: Plugin[Any], name: str = "", **changes: Any) -> Entry:
    """Return a pipeline entry that runs `plugin` as its class says; `changes` are fields of Entry."""
    cls = type(plugin)
    called = name or cls.name or cls.__name__.lower()
    directions = cls.directions if cls.directions != frozenset(Direction) else None
    values: dict[str, Any] = {
        "after": cls.after,
        "when": When(directions=directions),
        "timeout": cls.default_timeout,
        "signer": cls.signer,
        **changes,
    }
    return Entry(called, plugin, hooks_of(called, plugin), **values)


class SessionDriver:
    """One client's conversation with a proxy that runs `plugins`.

    `domains` are those it relays for, `networks` whose clients may relay anywhere. `log` collects what is logged.
    """

    def __init__(
        self,
        *plugins: Plugin[Any] | Entry,
        domains: Iterable[str] = ("example.net",),
        networks: Iterable[str] = (),
        ip: str = "192.0.2.1",
        identity: str = "",
        tls: TlsInfo | None = None,
        hostname: str = "mx.example.net",
        policy: ListenerPolicy | None = None,
        routes: tuple[Route, ...] = (),
        upstream: Standin | None = None,
        upstreams: dict[str, Standin] | None = None,
        resolver: Resolver | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.upstream = upstream or Standin()
        hops: dict[str, Any] = dict(upstreams or {self.upstream.name: self.upstream})
        self.clock = clock or FakeClock()
        self.resolver = resolver or FakeResolver({})
        self.log: list[str] = []
        metrics = Metrics()
        log = Log(self.log.append, self.clock.time, level="debug")
        self.services = Services(
            hostname=hostname,
            relay=Relay(frozenset(domains), tuple(ip_network(network) for network in networks)),
            routes=routes or tuple(Route(name, name) for name in hops),
            hops=hops,
            pipeline=Pipeline(
                [one if isinstance(one, Entry) else entry_for(one) for one in plugins],
                clock=self.clock,
                log=log,
                metrics=metrics,
            ),
            ledger=SharedLedger([memoryview(bytearray(REGION))], 0, self.clock.time),
            log=log,
            metrics=metrics,
            clock=self.clock,
            budget=Budget(1 << 30, metrics.cell("bytes_in_flight")),
        )
        self.policy = policy or ListenerPolicy("test")
        self.at = ListenerServices(self.services, self.policy, None)
        self._client = Client("c0", self.policy.name, ip, peer=ip, tls=tls, identity=identity)
        self.session = Session(self.at, self._client)
        self._started = False

    async def start(self, folder: Path | None = None) -> None:
        """Call the startup hooks, once."""
        if self._started:
            return
        self._started = True
        app = App(
            self.services.hostname,
            self.resolver,
            self.clock,
            folder or Path.cwd(),
            self.services.relay.domains,
        )
        for call in self.services.pipeline.calls("startup"):
            answer = call.function(*[{"app": app}[name] for name in call.names])
            if inspect.isawaitable(answer):
                await answer

    def reconnect(self) -> None:
        """Begin another conversation of the same client with the same proxy."""
        self.session = Session(self.at, self._client)

    async def say(self, line: str) -> list[Reply]:
        """Say one command (not the content) and return its replies."""
        await self.start()
        verb, _, arg = line.partition(" ")
        verb = verb.upper()
        talk = self.session
        match verb:
            case "EHLO" | "HELO" | "LHLO":
                return [await talk.hello(verb, arg)]
            case "MAIL":
                return [await talk.mail(arg)]
            case "RCPT":
                return await talk.rcpt([arg])
            case "DATA":
                refusal = talk.may_send_data()
                return [refusal or Reply(354, "", "Go on")]
            case "RSET":
                talk.reset()
                return [Reply(250, "2.0.0", "Ok")]
            case "XCLIENT":
                return [await talk.xclient(arg)]
            case "XFORWARD":
                return [talk.xforward(arg)]
            case "QUIT":
                await talk.close()
                return [Reply(221, "2.0.0", "Bye")]
        raise ValueError(f"{verb} needs a connection; this is a session")

    async def content(self, raw: bytes, *, gone: Callable[[], bool] = lambda: False) -> Delivery:
        """Send the content of the open transaction. Raises ValueError when there is none."""
        mail = self.session.mail_in_progress
        if mail is None:
            raise ValueError("no transaction is open: MAIL and RCPT first")
        count = len(self.upstream.sent)
        replies = await self.session.deliver(Message.from_bytes(raw), gone=gone)
        await self.session.reported()
        sent = self.upstream.sent[count] if len(self.upstream.sent) > count else None
        return Delivery(tuple(replies), mail, sent)

    async def deliver(
        self, raw: bytes, *, sender: str = "a@example.org", recipients: Sequence[str] = ("b@example.net",)
    ) -> Delivery:
        """Greet where needed, send one message and return what became of it; a refusal before DATA is its reply."""
        await self.start()
        if not self.session.client.helo:
            await self.session.greet()
            await self.say(f"{'LHLO' if self.policy.protocol == 'lmtp' else 'EHLO'} client.example.org")
        replies = await self.say(f"MAIL FROM:<{sender}>")
        mail = self.session.mail_in_progress
        for recipient in recipients if replies[-1].ok else ():
            replies = await self.say(f"RCPT TO:<{recipient}>")
        refusal = self.session.may_send_data() if mail is not None else replies[-1]
        if refusal is not None or mail is None:
            told = replies[-1] if not replies[-1].ok else refusal
            self.session.reset()
            blank = mail or Mail("c0.0", self.session.client, Envelope(), Message(b""))
            return Delivery((told or replies[-1],), blank, None)
        return await self.content(raw)

    async def transcript(self, text: str) -> None:
        """Play a transcript: `C:` lines are said, `S:` lines are what must come back (`*` and `?` match).

        After a 354 the `C:` lines up to `C: .` are the content. Raises AssertionError with a difference.
        """
        await self.start()
        wanted: list[str] = []
        heard: list[str] = []
        content: list[bytes] | None = None
        for line in (line.strip() for line in text.strip().splitlines()):
            side, _, rest = line.partition(":")
            rest = rest.removeprefix(" ")
            if side == "S":
                wanted.append(rest)
            elif side == "C" and content is None:
                replies = await self.say(rest)
                heard += [shown for reply in replies for shown in _lines(reply)]
                content = [] if replies[-1].code == 354 else None
            elif side == "C" and rest == ".":
                delivery = await self.content(b"".join(content or []))
                heard += [shown for reply in delivery.replies for shown in _lines(reply)]
                content = None
            elif side == "C" and content is not None:
                content.append(rest.encode() + b"\r\n")
        matched = [
            want if number < len(heard) and fnmatch.fnmatchcase(heard[number], want) else None
            for number, want in enumerate(wanted)
        ]
        if None in matched or len(heard) != len(wanted):
            raise AssertionError(
                "\n".join(difflib.unified_diff(wanted, heard, "wanted", "heard", lineterm=""))
            )


def _lines(reply: Reply) -> list[str]:
    return bytes(reply).decode("ascii").splitlines()
