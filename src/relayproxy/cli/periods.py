"""Periods on the command line: a day or a time each, in UTC unless it says otherwise, and how long ago.

Must not know what happened in them.
"""

from datetime import UTC, datetime, timedelta

import click

from relayproxy.model.durations import parse_duration
from relayproxy.model.refused import Refused

DAY = 86_400


def moment(_ctx: click.Context, _param: click.Parameter, text: str | None) -> int | None:
    """Read a day (its beginning) or a time; return seconds since the epoch."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter("write a day or a time: 2026-11-24, 2026-11-24T12:00") from None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())


def ago(_ctx: click.Context, _param: click.Parameter, text: str) -> float:
    """Read how long ago; return seconds, 0 for nothing."""
    try:
        return parse_duration(text) if text else 0.0
    except Refused as error:
        raise click.BadParameter(error.message) from error


def report_period(since: int | None, until: int | None) -> tuple[int, int]:
    """Return the period of a report: yesterday, or the day that begins with `since`. Raises UsageError."""
    if since is None:
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        since = int((midnight - timedelta(days=1)).timestamp())
    until = since + DAY if until is None else until
    if until <= since:
        raise click.UsageError("the period ends before it begins")
    return since, until


def shown(at: float) -> str:
    """Write a time, UTC, to the minute."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
