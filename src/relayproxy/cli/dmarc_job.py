"""The work of `relayproxy dmarc report`: from the history to reports, their destinations, and what became of each.

One destination that fails, or one domain, stops no other. Must not know how it is shown.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from relayproxy import __version__
from relayproxy.api import Resolver
from relayproxy.cli.dmarc_send import Sender, resolving, sending
from relayproxy.config.models import DmarcReports
from relayproxy.history import dmarc as history
from relayproxy.history.store import open_reader, open_store
from relayproxy.mailauth.dmarc import Organization
from relayproxy.mailauth.dmarc_destinations import Destination, Refusal, read_destinations, verify
from relayproxy.mailauth.dmarc_mail import encoded_attachment, report_mail
from relayproxy.mailauth.dmarc_report import Report, Reporter, compress, to_xml
from relayproxy.mailauth.lookup import Answer, Fetch, Question
from relayproxy.model.address import Address, to_a_label
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.supervisor import Plan


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a report at one destination: sent, would-send, already-sent, refused, too-large or failed."""

    destination: str
    state: str
    detail: str = ""


@dataclass(slots=True)
class Outcome:
    """One report, its attachment as it is sent (base64), and what became of it."""

    report: Report
    attachment: bytes
    fates: list[Fate] = field(default_factory=list)

    @property
    def octets(self) -> int:
        """What size limits are about."""
        return len(self.attachment)


@dataclass(frozen=True, slots=True)
class Job:
    """What to do: reports of since <= time < until, of one policy domain or all; send them, write them, or neither."""

    since: int
    until: int
    domain: str = ""
    send: bool = False
    folder: Path | None = None


async def run(plan: Plan, settings: DmarcReports, path: Path, job: Job) -> list[Outcome]:
    """Do it, one report after the other. Raises StoreError, sqlite3.Error, OSError, StartupError, PluginError."""
    connection = open_store(path) if job.send else open_reader(path)
    try:
        reports = _reports(connection, settings, job)
        outcomes = [Outcome(report, encoded_attachment(report)) for report in reports]
        for report in reports if job.folder is not None else ():
            assert job.folder is not None
            (job.folder / report.file_name).write_bytes(compress(to_xml(report)))
        async with contextlib.AsyncExitStack() as stack:
            dns = await stack.enter_async_context(resolving(plan))
            sender = await stack.enter_async_context(sending(plan, dns.resolver)) if job.send else None
            for outcome in outcomes:
                dns.begin()
                await _Delivery(connection, settings, dns.resolver, sender).deliver(outcome)
    finally:
        connection.close()
    return outcomes


def _reports(connection: sqlite3.Connection, settings: DmarcReports, job: Job) -> list[Report]:
    """Return the reports that somebody asked for."""
    reporter = Reporter(
        settings.organization,
        settings.contact,
        settings.submitting_domain,
        settings.extra_contact,
        f"relayproxy {__version__}",
    )
    ignored = {one.lower() for one in (*settings.ignore_recipients, settings.contact, settings.from_address)}
    excluded = {to_a_label(name) for name in settings.exclude_domains}
    made = []
    for seen in history.collect(connection, job.since, job.until, domain=job.domain, ignored=ignored):
        found, refused = read_destinations(seen.published.record.text)
        if seen.published.domain not in excluded and (found or refused):
            errors = tuple(f"rua: {one.uri}: {one.reason}" for one in refused)
            made.append(Report(reporter, seen.published, job.since, job.until - 1, seen.rows, errors))
    return made


class _Delivery:
    """One report on its way to its destinations. Without a sender nothing is sent and nothing remembered."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        settings: DmarcReports,
        resolver: Resolver,
        sender: Sender | None,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._fetch = _fetch_from(resolver)
        self._sender = sender

    async def deliver(self, outcome: Outcome) -> None:
        """Find out who wants the report, and send it to each."""
        published = outcome.report.published
        found, refused = read_destinations(published.record.text)
        outcome.fates += [Fate(one.uri, "refused", one.reason) for one in refused]
        places: dict[str, Destination] = {}
        for destination in found:
            if destination.limit and outcome.octets > destination.limit:
                detail = f"{outcome.octets} octets, it takes {destination.limit}"
                outcome.fates.append(Fate(str(destination), "too-large", detail))
                continue
            answer = await verify(
                destination, published.domain, self._fetch, _organization(published.discovery)
            )
            if isinstance(answer, Refusal):
                state = "failed" if answer.temporary else "refused"
                outcome.fates.append(Fate(str(destination), state, answer.reason))
            else:
                places.update({str(one): one for one in answer})
        for place in places.values():
            outcome.fates.append(await self._to(place, outcome))

    async def _to(self, place: Destination, outcome: Outcome) -> Fate:
        report = outcome.report
        period = (report.begin, report.end)
        name = str(place)
        if place.limit and outcome.octets > place.limit:
            return Fate(name, "too-large", f"{outcome.octets} octets, it takes {place.limit}")
        if self._sender is None:
            sent = history.was_sent(self._connection, report.published.domain, period, name)
            return Fate(name, "already-sent" if sent else "would-send")
        domain, now = report.published.domain, time.time()
        if not history.claim(self._connection, domain, period, name, report=report.id, now=now):
            return Fate(name, "already-sent")
        taken = False
        try:
            message = report_mail(
                report, outcome.attachment, author=self._settings.from_address, to=name, when=now
            )
            recipient = Recipient(Address(place.local, place.domain))
            reply = await self._sender.send(Envelope(self._settings.envelope_sender, (recipient,)), message)
            taken, detail = reply.ok, str(reply)
        except Exception as error:  # noqa: BLE001  (the fence: what one destination brings about stops no other)
            detail = f"{type(error).__name__}: {error}"
        finally:
            history.settle(self._connection, domain, period, name, sent=taken)
        return Fate(name, "sent" if taken else "failed", detail)


def _organization(discovery: str) -> Organization | None:
    """The public suffix list, where it found the policy."""
    if discovery != "psl":
        return None
    from relayproxy.mailauth.psl import organizational_domain

    return organizational_domain


def _fetch_from(resolver: Resolver) -> Fetch:
    async def fetch(questions: Sequence[Question]) -> list[Answer]:
        return await asyncio.gather(*(resolver.query(*question) for question in questions))

    return fetch
