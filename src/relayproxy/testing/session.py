"""A whole conversation without a socket, for tests of plugins: commands in, replies out, and what went upstream.

Drives the very session that the listeners drive, with a next hop that records. Must not open sockets or files.
"""

import base64
import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

from relayproxy.api import (
    App,
    Client,
    Clock,
    Credentials,
    Direction,
    Envelope,
    Mail,
    Message,
    Plugin,
    Reply,
    Resolver,
    SharedState,
    TlsInfo,
)
from relayproxy.catalogue import hooks_of
from relayproxy.config.yaml import read_file
from relayproxy.core.entry import Entry, When
from relayproxy.core.ledger import REGION, SharedLedger
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.pipeline import Pipeline, live
from relayproxy.core.policy import Limits, ListenerPolicy, Relay, Route
from relayproxy.core.ports import Authenticator, Capabilities
from relayproxy.core.services import Budget, ListenerServices, Services
from relayproxy.core.session import Session
from relayproxy.smtp.datastream import ContentCheck, DataReader
from relayproxy.state.memory import MemoryState
from relayproxy.suppression.sqlite import SqliteList
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.resolver import FakeResolver
from relayproxy.testing.standin import OK, TAKEN, Sent, Standin

__all__ = ["OK", "TAKEN", "TLS", "Delivery", "Sent", "SessionDriver", "Standin", "entry_for"]

TLS = TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256)
"""What STARTTLS brings."""


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


def entry_for(plugin: Plugin[Any] | type[Plugin[Any]] | ModuleType, name: str = "", **changes: Any) -> Entry:
    """Return a pipeline entry that runs `plugin` as its class says; `changes` are fields of Entry.

    A class is made with the defaults of its settings; a module is one of plain hooks. Raises PluginError.
    """
    if isinstance(plugin, ModuleType):
        name = name or plugin.__name__.rpartition(".")[2]
        said = {key: value for key, value in vars(plugin).items() if key in Plugin.__annotations__}
        plugin = type(name, (Plugin,), {"module": plugin, **said, "name": name})
    if isinstance(plugin, type):
        plugin = plugin(plugin.settings())
    cls = type(plugin)
    called = name or cls.name or cls.__name__.lower()
    directions = cls.directions if cls.directions != frozenset(Direction) else None
    values: dict[str, Any] = {
        "after": cls.after,
        "when": When(directions=directions),
        "timeout": cls.default_timeout,
        "signer": cls.signer,
        "skips": plugin.skips,
        **changes,
    }
    return Entry(called, plugin, hooks_of(called, plugin), **values)


class SessionDriver:
    """One client's conversation with a proxy that runs `plugins`: instances, classes, modules, pipeline entries.

    `domains` are those it relays for, `networks` whose clients may relay anywhere; `ip`, `peer` (that of the
    socket), `identity` and `tls` describe the client. `limits` and `capabilities` are short for those of `policy`
    and `upstream`. `state` is what plugins share, in memory unless given. What can be read: `log` (its lines), `banner`, `session`, `services`, `upstream`.
    """

    def __init__(
        self,
        *plugins: Plugin[Any] | type[Plugin[Any]] | ModuleType | Entry,
        domains: Iterable[str] = ("example.net",),
        networks: Iterable[str] = (),
        ip: str = "192.0.2.1",
        peer: str | None = None,
        identity: str = "",
        tls: TlsInfo | None = None,
        hostname: str = "mx.example.net",
        policy: ListenerPolicy | None = None,
        limits: Limits | None = None,
        authenticator: Authenticator | None = None,
        routes: tuple[Route, ...] = (),
        upstream: Standin | None = None,
        upstreams: dict[str, Standin] | None = None,
        capabilities: Iterable[str] | None = None,
        resolver: Resolver | None = None,
        clock: Clock | None = None,
        state: SharedState | None = None,
    ) -> None:
        self.upstream = upstream or Standin()
        if capabilities is not None:
            self.upstream.capabilities = Capabilities(frozenset(capabilities))
        hops: dict[str, Any] = dict(upstreams or {self.upstream.name: self.upstream})
        self.clock = clock or FakeClock()
        self.resolver = resolver or FakeResolver({})
        self.state = state if state is not None else MemoryState(self.clock.time)
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
        if limits is not None:
            self.policy = replace(self.policy, limits=limits)
        self.at = ListenerServices(self.services, self.policy, authenticator)
        self._client = Client(
            "", self.policy.name, ip, peer=ip if peer is None else peer, tls=tls, identity=identity
        )
        self._started = False
        self._connections = 0
        self.banner: Reply | None = None
        self.session = self._connect()

    async def start(self, folder: Path | None = None) -> None:
        """Call the startup hooks and hear the banner, each once."""
        if not self._started:
            self._started = True
            app = App(
                self.services.hostname,
                self.resolver,
                self.clock,
                folder or Path.cwd(),
                self.services.relay.domains,
                state=self.state,
                read_yaml=read_file,
                suppression=SqliteList,
            )
            for call in self.services.pipeline.calls("startup"):
                await live(call, app=app)
        if self.banner is None:
            self.banner = await self.session.greet()

    def reconnect(self) -> None:
        """Begin another conversation of the same client with the same proxy; the last one ends unheard."""
        self.session = self._connect()
        self.banner = None

    def _connect(self) -> Session:
        session = Session(self.at, replace(self._client, id=f"c{self._connections}"))
        self._connections += 1
        return session

    async def say(self, *lines: str) -> list[Reply]:
        """Say commands (not the content) and return the replies; a run of RCPTs is taken at once, as if pipelined.

        AUTH is understood as `AUTH PLAIN initial-response`. Raises ValueError for what no session understands
        and when the conversation is over.
        """
        await self.start()
        replies: list[Reply] = []
        words = [line.partition(" ") for line in lines]
        for verb, run in groupby(((verb.upper(), arg) for verb, _, arg in words), lambda word: word[0]):
            args = [arg for _, arg in run]
            if self.session.closing:
                raise ValueError(f"the conversation was over before {verb}")
            self.session.confirm()
            if verb == "RCPT":
                replies += await self.session.rcpt(args)
            else:
                replies += [await self._obey(verb, arg) for arg in args]
        return replies

    async def _obey(self, verb: str, arg: str) -> Reply:
        talk = self.session
        match verb:
            case "EHLO" | "HELO" | "LHLO":
                return await talk.hello(verb, arg)
            case "STARTTLS":
                refusal = talk.ready_for_tls(arg)
                if refusal is None:
                    talk.secured(TLS)
                return refusal or Reply(220, "2.0.0", "Ready to start TLS")
            case "AUTH":
                _, login, password = base64.b64decode(arg.removeprefix("PLAIN ")).decode().split("\0")
                return talk.may_auth() or await talk.authenticate(Credentials("PLAIN", login, password))
            case "MAIL":
                return await talk.mail(arg)
            case "DATA":
                return talk.may_send_data() or Reply(354, "", "Go on")
            case "RSET":
                talk.reset()
                return Reply(250, "2.0.0", "Ok")
            case "XCLIENT":
                return await talk.xclient(arg)
            case "XFORWARD":
                return talk.xforward(arg)
            case "QUIT":
                await talk.close()
                talk.closing = True
                return Reply(221, "2.0.0", "Bye")
        raise ValueError(f"{verb} needs a connection; this is a session")

    async def content(self, raw: bytes, *, gone: Callable[[], bool] = lambda: False) -> Delivery:
        """Send the content of the open transaction. Raises ValueError when there is none."""
        mail = self.session.mail_in_progress
        if mail is None:
            raise ValueError("no transaction is open: MAIL and RCPT first")
        hops: Any = self.services.hops.values()
        before = [(hop, len(hop.sent)) for hop in hops]
        replies = await self.session.deliver(Message.from_bytes(raw), gone=gone)
        await self.session.reported()
        sent = [message for hop, count in before for message in hop.sent[count:]]
        return Delivery(tuple(replies), mail, sent[0] if sent else None)

    async def deliver(
        self, raw: bytes, *, sender: str = "a@example.org", recipients: Sequence[str] = ("b@example.net",)
    ) -> Delivery:
        """Greet where needed, send one message and return what became of it; a refusal before DATA is its reply."""
        await self.start()
        assert self.banner is not None
        replies = [self.banner]
        if not self.session.client.helo and self.banner.ok:
            replies = await self.say(
                f"{'LHLO' if self.policy.protocol == 'lmtp' else 'EHLO'} client.example.org"
            )
        if replies[-1].ok:
            replies = await self.say(f"MAIL FROM:<{sender}>")
        mail = self.session.mail_in_progress
        if mail is None:
            blank = Mail(f"{self.session.client.id}.0", self.session.client, Envelope(), Message(b""))
            return Delivery((replies[-1],), blank, None)
        for recipient in recipients:
            replies = await self.say(f"RCPT TO:<{recipient}>")
        refusal = self.session.may_send_data()
        if refusal is not None:
            self.session.reset()
            return Delivery((refusal if replies[-1].ok else replies[-1],), mail, None)
        return await self.content(raw)

    async def transcript(self, text: str) -> None:
        """Play a transcript: `C:` lines are said, `S:` lines are what must come back (`*` stands for anything).

        `C:` lines with no `S:` between them are pipelined. After a 354 the `C:` lines up to `C: .` are the
        content, dots doubled as on the wire. A transcript may begin with the banner. Raises AssertionError,
        which shows the conversation up to the first difference.
        """
        await self.start()
        assert self.banner is not None
        played: list[str] = []
        content: list[str] | None = None
        heard = _lines(self.banner)
        shown = [line for line in map(str.lstrip, text.strip().splitlines()) if line]
        lines = [(line[:2], line[2:].removeprefix(" ")) for line in shown]
        for side, run in groupby(lines, lambda line: line[0]):
            words = [rest for _, rest in run]
            match side:
                case "S:":
                    if len(words) != len(heard) or not all(map(_matches, words, heard)):
                        raise AssertionError(_difference(played, words, heard))
                    played += [f"  S: {line}" for line in heard]
                    heard = []
                case "C:":
                    heard, content = await self._play(words, content)
                    played += [f"  C: {line}" for line in words]
                case _:
                    raise ValueError(f"a line of a transcript begins with C: or S:, not {side!r}")
        if heard and played:
            raise AssertionError(_difference(played, [], heard))

    async def _play(self, words: list[str], content: list[str] | None) -> tuple[list[str], list[str] | None]:
        """Say lines that stand together; return the lines that come back and the content that has begun."""
        heard: list[str] = []
        commands: list[str] = []
        for line in words:
            if content is None:
                commands.append(line)
                continue
            content.append(line)
            if line == ".":
                delivery = await self.content(_unstuffed(content))
                heard += [shown for reply in delivery.replies for shown in _lines(reply)]
                content = None
        if commands:
            replies = await self.say(*commands)
            heard += [shown for reply in replies for shown in _lines(reply)]
            content = [] if replies[-1].code == 354 else None
        return heard, content


class _Kept:
    """A store (datastream.Store) that keeps."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


def _unstuffed(lines: list[str]) -> bytes:
    """The content as a listener reads it off the wire."""
    kept = _Kept()
    DataReader(kept, ContentCheck()).feed("".join(f"{line}\r\n" for line in lines).encode())
    return kept.data


def _lines(reply: Reply) -> list[str]:
    return bytes(reply).decode("ascii").splitlines()


def _matches(wanted: str, heard: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, wanted.split("*"))), heard) is not None


def _difference(played: list[str], wanted: list[str], heard: list[str]) -> str:
    """Show the conversation so far, then what was heard (+) beside what was wanted (-)."""
    wanted = [next((line for line in heard if _matches(want, line)), want) for want in wanted]
    differences = [
        f"{line[0]} S: {line[2:]}" for line in difflib.ndiff(wanted, heard) if not line.startswith("?")
    ]
    return "\n".join(["the conversation goes another way: - wanted, + heard", *played, *differences])
