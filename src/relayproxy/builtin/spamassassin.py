"""spamassassin: asks a SpamAssassin daemon (spamd, its command SYMBOLS) about every message.

The daemon judges the way that a message took by its Received fields, and ours is not there yet: what it is sent has one
on top. Must not know how a broken service is kept from holding up the mail.
"""

import asyncio
import re
from collections.abc import Iterator
from email.utils import formatdate
from typing import Annotated, Final, Literal

import orjson
from pydantic import AfterValidator, Field

from relayproxy.api import (
    AddHeader,
    App,
    Clock,
    Direction,
    Edit,
    Edits,
    Finding,
    Mail,
    Opinion,
    Plugin,
    ServiceError,
    Settings,
    discard,
    hold,
    hook,
    printable,
    reject,
)
from relayproxy.builtin._answers import Answers, Remembered
from relayproxy.builtin._changes import added, dropped
from relayproxy.builtin._remote import Breaker, Service, Where, connected, send, service_of

_STATUS: Final = re.compile(rb"SPAMD/[0-9.]+ ([0-9]+) ?(.*)\Z")
_SPAM: Final = re.compile(
    r"(?:true|yes|false|no)\s*;\s*(-?[0-9]+(?:\.[0-9]+)?)\s*/\s*(-?[0-9]+(?:\.[0-9]+)?)\Z", re.IGNORECASE
)
_MOST_LINES = 20
_LONGEST_ANSWER = 65_536


def _field_name(name: str) -> str:
    if name:
        AddHeader(name, "YES")
    return name


FieldName = Annotated[str, AfterValidator(_field_name)]


class SpamassassinSettings(Settings):
    """Where the daemon is, and what follows from its score."""

    address: Where
    """Where spamd listens: `127.0.0.1:783` or `unix:/run/spamd.sock`."""
    user: str = Field("", pattern=r"^[A-Za-z0-9._@-]{0,64}$")
    """Whose preferences spamd shall use. Empty: its own."""
    on_spam: Literal["mark", "reject", "hold", "discard", "note"] = "mark"
    """What becomes of a message whose score reaches spamd's `required_score`. `note`: nothing, beside the finding."""
    reject_score: float | None = Field(None, gt=0)
    """From this score on a message is refused, whatever `on_spam` says."""
    spam_header: FieldName = "X-Spam-Flag"
    """The field that says `YES` on what is marked; those of that name from elsewhere are removed. Empty: none."""
    status_header: FieldName = "X-Spam-Status"
    """The field with score and rules on every message that was looked at; others of that name are removed. Empty: none."""
    weight: float = 1.0
    """What the score is multiplied with before it is added to the message's."""
    max_size: int = Field(512_000, gt=0)
    """How many octets a message may have to be looked at; larger ones are let through, with a finding."""
    remember: Remembered = 0.0
    """For how long an answer is used again for the same message from the same client and sender: `5m`."""
    breaker: Breaker = Breaker()
    """When a daemon that fails is left alone."""


class Spamassassin(Plugin[SpamassassinSettings]):
    """Ask spamd, and mark or refuse spam."""

    name = "spamassassin"
    settings = SpamassassinSettings
    after = ()
    directions = frozenset({Direction.INBOUND})
    default_timeout = 30.0
    _service: Service
    _answers: Answers
    _clock: Clock
    _hostname: str = ""

    @hook
    def startup(self, app: App) -> None:
        """Meet the service."""
        self._hostname = app.hostname
        self._clock = app.clock
        self._service = service_of(self, self.options.breaker, app)
        self._answers = Answers("spamassassin", self.options.remember, app)

    @hook
    async def message(self, mail: Mail) -> Opinion:
        """Ask spamd, note what it says and return what the settings make of it."""
        if mail.message.size > self.options.max_size:
            mail.note("spamassassin", "policy", reason="too large to be looked at")
            return None
        finding = await self._finding(mail)
        mail.noted.append(finding)
        score, limit = float(finding.props["score"]), self.options.reject_score
        reason = f"spamassassin: {score:.1f}"
        refused = limit is not None and score >= limit
        if refused or (finding.result == "hit" and self.options.on_spam == "reject"):
            return reject("Message refused as spam", reason=reason)
        if finding.result == "hit" and self.options.on_spam == "hold":
            return hold(reason)
        if finding.result == "hit" and self.options.on_spam == "discard":
            return discard(reason)
        return None

    @hook
    def before_forward(self, mail: Mail) -> Edits:
        """Mark spam, and say how it was found."""
        finding = mail.finding("spamassassin")
        return None if finding is None else self._edits(mail, finding)

    def _edits(self, mail: Mail, finding: Finding) -> Iterator[Edit]:
        spam = finding.result == "hit" and self.options.on_spam == "mark"
        if self.options.spam_header:
            yield from dropped(mail.message, self.options.spam_header, 0)
            if spam:
                yield added(self.options.spam_header, "YES")
        if self.options.status_header:
            yield from dropped(mail.message, self.options.status_header, 0)
            if finding.result != "policy":
                yield added(self.options.status_header, _status(finding))

    async def _finding(self, mail: Mail) -> Finding:
        """Return what spamd finds, or found lately. Raises ServiceError."""
        if not self._answers.are_kept:
            return await self._service.ask(lambda: self._check(mail))
        client = mail.client
        tls = "tls" if client.tls else ""
        facts = (str(mail.envelope.sender), client.ip, client.ptr, client.helo, client.identity, tls)
        key = await self._answers.key(mail.message, facts)
        if (known := await self._answers.find(key)) is not None:
            result, score, props = orjson.loads(known)
            return Finding("spamassassin", result, score, props)
        finding = await self._service.ask(lambda: self._check(mail))
        answer = (finding.result, finding.score, dict(finding.props))
        await self._answers.keep(key, orjson.dumps(answer).decode())
        return finding

    async def _check(self, mail: Mail) -> Finding:
        """Return what spamd found. Raises ServiceError, OSError and EOFError."""
        trace = self._trace(mail)
        request = f"SYMBOLS SPAMC/1.5\r\nContent-length: {len(trace) + mail.message.size}\r\n"
        if self.options.user:
            request += f"User: {self.options.user}\r\n"
        async with connected(self.options.address) as (reader, writer):
            await send(writer, f"{request}\r\n".encode(), trace)
            for chunk in mail.message.chunks():
                await send(writer, chunk)
            return await self._answer(reader)

    async def _answer(self, reader: asyncio.StreamReader) -> Finding:
        status = _STATUS.match((await reader.readuntil(b"\n")).strip())
        if status is None or status[1] != b"0":
            said = status[2] if status else b"something that is not its protocol"
            raise ServiceError(f"said {printable(said.decode('ascii', 'replace'), 100)}")
        spam = None
        for _ in range(_MOST_LINES):
            name, _, value = (await reader.readuntil(b"\n")).decode("ascii", "replace").strip().partition(":")
            if not name:
                break
            if name.lower() == "spam":
                spam = _SPAM.match(value.strip())
        if spam is None:
            raise ServiceError("answered without a score")
        rules = ",".join((await reader.read(_LONGEST_ANSWER)).decode("ascii", "replace").split())
        score, required = float(spam[1]), float(spam[2])
        return Finding(
            "spamassassin",
            "hit" if score >= required else "miss",
            score * self.options.weight,
            {"score": spam[1], "required": spam[2], "rules": printable(rules, 2000)},
        )

    def _trace(self, mail: Mail) -> bytes:
        """Return the fields that tell spamd where the message comes from (RFC 5321 section 4.4)."""
        client = mail.client
        protocol = "ESMTP" + ("S" if client.tls else "") + ("A" if client.identity else "")
        name = f"{client.ptr} " if client.ptr else ""
        fields = [
            f"Return-Path: <{mail.envelope.sender}>",
            f"Received: from {client.helo or 'unknown'} ({name}[{client.ip}])",
            f"\tby {self._hostname} with {protocol} id {mail.id};",
            f"\t{formatdate(self._clock.time())}",
        ]
        if not client.ip:
            del fields[1:]
        return "".join(f"{_plain(line)}\r\n" for line in fields).encode()


def _plain(line: str) -> str:
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in line)


def _status(finding: Finding) -> str:
    props = finding.props
    word = "Yes" if finding.result == "hit" else "No"
    rules = "\n\t".join(_lines(props["rules"].split(",")))
    return f"{word}, score={props['score']} required={props['required']}\n\ttests={rules or 'none'}"


def _lines(rules: list[str]) -> Iterator[str]:
    """Yield rules in lines that are not too long."""
    line = ""
    for rule in rules:
        if line and len(line) + len(rule) > 66:
            yield f"{line},"
            line = ""
        line = f"{line},{rule}" if line else rule
    yield line
