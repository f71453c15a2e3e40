"""`relayproxy torture FOLDER`: whether the queue loses mail on this disk, in front of this upstream."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relayproxy.cli.common import FAILED, JSON_OPTION, fail

if TYPE_CHECKING:
    from relayproxy.cli.torture_run import Result

_UNLIKELY = 50e-6  # seconds; no disk keeps what it was given as fast as that without a protected cache
_SLOW = 0.05


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False, writable=True))
@click.option("--to", help="Your upstream, HOST:PORT, spoken to without TLS. Left out: one that is built in.")
@click.option("--from", "sender", default="torture@relayproxy.example", show_default=True, help="The sender.")
@click.option("--recipient", default="torture@example.net", show_default=True, help="Who gets it all.")
@click.option(
    "--kills", default=10, show_default=True, type=click.IntRange(1, 100_000), help="How many kills."
)
@click.option(
    "--seconds", default=120.0, show_default=True, type=click.FloatRange(30.0), help="At most so long."
)
@click.option("--seed", default=1, show_default=True, help="Decides when it is killed.")
@JSON_OPTION
def torture(
    folder: Path,
    to: str | None,
    sender: str,
    recipient: str,
    kills: int,
    seconds: float,
    seed: int,
    *,
    as_json: bool,
) -> None:
    """Kill a proxy of its own again and again while mail goes through it, and count what was lost.

    FOLDER is on the disk that is to be tested, best beside the spool; what is made there is removed again. With --to,
    your upstream gets some thousands of messages for --recipient. Exits 1 if an acknowledged message is missing.
    """
    import asyncio

    from pydantic_core import PydanticCustomError

    from relayproxy.cli.torture_run import Plan
    from relayproxy.cli.torture_run import torture as run
    from relayproxy.config.values import parse_endpoint

    upstream = None
    if to is not None:
        try:
            place = parse_endpoint(to, default_port=25)
        except PydanticCustomError as error:
            raise click.BadParameter(error.message(), param_hint="--to") from error
        upstream = place.host, place.port
    if not all(
        text.isascii() and text.isprintable() and not set(text) & set("<> ") for text in (sender, recipient)
    ):
        raise click.UsageError("addresses are plain: user@example.com")
    try:
        result = asyncio.run(run(Plan(folder, upstream, sender, recipient, kills, seconds, seed)))
    except OSError as error:
        fail(error)
    good = not (result.lost or result.problem) and bool(result.acknowledged)
    if as_json:
        found = asdict(result) | {
            "acknowledged": len(result.acknowledged),
            "lost": len(result.lost),
            "good": good,
        }
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo(_report(result))
    sys.exit(0 if good else FAILED)


def _report(result: "Result") -> str:
    longest = f"the longest {result.sync_longest * 1000:.1f} ms"
    lines = [
        f"a sync takes {result.sync_median * 1000:.2f} ms, one in 20 {result.sync_p95 * 1000:.2f} or more, {longest}"
    ]
    if result.sync_median < _UNLIKELY:
        lines.append(
            "  that is faster than disks are: make sure that a write cache loses nothing without power"
        )
    elif result.sync_median > _SLOW:
        lines.append("  that is slow: each message waits for at least one sync")
    if result.problem:
        return "\n".join([*lines, f"NOT TESTED: {result.problem}"])
    lines += [
        f"killed {result.kills} times; {len(result.acknowledged)} messages were acknowledged",
        f"lost: {len(result.lost)}; taken twice by the upstream: {result.doubled}; left in the queue: {result.left}",
    ]
    if result.lost:
        some = ", ".join(map(str, result.lost[:10]))
        lines.append(f"FAILED: acknowledged messages are missing (X-Torture: {some})")
    elif not result.acknowledged:
        lines.append("NOT TESTED: nothing was acknowledged")
    else:
        lines.append("PASSED: nothing was lost. A kill shows no missing sync; only loss of power does.")
    return "\n".join(lines)
