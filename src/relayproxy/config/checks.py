"""What is wrong with a configuration beyond its form: names that lead nowhere, orders that can't be, open doors.

Yields (code, severity, path, message, hint). The files that it names are looked at in `check_files` only.
"""

import datetime as dt
import ssl
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, TypeAlias

from relayproxy.api import Plugin
from relayproxy.config import yaml
from relayproxy.config.models import Config, Listener, PipelineEntry
from relayproxy.config.problems import guesses
from relayproxy.config.secrets import SecretError

Found: TypeAlias = tuple[str, str, yaml.Path, str, str]

_LATER = "comes with a later version"
_WIDE_V4, _WIDE_V6 = 7, 24
_SOON_DAYS = 14


def check_config(
    config: Config, choices: Sequence[tuple[PipelineEntry, type[Plugin[Any]], Any]]
) -> Iterator[Found]:
    """Check what the models can't see: one part against another."""
    yield from _names(config)
    yield from _routes(config)
    yield from _later(config)
    yield from _upstreams(config)
    yield from _order(config, choices)
    yield from _doors(config)


def _names(config: Config) -> Iterator[Found]:
    listeners = [listener.name for listener in config.listeners]
    addresses: dict[str, str] = {}
    for number, listener in enumerate(config.listeners):
        if listener.name in listeners[:number]:
            yield (
                "RP304",
                "error",
                ("listeners", number, "name"),
                f"two listeners are called '{listener.name}'",
                "",
            )
        place = str(listener.listen)
        if place in addresses and not place.endswith(":0"):
            yield (
                "RP304",
                "error",
                ("listeners", number, "listen"),
                f"listener '{addresses[place]}' has the same address",
                "",
            )
        addresses[place] = listener.name
        backend = listener.auth.backend if listener.auth else None
        if backend and backend.upstream and backend.upstream not in config.upstreams:
            at: yaml.Path = ("listeners", number, "auth", "backend", "upstream")
            yield (
                "RP301",
                "error",
                at,
                f"there is no upstream '{backend.upstream}'",
                guesses(backend.upstream, config.upstreams),
            )
    for number, entry in enumerate(config.pipeline):
        for name in entry.when.listener if entry.when else ():
            if name not in listeners:
                at = ("pipeline", number, entry.name, "when", "listener")
                yield "RP302", "error", at, f"there is no listener '{name}'", guesses(name, listeners)
    for number, route in enumerate(config.routes):
        if route.upstream not in config.upstreams:
            at = ("routes", number, "upstream")
            yield (
                "RP301",
                "error",
                at,
                f"there is no upstream '{route.upstream}'",
                guesses(route.upstream, config.upstreams),
            )
        for name in route.listeners:
            if name not in listeners:
                yield (
                    "RP302",
                    "error",
                    ("routes", number, "listeners"),
                    f"there is no listener '{name}'",
                    guesses(name, listeners),
                )


def _routes(config: Config) -> Iterator[Found]:
    if not config.routes and len(config.upstreams) > 1:
        yield (
            "RP308",
            "error",
            ("upstreams",),
            "with more than one upstream, routes say which to use",
            "add routes: [{upstream: NAME}]",
        )
    for number, route in enumerate(config.routes):
        if route.is_catch_all and number + 1 < len(config.routes):
            yield (
                "RP305",
                "warning",
                ("routes", number + 1),
                f"route {number + 1} takes everything before this one",
                "put it last",
            )
            return


def _later(config: Config) -> Iterator[Found]:
    for number, route in enumerate(config.routes):
        if route.delivery == "queue":
            yield (
                "RP307",
                "error",
                ("routes", number, "delivery"),
                f"delivery: queue {_LATER}",
                "leave it out, or write pass-through",
            )
    if config.rules:
        yield "RP307", "error", ("rules",), f"rules {_pl(_LATER)}", "write a plugin, or leave the list empty"
    if config.spool is not None:
        yield "RP307", "error", ("spool",), f"the spool {_LATER}", "leave it out"
    for name, upstream in config.upstreams.items():
        if upstream.tls in ("dane", "mta-sts"):
            yield "RP307", "error", ("upstreams", name, "tls"), f"tls: {upstream.tls} {_LATER}", "use verify"
    for number, entry in enumerate(config.pipeline):
        if entry.on_error == "hold":
            yield (
                "RP307",
                "error",
                ("pipeline", number, entry.name, "on_error"),
                f"on_error: hold {_LATER}",
                "use defer",
            )


def _pl(text: str) -> str:
    return text.replace("comes", "come", 1)


def _upstreams(config: Config) -> Iterator[Found]:
    for name, upstream in config.upstreams.items():
        at: yaml.Path = ("upstreams", name)
        if not upstream.targets:
            yield "RP102", "error", at, "an upstream needs an address", "write address: HOST:PORT"
        if upstream.address is not None and upstream.addresses:
            yield "RP309", "error", (*at, "addresses"), "give address or addresses, not both", ""
        starts = upstream.tls in ("required", "verify")
        if upstream.protocol == "lmtp" and starts:
            yield (
                "RP309",
                "error",
                (*at, "tls"),
                "STARTTLS over LMTP is not spoken here",
                "use off, or implicit",
            )
        if (upstream.login is None) != (upstream.password is None):
            yield "RP309", "error", at, "login and password belong together", ""
        local = all(target.address.is_loopback for target in upstream.targets)
        if upstream.login and upstream.tls not in ("verify", "implicit") and not local:
            yield (
                "RP703",
                "error",
                (*at, "login"),
                "a password would go to whoever answers",
                "use tls: verify, or implicit",
            )
        if (upstream.client_cert is None) != (
            upstream.client_key is None
        ) and upstream.client_key is not None:
            yield "RP309", "error", (*at, "client_key"), "client_key without client_cert", ""
    for number, listener in enumerate(config.listeners):
        tls = listener.tls
        if tls.mode != "off" and (tls.cert is None or tls.key is None):
            missing = "cert" if tls.cert is None else "key"
            yield (
                "RP102",
                "error",
                ("listeners", number, "tls"),
                f"TLS needs '{missing}'",
                "write cert and key, or mode: off",
            )
        if tls.mode == "off" and tls.required:
            yield "RP309", "error", ("listeners", number, "tls", "required"), "TLS is required but off", ""


def _order(
    config: Config, choices: Sequence[tuple[PipelineEntry, type[Plugin[Any]], Any]]
) -> Iterator[Found]:
    places = {entry.name: number for number, entry in enumerate(config.pipeline)}
    for entry, cls, _ in choices:
        for needed in cls.after or ():
            if needed in places and places[needed] > places[entry.name]:
                at: yaml.Path = ("pipeline", places[entry.name])
                yield (
                    "RP306",
                    "error",
                    at,
                    f"'{entry.name}' reads what '{needed}' finds, which comes later",
                    f"put '{needed}' before it",
                )


def _wide(networks: Iterable[Any]) -> Iterator[Any]:
    for network in networks:
        limit = _WIDE_V4 if isinstance(network, IPv4Network) else _WIDE_V6
        if network.prefixlen <= limit:
            yield network


def _doors(config: Config) -> Iterator[Found]:
    for network in _wide(config.relay.networks):
        if network.prefixlen == 0:
            yield (
                "RP701",
                "warning",
                ("relay", "networks"),
                f"{network} makes this an open relay",
                "list your own networks only",
            )
        else:
            yield (
                "RP702",
                "warning",
                ("relay", "networks"),
                f"{network} lets very many clients relay",
                "list your own networks only",
            )
    for number, listener in enumerate(config.listeners):
        yield from _listener_doors(number, listener)
    for domain in config.relay.domains:
        if _is_public(domain.removeprefix(".")):
            yield (
                "RP705",
                "warning",
                ("relay", "domains"),
                f"'{domain}' is not one organisation's domain",
                "list your own domains",
            )
    metrics = config.metrics.listen
    if metrics is not None and not metrics.is_loopback:
        yield (
            "RP704",
            "warning",
            ("metrics", "listen"),
            "the monitoring port has no password",
            "listen on 127.0.0.1",
        )


def _listener_doors(number: int, listener: Listener) -> Iterator[Found]:
    for key in ("xclient", "xforward", "proxy_protocol"):
        for network in _wide(getattr(listener, key).networks):
            at: yaml.Path = ("listeners", number, key, "networks")
            yield "RP702", "warning", at, f"{network} may speak for any client", "list your own proxies only"
    auth = listener.auth
    if auth and not auth.require_tls and not listener.listen.is_loopback:
        yield (
            "RP703",
            "warning",
            ("listeners", number, "auth", "require_tls"),
            "passwords may come unencrypted",
            "write require_tls: true",
        )
    if auth and auth.require_tls and listener.tls.mode == "off":
        yield (
            "RP703",
            "warning",
            ("listeners", number, "auth"),
            "AUTH is offered only over TLS, which is off here",
            "configure tls",
        )


def _is_public(domain: str) -> bool:
    if "." not in domain:
        return True
    from publicsuffixlist import PublicSuffixList

    return bool(PublicSuffixList().is_public(domain))


def check_files(config: Config, folder: Path) -> Iterator[Found]:
    """Look at the files that a configuration names."""
    for number, listener in enumerate(config.listeners):
        tls = listener.tls
        if tls.mode != "off" and tls.cert is not None and tls.key is not None:
            yield from _pair(tls.cert, tls.key, ("listeners", number, "tls"))
        if tls.client_ca is not None:
            yield from _readable(tls.client_ca, ("listeners", number, "tls", "client_ca"))
        backend = listener.auth.backend if listener.auth else None
        if backend is not None and backend.file is not None:
            yield from _passwords(backend.file, ("listeners", number, "auth", "backend"))
    for name, upstream in config.upstreams.items():
        if upstream.ca is not None:
            yield from _readable(upstream.ca, ("upstreams", name, "ca"))
        if upstream.client_cert is not None:
            yield from _pair(
                upstream.client_cert,
                upstream.client_key or upstream.client_cert,
                ("upstreams", name, "client_cert"),
            )
        if upstream.password is not None:
            try:
                upstream.password.reveal()
            except SecretError as error:
                yield "RP121", "error", ("upstreams", name, "password"), str(error), ""
    if not folder.is_dir():
        yield "RP108", "error", (), f"the folder {folder} is not there", ""


def _readable(path: Path, at: yaml.Path) -> Iterator[Found]:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        yield "RP501", "error", at, f"{path}: {error.strerror}", ""


def _pair(cert: Path, key: Path, at: yaml.Path) -> Iterator[Found]:
    from cryptography import x509

    try:
        if key.stat().st_mode & 0o007:
            yield "RP502", "warning", at, f"{key} can be read by everybody", f"chmod o= {key}"
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
        end = x509.load_pem_x509_certificates(cert.read_bytes())[0].not_valid_after_utc
    except ssl.SSLError as error:
        reason = (
            "certificate and key don't belong together"
            if "MISMATCH" in str(error)
            else "not usable PEM files"
        )
        yield "RP501", "error", at, f"{cert}, {key}: {reason}", ""
    except (OSError, ValueError) as error:
        name = getattr(error, "filename", None) or cert
        yield "RP501", "error", at, f"{name}: {getattr(error, 'strerror', None) or 'not usable'}", ""
    else:
        left = end - dt.datetime.now(dt.UTC)
        if left.days < _SOON_DAYS:
            when = "has ended" if left.total_seconds() < 0 else f"ends in {left.days} days"
            yield "RP503", "warning", at, f"the certificate in {cert} {when}", "renew it"


def _passwords(path: Path, at: yaml.Path) -> Iterator[Found]:
    try:
        if path.stat().st_mode & 0o007:
            yield "RP502", "warning", at, f"{path} can be read by everybody", f"chmod o= {path}"
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            _, colon, hashed = line.strip().partition(":")
            if line.strip() and not line.startswith("#") and not (colon and hashed.startswith("$")):
                yield (
                    "RP504",
                    "error",
                    at,
                    f"{path}:{number}: wanted login:hash",
                    "hashes are of argon2 or bcrypt",
                )
    except (OSError, UnicodeDecodeError) as error:
        yield "RP504", "error", at, f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}", ""
