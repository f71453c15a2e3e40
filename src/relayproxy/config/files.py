"""The files that a configuration names: there, readable by us and by nobody else, and what they should be.

A step of its own, so that a configuration can be read on a machine that has none of them.
"""

import datetime as dt
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from relayproxy.config import yaml
from relayproxy.config.models import Config, Secret, SecretError
from relayproxy.config.problems import Found

_SOON_DAYS = 14


def check_files(config: Config) -> Iterator[Found]:
    """Yield what is wrong with the files that are named."""
    for number, listener in enumerate(config.listeners):
        at: yaml.Path = ("listeners", number)
        tls = listener.tls
        if tls.mode != "off" and tls.cert is not None and tls.key is not None:
            yield from _pair(tls.cert, tls.key, (*at, "tls", "cert"), (*at, "tls", "key"))
        if tls.client_ca is not None:
            yield from _authorities(tls.client_ca, (*at, "tls", "client_ca"))
        backend = listener.auth.backend if listener.auth else None
        if backend is not None and backend.file is not None:
            yield from _passwords(backend.file, (*at, "auth", "backend"))
        if listener.listen.is_unix:
            yield from _folder(Path(listener.listen.path).parent, (*at, "listen"))
    for name, upstream in config.upstreams.items():
        at = ("upstreams", name)
        if upstream.ca is not None:
            yield from _authorities(upstream.ca, (*at, "ca"))
        if upstream.client_cert is not None:
            key = upstream.client_key or upstream.client_cert
            yield from _pair(upstream.client_cert, key, (*at, "client_cert"), (*at, "client_key"))
        if upstream.password is not None:
            yield from check_secrets(upstream.password, (*at, "password"))
    yield from _databases(config)
    if config.control.socket is not None:
        yield from _folder(config.control.socket.parent, ("control", "socket"))


def _databases(config: Config) -> Iterator[Found]:
    if config.state is not None:
        if config.state.path is not None:
            yield from _folder(config.state.path.parent, ("state", "url"))
        if config.state.password is not None:
            yield from check_secrets(config.state.password, ("state", "password"))
    for name, database in (("spool", config.spool), ("history", config.history)):
        if database is not None and database.ca is not None:
            yield from _authorities(database.ca, (name, "ca"))
        if database is not None and database.password is not None:
            yield from check_secrets(database.password, (name, "password"))
    if config.history is not None and config.history.path is not None:
        yield from _folder(config.history.path.parent, ("history", "url"))


def check_secrets(settings: object, at: yaml.Path) -> Iterator[Found]:
    """Yield the secrets of a plugin's settings that can't be read; `at` is where the settings stand."""
    match settings:
        case Secret():
            try:
                settings.reveal()
            except SecretError as error:
                yield "RP121", "error", at, str(error), ""
        case BaseModel():
            for name in type(settings).model_fields:
                yield from check_secrets(getattr(settings, name), (*at, name))
        case tuple() | list():
            for number, item in enumerate(settings):
                yield from check_secrets(item, (*at, number))
        case dict():
            for key, item in settings.items():
                yield from check_secrets(item, (*at, key))


def _folder(path: Path, at: yaml.Path) -> Iterator[Found]:
    try:
        there = path.is_dir()
    except OSError as error:
        yield "RP501", "error", at, f"{path}: {error.strerror or 'unreadable'}", ""
        return
    if not there:
        yield "RP501", "error", at, f"the folder {path} is not there", f"mkdir -p {path}"


def _authorities(path: Path, at: yaml.Path) -> Iterator[Found]:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        yield "RP501", "error", at, f"{path}: no CA certificate in PEM form", ""
    except OSError as error:
        yield "RP501", "error", at, f"{path}: {error.strerror or 'unreadable'}", ""


def _pair(cert: Path, key: Path, at_cert: yaml.Path, at_key: yaml.Path) -> Iterator[Found]:
    """Check a certificate with its key: each is there and in PEM form, they fit, and time is left."""
    missing = False
    for path, at in ((cert, at_cert), (key, at_key)):
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            missing = True
            yield "RP501", "error", at, f"{path}: {error.strerror or 'unreadable'}", ""
            if cert == key:
                break
    if missing:
        return
    yield from _guarded(key, at_key)
    try:
        end = _end_of(cert)
    except ValueError:
        yield "RP501", "error", at_cert, f"{cert}: no certificate in PEM form", ""
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        fits = "MISMATCH" not in str(error.reason)
        message = "no usable private key in PEM form" if fits else f"the key doesn't belong to {cert}"
        yield "RP501", "error", at_key, f"{key}: {message}", ""
        return
    left = end - dt.datetime.now(dt.UTC)
    if left.total_seconds() < 0:
        yield "RP503", "warning", at_cert, f"the certificate in {cert} has ended", "renew it"
    elif left.days < _SOON_DAYS:
        yield "RP503", "warning", at_cert, f"the certificate in {cert} ends in {left.days} days", "renew it"


def _end_of(cert: Path) -> dt.datetime:
    """Return when a certificate ends. Raises ValueError for what is no certificate."""
    from cryptography import x509  # noqa: PLC0415  (only `check` looks at files)

    return x509.load_pem_x509_certificates(cert.read_bytes())[0].not_valid_after_utc


def _guarded(path: Path, at: yaml.Path) -> Iterator[Found]:
    if stat.S_IMODE(path.stat().st_mode) & 0o007:
        yield "RP502", "warning", at, f"{path} can be read by everybody", f"chmod o= {path}"


def _passwords(path: Path, at: yaml.Path) -> Iterator[Found]:
    try:
        lines = path.read_text("utf-8").splitlines()
        yield from _guarded(path, at)
    except (OSError, UnicodeDecodeError) as error:
        yield "RP504", "error", at, f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}", ""
        return
    for number, line in enumerate(lines, 1):
        _, colon, hashed = line.strip().partition(":")
        if line.strip() and not line.startswith("#") and not (colon and hashed.startswith("$")):
            yield (
                "RP504",
                "error",
                at,
                f"{path}:{number}: wanted login:hash",
                "hashes are of argon2 or bcrypt",
            )
