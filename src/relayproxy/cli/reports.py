"""What commands that report to the owners of domains have in common: options, the job, doing it, and what became of each report.

Must not know what a report says.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from relayproxy.cli.common import CONFIG_OPTION, FAILED, JSON_OPTION, USAGE, fail
from relayproxy.cli.periods import moment, report_period, shown
from relayproxy.model.address import to_a_label

if TYPE_CHECKING:
    from relayproxy.mailauth.reports import Report
    from relayproxy.supervisor import Plan


@dataclass(frozen=True, slots=True)
class Job:
    """What to do: reports of since <= time < until, of one policy domain or all; send them, write them, or neither."""

    since: int
    until: int
    domain: str = ""
    send: bool = False
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a report at one destination: sent, would-send, already-sent, refused, too-large or failed."""

    destination: str
    state: str
    detail: str = ""


class Outcome(Protocol):
    """A report, and what became of it."""

    @property
    def report(self) -> "Report":
        """The report."""

    @property
    def fates(self) -> list[Fate]:
        """What became of it at each destination."""


_Outcome = TypeVar("_Outcome", bound=Outcome)


def report_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `job_of`, where the configuration is, and --json."""
    for option in reversed(
        (
            CONFIG_OPTION,
            click.option(
                "--since", callback=moment, help="The beginning: a day or a time, UTC. Default: yesterday."
            ),
            click.option(
                "--until", callback=moment, help="The end, not included. Default: a day after the beginning."
            ),
            click.option("--domain", default="", help="Only the report of this policy domain."),
            click.option("--send", is_flag=True, help="Send the reports. Each goes to a destination once."),
            click.option("--dry-run", is_flag=True, help="Send nothing, whatever else is said."),
            click.option(
                "-o",
                "folder",
                type=click.Path(path_type=Path, exists=True, file_okay=False),
                help="A folder to write the compressed reports to.",
            ),
            JSON_OPTION,
        )
    ):
        function = option(function)
    return function


def job_of(
    since: int | None, until: int | None, domain: str, folder: Path | None, *, send: bool, dry_run: bool
) -> Job:
    """Return what the options ask for. Raises UsageError, and ends the program where sending would be too early."""
    begin, end = report_period(since, until)
    if send and not dry_run and end > time.time():
        fail("the period has not ended: its report would be incomplete, and is sent only once", USAGE)
    return Job(begin, end, to_a_label(domain.rstrip(".").lower()), send and not dry_run, folder)


def performed(
    plan: "Plan", job: Job, work: "Coroutine[Any, Any, list[_Outcome]]", *, unsigned: str
) -> "list[_Outcome]":
    """Do the work of a job; `unsigned` says what is wrong with reports that nobody signs. Ends the program where it can't be done."""
    from relayproxy.catalogue import PluginError
    from relayproxy.cli.starting import StartupError
    from relayproxy.history.database import StoreError

    if job.send and not any(entry.name == "dkim_sign" for entry in plan.config.pipeline):
        click.echo(f"relayproxy: dkim_sign is not in the pipeline: {unsigned}", err=True)
    try:
        return asyncio.run(work)
    except (StoreError, StartupError, PluginError, OSError) as error:
        fail(error)


def present(
    outcomes: Sequence[_Outcome],
    job: Job,
    *,
    as_json: bool,
    data: Callable[[_Outcome], dict[str, Any]],
    line: Callable[[_Outcome], str],
) -> None:
    """Print what became of the reports; exits 1 if one could not be sent.

    `data` returns what JSON tells of a report beside its name and period, `line` what people are told.
    """
    if as_json:
        click.echo(json.dumps([_as_data(one) | data(one) | _fates(one) for one in outcomes], indent=2))
    else:
        click.echo(f"{len(outcomes)} reports for {shown(job.since)} to {shown(job.until)} UTC")
        for one in outcomes:
            click.echo(f"{one.report.domain}: {line(one)}")
            for fate in one.fates:
                detail = f"  ({fate.detail})" if fate.detail else ""
                click.echo(f"  {fate.state:<12}  {fate.destination}{detail}")
    if any(fate.state == "failed" for one in outcomes for fate in one.fates):
        sys.exit(FAILED)


def _as_data(outcome: Outcome) -> dict[str, Any]:
    report = outcome.report
    return {
        "domain": report.domain,
        "report_id": report.id,
        "file": report.file_name,
        "begin": report.begin,
        "end": report.end,
    }


def _fates(outcome: Outcome) -> dict[str, Any]:
    fates = [
        {"destination": one.destination, "state": one.state, "detail": one.detail} for one in outcome.fates
    ]
    return {"destinations": fates}
