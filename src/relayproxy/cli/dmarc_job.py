"""The work of `relayproxy dmarc report`: from the history to reports, their destinations, and what became of each.

One destination that fails, or one domain, stops no other. Must not know how it is shown.
"""

import contextlib
from dataclasses import dataclass, field

from relayproxy import __version__
from relayproxy.api import Resolver, fetch_from
from relayproxy.cli.report_send import Sender, foreseen, once, resolving, sending
from relayproxy.cli.reports import Fate, Job
from relayproxy.config.history import DmarcReports, History
from relayproxy.history.database import Database
from relayproxy.history.dmarc import collect
from relayproxy.history.sent import Errand
from relayproxy.mailauth.dmarc import Organization
from relayproxy.mailauth.dmarc_destinations import read_destinations, verify
from relayproxy.mailauth.dmarc_mail import encoded_attachment, report_mail
from relayproxy.mailauth.dmarc_report import Report, to_xml
from relayproxy.mailauth.report_places import Destination, Refusal
from relayproxy.mailauth.reports import Reporter, compress
from relayproxy.model.address import to_a_label
from relayproxy.stores import history_of
from relayproxy.supervisor import Plan


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


async def run(plan: Plan, settings: DmarcReports, kept: History, job: Job) -> list[Outcome]:
    """Do it, one report after the other. Raises StoreError, OSError, StartupError, PluginError."""
    database = history_of(kept, writing=job.send)
    try:
        reports = _reports(database, settings, job)
        outcomes = [Outcome(report, encoded_attachment(report)) for report in reports]
        for report in reports if job.folder is not None else ():
            assert job.folder is not None
            (job.folder / report.file_name).write_bytes(compress(to_xml(report)))
        async with contextlib.AsyncExitStack() as stack:
            dns = await stack.enter_async_context(resolving(plan))
            sender = await stack.enter_async_context(sending(plan, dns.resolver)) if job.send else None
            for outcome in outcomes:
                dns.begin()
                await _Delivery(database, settings, dns.resolver, sender).deliver(outcome)
    finally:
        database.close()
    return outcomes


def _reports(database: Database, settings: DmarcReports, job: Job) -> list[Report]:
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
    for seen in collect(database, job.since, job.until, domain=job.domain, ignored=ignored):
        found, refused = read_destinations(seen.published.record.text)
        if seen.published.domain not in excluded and (found or refused):
            errors = tuple(f"rua: {one.uri}: {one.reason}" for one in refused)
            made.append(Report(reporter, seen.published, job.since, job.until - 1, seen.rows, errors))
    return made


class _Delivery:
    """One report on its way to its destinations. Without a sender nothing is sent and nothing remembered."""

    def __init__(
        self,
        database: Database,
        settings: DmarcReports,
        resolver: Resolver,
        sender: Sender | None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._fetch = fetch_from(resolver)
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
        report, name = outcome.report, str(place)
        if place.limit and outcome.octets > place.limit:
            return Fate(name, "too-large", f"{outcome.octets} octets, it takes {place.limit}")
        errand = Errand("dmarc", report.domain, report.begin, report.end, name)
        sender = self._sender
        if sender is None:
            return foreseen(self._database, errand)

        async def send(now: float) -> tuple[bool, str]:
            message = report_mail(
                report, outcome.attachment, author=self._settings.from_address, to=name, when=now
            )
            return await sender.send(self._settings.envelope_sender, place, message)

        return await once(self._database, errand, report.id, send)


def _organization(discovery: str) -> Organization | None:
    """The public suffix list, where it found the policy."""
    if discovery != "psl":
        return None
    from relayproxy.mailauth.psl import organizational_domain

    return organizational_domain
