"""`relayproxy rules list|explain`: the rules as they will be asked, in words."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relayproxy.cli.common import BAD_CONFIG, CONFIG_OPTION, fail, load
from relayproxy.cli.control import SOCKET_OPTION

if TYPE_CHECKING:
    from relayproxy.rules.rule import Rule, Ruleset

_STAGES = {"RCPT": "rcpt", "MESSAGE": "message"}


@click.group()
def rules() -> None:
    """Show the rules: when each is asked, what it asks about, what it does."""


@rules.command("list")
@CONFIG_OPTION
@SOCKET_OPTION
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print it.")
def list_(path: Path | None, socket_path: Path | None, output: str) -> None:
    """List the rules in their order, with the SMTP phase in which each is asked.

    While a proxy runs with them, and has metrics, also how often each has matched: `enforced`, `observed` (what rules in
    observe mode would have done) and `errors`, since the configuration was loaded.
    """
    from relayproxy.cli.rule_counts import counts_of

    ruleset = _ruleset(path)
    counts = counts_of(socket_path, path)
    rows = [_row(rule) for rule in ruleset.rules]
    if counts is not None:
        for row in rows:
            row["matched"] = counts.by_rule.get(row["id"])
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    width = max((len(row["id"]) for row in rows), default=2)
    numbers = f"{'ENFORCED':>9} {'OBSERVED':>9} {'ERRORS':>7}  " if counts is not None else ""
    click.echo(f"{'PHASE':<8} {'RULE':<{width}}  {numbers}{'DOES':<34} PLACE")
    for row in rows:
        mode = "would " if row["mode"] == "observe" else ""
        told = _told(row["matched"]) if counts is not None else ""
        click.echo(
            f"{row['phase']:<8} {row['id']:<{width}}  {told}{(mode + row['does'])[:34]:<34} {row['where']}"
        )
    if counts is not None:
        never = [row["id"] for row in rows if row["matched"] is not None and not any(row["matched"].values())]
        if never:
            click.echo(f"never matched in {counts.since}: {', '.join(never)}")


def _told(matched: Mapping[str, int] | None) -> str:
    if matched is None:
        return f"{'-':>9} {'-':>9} {'-':>7}  "
    words = [str(matched.get(outcome, "-")) for outcome in ("enforced", "observed", "error")]
    return f"{words[0]:>9} {words[1]:>9} {words[2]:>7}  "


@rules.command()
@click.argument("name")
@CONFIG_OPTION
def explain(name: str, path: Path | None) -> None:
    """Explain one rule: when it is asked and why then, what it asks about, what it does."""
    ruleset = _ruleset(path)
    rule = next((one for one in ruleset.rules if one.id == name), None)
    if rule is None:
        from relayproxy.config.problems import guesses

        hint = guesses(name, [one.id for one in ruleset.rules])
        fail(f"there is no rule '{name}'" + (f"; {hint}" if hint else ""))
    for line in _explained(rule, ruleset):
        click.echo(line)


def _ruleset(path: Path | None) -> "Ruleset":
    from relayproxy.builtin.rules import ruleset_of

    ruleset = ruleset_of(load(path, {}).choices)
    if not ruleset.rules:
        fail("this configuration has no rules", BAD_CONFIG)
    return ruleset


def _row(rule: "Rule") -> dict[str, Any]:
    from relayproxy.rules.engine import said

    return {
        "id": rule.id,
        "phase": _STAGES[rule.phase.name],
        "why": rule.why,
        "mode": "observe" if rule.observe else "enforce",
        "facts": sorted(rule.condition.facts),
        "does": said(rule),
        "where": rule.where,
        "description": rule.description,
    }


def _explained(rule: "Rule", ruleset: "Ruleset") -> Iterator[str]:
    from relayproxy.rules.engine import said
    from relayproxy.rules.fact_table import FACTS

    yield f"{rule.id}  ({rule.where})" + (f"  {rule.description}" if rule.description else "")
    if rule.why:
        yield f"  asked when the message is there: {rule.why}"
    else:
        yield "  asked at RCPT, for each recipient: all that it needs is known there"
    if rule in ruleset.splits:
        yield "  depends on the recipient: others, for whom it may end differently, hear 452 4.5.3 and come apart"
    for name in sorted(rule.condition.facts):
        fact = FACTS.get(name)
        yield f"  asks about {name}" + (f": {fact.doc}" if fact else "")
    for expression in _expressions(rule.condition.written):
        yield f"  evaluates {' '.join(expression.split())}"
    if rule.condition.constant:
        yield "  matches all mail"
    yield f"  does: {said(rule)}" + ("  (observe: only says so)" if rule.observe else "")
    verdict = rule.verdict
    if verdict is not None and verdict.code:
        yield f"  replies {verdict.code} {verdict.status}"
    for rate in rule.rates:
        yield f"  only above {rate.count} in {rate.seconds:g} s, {rate.burst:g} at once"
    if rule.sample < 1:
        yield f"  for {rule.sample:.0%} of the mail"
    if rule.until is not None:
        from datetime import UTC, datetime

        yield f"  until {datetime.fromtimestamp(rule.until, UTC):%Y-%m-%d %H:%M} UTC"
    yield f"  when it can't be asked: {rule.on_error}"


def _expressions(written: Any) -> Iterator[str]:
    """Yield what stands under `when` in a condition."""
    if written and written[0] == "cel":
        yield written[1]
    elif written and written[0] == "all":
        for part in written[1]:
            yield from _expressions(part)
