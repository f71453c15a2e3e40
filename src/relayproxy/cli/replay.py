"""`relayproxy replay`: mail of a folder or of the history through two configurations, and what ends differently.

Nothing is sent. Plugins whose findings are recorded are not asked again, so that what they found at the time counts.
"""

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relayproxy.cli.common import BAD_CONFIG, FAILED, fail, find_config, load_plan
from relayproxy.cli.history import filters, period, wanted_of
from relayproxy.cli.test import addresses, as_sent
from relayproxy.model.message import Message

if TYPE_CHECKING:
    from relayproxy.cli.test_drive import Question, Rehearsal
    from relayproxy.history.messages import Kept, Wanted
    from relayproxy.model.finding import Finding
    from relayproxy.supervisor import Plan

_ID = re.compile(r" id=\S+")
_KEYS = ("sender", "recipients", "ip", "helo", "tls", "login", "listener", "findings")
_OURS = frozenset({"received"})  # with the time and the id of each play


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--with", "other", type=click.Path(path_type=Path), required=True, help="The configuration to try."
)
@click.option(
    "--history", is_flag=True, help="Take what the history kept. With FOLDER, contents are ID.eml there."
)
@period
@filters
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print it.")
@click.option("--strict", is_flag=True, help="Exit 1 when anything ends differently.")
def replay(
    folder: Path | None,
    other: Path,
    path: Path | None,
    output: str,
    since: int | None,
    until: int | None,
    limit: int,
    *,
    history: bool,
    strict: bool,
    **wanted: Any,
) -> None:
    """Show which messages would end differently under another configuration.

    Of FOLDER, each NAME.eml is a message; NAME.json beside it, if there is one, has what is known of it: sender,
    recipients, ip, helo, tls, login, listener, and findings as `relayproxy test -o json` prints them. Without it the
    envelope is taken from the header.

    With --history, the messages are those that the history of the configuration kept, within a period and by filters.
    The rules of both configurations are asked about the envelope, the client and the findings of the time; a rule that
    needs something that was not kept is named as undecided. A message that is still held is played whole.
    """
    if find_config(path) is None:
        raise click.UsageError("no configuration to compare with: name one with -C")
    before, after = load_plan(path, {}), load_plan(other, {})
    if history:
        rows = _from_history(before, after, wanted_of(since, until, wanted), limit, folder)
    elif since is not None or until is not None or any(wanted.values()):
        raise click.UsageError("a period and filters go with --history")
    elif folder is None:
        raise click.UsageError("name a FOLDER, or --history")
    else:
        rows = _from_folder(folder, before, after)
    _print(rows, as_json=output == "json")
    if strict and any(row["changes"] for row in rows):
        sys.exit(FAILED)


def _from_folder(folder: Path, before: "Plan", after: "Plan") -> list[dict[str, Any]]:
    files = sorted(folder.glob("*.eml"))
    if not files:
        raise click.UsageError(f"there is no .eml file in {folder}")
    rows = []
    for file in files:
        try:
            question, findings = _question(file)
            rows.append({"message": file.name, "changes": _played(question, findings, before, after)})
        except LookupError as error:
            raise click.UsageError(f"{file.name}: {error.args[0]}") from error
    return rows


def _from_history(
    before: "Plan", after: "Plan", wanted: "Wanted", limit: int, folder: Path | None
) -> list[dict[str, Any]]:
    from relayproxy.cli.replay_history import Contents, compare, rulebook_of
    from relayproxy.history.database import StoreError
    from relayproxy.history.messages import messages
    from relayproxy.spool.protocol import SpoolError
    from relayproxy.stores import history_of, listing_of

    kept, spool = before.config.history, before.config.spool
    if kept is None:
        fail(f"{before.source} keeps no history", BAD_CONFIG)
    rows = []
    with contextlib.ExitStack() as stack:
        try:
            old, new = rulebook_of(before), rulebook_of(after)
            database = stack.enter_context(contextlib.closing(history_of(kept)))
            found = list(messages(database, wanted, limit))
        except (StoreError, OSError, ValueError) as error:
            fail(error)
        contents = Contents(None)
        if spool is not None:
            try:
                contents = Contents(stack.enter_context(listing_of(spool)))
            except SpoolError as error:
                click.echo(f"relayproxy: without the contents of held messages: {error}", err=True)
        asked = frozenset(entry.name for entry in before.config.pipeline)
        for one in reversed(found):
            content = _file_of(folder, one.id) or contents.of(one.id)
            row: dict[str, Any] = {"message": one.id, "at": one.at, "whole": content is not None}
            if content is None:
                compared = compare(one, old, new, asked)
                row |= {"changes": compared.changes, "undecided": compared.undecided}
            else:
                findings = tuple(found for found in one.findings if found.by != "rules")
                row |= {
                    "changes": _played(_kept_question(one, content, before, after), findings, before, after),
                    "undecided": [],
                }
            rows.append(row)
    return rows


def _file_of(folder: Path | None, identity: str) -> bytes | None:
    """Return the content of a message from a folder, or None."""
    if folder is None or "/" in identity:
        return None
    file = folder / f"{identity}.eml"
    return as_sent(file.read_bytes())[0] if file.is_file() else None


def _kept_question(one: "Kept", content: bytes, *plans: "Plan") -> "Question":
    """Return what to play; through the first listener where a configuration doesn't know the one that it came through."""
    from relayproxy.cli.test_drive import Question

    known = all(any(one.listener == listener.name for listener in plan.config.listeners) for plan in plans)
    recipients = tuple(address for address, _, _ in one.recipients)
    return Question(
        content,
        one.sender,
        recipients,
        one.ip or "127.0.0.1",
        one.helo,
        bool(one.tls),
        one.login,
        one.listener if known else "",
    )


def _print(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    changed = [row for row in rows if row["changes"]]
    undecided = [row for row in rows if row.get("undecided")]
    if as_json:
        value: dict[str, Any] = {"messages": len(rows), "changed": changed}
        if any("undecided" in row for row in rows):
            value["whole"] = sum(row["whole"] for row in rows)
            value["undecided"] = undecided
        click.echo(json.dumps(value, indent=2))
        return
    for row in rows:
        if row["changes"] or row.get("undecided"):
            click.echo(row["message"])
        for line in row["changes"]:
            click.echo(f"  {line}")
        for line in row.get("undecided", ()):
            click.echo(f"  ? {line}")
    doubt = f", {len(undecided)} can't be told" if undecided else ""
    click.echo(f"{len(rows)} message{'s' * (len(rows) != 1)}, {len(changed)} would end differently{doubt}")


def _played(
    question: "Question", findings: "tuple[Finding, ...]", before: "Plan", after: "Plan"
) -> list[str]:
    """Play a message through both configurations; return what ends differently. Raises LookupError."""
    try:
        return asyncio.run(_compare(question, findings, before, after))
    except (OSError, RuntimeError) as error:
        fail(f"can't start: {error}", BAD_CONFIG)


async def _compare(
    question: "Question", findings: "tuple[Finding, ...]", before: "Plan", after: "Plan"
) -> list[str]:
    from relayproxy.cli.starting import StartupError
    from relayproxy.cli.test_drive import rehearse

    try:
        old = await rehearse(_recorded(before, findings), question)
        new = await rehearse(_recorded(after, findings), question)
    except StartupError as error:
        raise RuntimeError(str(error)) from error
    return list(_changes(old, new))


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
