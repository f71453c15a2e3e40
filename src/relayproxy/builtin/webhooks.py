"""webhooks: tells a program of yours what became of mail, by HTTP: at least once, in order, signed.

Events are on the disk before anything is sent, so neither a restart nor a receiver that is down loses one. Must not know
how a bounce is read.
"""

import asyncio
import hashlib
import hmac
import importlib
import secrets
import sqlite3
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import orjson
from pydantic import Field, field_validator

from relayproxy.api import (
    QUEUE,
    App,
    Mail,
    Opinion,
    Origin,
    Outcome,
    Plugin,
    SecretRef,
    Settings,
    State,
    Unsubscription,
    hook,
)
from relayproxy.builtin._campaign import METHOD
from relayproxy.builtin._keys import signing_keys
from relayproxy.builtin._outbox import Outbox
from relayproxy.builtin.suppression import store_path

SIGNATURE = "Relayproxy-Signature"
"""`t=SECONDS,v1=HEX`: the HMAC-SHA-256 of the seconds, a dot and the body."""

EventName = Literal["delivered", "deferred", "failed", "bounced", "complained", "unsubscribed"]

_NAMES: dict[State, EventName] = {State.DONE: "delivered", State.PENDING: "deferred", State.FAILED: "failed"}
_BATCH = 100
_LEASE = 60.0
_IDLE = 1.0
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 300.0
_TIMEOUT = 15.0
_DAY = 86_400.0


class WebhooksSettings(Settings):
    """Who is told, and of what."""

    url: str
    """Where events are posted to: https, or http on this machine."""
    secret: SecretRef
    """What the requests are signed with, 16 characters or more."""
    events: frozenset[EventName] = frozenset(get_args(EventName))
    """Which events are told."""
    file: str = Field("webhooks.db", min_length=1)
    """Where they are kept until then; relative paths start at the folder of the configuration."""
    keep: int = Field(7, ge=1, le=365)
    """After how many days an event that nobody has taken is given up."""

    @field_validator("url")
    @classmethod
    def _safe(cls, url: str) -> str:
        parts = urlsplit(url)
        if not parts.hostname or not (
            parts.scheme == "https" or (parts.scheme == "http" and _is_here(parts.hostname))
        ):
            raise ValueError("write https://..., or http://127.0.0.1:PORT/... for a program on this machine")
        return url


class Webhooks(Plugin[WebhooksSettings]):
    """Keeps events, and one task that sends them."""

    name = "webhooks"
    settings = WebhooksSettings
    after = ("bounces",)

    @hook
    async def startup(self, app: App) -> None:
        """Open the outbox and begin to send. Raises SecretError, sqlite3.Error and OSError."""
        self._clock = app.clock
        (self._key,) = signing_keys((self.options.secret,))
        self._owner = secrets.token_hex(8)
        self._alarm = app.alarm
        self._outbox = await asyncio.to_thread(Outbox, store_path(app.folder, self.options.file))
        self._news = asyncio.Event()
        self._news.set()
        self._sender = asyncio.create_task(self._send_all())

    @hook
    async def shutdown(self) -> None:
        """Stop sending; what is left is sent after the next start."""
        self._sender.cancel()
        await asyncio.gather(self._sender, return_exceptions=True)
        await asyncio.to_thread(self._outbox.release, self._owner)
        self._outbox.close()

    # -- what happened --------------------------------------------------------------------------------------------

    @hook
    async def message(self, mail: Mail) -> Opinion:
        """Keep what the plugin bounces has read; no opinion of the message."""
        await self._keep(self._reports(mail))
        return None

    @hook
    async def after_forward(self, mail: Mail, outcomes: tuple[Outcome, ...]) -> None:
        """Keep what became of each recipient; of those in the queue, the attempts tell that."""
        known = tuple(one for one in outcomes if one.route != QUEUE or one.state is not State.DONE)
        await self._keep(self._outcomes(mail, known))

    @hook
    async def after_attempt(self, mail: Mail, outcomes: tuple[Outcome, ...], attempt: int) -> None:
        """Keep what an attempt of the queue came to; of notifications, which are ours, nothing."""
        if mail.origin is not Origin.DSN:
            await self._keep(self._outcomes(mail, outcomes, attempt))

    @hook
    async def unsubscribed(self, wish: Unsubscription) -> None:
        """Keep that somebody has unsubscribed; the same wish is the same event. Raises sqlite3.Error."""
        told = {"list": wish.list_id, "scope": wish.scope, "day": str(wish.day)}
        await self._keep(iter([self._told("unsubscribed", wish.recipient, "\0".join(told.values()), told)]))

    def _reports(self, mail: Mail) -> Iterator[dict[str, Any]]:
        about = [one.props["id"] for one in mail.findings if one.method == "bounces" and one.result == "pass"]
        for finding in mail.findings:
            if finding.method == "bounces" and finding.result == "hit":
                kind, recipient = finding.props["kind"], finding.props["recipient"]
                name = "complained" if kind in ("complaint", "unsubscribe") else "bounced"
                told = {
                    "class": kind,
                    "rule": finding.props["rule"],
                    "about": about[0] if len(about) == 1 else "",
                }
                yield self._event(name, mail, recipient, told)

    def _outcomes(
        self, mail: Mail, outcomes: tuple[Outcome, ...], attempt: int = 0
    ) -> Iterator[dict[str, Any]]:
        for outcome in outcomes:
            told = {"reply": str(outcome.reply), "upstream": "" if outcome.route == QUEUE else outcome.route}
            # Each time that somebody is put off is an event of its own; the end comes once.
            time = attempt if outcome.state is State.PENDING else 0
            yield self._event(_NAMES[outcome.state], mail, str(outcome.recipient.address), told, time)

    def _event(
        self, name: str, mail: Mail, recipient: str, told: dict[str, str], attempt: int = 0
    ) -> dict[str, Any]:
        found = mail.finding(METHOD)
        known = found.props if found is not None else {}
        about = {
            "message": mail.id,
            "sender": str(mail.envelope.sender),
            "tenant": known.get("tenant", ""),
            "campaign": known.get("name", ""),
        }
        source = f"{mail.id}\0{attempt}" if attempt else mail.id
        return self._told(name, recipient, source, about | told)

    def _told(self, name: str, recipient: str, source: str, told: dict[str, str]) -> dict[str, Any]:
        """Return an event; the same of the same `source` has the same id."""
        told_of = f"{name}\0{source}\0{recipient}"
        return {
            "id": hashlib.sha256(told_of.encode("utf-8", "replace")).hexdigest()[:32],
            "event": name,
            "time": self._clock.time(),
            "recipient": recipient,
            **told,
        }

    async def _keep(self, events: Iterator[dict[str, Any]]) -> None:
        wanted = [event for event in events if event["event"] in self.options.events]
        if wanted:
            rows = [(event["id"], orjson.dumps(event).decode()) for event in wanted]
            await asyncio.to_thread(self._outbox.put, rows, self._clock.time())
            self._news.set()

    # -- telling --------------------------------------------------------------------------------------------------

    async def _send_all(self) -> None:
        """Send what there is, over and over; wait longer after each failure, and never send a later event first."""
        httpx = await asyncio.to_thread(importlib.import_module, "httpx")
        wait = _FIRST_WAIT
        async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as client:
            while True:
                try:
                    taken = await self._send_some(client, httpx.HTTPError)
                except sqlite3.Error as error:
                    self.log.warning("the outbox can't be used, the next try is in %g s: %s", wait, error)
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, _LONGEST_WAIT)
                    continue
                wait = _FIRST_WAIT
                if not taken:
                    await self._until_news()

    async def _until_news(self) -> None:
        """Wait for an event of this worker; now and then look whether a try is due, or another worker has left some."""
        self._news.clear()
        try:
            async with asyncio.timeout(_IDLE):
                await self._news.wait()
        except TimeoutError:
            pass

    async def _send_some(self, client: Any, faults: type[Exception]) -> bool:
        """Send a batch if one may be sent now; return whether it was taken."""
        now = self._clock.time()
        if not await asyncio.to_thread(self._outbox.lease, self._owner, now, _LEASE):
            return False
        lost = await asyncio.to_thread(self._outbox.expire, now - self.options.keep * _DAY)
        if lost:
            self.log.error("%d events were given up after %d days", lost, self.options.keep)
        sending = await asyncio.to_thread(self._outbox.sending)
        # A clock that was set back must not keep them waiting.
        if now < sending.due <= now + _LONGEST_WAIT:
            return False
        batch = await asyncio.to_thread(self._outbox.next, _BATCH)
        if not batch:
            self._alarm(self.name, 0)
            return False
        problem = await self._post(client, faults, batch, now)
        if problem:
            wait = min(_FIRST_WAIT * 2 ** min(sending.failures, 20), _LONGEST_WAIT)
            self._alarm(self.name, await asyncio.to_thread(self._outbox.waiting))
            self.log.warning("events wait, the next try is in %g s: %s", wait, problem)
            await asyncio.to_thread(self._outbox.failed, self._clock.time() + wait, problem)
            return False
        await asyncio.to_thread(self._outbox.done, [number for number, _ in batch])
        return True

    async def _post(
        self, client: Any, faults: type[Exception], batch: list[tuple[int, str]], now: float
    ) -> str:
        """Send a batch; return what went wrong, or ""."""
        body = b'{"events":[' + b",".join(text.encode() for _, text in batch) + b"]}"
        try:
            answer = await client.post(self.options.url, content=body, headers=self._headers(body, now))
        except faults as error:
            return f"{type(error).__name__}: {error}"
        return "" if 200 <= answer.status_code <= 299 else f"status {answer.status_code}"

    def _headers(self, body: bytes, now: float) -> dict[str, str]:
        seconds = str(int(now))
        mark = hmac.new(self._key, seconds.encode() + b"." + body, hashlib.sha256).hexdigest()
        return {"Content-Type": "application/json", SIGNATURE: f"t={seconds},v1={mark}"}


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
