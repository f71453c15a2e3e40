"""`relayproxy dmarc`: aggregate reports to the owners of the domains that mail came from (RFC 9990).

Must not know how a report is made or sent.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from relayproxy.cli.common import BAD_CONFIG, CONFIG_OPTION, FAILED, USAGE, load, plan_of
from relayproxy.cli.periods import moment, report_period, shown

if TYPE_CHECKING:
    from relayproxy.cli.dmarc_job import Job, Outcome
    from relayproxy.supervisor import Plan


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def dmarc() -> None:
    """Report to domains what was seen of them."""


@dmarc.command()
@CONFIG_OPTION
@click.option("--since", callback=moment, help="The beginning: a day or a time, UTC. Default: yesterday.")
@click.option("--until", callback=moment, help="The end, not included. Default: a day after the beginning.")
@click.option("--domain", default="", help="Only the report of this policy domain.")
@click.option("--send", is_flag=True, help="Send the reports. Each goes to a destination once.")
@click.option("--dry-run", is_flag=True, help="Send nothing, whatever else is said.")
@click.option(
    "-o",
    "folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder to write the compressed reports to.",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
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
    from relayproxy.cli.dmarc_job import Job
    from relayproxy.model.address import to_a_label

    since, until = report_period(since, until)
    if send and not dry_run and until > time.time():
        _fail("the period has not ended: its report would be incomplete, and is sent only once", USAGE)
    job = Job(since, until, to_a_label(domain.rstrip(".")), send and not dry_run, folder)
    outcomes = _work(plan_of(load(path, {})), job)
    click.echo(
        json.dumps([_as_data(one) for one in outcomes], indent=2) if as_json else _as_text(outcomes, job)
    )
    if any(fate.state == "failed" for one in outcomes for fate in one.fates):
        sys.exit(FAILED)


def _fail(reason: object, code: int = FAILED) -> NoReturn:
    click.echo(f"relayproxy: {reason}", err=True)
    sys.exit(code)


def _work(plan: "Plan", job: "Job") -> "list[Outcome]":
    """Do the job; say what keeps it from being done."""
    from relayproxy.catalogue import PluginError
    from relayproxy.cli.dmarc_job import run
    from relayproxy.cli.starting import StartupError
    from relayproxy.history.database import StoreError

    settings, kept = plan.config.dmarc_reports, plan.config.history
    if settings is None or kept is None:
        _fail("reports need the settings history and dmarc_reports", BAD_CONFIG)
    if job.send and not any(entry.name == "dkim_sign" for entry in plan.config.pipeline):
        click.echo(
            "relayproxy: dkim_sign is not in the pipeline: many will not take unsigned reports", err=True
        )
    try:
        return asyncio.run(run(plan, settings, kept, job))
    except (StoreError, StartupError, PluginError, OSError) as error:
        _fail(error)


def _as_data(outcome: "Outcome") -> dict[str, Any]:
    report = outcome.report
    return {
        "domain": report.published.domain,
        "report_id": report.id,
        "file": report.file_name,
        "begin": report.begin,
        "end": report.end,
        "messages": report.messages,
        "records": len(report.rows),
        "octets": outcome.octets,
        "destinations": [
            {"destination": fate.destination, "state": fate.state, "detail": fate.detail}
            for fate in outcome.fates
        ],
    }


def _as_text(outcomes: "list[Outcome]", job: "Job") -> str:
    lines = [f"{len(outcomes)} reports for {shown(job.since)} to {shown(job.until)} UTC"]
    for one in outcomes:
        report = one.report
        lines.append(
            f"{report.published.domain}: {report.messages} messages in {len(report.rows)} records, {one.octets} octets"
        )
        for fate in one.fates:
            detail = f"  ({fate.detail})" if fate.detail else ""
            lines.append(f"  {fate.state:<12}  {fate.destination}{detail}")
    return "\n".join(lines)
