"""One message through the very session that serves, with a stand-in for the next hop, and a record of all of it.

For `relayproxy test`. Builds the services of one worker from a plan, without sockets. Must not know how the result is
shown.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from relayproxy.api import Resolver
from relayproxy.build import policy_of, relay_of, routes_of, upstream_settings
from relayproxy.cli.starting import start_plugins
from relayproxy.cli.test_watch import Believes, Memory, Recorder, Review, Watched
from relayproxy.config.models import Config, Listener
from relayproxy.config.models import Upstream as UpstreamConfig
from relayproxy.core.entry import Entry
from relayproxy.core.ids import Ids
from relayproxy.core.ledger import REGION, SharedLedger
from relayproxy.core.metrics import Metrics
from relayproxy.core.policy import Relay
from relayproxy.core.ports import Capabilities, NextHop
from relayproxy.core.services import Budget, ListenerServices, Services
from relayproxy.core.session import Session
from relayproxy.delivery.upstream import Upstream
from relayproxy.hookspecs import REPORT, REWRITE
from relayproxy.model.client import Client, Credentials, TlsInfo
from relayproxy.model.endpoint import Endpoint
from relayproxy.model.envelope import Envelope
from relayproxy.model.finding import Finding
from relayproxy.model.mail import Step
from relayproxy.model.reply import Reply
from relayproxy.plugging import app_for, entries_of
from relayproxy.process import SystemClock, make_resolver
from relayproxy.server.store import ContentStore
from relayproxy.smtp.commands import mail_command
from relayproxy.smtp.datastream import ChunkReader, ContentCheck
from relayproxy.supervisor import Plan
from relayproxy.testing.session import Standin

_TLS = TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256)
_TAKEN = Reply(250, "2.0.0", "Ok, a stand-in for the upstream took it")
_OFFERED = (
    "PIPELINING",
    "SIZE",
    "8BITMIME",
    "SMTPUTF8",
    "DSN",
    "ENHANCEDSTATUSCODES",
    "CHUNKING",
    "REQUIRETLS",
)
_VERDICTS = {"discarded": "discard", "held": "hold"}


@dataclass(frozen=True, slots=True)
class Question:
    """What to try: the octets (CRLF line ends), the envelope, the client, and where to forward (nowhere: stand-in).

    `sender` "" is the null sender. `listener` "" is the first.
    """

    raw: bytes
    sender: str
    recipients: tuple[str, ...]
    ip: str = "192.0.2.1"
    helo: str = "client.example"
    tls: bool = False
    login: str = ""
    listener: str = ""
    forward_to: tuple[Endpoint, ...] = ()


@dataclass(slots=True)
class Rehearsal:
    """What came of it. `sent` is what went to the next hop, trace fields included, or None if nothing did."""

    question: Question
    listener: str
    verdict: str = ""
    reply: Reply = _TAKEN
    recipients: list[tuple[str, Reply]] = field(default_factory=list)
    findings: tuple[Finding, ...] = ()
    steps: tuple[Step, ...] = ()
    direction: str = ""
    sent: bytes | None = None
    forwarded: bool = False
    seconds: float = 0.0
    events: list[dict[str, Any]] = field(default_factory=list)


async def rehearse(plan: Plan | None, question: Question) -> Rehearsal:
    """Play one message; without a plan through an empty pipeline that relays for its recipients' domains.

    Raises StartupError, LookupError for an unknown listener, and relayproxy.catalogue.PluginError.
    """
    job = _Stage(plan, question)
    started = time.monotonic()
    try:
        await job.open()
        await job.play()
    finally:
        await job.close()
    job.result.seconds = time.monotonic() - started
    return job.result


class _Stage:
    """One message's worker: opened, played on, closed."""

    def __init__(self, plan: Plan | None, question: Question) -> None:
        self._question = question
        config = plan.config if plan else _blank()
        self._config = config
        self._folder = plan.folder if plan else Path.cwd()
        listener = _listener(config, question.listener)
        self.result = Rehearsal(question, listener.name)
        self._started = False
        self._memory = Memory()
        self.result.events = self._memory.events
        metrics = Metrics()
        entries = entries_of(plan.choices) if plan else []
        self._pipeline = Watched(_without(entries, real=bool(question.forward_to)), self._memory, metrics)
        self._upstreams: dict[str, Upstream] = {}
        self._hops = {
            name: Recorder(self._hop(name, upstream, metrics)) for name, upstream in config.upstreams.items()
        }
        self._resolver: Resolver
        self._resolver, begin_queries, self._close_resolver = make_resolver(config)
        services = Services(
            hostname=config.hostname,
            relay=relay_of(config) if plan else _relay_for(question.recipients),
            routes=routes_of(config, queues=False),
            hops=self._hops,
            pipeline=self._pipeline,
            ledger=SharedLedger([memoryview(bytearray(REGION))], 0, time.time),
            log=self._memory,
            metrics=metrics,
            clock=SystemClock(),
            budget=Budget(config.limits.bytes_in_flight, metrics.cell("bytes_in_flight")),
            quarantine=Review() if config.spool is not None else None,
            begin_queries=begin_queries,
        )
        self._services = services
        self._policy = policy_of(config, listener)
        self._implicit_tls = listener.tls.mode == "implicit"

    def _hop(self, name: str, upstream: UpstreamConfig, metrics: Metrics) -> NextHop:
        if not self._question.forward_to:
            extensions = Capabilities(frozenset(_OFFERED))
            return Standin(name, upstream.protocol == "lmtp", extensions, final=_TAKEN)
        places = [{"address": place} for place in self._question.forward_to]
        other = UpstreamConfig.model_validate({"addresses": places})
        config = self._config.model_copy(update={"upstreams": {name: other}})
        real = self._upstreams[name] = Upstream(
            upstream_settings(config, name, 1), log=self._memory, metrics=metrics, monotonic=time.monotonic
        )
        return real

    async def open(self) -> None:
        """Start the plugins, as a worker does, and learn what a real next hop can take."""
        app = app_for(self._config, self._resolver, self._services.clock, self._folder)
        await start_plugins(self._pipeline, app)
        self._started = True
        for upstream in self._upstreams.values():
            await upstream.probe()

    async def close(self) -> None:
        """Put everything away."""
        if self._started:
            await self._pipeline.shutdown()
        for upstream in self._upstreams.values():
            upstream.close()
        await self._close_resolver()
        await asyncio.sleep(0)

    # -- the conversation -----------------------------------------------------------------------------------

    async def play(self) -> None:
        """Say what a client would say, until something is refused or the message is through."""
        question = self._question
        client = Client(
            Ids(0).next(time.time()),
            self.result.listener,
            question.ip,
            port=49152,
            peer=question.ip,
            tls=_TLS if question.tls and self._implicit_tls else None,
        )
        session = Session(ListenerServices(self._services, self._policy, Believes()), client)
        try:
            self._settle(await self._converse(session))
        finally:
            await session.close()
        pipeline, result = self._pipeline, self.result
        mail = pipeline.mail
        result.steps = (*pipeline.steps, *map(self._shown, mail.trace if mail else ()))
        result.findings = mail.findings if mail else pipeline.noted
        result.direction = str(mail.direction) if mail else ""
        result.sent = next((hop.sent for hop in self._hops.values() if hop.sent is not None), None)
        result.forwarded = bool(question.forward_to) and result.sent is not None

    def _shown(self, step: Step) -> Step:
        """A plugin that only observes would edit; the trace says what it returned."""
        observed = {entry.name for entry in self._pipeline.entries if entry.observe}
        if step.hook in REWRITE and step.plugin in observed and not step.error:
            return step._replace(answer=f"would make {step.answer}")
        return step

    async def _converse(self, session: Session) -> Reply:
        """Return the reply that decides."""
        question, policy = self._question, self._policy
        reply = await session.greet()
        if session.closing:
            return reply
        verb = "LHLO" if policy.protocol == "lmtp" else "EHLO"
        reply = await session.hello(verb, question.helo)
        if question.tls and not self._implicit_tls and reply.ok:
            session.secured(_TLS)
            reply = await session.hello(verb, question.helo)
        if question.login and reply.ok:
            reply = await session.authenticate(Credentials("PLAIN", question.login, ""))
        if not reply.ok:
            return reply
        reply = await session.mail(self._mail_argument())
        if not reply.ok:
            return reply
        self._pipeline.mail = session.mail_in_progress
        replies = await session.rcpt([f"TO:<{recipient}>" for recipient in question.recipients])
        self.result.recipients = list(zip(question.recipients, replies, strict=True))
        if session.may_send_data() is not None:
            return next(reply for reply in replies if not reply.ok)
        return await self._content(session)

    def _mail_argument(self) -> str:
        question = self._question
        known = self._services.hops
        extensions = frozenset(_OFFERED).intersection(
            *(hop.capabilities.extensions for hop in known.values() if hop.capabilities is not None)
        )
        utf8 = not all(map(str.isascii, (question.sender, *question.recipients)))
        body = "" if question.raw.isascii() else "8BITMIME"
        command = mail_command(Envelope(body=body, smtputf8=utf8), len(question.raw), extensions)
        return command.replace("MAIL FROM:<>", f"FROM:<{question.sender}>", 1)

    async def _content(self, session: Session) -> Reply:
        """Take the content as the server does: within its limits, and with its rules about line ends."""
        limits, raw = self._policy.limits, self._question.raw
        check = ContentCheck(normalise=self._policy.normalise)
        store = ContentStore(limits.message_size, self._services.budget, None, limits.header_bytes)
        chunks = ChunkReader(store, check)
        chunks.begin(len(raw))
        chunks.feed(raw)
        chunks.finish()
        try:
            refusal = store.refusal
            if refusal is None and (check.nul or (check.bare and not check.normalise)):
                what = "NUL octets" if check.nul else "bare CR or LF: lines end in CRLF"
                refusal = Reply(550, "5.5.2", f"Message has {what}")
            if refusal is not None:
                return session.refuse_content(refusal, len(raw))[0]
            replies = await session.deliver(store.message(dotless=False), gone=lambda: False)
            if session.has_report:
                await session.reported()
        finally:
            store.release()
        # LMTP answers for each recipient that was accepted.
        answers = iter(replies)
        if len(replies) > 1:
            self.result.recipients = [
                (address, next(answers) if reply.ok else reply) for address, reply in self.result.recipients
            ]
        return max(replies, key=lambda reply: reply.code)

    def _settle(self, reply: Reply) -> None:
        self.result.reply = reply
        outcome = next((e["outcome"] for e in self._memory.events if e["event"] == "message"), "")
        if reply.ok:
            self.result.verdict = _VERDICTS.get(outcome, "accept")
        else:
            self.result.verdict = "reject" if reply.permanent else "defer"


def _blank() -> Config:
    """A configuration that says nothing: an empty pipeline and a stand-in."""
    return Config.model_validate(
        {
            "version": 1,
            "listeners": [{"name": "test", "listen": "127.0.0.1:25"}],
            "upstreams": {"stand-in": {"address": "127.0.0.1:25"}},
        }
    )


def _relay_for(recipients: Sequence[str]) -> Relay:
    return Relay(frozenset(recipient.rpartition("@")[2].lower() for recipient in recipients))


def _listener(config: Config, name: str) -> Listener:
    for listener in config.listeners:
        if name in ("", listener.name):
            return listener
    names = ", ".join(listener.name for listener in config.listeners)
    raise LookupError(f"there is no listener {name!r}; there is {names}")


def _without(entries: Sequence[Entry], *, real: bool) -> list[Entry]:
    """Leave out the hooks that must not run in a rehearsal.

    `auth` would be asked about a password that there isn't, and reports are about what really happened.
    """
    idle = {"auth"} if real else {"auth", *REPORT}
    return [
        replace(entry, hooks={name: hook for name, hook in entry.hooks.items() if name not in idle})
        for entry in entries
    ]
