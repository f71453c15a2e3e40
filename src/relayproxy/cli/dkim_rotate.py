"""`relayproxy dkim rotate`: from the keys that sign to new ones, in steps that wait for DNS.

Must not know how a step is done.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relayproxy.cli.common import CONFIG_OPTION, FAILED, fail
from relayproxy.cli.dkim_keys import (
    FOLDER_OPTION,
    OUTPUT_OPTION,
    SERVER_OPTION,
    asking,
    configured_folder,
    loaded_as_far_as_possible,
)

if TYPE_CHECKING:
    from relayproxy.cli.dkim_rotation import Keys, Step
    from relayproxy.model.endpoint import Endpoint


@click.command()
@CONFIG_OPTION
@FOLDER_OPTION
@OUTPUT_OPTION
@SERVER_OPTION
@click.option(
    "--activate",
    is_flag=True,
    help="Begin no rotation, only go on with those that are under way; without DOMAINS, with all. For a timer.",
)
@click.option("--selector", help="How the new keys are called; without it, the year and the month.")
@click.option("--bits", type=click.Choice(["2048", "3072", "4096"]), default="2048", help="Size for RSA.")
@click.option(
    "--keep",
    type=click.IntRange(1, 365),
    default=14,
    show_default=True,
    help="For how many days the record of a retired key is needed: longer than mail may wait in queues.",
)
@click.argument("domains", nargs=-1)
def rotate(
    path: Path | None,
    folder: Path | None,
    output: str,
    servers: "list[Endpoint]",
    selector: str | None,
    bits: str,
    keep: int,
    domains: tuple[str, ...],
    *,
    activate: bool,
) -> None:
    """Replace the keys of DOMAINS: run it, publish what it prints, and run it again.

    The first run makes keys that wait (SELECTOR.next). A later one looks for their records: when all name servers have
    them, the new keys sign (SELECTOR.key) and the old ones cease to (SELECTOR.retired-YYYYMMDD). When the time is over in
    which mail signed with an old key may still be on its way, it says that the record may go, and deletes the key when
    the record has gone. A running proxy sees the files change by itself. Exit 1 if something is to be done in DNS.
    """
    from relayproxy.cli.dkim_rotation import begin, keys_in
    from relayproxy.mailauth.dkim_keys import KeyFault
    from relayproxy.model.address import to_a_label

    if not domains and not activate:
        raise click.UsageError("name a domain, or say --activate")
    today = datetime.now(UTC).date()
    home = folder or configured_folder(path)
    wanted = dict.fromkeys(to_a_label(domain.rstrip(".")) for domain in domains)
    steps: list[Step] = []
    try:
        found = keys_in(home)
        for domain in wanted:
            if domain not in found:
                fail(f"there is no key of {domain} in {home}; make the first with `relayproxy dkim keygen`")
        chosen = [found[domain] for domain in wanted or found]
        for keys in chosen:
            if keys.idle and not activate:
                steps += begin(keys, today, selector, int(bits))
        under_way = [keys for keys in chosen if not keys.idle]
        if under_way:
            asyncio.run(_go_on(path, servers, under_way, today, timedelta(days=keep), steps.append))
    except (KeyFault, ValueError, OSError) as fault:
        _show(steps, output)
        fail(fault)
    _show(steps, output)
    if any(step.open for step in steps):
        sys.exit(FAILED)


async def _go_on(
    path: Path | None,
    servers: "Sequence[Endpoint]",
    under_way: "Sequence[Keys]",
    today: date,
    keep: timedelta,
    tell: "Callable[[Step], None]",
) -> None:
    from relayproxy.cli.dkim_rotation import activate, clear
    from relayproxy.cli.dns_authorities import authorities

    async with asking(loaded_as_far_as_possible(path), servers) as resolver, authorities(resolver) as direct:
        for keys in under_way:
            if keys.waiting:
                everywhere = None if servers else direct.of
                for step in await activate(keys, resolver, today, keep, everywhere):
                    tell(step)
            for step in await clear(keys, resolver, today, keep):
                tell(step)


def _show(steps: "Sequence[Step]", output: str) -> None:
    if output == "json":
        rows = [
            {
                "domain": step.domain,
                "name": step.name,
                "state": step.state,
                "text": step.text,
                "file": str(step.file),
                "publish": step.record.value if step.record else "",
            }
            for step in steps
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    for step in steps:
        click.echo(f"{step.state:<10} {step.name}  {step.text}")
    for step in steps:
        if step.record is not None:
            click.echo(f"\npublish\n{step.record.line()}")
