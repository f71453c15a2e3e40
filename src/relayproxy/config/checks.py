"""What is wrong with a configuration beyond its form: names that lead nowhere, orders that can't be, contradictions.

Yields (code, severity, path, message, hint). What would be dangerous is in `safety`, what is missing on disk in
`files`. Must not touch anything outside the values.
"""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relayproxy.api import Plugin, Settings
from relayproxy.config import yaml
from relayproxy.config.models import Config, Listener, Queue
from relayproxy.config.operations import Postgres
from relayproxy.config.problems import Found, guesses
from relayproxy.config.reach import unreachable
from relayproxy.config.safety import check_safety
from relayproxy.config.values import is_ip

ABSENCE = frozenset({"RP102", "RP309"})
"""Codes that say something is not there: not said where it is there and wrong."""

_SPOOL = 'add spool: {url: "sqlite:///var/spool/relayproxy/spool.db"}'
_MOST_GUESSES = 50  # each compares a word with every name there is


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
    yield from _names(config, named(raw, "listeners"), _keys(raw, "upstreams"))
    yield from _routes(config, whole=whole)
    yield from _reports(config)
    yield from _queue(config)
    for name, upstream in config.upstreams.items():
        yield from _upstream(name, upstream)
    for number, listener in enumerate(config.listeners):
        yield from _listener(number, listener)
    yield from _sizes(config)
    yield from _order(chosen)
    yield from _state(config, chosen)
    yield from check_safety(config, whole=whole)


def _keys(raw: Mapping[str, Any], key: str) -> list[str]:
    value = raw.get(key)
    return [str(name) for name in value] if isinstance(value, dict) else []


def named(raw: Mapping[str, Any], key: str) -> list[str]:
    """Return the names that the elements of a list are given, also of what can't be read otherwise."""
    value = raw.get(key)
    items = value if isinstance(value, list) else ()
    return [item["name"] for item in items if isinstance(item, dict) and isinstance(item.get("name"), str)]


def _names(config: Config, listeners: Sequence[str], upstreams: Sequence[str]) -> Iterator[Found]:
    """Names that are used are defined, and once."""
    unknown = _Unknown(listeners, upstreams)
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
        if asked is not None:
            yield from unknown.upstream(asked, ("listeners", number, "auth", "backend", "upstream"))
    for number, entry in enumerate(config.pipeline):
        at: yaml.Path = ("pipeline", number, entry.name, "when", "listener")
        yield from unknown.listeners(entry.when.listener if entry.when else (), at)
    labels: set[str] = set()
    for number, route in enumerate(config.routes):
        yield from unknown.upstream(route.upstream, ("routes", number, "upstream"))
        yield from unknown.listeners(route.listeners, ("routes", number, "listeners"))
        if route.name is not None and route.name in labels:
            yield "RP304", "error", ("routes", number, "name"), f"two routes are called '{route.name}'", ""
        labels.add(route.label)


class _Unknown:
    """Finds names that lead nowhere; only the first of very many come with a guess."""

    def __init__(self, listeners: Sequence[str], upstreams: Sequence[str]) -> None:
        self._listeners, self._upstreams = frozenset(listeners), frozenset(upstreams)
        self._guessed = 0

    def upstream(self, name: str, at: yaml.Path) -> Iterator[Found]:
        if name not in self._upstreams:
            hint = self._guess(name, self._upstreams)
            yield "RP301", "error", at, f"there is no upstream '{name}'", hint

    def listeners(self, names: Sequence[str], at: yaml.Path) -> Iterator[Found]:
        for number, name in enumerate(names):
            if name not in self._listeners:
                hint = self._guess(name, self._listeners)
                yield "RP302", "error", (*at, number), f"there is no listener '{name}'", hint

    def _guess(self, name: str, known: frozenset[str]) -> str:
        self._guessed += 1
        return guesses(name, known) if self._guessed <= _MOST_GUESSES else ""


def _routes(config: Config, *, whole: bool) -> Iterator[Found]:
    """Mail has somewhere to go, and every route can be taken."""
    if whole and not config.routes and len(config.upstreams) > 1:
        message = "there is more than one, and no route says which to use"
        yield "RP308", "error", ("upstreams",), message, "add routes: [{upstream: NAME}]"
    for number, before in unreachable(config.routes):
        message = f"routes[{before}] takes all that this one could"
        hint = "put it last" if config.routes[before].is_catch_all else "put the narrower one first"
        yield "RP305", "warning", ("routes", number), message, hint


def _reports(config: Config) -> Iterator[Found]:
    """Reports are made from the history, and from what dmarc finds."""
    if config.history is not None:
        yield from _database("history", config.history)
    for name, wanted in (("dmarc_reports", config.dmarc_reports), ("tls_reports", config.tls_reports)):
        if wanted is not None and config.history is None:
            message = "reports are made from the history, and there is none"
            yield "RP309", "error", (name,), message, "add history: {url: sqlite:///...}"
    found = any(entry.name == "dmarc" for entry in config.pipeline)
    if config.dmarc_reports is not None and config.history is not None and not found:
        message = "reports are made of what the dmarc plugin finds, and it is not in the pipeline"
        yield "RP309", "warning", ("dmarc_reports",), message, "add spf, dkim_verify and dmarc"


def _queue(config: Config) -> Iterator[Found]:
    """What queues has a spool, and routes of one name queue alike."""
    queues: dict[str, Queue] = {}
    for number, route in enumerate(config.table):
        at: yaml.Path = ("routes", number) if config.routes else ("upstreams", route.upstream)
        upstream = config.upstreams.get(route.upstream)
        if upstream is not None and upstream.mx and route.delivery != "queue":
            message = f"'{route.upstream}' has mx: true, which only the queue can serve"
            yield (
                "RP309",
                "error",
                (*at, "delivery" if "delivery" in route.model_fields_set else "upstream"),
                message,
                "write delivery: queue",
            )
        for key in ("delivery", "when_down"):
            if getattr(route, key) == "queue" and config.spool is None:
                yield "RP309", "error", (*at, key), f"{key}: queue needs a spool", _SPOOL
        alike = route.queue.model_copy(update={"priority": "normal"})
        if queues.setdefault(route.label, alike) != alike:
            message = f"another route is called '{route.label}' and queues otherwise"
            yield "RP309", "error", (*at, "queue"), message, "give it a name"
    if config.spool is not None:
        yield from _database("spool", config.spool)
    for number, entry in enumerate(config.pipeline):
        if entry.on_error == "hold" and config.spool is None:
            at = ("pipeline", number, entry.name, "on_error")
            yield "RP309", "error", at, "on_error: hold needs a spool", _SPOOL


def _database(name: str, database: Postgres) -> Iterator[Found]:
    """A server has its library, and what only a server has is given for a server."""
    if database.path is None:
        if importlib.util.find_spec("psycopg") is None:
            message = "the Python package 'psycopg' is not installed"
            yield "RP212", "error", (name, "url"), message, "pip install 'relayproxy[postgres]'"
        if database.ca is not None and database.tls != "verify":
            yield (
                "RP309",
                "error",
                (name, "ca"),
                "ca is looked at with tls: verify only",
                "write tls: verify",
            )
        return
    for key in ("login", "password", "tls", "ca"):
        if getattr(database, key) != Postgres.model_fields[key].default:
            yield "RP309", "error", (name, key), f"a file has no {key}", "write it for a PostgreSQL server"


def _state(config: Config, chosen: Sequence[Chosen]) -> Iterator[Found]:
    """What plugins remember is kept somewhere, by something that is there."""
    users = [
        entry for entry in chosen if entry.settings is not None and entry.plugin.keeps_state(entry.settings)
    ]
    if config.state is None:
        for entry in users:
            message = (
                f"each worker keeps what '{entry.name}' remembers to itself, and forgets it when it ends"
            )
            hint = "add state: {url: sqlite:///var/lib/relayproxy/state.db}"
            yield "RP310", "warning", ("pipeline", entry.number), message, hint
    elif config.state.path is None and importlib.util.find_spec("redis") is None:
        message = "the Python package 'redis' is not installed"
        yield "RP212", "error", ("state", "url"), message, "pip install 'relayproxy[redis]'"
    elif config.state.path is not None and (config.state.login or config.state.password):
        yield "RP309", "error", ("state", "url"), "a file has neither login nor password", ""


def _upstream(name: str, upstream: Any) -> Iterator[Found]:
    at: yaml.Path = ("upstreams", name)
    if upstream.mx:
        for key in ("address", "addresses"):
            if getattr(upstream, key):
                yield (
                    "RP309",
                    "error",
                    (*at, key),
                    "mx: true finds the addresses itself",
                    "leave one of them out",
                )
        if upstream.protocol != "smtp" or upstream.tls not in ("off", "opportunistic", "required"):
            key = "protocol" if upstream.protocol != "smtp" else "tls"
            message = f"{key} {getattr(upstream, key)} does not go with mx: true"
            yield "RP309", "error", (*at, key), message, ""
        for key in ("login", "client_cert"):
            if getattr(upstream, key) is not None:
                yield "RP309", "error", (*at, key), f"{key} would be shown to strangers under mx: true", ""
    elif not upstream.targets:
        yield "RP102", "error", at, "an address is missing", "write address: HOST:PORT"
    if upstream.address is not None and upstream.addresses:
        yield "RP309", "error", (*at, "addresses"), "give address or addresses, not both", ""
    if upstream.tls in ("dane", "mta-sts"):
        for target in upstream.targets:
            if target.address.is_unix or is_ip(target.address.host):
                message = f"tls: {upstream.tls} needs the name of a host, and {target.address} has none"
                yield "RP309", "error", (*at, "tls"), message, "write the name in the address, or tls: verify"
    if upstream.policy_domain is not None and upstream.tls != "mta-sts":
        message = "policy_domain is of no use without tls: mta-sts"
        yield "RP309", "error", (*at, "policy_domain"), message, "leave it out"
    if upstream.protocol == "lmtp" and upstream.login is not None:
        message = "a login over LMTP is not spoken here"
        yield "RP309", "error", (*at, "login"), message, "leave it out, or use protocol: smtp"
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
    needs = {entry.name: [name for name in entry.plugin.after or () if name in places] for entry in chosen}
    reached = {name: _reached(needs, name) for name in needs}
    said: set[str] = set()
    for entry in chosen:
        circle = {name for name in reached[entry.name] if entry.name in reached[name]}
        if circle:
            if entry.name not in said:
                others = ", ".join(f"'{name}'" for name in sorted(circle - {entry.name}))
                message = f"'{entry.name}' reads what it finds itself" + (
                    f", through {others}" if others else ""
                )
                hint = "no order helps: `after` goes round in a circle"
                yield "RP306", "error", ("pipeline", entry.number), message, hint
            said |= circle
            continue
        for needed in needs[entry.name]:
            if places[needed] > entry.number:
                message = f"'{entry.name}' reads what '{needed}' finds, which comes later"
                yield "RP306", "error", ("pipeline", entry.number), message, f"put '{needed}' before it"


def _reached(needs: Mapping[str, Sequence[str]], start: str) -> set[str]:
    """Return what a plugin needs, directly or through others."""
    found: set[str] = set()
    todo = list(needs[start])
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo.extend(needs[name])
    return found
