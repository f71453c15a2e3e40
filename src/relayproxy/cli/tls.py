"""`relayproxy tls`: reports on TLS to the owners of the domains that mail went to (RFC 8460).

Must not know how a report is made or sent.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relayproxy.cli.common import BAD_CONFIG, fail, load_plan
from relayproxy.cli.reports import job_of, performed, present, report_options

if TYPE_CHECKING:
    from relayproxy.cli.tls_job import Outcome


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def tls() -> None:
    """Report to domains how TLS with their mail servers fared."""


@tls.command()
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
    """Make the reports on TLS of a period from the history, for domains that want them.

    Without --send it shows which reports there are and where they would go. Exits 1 if a report could not be sent, so
    that the same command may be run again: what was sent is not sent twice.
    """
    from relayproxy.cli.tls_job import run

    job = job_of(since, until, domain, folder, send=send, dry_run=dry_run)
    plan = load_plan(path, {})
    settings, kept = plan.config.tls_reports, plan.config.history
    if settings is None or kept is None:
        fail("reports need the settings history and tls_reports", BAD_CONFIG)
    work = run(plan, settings, kept, job)
    outcomes = performed(plan, job, work, unsigned="reports by mail have to be signed")
    present(outcomes, job, as_json=as_json, data=_data, line=_line)


def _data(outcome: "Outcome") -> dict[str, Any]:
    return {
        "successful": outcome.report.successes,
        "failed": outcome.report.failures,
        "policies": [one.policy.type for one in outcome.report.seen],
    }


def _line(outcome: "Outcome") -> str:
    return f"{outcome.report.successes} connections succeeded, {outcome.report.failures} failed"
