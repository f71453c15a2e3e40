"""What commands that report to the owners of domains have in common: options, the job, and what became of each report.

Must not know what a report says.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from relayproxy.cli.common import CONFIG_OPTION, JSON_OPTION, USAGE, fail
from relayproxy.cli.periods import moment, report_period, shown
from relayproxy.model.address import to_a_label


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


def headline(count: int, job: Job) -> str:
    """Return the first line for people."""
    return f"{count} reports for {shown(job.since)} to {shown(job.until)} UTC"


def fates_as_data(fates: Iterable[Fate]) -> list[dict[str, Any]]:
    """Return what became of a report for JSON."""
    return [{"destination": one.destination, "state": one.state, "detail": one.detail} for one in fates]


def fates_as_text(fates: Iterable[Fate]) -> list[str]:
    """Return what became of a report for people."""
    return [
        f"  {one.state:<12}  {one.destination}" + (f"  ({one.detail})" if one.detail else "") for one in fates
    ]
