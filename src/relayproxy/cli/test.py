"""`relayproxy test MESSAGE`: what would happen to one message, hook by hook, through the session that serves.

Nothing leaves the machine but DNS questions, unless `--to` names an upstream (HOST:PORT).
"""

import asyncio
import difflib
import json
import sys
import time
from dataclasses import replace
from email.utils import getaddresses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relayproxy.cli.common import CONFIG_OPTION, FAILED, find_config, load
from relayproxy.model.client import TlsInfo
from relayproxy.model.message import Message, split_fields

if TYPE_CHECKING:
    from relayproxy.config.load import Loaded
    from relayproxy.testing.session import Delivery, SessionDriver

_TLS = TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256)


@click.command()
@click.argument("message", type=click.File("rb"))
@CONFIG_OPTION
@click.option(
    "--from", "sender", help="The envelope sender; without it, the address in From. '' is the null sender."
)
@click.option(
    "--to", "to", multiple=True, help="A recipient (may be repeated), or HOST:PORT to forward it there."
)
@click.option("--ip", default="192.0.2.1", help="The client's address.")
@click.option("--helo", default="client.example.org", help="What the client says at EHLO.")
@click.option("--tls", is_flag=True, help="As if the client had used TLS.")
@click.option("--login", default="", help="As if the client had logged in.")
@click.option("--listener", help="Through which listener; without it, the first.")
@click.option("--expect", help="Exit 1 unless this is the verdict.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print it.")
def test(
    message: Any,
    path: Path | None,
    sender: str | None,
    to: tuple[str, ...],
    ip: str,
    helo: str,
    listener: str | None,
    login: str,
    expect: str | None,
    output: str,
    *,
    tls: bool,
) -> None:
    """Show what would happen to MESSAGE (a file, or - for standard input): each hook, the edits, the reply."""
    raw, converted = crlf(message.read())
    targets = [one for one in to if "@" not in one and one.rpartition(":")[2].isdigit()]
    recipients = [one for one in to if one not in targets] or addresses(raw, "To", "Cc") or ["postmaster"]
    author = addresses(raw, "From")
    sender = sender if sender is not None else author[0] if author else ""
    place = find_config(path)
    loaded = load(place, {}) if place else None
    result = asyncio.run(
        _play(loaded, raw, sender.strip("<>"), recipients, ip, helo, login, listener, targets, tls=tls)
    )
    if output == "json":
        click.echo(json.dumps(result, indent=2))
    else:
        if converted:
            click.echo("(line ends made CRLF)")
        _show(result)
    if expect and expect != result["verdict"]:
        click.echo(f"expected {expect}, got {result['verdict']}", err=True)
        sys.exit(FAILED)


def crlf(raw: bytes) -> tuple[bytes, bool]:
    """Return a file's octets with CRLF line ends, and whether that changed them; mixed ones stay as they are."""
    if b"\n" in raw and b"\r\n" not in raw:
        return raw.replace(b"\n", b"\r\n"), True
    return raw, False


def addresses(raw: bytes, *names: str) -> list[str]:
    """Return the addresses in these header fields; a convenience for the command, never a basis for decisions."""
    message = Message.from_bytes(raw)
    found = getaddresses([field.value for name in names for field in message.all(name)])
    return [address for _, address in found if "@" in address]


async def _play(
    loaded: "Loaded | None",
    raw: bytes,
    sender: str,
    recipients: list[str],
    ip: str,
    helo: str,
    login: str,
    listener: str | None,
    targets: list[str],
    *,
    tls: bool,
) -> dict[str, Any]:
    driver = _driver(loaded, recipients, ip, login, listener, tls=tls)
    await driver.start(loaded.folder if loaded else None)
    if targets:
        _forward_to(driver, targets)
    started = time.monotonic()
    banner = await driver.session.greet()
    replies = [banner]
    if banner.code == 220:
        hello = "LHLO" if driver.policy.protocol == "lmtp" else "EHLO"
        replies = await driver.say(f"{hello} {helo}")
    delivery = None
    if replies[-1].ok or replies[-1].code == 220:
        delivery = await driver.deliver(raw, sender=sender, recipients=recipients)
        replies = list(delivery.replies)
    return _result(raw, replies, delivery, driver, time.monotonic() - started)


def _driver(
    loaded: "Loaded | None", recipients: list[str], ip: str, login: str, listener: str | None, *, tls: bool
) -> "SessionDriver":
    """Build the session as the configuration has it, with stand-ins for the upstreams."""
    from relayproxy.app import SystemClock, make_resolver
    from relayproxy.build import entries_of, policy_of, routes_of
    from relayproxy.config.models import Config
    from relayproxy.testing.session import SessionDriver, Standin

    clock = SystemClock()
    facts = _TLS if tls else None
    if loaded is None or loaded.config is None:
        blank = Config.model_validate(
            {
                "version": 1,
                "listeners": [{"name": "test", "listen": "127.0.0.1:25"}],
                "upstreams": {"upstream": {"address": "127.0.0.1:25"}},
            }
        )
        resolver, _, _ = make_resolver(blank)
        domains = {recipient.rpartition("@")[2].lower() for recipient in recipients}
        return SessionDriver(
            domains=domains, ip=ip, identity=login, tls=facts, resolver=resolver, clock=clock
        )
    config = loaded.config
    chosen = next((one for one in config.listeners if one.name == listener), config.listeners[0])
    resolver, _, _ = make_resolver(config)
    return SessionDriver(
        *entries_of(loaded.choices),
        domains=config.relay.domains,
        networks=map(str, config.relay.networks),
        ip=ip,
        identity=login,
        tls=facts,
        hostname=config.hostname,
        policy=replace(policy_of(config, chosen), auth_required=False),
        routes=routes_of(config),
        upstreams={name: Standin(name, up.protocol == "lmtp") for name, up in config.upstreams.items()},
        resolver=resolver,
        clock=clock,
    )


def _forward_to(driver: "SessionDriver", targets: list[str]) -> None:
    """Put a real upstream in place of every stand-in."""
    from relayproxy.delivery.settings import Address, UpstreamSettings
    from relayproxy.delivery.upstream import Upstream

    places = tuple(
        Address(host.strip("[]"), int(port))
        for host, _, port in (target.rpartition(":") for target in targets)
    )
    services = driver.services
    real: dict[str, Any] = {}
    for name in services.hops:
        settings = UpstreamSettings(name, places, services.hostname)
        real[name] = Upstream(settings, log=services.log, metrics=services.metrics, monotonic=time.monotonic)
    services.hops = real


def _result(
    raw: bytes, replies: list[Any], delivery: "Delivery | None", driver: "SessionDriver", seconds: float
) -> dict[str, Any]:
    reply = replies[-1] if delivery is None else delivery.reply
    mail = delivery.mail if delivery else None
    sent = next((hop.sent[-1] for hop in _standins(driver) if hop.sent), None)
    data = sent.data if sent else b""
    verdict = "accept" if reply.ok or reply.code == 220 else "reject" if reply.permanent else "defer"
    if verdict == "accept" and sent is None and _standins(driver):
        verdict = "discard"
    if reply.status == "4.3.5":
        verdict = "hold"
    diff = (
        list(difflib.unified_diff(_lines(raw), _lines(data), "received", "sent", lineterm="", n=1))
        if data
        else []
    )
    return {
        "verdict": verdict,
        "reply": str(reply),
        "seconds": round(seconds, 4),
        "direction": str(mail.direction) if mail else "",
        "score": mail.score if mail else 0.0,
        "findings": [
            {
                "method": finding.method,
                "result": finding.result,
                "score": finding.score,
                "by": finding.by,
                "props": dict(finding.props),
                "reason": finding.reason,
            }
            for finding in (mail.findings if mail else ())
        ],
        "edits": diff,
        "headers": [[field.name, field.value] for field in split_fields(Message.from_bytes(data).head)]
        if data
        else [],
        "hooks": [
            {
                "hook": step.hook,
                "plugin": step.plugin,
                "seconds": round(step.seconds, 6),
                "answer": step.answer,
                "error": step.error,
            }
            for step in (mail.trace if mail else ())
        ],
    }


def _standins(driver: "SessionDriver") -> list[Any]:
    """The next hops that only record; empty when the message went to a real one."""
    return [hop for hop in driver.services.hops.values() if hasattr(hop, "sent")]


def _lines(data: bytes) -> list[str]:
    return data.decode("latin-1").replace("\r\n", "\n").expandtabs(4).split("\n")


def _show(result: dict[str, Any]) -> None:
    for step in result["hooks"]:
        error = f"  {step['error']}" if step["error"] else ""
        click.echo(
            f"{step['hook']:<17} {step['answer']:<9} {step['plugin']:<20} {step['seconds'] * 1000:8.1f} ms{error}"
        )
    for finding in result["findings"]:
        props = " ".join(f"{key}={value}" for key, value in finding["props"].items())
        score = f" {finding['score']:+g}" if finding["score"] else ""
        click.echo(f"  {finding['method']}={finding['result']}{score} {props} {finding['reason']}".rstrip())
    if result["edits"]:
        click.echo()
        for line in result["edits"]:
            click.echo("".join(char if char.isprintable() else "?" for char in line))
    click.echo(f"\n=> {result['reply']}   ({result['verdict']}, {result['seconds'] * 1000:.1f} ms)")
