"""`relayproxy dns`: what a domain publishes about its mail, judged, and what it should publish.

Must not know how a record is judged.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relayproxy.cli.common import CONFIG_OPTION, FAILED
from relayproxy.cli.dkim_keys import (
    OUTPUT_OPTION,
    SERVER_OPTION,
    asking,
    files_of,
    loaded_as_far_as_possible,
)

if TYPE_CHECKING:
    from relayproxy.builtin._dkim_files import KeyFile
    from relayproxy.config.load import Loaded
    from relayproxy.mailauth.audit.records import Facts
    from relayproxy.mailauth.audit.report import Line, Record
    from relayproxy.model.endpoint import Endpoint


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def dns() -> None:
    """Judge what domains publish about their mail, and print what they should publish."""


def _domains(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    from relayproxy.mailauth.dkim_sign import check_names
    from relayproxy.model.address import to_a_label

    names = tuple(dict.fromkeys(to_a_label(value.strip().rstrip(".")) for value in values))
    try:
        for name in names:
            check_names(name, "s")
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return names


def _addresses(
    _context: click.Context, _parameter: click.Parameter, values: Sequence[str]
) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(str(ip_address(value)) for value in values))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_DOMAINS = click.argument("domains", nargs=-1, required=True, callback=_domains)
_IP = click.option(
    "--ip",
    "addresses",
    multiple=True,
    callback=_addresses,
    help="An address that sends the domain's mail; without it, the public ones of the configuration.",
)
_HOSTNAME = click.option("--hostname", help="What EHLO says; without it, that of the configuration.")


# -- what is known ----------------------------------------------------------------------------------------------


def _known_addresses(loaded: "Loaded | None") -> tuple[str, ...]:
    """Return the public addresses that the configuration sends from or listens at."""
    if loaded is None or loaded.config is None:
        return ()
    config = loaded.config
    named = [str(upstream.source_address or "") for upstream in config.upstreams.values()]
    named += [listener.listen.host for listener in config.listeners]
    return tuple(dict.fromkeys(host for host in named if _is_public(host)))


def _is_public(host: str) -> bool:
    try:
        return ip_address(host).is_global
    except ValueError:
        return False


def _facts(
    loaded: "Loaded | None",
    files: "Sequence[KeyFile]",
    domain: str,
    addresses: tuple[str, ...],
    hostname: str | None,
    **more: Any,
) -> "Facts":
    """Gather what the configuration says of a domain."""
    from relayproxy.mailauth.audit.records import Facts

    name = hostname or (loaded.config.hostname if loaded and loaded.config else "") or f"mail.{domain}"
    keys = tuple((file.name, file.current()) for file in files)
    return Facts(domain, name.lower(), addresses or _known_addresses(loaded), keys, **more)


def _keys_of(domain: str, files: "Sequence[KeyFile]") -> "list[KeyFile]":
    """Return the keys of a domain, or else those of the closest domain above it."""
    while domain:
        own = [file for file in files if file.domain == domain]
        if own:
            return own
        domain = domain.partition(".")[2]
    return []


def _readable(loaded: "Loaded | None") -> "tuple[list[KeyFile], list[Line]]":
    """Return the keys that can be read, and a line for each that can't."""
    from relayproxy.mailauth.audit.report import Line
    from relayproxy.mailauth.dkim_keys import KeyFault

    files: list[KeyFile] = []
    troubles: list[Line] = []
    try:
        found = files_of(loaded)
    except KeyFault as fault:
        return [], [Line("dkim", "", "error", str(fault))]
    for file in found:
        try:
            file.current()
        except KeyFault as fault:
            troubles.append(Line("dkim", file.name, "error", str(fault)))
        else:
            files.append(file)
    return files, troubles


# -- check ------------------------------------------------------------------------------------------------------


@dns.command()
@CONFIG_OPTION
@_IP
@_HOSTNAME
@click.option("--selector", "selectors", multiple=True, help="The selector of a DKIM key that others hold.")
@click.option("--connect", is_flag=True, help="Connect to the MX hosts, and see whether they offer TLS.")
@click.option("--strict", is_flag=True, help="Exit 1 for warnings too.")
@click.option(
    "--timeout",
    "patience",
    type=click.FloatRange(1, 600),
    default=30.0,
    show_default=True,
    help="Seconds for each check.",
)
@SERVER_OPTION
@OUTPUT_OPTION
@_DOMAINS
def check(
    path: Path | None,
    addresses: tuple[str, ...],
    hostname: str | None,
    selectors: tuple[str, ...],
    patience: float,
    servers: "list[Endpoint]",
    output: str,
    domains: tuple[str, ...],
    *,
    connect: bool,
    strict: bool,
) -> None:
    """Look at everything that DOMAINS publish about their mail: what is wrong, and what to publish.

    SPF with its look-ups, DKIM beside the keys of the configuration, DMARC and where its reports go, MX, MTA-STS with
    its policy file, TLS-RPT, and the reverse names of the addresses that send. Exit 1 if there is an error.
    """
    from relayproxy.mailauth.audit.report import worst

    loaded = loaded_as_far_as_possible(path)
    files, troubles = _readable(loaded)
    facts = [_facts(loaded, _keys_of(domain, files), domain, addresses, hostname) for domain in domains]
    reports = asyncio.run(_check(loaded, servers, facts, selectors, troubles, patience, connect=connect))
    if output == "json":
        click.echo(json.dumps([_as_data(domain, lines) for domain, lines in reports], indent=2))
    else:
        for line in _as_text(reports):
            click.echo(line)
    level = worst(line for _, lines in reports for line in lines)
    if level == "error" or (strict and level == "warning"):
        sys.exit(FAILED)


async def _check(
    loaded: "Loaded | None",
    servers: "Sequence[Endpoint]",
    facts: "Sequence[Facts]",
    selectors: Sequence[str],
    troubles: "Sequence[Line]",
    patience: float,
    *,
    connect: bool,
) -> "list[tuple[str, list[Line]]]":
    from functools import partial

    from relayproxy.api import fetch_from
    from relayproxy.cli.dns_check import Probes, examine
    from relayproxy.cli.dns_probe import probe_mx
    from relayproxy.delivery.sts_fetch import fetch_policy

    probes = Probes(fetch_policy, partial(probe_mx, hostname=facts[0].hostname) if connect else None)
    async with asking(loaded, servers) as resolver:
        return await examine(
            facts,
            fetch_from(resolver),
            probes,
            selectors=selectors,
            troubles=troubles,
            patience=patience,
        )


def _as_text(reports: "Sequence[tuple[str, Sequence[Line]]]") -> Iterator[str]:
    for domain, lines in reports:
        if len(reports) > 1:
            yield f"{domain}"
        for line in lines:
            yield f"{line.level:<8} {line.check:<8} {line.name}  {line.text}"
            for record in line.publish:
                yield f"{'':<8} publish  {record.line()}"


def _as_data(domain: str, lines: "Sequence[Line]") -> dict[str, Any]:
    from relayproxy.mailauth.audit.report import worst

    shown = [
        {
            "check": line.check,
            "name": line.name,
            "level": line.level,
            "text": line.text,
            "publish": [_record_data(record) for record in line.publish],
        }
        for line in lines
    ]
    return {"domain": domain, "level": worst(lines), "checks": shown}


def _record_data(record: "Record") -> dict[str, str]:
    return {"name": record.name, "type": record.type, "value": record.value, "line": record.line()}


# -- records ----------------------------------------------------------------------------------------------------


@dns.command()
@CONFIG_OPTION
@_IP
@_HOSTNAME
@OUTPUT_OPTION
@_DOMAINS
def records(
    path: Path | None,
    addresses: tuple[str, ...],
    hostname: str | None,
    output: str,
    domains: tuple[str, ...],
) -> None:
    """Print the records that DOMAINS should publish for this configuration, as lines for a zone file.

    A place to start from: what is published already is not looked at. Where relay.domains has the domain, this proxy
    is taken for its MX. Nothing is asked of DNS.
    """
    from relayproxy.mailauth.audit.records import policy_text, records_for

    loaded = loaded_as_far_as_possible(path)
    files, troubles = _readable(loaded)
    for trouble in troubles:
        click.echo(f"relayproxy: {trouble.text}", err=True)
    local = loaded.config.relay.domains if loaded and loaded.config else ()
    shown = []
    for domain in domains:
        facts = _facts(loaded, _keys_of(domain, files), domain, addresses, hostname)
        if domain in local:
            facts = _facts(
                loaded,
                _keys_of(domain, files),
                domain,
                addresses,
                hostname,
                hosts=(facts.hostname,),
                sts_id=time.strftime("%Y%m%d%H%M%S", time.gmtime()),
            )
        shown.append((facts, records_for(facts)))
    if output == "json":
        data = [
            {
                "domain": facts.domain,
                "records": [{**_record_data(record), "why": record.why} for record in found],
                "mta_sts_policy": policy_text(facts.hosts) if facts.hosts else "",
            }
            for facts, found in shown
        ]
        click.echo(json.dumps(data, indent=2))
    else:
        click.echo("\n".join(line for facts, found in shown for line in _zone(facts, found)))
    if troubles:
        sys.exit(FAILED)


def _zone(facts: "Facts", found: "Sequence[Record]") -> Iterator[str]:
    from relayproxy.mailauth.audit.records import policy_text

    for record in found:
        yield f"; {record.why}"
        yield record.line()
    if facts.hosts:
        yield f"; the policy file https://mta-sts.{facts.domain}/.well-known/mta-sts.txt:"
        yield from (f";   {line}" for line in policy_text(facts.hosts).splitlines())
    if not facts.addresses:
        yield "; the addresses that send are not known: name them with --ip, and SPF and reverse names get them"
