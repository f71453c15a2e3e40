"""`relayproxy tls`: reports on TLS to the owners of the domains that mail went to (RFC 8460).

Must not know how a report is made or sent.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relayproxy.cli.common import BAD_CONFIG, FAILED, fail, load, plan_of
from relayproxy.cli.reports import (
    Job,
    fates_as_data,
    fates_as_text,
    headline,
    job_of,
    report_options,
)

if TYPE_CHECKING:
    from relayproxy.cli.tls_job import Outcome
    from relayproxy.supervisor import Plan


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
    job = job_of(since, until, domain, folder, send=send, dry_run=dry_run)
    outcomes = _work(plan_of(load(path, {})), job)
    click.echo(
        json.dumps([_as_data(one) for one in outcomes], indent=2) if as_json else _as_text(outcomes, job)
    )
    if any(fate.state == "failed" for one in outcomes for fate in one.fates):
        sys.exit(FAILED)


def _work(plan: "Plan", job: Job) -> "list[Outcome]":
    """Do the job; say what keeps it from being done."""
    from relayproxy.catalogue import PluginError
    from relayproxy.cli.starting import StartupError
    from relayproxy.cli.tls_job import run
    from relayproxy.history.database import StoreError

    settings, kept = plan.config.tls_reports, plan.config.history
    if settings is None or kept is None:
        fail("reports need the settings history and tls_reports", BAD_CONFIG)
    if job.send and not any(entry.name == "dkim_sign" for entry in plan.config.pipeline):
        click.echo(
            "relayproxy: dkim_sign is not in the pipeline: reports by mail have to be signed", err=True
        )
    try:
        return asyncio.run(run(plan, settings, kept, job))
    except (StoreError, StartupError, PluginError, OSError) as error:
        fail(error)


def _as_data(outcome: "Outcome") -> dict[str, Any]:
    report = outcome.report
    return {
        "domain": report.domain,
        "report_id": report.id,
        "file": report.file_name,
        "begin": report.begin,
        "end": report.end,
        "successful": report.successes,
        "failed": report.failures,
        "policies": [one.policy.type for one in report.seen],
        "destinations": fates_as_data(outcome.fates),
    }


def _as_text(outcomes: "list[Outcome]", job: Job) -> str:
    lines = [headline(len(outcomes), job)]
    for one in outcomes:
        report = one.report
        lines.append(f"{report.domain}: {report.successes} connections succeeded, {report.failures} failed")
        lines += fates_as_text(one.fates)
    return "\n".join(lines)
