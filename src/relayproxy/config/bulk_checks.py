"""What is wrong with pools, sources, warm-up and shaping rules, one part against another, and on this machine.

Yields (code, severity, path, message, hint), as `checks` and `files` do, which ask here. Must not know where
something is written, only its path.
"""

import socket
from collections.abc import Iterator
from ipaddress import ip_address

from relayproxy.bounces.rules import rules_of
from relayproxy.config import yaml
from relayproxy.config.models import Config, Route, Upstream
from relayproxy.config.problems import Found


def check_bulk(config: Config) -> Iterator[Found]:
    """Yield contradictions."""
    for name, upstream in config.upstreams.items():
        yield from _sources(("upstreams", name), upstream)
    for number, route in enumerate(config.routes):
        if route.pool:
            yield from _pool(config, ("routes", number), route)
    yield from _shaping(config)
    if config.state is None:
        for at in _warmups(config):
            message = "each worker counts its part of the budget itself, and a restart begins the day anew"
            hint = "add state: {url: sqlite:///var/lib/relayproxy/state.db}"
            yield "RP310", "warning", at, message, hint


def _sources(at: yaml.Path, upstream: Upstream) -> Iterator[Found]:
    if not upstream.sources:
        return
    if upstream.source_address is not None:
        yield "RP309", "error", (*at, "source_address"), "give source_address or sources, not both", ""
    if any(target.address.is_unix for target in upstream.targets):
        yield "RP309", "error", (*at, "sources"), "a Unix socket has no local addresses", ""
    seen: set[str] = set()
    for number, source in enumerate(upstream.sources):
        if source.address in seen:
            message = f"{source.address} is there twice"
            yield "RP304", "error", (*at, "sources", number), message, "give it a greater weight"
        seen.add(source.address)


def _pool(config: Config, at: yaml.Path, route: Route) -> Iterator[Found]:
    if route.upstream != route.pool[0].upstream:
        yield "RP309", "error", (*at, "upstream"), "give upstream or pool, not both", ""
    if route.name is None:
        yield "RP102", "error", at, "key 'name' is missing", "a route with a pool has a name of its own"
    elif route.name in config.upstreams:
        message = f"an upstream is called '{route.name}'"
        yield "RP304", "error", (*at, "name"), message, "the pool needs a name of its own"
    members = [config.upstreams[one.upstream] for one in route.pool if one.upstream in config.upstreams]
    if len({one.protocol for one in members}) > 1:
        yield "RP309", "error", (*at, "pool"), "some are spoken to over SMTP, others over LMTP", ""
    if len({one.mx for one in members}) > 1:
        message = "some have mx: true, others an address"
        yield "RP309", "error", (*at, "pool"), message, "put those with an address into a route of their own"
    names = [one.upstream for one in route.pool]
    for number, name in enumerate(names):
        if name in names[:number]:
            message = f"'{name}' is there twice"
            yield "RP304", "error", (*at, "pool", number), message, "give it a greater weight"


def _shaping(config: Config) -> Iterator[Found]:
    names: set[str] = set()
    for number, shape in enumerate(config.bulk.shaping):
        at: yaml.Path = ("bulk", "shaping", number)
        if shape.name in names:
            yield "RP304", "error", (*at, "name"), f"two rules are called '{shape.name}'", ""
        names.add(shape.name)
        if not shape.domains and not shape.mx:
            yield "RP102", "error", at, "the rule names no destinations", "write domains: [...] or mx: [...]"
        if shape.rate and config.state is None and config.workers != 1:
            message = "each worker keeps to its part of the rate by itself"
            yield "RP310", "warning", (*at, "rate"), message, "add state"
    asked = any(upstream.mx for upstream in config.upstreams.values()) or any(_warmups(config))
    if config.bulk.shaping and not asked:
        message = "no upstream has mx: true, so no rule is ever asked"
        yield "RP309", "warning", ("bulk", "shaping"), message, "leave it out"


def _warmups(config: Config) -> Iterator[yaml.Path]:
    for name, upstream in config.upstreams.items():
        if upstream.warmup is not None:
            yield ("upstreams", name, "warmup")
        for number, source in enumerate(upstream.sources):
            if source.warmup is not None:
                yield ("upstreams", name, "sources", number, "warmup")


# -- on this machine ---------------------------------------------------------------------------------------------


def check_here(config: Config) -> Iterator[Found]:
    """Yield local addresses that aren't there, and rules that can't be read."""
    for name, upstream in config.upstreams.items():
        if upstream.source_address is not None:
            yield from _bound(upstream.source_address, ("upstreams", name, "source_address"))
        for number, source in enumerate(upstream.sources):
            yield from _bound(source.address, ("upstreams", name, "sources", number))
    if config.bulk.refusals is not None:
        try:
            rules_of(yaml.read_file(config.bulk.refusals))
        except OSError as error:
            reason = f"{config.bulk.refusals}: {error.strerror or 'unreadable'}"
            yield "RP501", "error", ("bulk", "refusals"), reason, ""
        except ValueError as error:
            yield "RP501", "error", ("bulk", "refusals"), str(error), ""


def _bound(address: str, at: yaml.Path) -> Iterator[Found]:
    """A warning, as the address may be on its way here: what can't be sent from it waits or goes from another."""
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.bind((address, 0))
    except OSError as error:
        message = f"{address} can't be sent from on this machine: {error.strerror or error}"
        yield "RP505", "warning", at, message, "ip address show"
