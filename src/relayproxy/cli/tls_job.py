"""The work of `relayproxy tls report`: from the history to reports, their destinations, and what became of each.

One destination that fails, or one domain, stops no other. Must not know how it is shown.
"""

import contextlib
from dataclasses import dataclass, field
from ipaddress import ip_address

from relayproxy import __version__
from relayproxy.api import Resolver, fetch_from
from relayproxy.cli.report_send import Sender, foreseen, once, resolving, sending
from relayproxy.cli.reports import Fate, Job
from relayproxy.config.history import History, TlsReports
from relayproxy.history.database import Database
from relayproxy.history.sent import Errand
from relayproxy.history.tls import collect
from relayproxy.mailauth.reports import Reporter, compress
from relayproxy.mailauth.tls_destinations import Endpoint, Place, look_up
from relayproxy.mailauth.tls_mail import report_mail
from relayproxy.mailauth.tls_report import Report, to_json
from relayproxy.model.address import to_a_label
from relayproxy.stores import history_of
from relayproxy.supervisor import Plan


@dataclass(slots=True)
class Outcome:
    """One report, and what became of it."""

    report: Report
    fates: list[Fate] = field(default_factory=list)


async def run(plan: Plan, settings: TlsReports, kept: History, job: Job) -> list[Outcome]:
    """Do it, one report after the other; domains that want none have no outcome.

    Raises StoreError, OSError, StartupError, PluginError.
    """
    database = history_of(kept, writing=job.send)
    try:
        outcomes = []
        async with contextlib.AsyncExitStack() as stack:
            dns = await stack.enter_async_context(resolving(plan))
            sender = await stack.enter_async_context(sending(plan, dns.resolver)) if job.send else None
            delivery = _Delivery(database, settings, dns.resolver, sender)
            for report in _reports(database, settings, job):
                dns.begin()
                outcome = Outcome(report)
                await delivery.deliver(outcome)
                if outcome.fates:
                    outcomes.append(outcome)
                    if job.folder is not None:
                        (job.folder / report.file_name).write_bytes(compress(to_json(report)))
    finally:
        database.close()
    return outcomes


def _reports(database: Database, settings: TlsReports, job: Job) -> list[Report]:
    reporter = Reporter(
        settings.organization,
        settings.contact,
        settings.submitting_domain,
        generator=f"relayproxy {__version__}",
    )
    excluded = {to_a_label(name) for name in settings.exclude_domains}
    found = collect(database, job.since, job.until, domain=job.domain)
    return [
        Report(reporter, name, job.since, job.until - 1, seen)
        for name, seen in found.items()
        if name not in excluded
    ]


class _Delivery:
    """One report on its way to its destinations. Without a sender nothing is sent and nothing remembered."""

    def __init__(
        self, database: Database, settings: TlsReports, resolver: Resolver, sender: Sender | None
    ) -> None:
        self._database = database
        self._settings = settings
        self._fetch = fetch_from(resolver)
        self._sender = sender

    async def deliver(self, outcome: Outcome) -> None:
        """Find out who wants the report, and send it to each."""
        wanted = await look_up(outcome.report.domain, self._fetch)
        for one in wanted.refused:
            outcome.fates.append(Fate(one.uri, "failed" if one.temporary else "refused", one.reason))
        for place in wanted.places:
            outcome.fates.append(await self._to(place, outcome.report))

    async def _to(self, place: Place, report: Report) -> Fate:
        errand = Errand("tls", report.domain, report.begin, report.end, str(place))
        sender = self._sender
        if sender is None:
            return foreseen(self._database, errand)

        async def send(now: float) -> tuple[bool, str]:
            if isinstance(place, Endpoint):
                return await self._post(place, report)
            message = report_mail(report, author=self._settings.from_address, to=str(place), when=now)
            return await sender.send(self._settings.envelope_sender, place, message)

        return await once(self._database, errand, report.id, send)

    async def _post(self, place: Endpoint, report: Report) -> tuple[bool, str]:
        from relayproxy.cli.tls_post import post, usable

        addresses = usable(await self._addresses(place.host), private=self._settings.post_to_private)
        return await post(place, addresses, compress(to_json(report)))

    async def _addresses(self, host: str) -> list[str]:
        with contextlib.suppress(ValueError):
            return [str(ip_address(host))]
        answers = await self._fetch([(host, "A"), (host, "AAAA")])
        return [str(one) for answer in answers for one in answer.records]
