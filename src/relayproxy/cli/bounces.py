"""`relayproxy bounces`: what a bounce says and means, which ones nobody understands, and the rules to start from."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relayproxy.cli.common import CONFIG_OPTION, FAILED, JSON_OPTION, fail
from relayproxy.cli.suppression import FILE_OPTION, opened

if TYPE_CHECKING:
    from relayproxy.bounces.report import Report
    from relayproxy.bounces.rules import Rule


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def bounces() -> None:
    """What bounces say, and the rules that tell what they mean."""


@bounces.command()
def rules() -> None:
    """Print the built-in rules, to be changed and named in the settings of `bounces`."""
    from relayproxy.builtin.bounces import default_rules

    click.echo(default_rules().read_text("utf-8"), nl=False)


@bounces.command()
@JSON_OPTION
@click.option(
    "--rules", "file", type=click.Path(path_type=Path), help="A file of rules; without it, the built-in ones."
)
@click.argument(
    "messages", type=click.Path(path_type=Path, exists=True, dir_okay=False), nargs=-1, required=True
)
def classify(file: Path | None, messages: tuple[Path, ...], *, as_json: bool) -> None:
    """What MESSAGES (files) say and mean; exit 1 if one of them is no bounce, or no rule matches."""
    from relayproxy.bounces.read import read
    from relayproxy.bounces.rules import rules_of
    from relayproxy.builtin.bounces import default_rules
    from relayproxy.config.yaml import read_file
    from relayproxy.model.message import Message

    try:
        known = rules_of(read_file(file or default_rules()))
    except (OSError, ValueError) as error:
        fail(error)
    rows: list[dict[str, Any]] = []
    for path in messages:
        octets = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        rows += _rows(path, read(Message.from_bytes(octets)), known)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        for row in rows:
            click.echo(
                f"{row['file']}: {row['kind']} {row['class']} {row['action']} by {row['rule'] or 'no rule'}"
            )
            click.echo(
                f"  {row['address'] or 'an unknown recipient'} {row['status']} {row['words'][:200]}".rstrip()
            )
    if not all(row["rule"] for row in rows):
        sys.exit(FAILED)


def _rows(path: Path, report: "Report | None", known: "tuple[Rule, ...]") -> list[dict[str, Any]]:
    from relayproxy.bounces.report import Fate
    from relayproxy.bounces.rules import classify as judge

    if report is None:
        nothing = {
            "kind": "none",
            "class": "",
            "action": "",
            "days": 0,
            "rule": "",
            "address": "",
            "status": "",
            "words": "",
        }
        return [{"file": str(path), **nothing}]
    rows = []
    for fate in report.fates or (Fate(""),):
        judged = judge(known, report, fate)
        said = {"address": fate.address, "status": fate.status, "words": fate.diagnosis}
        meant = {"class": judged.class_, "action": judged.action, "days": judged.days, "rule": judged.rule}
        rows.append({"file": str(path), "kind": report.kind.value, **meant, **said})
    return rows


@bounces.command()
@CONFIG_OPTION
@FILE_OPTION
@JSON_OPTION
def unknown(path: Path | None, file: Path | None, *, as_json: bool) -> None:
    """The bounces that no rule matched, the most frequent first."""
    with opened(path, file) as store:
        found = store.unknown()
    if as_json:
        names = ("form", "status", "example", "seen", "last")
        click.echo(json.dumps([dict(zip(names, row, strict=True)) for row in found], indent=2))
        return
    for _, status, example, seen, _ in found:
        click.echo(f"{seen:>7}  {status:<8} {example[:200]}".rstrip())
