"""What is wrong with a configuration beyond its form: names that lead nowhere, orders that can't be, contradictions.

Yields (code, severity, path, message, hint). What would be dangerous is in `safety`, what is missing on disk in
`files`. Must not touch anything outside the values.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any, TypeAlias

from relayproxy.api import Plugin, Settings
from relayproxy.config import yaml
from relayproxy.config.models import Config, Listener, Route
from relayproxy.config.problems import Found, guesses
from relayproxy.config.safety import check_safety

Network: TypeAlias = IPv4Network | IPv6Network

ABSENCE = frozenset({"RP102", "RP309"})
"""Codes that say something is not there: not said where it is there and wrong."""

_LATER = "comes with a later version"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A plugin of the pipeline at its place; `settings` is None where its options are wrong."""

    number: int
    name: str
    plugin: type[Plugin[Any]]
    settings: Settings | None


def check_config(
    config: Config, chosen: Sequence[Chosen], raw: Mapping[str, Any], *, whole: bool
) -> Iterator[Found]:
    """Check what the models can't see: one part against another.

    `raw` has the names that are written, also of what could not be read. Without `whole`, some of the
    configuration is left out because it is wrong, and nothing is said about what is not there at all.
    """
    yield from _names(config, _named(raw, "listeners"), _keys(raw, "upstreams"))
    yield from _routes(config, whole=whole)
    yield from _later(config)
    for name, upstream in config.upstreams.items():
        yield from _upstream(name, upstream)
    for number, listener in enumerate(config.listeners):
        yield from _listener(number, listener)
    yield from _sizes(config)
    yield from _order(chosen)
    yield from check_safety(config, whole=whole)


def _keys(raw: Mapping[str, Any], key: str) -> list[str]:
    value = raw.get(key)
    return [str(name) for name in value] if isinstance(value, dict) else []


def _named(raw: Mapping[str, Any], key: str) -> list[str]:
    value = raw.get(key)
    items = value if isinstance(value, list) else ()
    return [item["name"] for item in items if isinstance(item, dict) and isinstance(item.get("name"), str)]


def _names(config: Config, listeners: Sequence[str], upstreams: Sequence[str]) -> Iterator[Found]:
    """Names that are used are defined, and once."""
    places: dict[str, str] = {}
    seen: set[str] = set()
    for number, listener in enumerate(config.listeners):
        if listener.name in seen:
            message = f"two listeners are called '{listener.name}'"
            yield "RP304", "error", ("listeners", number, "name"), message, ""
        seen.add(listener.name)
        place = str(listener.listen)
        if place in places and not place.endswith(":0"):
            message = f"listener '{places[place]}' has the same address"
            yield "RP304", "error", ("listeners", number, "listen"), message, ""
        places.setdefault(place, listener.name)
        asked = listener.auth.backend.upstream if listener.auth and listener.auth.backend else None
        if asked is not None and asked not in upstreams:
            yield _unknown_upstream(asked, upstreams, ("listeners", number, "auth", "backend", "upstream"))
    for number, entry in enumerate(config.pipeline):
        at: yaml.Path = ("pipeline", number, entry.name, "when", "listener")
        yield from _unknown_listeners(entry.when.listener if entry.when else (), listeners, at)
    labels: set[str] = set()
    for number, route in enumerate(config.routes):
        if route.upstream not in upstreams:
            yield _unknown_upstream(route.upstream, upstreams, ("routes", number, "upstream"))
        yield from _unknown_listeners(route.listeners, listeners, ("routes", number, "listeners"))
        if route.name is not None and route.name in labels:
            yield "RP304", "error", ("routes", number, "name"), f"two routes are called '{route.name}'", ""
        labels.add(route.label)


def _unknown_upstream(name: str, known: Sequence[str], at: yaml.Path) -> Found:
    return "RP301", "error", at, f"there is no upstream '{name}'", guesses(name, known)


def _unknown_listeners(names: Sequence[str], known: Sequence[str], at: yaml.Path) -> Iterator[Found]:
    for number, name in enumerate(names):
        if name not in known:
            yield "RP302", "error", (*at, number), f"there is no listener '{name}'", guesses(name, known)


def _routes(config: Config, *, whole: bool) -> Iterator[Found]:
    """Mail has somewhere to go, and every route can be taken."""
    if whole and not config.routes and len(config.upstreams) > 1:
        message = "there is more than one, and no route says which to use"
        yield "RP308", "error", ("upstreams",), message, "add routes: [{upstream: NAME}]"
    for number, route in enumerate(config.routes):
        for before, earlier in enumerate(config.routes[:number]):
            if _covers(earlier, route):
                message = f"routes[{before}] takes all that this one could"
                hint = "put it last" if earlier.is_catch_all else "put the narrower one first"
                yield "RP305", "warning", ("routes", number), message, hint
                break


def _covers(earlier: Route, later: Route) -> bool:
    """Whether every condition of the earlier route holds wherever those of the later one do."""
    return (
        _all_in(later.listeners, earlier.listeners)
        and _all_in(later.logins, earlier.logins)
        and _all_in(later.recipient_domains, earlier.recipient_domains)
        and _all_in(later.senders, earlier.senders)
        and (not earlier.networks or (bool(later.networks) and _within(later.networks, earlier.networks)))
    )


def _within(inner: Sequence[Network], outer: Sequence[Network]) -> bool:
    """Whether each inner network lies in one of the outer ones."""
    return all(
        any(one.network_address in net and one.prefixlen >= net.prefixlen for net in outer) for one in inner
    )


def _all_in(later: Sequence[str], earlier: Sequence[str]) -> bool:
    return not earlier or (bool(later) and set(later) <= set(earlier))


def _later(config: Config) -> Iterator[Found]:
    """Words that are part of the format and that this version can't act on."""
    for number, route in enumerate(config.routes):
        if route.delivery == "queue":
            at: yaml.Path = ("routes", number, "delivery")
            yield "RP307", "error", at, f"delivery: queue {_LATER}", "leave it out, or write pass-through"
    if config.rules:
        message = "the rule language comes with a later version"
        yield "RP307", "error", ("rules",), message, "write a plugin, or leave the list empty"
    if config.spool is not None:
        yield "RP307", "error", ("spool",), f"the spool {_LATER}", "leave it out"
    if config.state is not None:
        message = "nothing is kept there yet; counters and the ledger of hand-overs are in memory"
        yield "RP307", "warning", ("state",), message, "leave it out"
    for name, upstream in config.upstreams.items():
        if upstream.tls in ("dane", "mta-sts"):
            yield "RP307", "error", ("upstreams", name, "tls"), f"tls: {upstream.tls} {_LATER}", "use verify"
    for number, entry in enumerate(config.pipeline):
        if entry.on_error == "hold":
            at = ("pipeline", number, entry.name, "on_error")
            yield "RP307", "error", at, f"on_error: hold needs the spool, which {_LATER}", "use defer"


def _upstream(name: str, upstream: Any) -> Iterator[Found]:
    at: yaml.Path = ("upstreams", name)
    if not upstream.targets:
        yield "RP102", "error", at, "an address is missing", "write address: HOST:PORT"
    if upstream.address is not None and upstream.addresses:
        yield "RP309", "error", (*at, "addresses"), "give address or addresses, not both", ""
    if upstream.protocol == "lmtp" and upstream.tls in ("required", "verify"):
        message = "STARTTLS over LMTP is not spoken here"
        yield "RP309", "error", (*at, "tls"), message, "use off, or implicit"
    for one, other in (("login", "password"), ("password", "login"), ("client_key", "client_cert")):
        if getattr(upstream, one) is not None and getattr(upstream, other) is None:
            yield "RP309", "error", (*at, one), f"{one} without {other}", ""


def _listener(number: int, listener: Listener) -> Iterator[Found]:
    at: yaml.Path = ("listeners", number)
    tls = listener.tls
    for key in ("cert", "key"):
        if tls.mode != "off" and getattr(tls, key) is None:
            yield (
                "RP102",
                "error",
                (*at, "tls"),
                f"key '{key}' is missing",
                "write cert and key, or mode: off",
            )
            break
    if tls.mode == "off" and tls.required:
        yield "RP309", "error", (*at, "tls", "required"), "TLS is required but off", "write mode: starttls"
    if "bytes_in_flight" in listener.limits.model_fields_set:
        message = "this limit is for the whole process"
        yield (
            "RP309",
            "error",
            (*at, "limits", "bytes_in_flight"),
            message,
            "move it to the limits at the top",
        )


def _sizes(config: Config) -> Iterator[Found]:
    room = config.limits.bytes_in_flight
    own = "message_size" in config.limits.model_fields_set
    if config.limits.message_size > room:
        at: yaml.Path = ("limits", "message_size" if own else "bytes_in_flight")
        yield "RP309", "error", at, "the largest message would never fit into bytes_in_flight", ""
    for number, listener in enumerate(config.listeners):
        if "message_size" in listener.limits.model_fields_set and listener.limits.message_size > room:
            at = ("listeners", number, "limits", "message_size")
            yield "RP309", "error", at, "the largest message would never fit into bytes_in_flight", ""


def _order(chosen: Sequence[Chosen]) -> Iterator[Found]:
    places = {entry.name: entry.number for entry in chosen}
    for entry in chosen:
        for needed in entry.plugin.after or ():
            if places.get(needed, -1) > entry.number:
                message = f"'{entry.name}' reads what '{needed}' finds, which comes later"
                yield "RP306", "error", ("pipeline", entry.number), message, f"put '{needed}' before it"
