"""`relayproxy test MESSAGE`: what would happen to one message, hook by hook, through the session that serves.

Nothing leaves the machine but DNS questions, unless `--to` names an upstream (HOST:PORT).
"""

import json
import sys
from email.utils import getaddresses
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from relayproxy.cli.common import BAD_CONFIG, CONFIG_OPTION, FAILED, fail, find_config, load_plan
from relayproxy.model.message import Message

if TYPE_CHECKING:
    from relayproxy.cli.test_drive import Question
    from relayproxy.model.endpoint import Endpoint

VERDICTS = ("accept", "discard", "hold", "defer", "reject")


@click.command()
@click.argument("message", type=click.File("rb"))
@CONFIG_OPTION
@click.option(
    "--from",
    "sender",
    help="The envelope sender, '' for the null sender. Left out: Return-Path, or else From.",
)
@click.option(
    "--to",
    multiple=True,
    help="A recipient, or HOST:PORT to forward it there for real. May be repeated. Left out: To and Cc.",
)
@click.option("--ip", default="192.0.2.1", show_default=True, help="The client's address.")
@click.option("--helo", default="client.example", show_default=True, help="What the client says at EHLO.")
@click.option("--tls", is_flag=True, help="The client uses TLS 1.3.")
@click.option("--login", default="", help="The client has logged in as this.")
@click.option("--listener", default="", help="The listener it comes through. Left out: the first.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print it.")
@click.option("--expect", type=click.Choice(VERDICTS), help="Exit 1 unless this is the verdict.")
@click.option("-v", "--verbose", is_flag=True, help="Print what was logged, to standard error.")
def test(
    message: BinaryIO,
    path: Path | None,
    sender: str | None,
    to: tuple[str, ...],
    ip: str,
    helo: str,
    login: str,
    listener: str,
    output: str,
    expect: str | None,
    *,
    tls: bool,
    verbose: bool,
) -> None:
    """Show what would happen to MESSAGE (a file, or - for standard input).

    Every hook with its answer and time, the findings, the changes, and the reply that the client would hear. The
    next hop is a stand-in that takes everything, unless a --to names a real one. Without a configuration the
    pipeline is empty.
    """
    raw, notes = as_sent(message.read())
    plan = load_plan(path, {}) if find_config(path) else None

    import asyncio

    from relayproxy.catalogue import PluginError
    from relayproxy.cli.starting import StartupError
    from relayproxy.cli.test_drive import Question, rehearse
    from relayproxy.cli.test_report import as_data, as_text

    recipients, places = _split(to)
    if not recipients:
        recipients = addresses(raw, "To", "Cc")
    if not recipients:
        raise click.UsageError("the message has no To: say --to ADDRESS")
    question = Question(
        raw,
        _sender(raw) if sender is None else sender.strip().removeprefix("<").removesuffix(">"),
        tuple(recipients),
        ip,
        helo,
        tls,
        login,
        listener,
        tuple(places),
    )
    _check(question)
    try:
        result = asyncio.run(rehearse(plan, question))
    except LookupError as error:
        raise click.UsageError(str(error.args[0])) from error
    except (PluginError, StartupError, OSError) as error:
        fail(f"can't start: {error}", BAD_CONFIG)
    if verbose:
        for event in result.events:
            click.echo(json.dumps(event, default=str), err=True)
    if output == "json":
        for note in notes:
            click.echo(note, err=True)
        click.echo(json.dumps(as_data(result), indent=2))
    else:
        for line in as_text(result, notes):
            click.echo(line)
    if expect and expect != result.verdict:
        click.echo(f"expected {expect}, got {result.verdict}", err=True)
        sys.exit(FAILED)


def as_sent(raw: bytes) -> tuple[bytes, list[str]]:
    """Return the octets of a file as a client would send them, and what had to be changed for that.

    Files mostly have LF line ends; those become CRLF where there is no CRLF at all. Mixed ones stay as they are.
    """
    notes: list[str] = []
    if b"\n" in raw and b"\r\n" not in raw:
        raw = raw.replace(b"\n", b"\r\n")
        notes.append("line ends were LF and were made CRLF")
    if not raw.endswith(b"\r\n"):
        raw += b"\r\n"
        notes.append("the last line had no CRLF and was given one")
    return raw, notes


def addresses(raw: bytes, *names: str) -> list[str]:
    """Return the addresses in these header fields, each once: a convenience here, nothing is decided by it."""
    message = Message.from_bytes(raw)
    found = getaddresses([field.value for name in names for field in message.all(name)])
    return list(dict.fromkeys(address for _, address in found if "@" in address))


def _sender(raw: bytes) -> str:
    """The envelope sender that the header suggests; "" is the null sender."""
    path = Message.from_bytes(raw).header("Return-Path")
    if path is not None:
        return path.strip().removeprefix("<").removesuffix(">")
    authors = addresses(raw, "From")
    return authors[0] if authors else ""


def _split(to: tuple[str, ...]) -> tuple[list[str], "list[Endpoint]"]:
    """Tell recipients from next hops: HOST:PORT, [v6]:PORT or unix:/path, without "@"."""
    from pydantic_core import PydanticCustomError

    from relayproxy.config.values import parse_endpoint

    recipients: list[str] = []
    places: list[Endpoint] = []
    for value in to:
        if "@" in value or ":" not in value:
            recipients.append(value.strip().removeprefix("<").removesuffix(">"))
            continue
        try:
            places.append(parse_endpoint(value))
        except PydanticCustomError as error:
            raise click.UsageError(f"--to {value}: {error}") from error
    return recipients, places


def _check(question: "Question") -> None:
    try:
        ip_address(question.ip)
    except ValueError as error:
        raise click.UsageError(f"--ip {question.ip!r} is not an IP address") from error
    for text in (question.sender, *question.recipients, question.helo, question.login):
        if not text.isprintable():
            raise click.UsageError(f"{text!r} has control characters, which no command line can carry")
