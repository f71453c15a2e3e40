"""`relayproxy dmarc`: aggregate reports to the owners of the domains that mail came from (RFC 9990).

Must not know how a report is made or sent.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relayproxy.cli.common import BAD_CONFIG, fail, load_plan
from relayproxy.cli.reports import job_of, performed, present, report_options

if TYPE_CHECKING:
    from relayproxy.cli.dmarc_job import Outcome


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def dmarc() -> None:
    """Report to domains what was seen of them."""


@dmarc.command()
@report_options
def report(
    path: Path | None,
    since: int | None,
    until: int | None,
    domain: str,
    send: bool,
    dry_run: bool,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Make the aggregate reports of a period from the history.

    Without --send it shows which reports there are and where they would go. Exits 1 if a report could not be sent, so
    that the same command may be run again: what was sent is not sent twice.
    """
    from relayproxy.cli.dmarc_job import run

    job = job_of(since, until, domain, folder, send=send, dry_run=dry_run)
    plan = load_plan(path, {})
    settings, kept = plan.config.dmarc_reports, plan.config.history
    if settings is None or kept is None:
        fail("reports need the settings history and dmarc_reports", BAD_CONFIG)
    work = run(plan, settings, kept, job)
    outcomes = performed(plan, job, work, unsigned="many will not take unsigned reports")
    present(outcomes, job, as_json=as_json, data=_data, line=_line)


def _data(outcome: "Outcome") -> dict[str, Any]:
    return {
        "messages": outcome.report.messages,
        "records": len(outcome.report.rows),
        "octets": outcome.octets,
    }


def _line(outcome: "Outcome") -> str:
    return (
        f"{outcome.report.messages} messages in {len(outcome.report.rows)} records, {outcome.octets} octets"
    )
