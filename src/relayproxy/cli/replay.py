"""`relayproxy replay FOLDER --with NEW.yaml`: stored mail through two configurations, and what ends differently.

Nothing is sent. Plugins whose findings are recorded are not asked again, so that what they found at the time counts.
"""

import asyncio
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relayproxy.cli.common import BAD_CONFIG, CONFIG_OPTION, FAILED, find_config, load_plan
from relayproxy.cli.test import addresses, as_sent
from relayproxy.model.message import Message

if TYPE_CHECKING:
    from relayproxy.cli.test_drive import Question, Rehearsal
    from relayproxy.model.finding import Finding
    from relayproxy.supervisor import Plan

_ID = re.compile(r" id=\S+")
_KEYS = ("sender", "recipients", "ip", "helo", "tls", "login", "listener", "findings")
_OURS = frozenset({"received"})  # with the time and the id of each play


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--with", "other", type=click.Path(path_type=Path), required=True, help="The configuration to try."
)
@CONFIG_OPTION
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print it.")
@click.option("--strict", is_flag=True, help="Exit 1 when anything ends differently.")
def replay(folder: Path, other: Path, path: Path | None, output: str, *, strict: bool) -> None:
    """Show which messages of FOLDER would end differently under another configuration.

    Each NAME.eml is a message; NAME.json beside it, if there is one, has what is known of it: sender, recipients, ip,
    helo, tls, login, listener, and findings as `relayproxy test -o json` prints them. Without it the envelope is taken
    from the header.
    """
    if find_config(path) is None:
        raise click.UsageError("no configuration to compare with: name one with -C")
    before, after = load_plan(path, {}), load_plan(other, {})
    files = sorted(folder.glob("*.eml"))
    if not files:
        raise click.UsageError(f"there is no .eml file in {folder}")
    rows = []
    for file in files:
        try:
            rows.append(asyncio.run(_compare(file, before, after)))
        except LookupError as error:
            raise click.UsageError(f"{file.name}: {error.args[0]}") from error
        except (OSError, RuntimeError) as error:
            click.echo(f"relayproxy: can't start: {error}", err=True)
            sys.exit(BAD_CONFIG)
    changed = [row for row in rows if row["changes"]]
    if output == "json":
        click.echo(json.dumps({"messages": len(rows), "changed": changed}, indent=2))
    else:
        for row in changed:
            click.echo(row["message"])
            for line in row["changes"]:
                click.echo(f"  {line}")
        click.echo(f"{len(rows)} message{'s' * (len(rows) != 1)}, {len(changed)} would end differently")
    if strict and changed:
        sys.exit(FAILED)


async def _compare(file: Path, before: "Plan", after: "Plan") -> dict[str, Any]:
    from relayproxy.cli.starting import StartupError
    from relayproxy.cli.test_drive import rehearse

    question, findings = _question(file)
    try:
        old = await rehearse(_recorded(before, findings), question)
        new = await rehearse(_recorded(after, findings), question)
    except StartupError as error:
        raise RuntimeError(str(error)) from error
    return {"message": file.name, "changes": list(_changes(old, new))}


def _question(file: Path) -> "tuple[Question, tuple[Finding, ...]]":
    """Read a message and what is known of it. Raises LookupError for a file that says something else."""
    from relayproxy.cli.test_drive import Question
    from relayproxy.model.finding import Finding

    raw, _ = as_sent(file.read_bytes())
    known: dict[str, Any] = {}
    beside = file.with_suffix(".json")
    if beside.is_file():
        try:
            known = json.loads(beside.read_text("utf-8"))
        except ValueError as error:
            raise LookupError(f"{beside.name} is no JSON: {error}") from error
        if not isinstance(known, dict):
            raise LookupError(f"{beside.name} is no JSON object")
        unknown = set(known) - set(_KEYS)
        if unknown:
            raise LookupError(f"{beside.name} has unknown keys: {', '.join(sorted(unknown))}")
    recipients = known.get("recipients") or addresses(raw, "To", "Cc")
    if not recipients:
        raise LookupError("the message has no To, and no recipients stand beside it")
    authors = addresses(raw, "From")
    question = Question(
        raw,
        known.get("sender", authors[0] if authors else ""),
        tuple(recipients),
        known.get("ip", "192.0.2.1"),
        known.get("helo", "client.example"),
        bool(known.get("tls", False)),
        known.get("login", ""),
        known.get("listener", ""),
    )
    try:
        findings = tuple(Finding(**found) for found in known.get("findings", ()))
    except (TypeError, ValueError) as error:
        raise LookupError(f"{beside.name}: {error}") from error
    return question, findings


def _recorded(plan: "Plan", findings: "tuple[Finding, ...]") -> "Plan":
    """Return the plan with what was found at the time, in place of the plugins that found it."""
    if not findings:
        return plan
    from relayproxy.api import Client, Plugin, Settings, hook
    from relayproxy.config.models import PipelineEntry

    class Recorded(Plugin[Settings]):
        """Notes what is recorded."""

        @hook
        def connect(self, client: Client, note: Callable[..., Any]) -> None:  # noqa: ARG002  (the hook's signature)
            for found in findings:
                props = {name.replace(".", "__"): value for name, value in found.props.items()}
                note(found.method, found.result, score=found.score, reason=found.reason, **props)

    asked = {found.by for found in findings}
    kept = [choice for choice in plan.choices if choice[0].name not in asked or choice[0].name == "rules"]
    return replace(plan, choices=[(PipelineEntry(name="recorded"), Recorded, Settings()), *kept])


def _changes(old: "Rehearsal", new: "Rehearsal") -> Iterator[str]:
    """Yield what is different, in words."""
    if (old.verdict, _words(old)) != (new.verdict, _words(new)):
        yield f"- {old.verdict}: {_words(old)}{_because(old)}"
        yield f"+ {new.verdict}: {_words(new)}{_because(new)}"
    scores = [round(sum(f.score for f in one.findings), 3) for one in (old, new)]
    if scores[0] != scores[1]:
        yield f"score {scores[0]:g} -> {scores[1]:g}"
    refused = [{to: reply.code for to, reply in one.recipients if not reply.ok} for one in (old, new)]
    for to in sorted(refused[0].keys() | refused[1].keys()):
        codes = [one.get(to, 250) for one in refused]
        if codes[0] != codes[1]:
            yield f"recipient {to}: {codes[0]} -> {codes[1]}"
    yield from _header_changes(old, new)


def _words(result: "Rehearsal") -> str:
    return _ID.sub("", str(result.reply))


def _because(result: "Rehearsal") -> str:
    rules = [f for f in result.findings if f.method == "rule" and f.by == "rules"]
    return f"  (rule {rules[-1].props['id']}, {rules[-1].props['at']})" if rules else ""


def _header_changes(old: "Rehearsal", new: "Rehearsal") -> Iterator[str]:
    if old.sent is None or new.sent is None:
        return
    lists = []
    for sent in (old.sent, new.sent):
        fields = Message.from_bytes(sent).fields
        lists.append([f"{f.name}: {f.value}" for f in fields if f.name.lower() not in _OURS])
    for sign, some, others in (("-", lists[0], lists[1]), ("+", lists[1], lists[0])):
        for line in some:
            if line not in others:
                yield f"{sign} {line[:200]}"
