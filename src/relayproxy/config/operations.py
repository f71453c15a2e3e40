"""What runs beside the mail: DNS, metrics, logs, the control socket, the databases."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from relayproxy.config.base import Model, quoted, refusal
from relayproxy.config.databases import (
    is_postgres,
    is_sqlite,
    postgres_places,
    sqlite_path,
    without_login,
)
from relayproxy.config.quantities import Duration, Grace, Size
from relayproxy.config.values import Endpoint, FilePath, NameServer, parse_endpoint
from relayproxy.secrets import SecretRef

_SERVER_PORT = 6379


class Dns(Model):
    """How names are looked up."""

    servers: tuple[NameServer, ...] = ()
    """Name servers, `address` or `address:port`. Empty: the system's."""
    timeout: Duration = 5.0
    """How long one question may take, with all its retries."""
    cache_size: int = Field(default=10_000, ge=0)
    """Answers that are kept, for each worker."""
    queries_per_message: int = Field(default=100, ge=1)
    """Questions that one message may cause."""


def _metrics_listen(value: Any) -> Any:
    from_text = None if value in ("off", None) else value
    if from_text is None or isinstance(from_text, Endpoint):
        return from_text
    return _endpoint(from_text)


def _endpoint(value: Any) -> Endpoint:
    return parse_endpoint(value, lowest_port=0)


MetricsListen: TypeAlias = Annotated[
    Endpoint | None,
    PlainValidator(_metrics_listen),
    PlainSerializer(lambda place: str(place) if place else "off", return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:9090", "off"], "title": "address or off"}),
]


class Metrics(Model):
    """Prometheus metrics, `/livez` and `/readyz` over HTTP, without a password."""

    listen: MetricsListen = Endpoint("127.0.0.1", 9090)
    """`host:port`, or `off`."""


class Log(Model):
    """The log, on standard error."""

    format: Literal["auto", "json", "human"] = "auto"
    """`auto`: human on a terminal, JSON otherwise."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe event that is logged. One summary of each message is `info`."""
    privacy: Literal["full", "mask", "hash"] = "full"
    """How addresses are logged: as they are, with the local part masked, or hashed."""


class Control(Model):
    """The socket through which `status` and `reload` speak to the running proxy."""

    socket: FilePath | None = None
    """Left out: `control.sock` in $RUNTIME_DIRECTORY, or /run/relayproxy (root), or $XDG_RUNTIME_DIR."""


_SERVERS = {"valkey": "redis", "valkeys": "rediss", "redis": "redis", "rediss": "rediss"}
_SERVER_URL = re.compile(r"(?P<kind>[a-z]+)://(?P<place>[^/@?#]+)(?:/(?P<number>[0-9]{1,4}))?/?\Z")


def _state_url(url: str) -> str:
    if is_sqlite(without_login(url)):
        return url
    found = _SERVER_URL.match(url)
    if not found or found["kind"] not in _SERVERS:
        raise refusal(
            "RP212",
            f"{quoted(url)} is not a database that is known",
            "write sqlite:///var/lib/relayproxy/state.db, or valkey://127.0.0.1:6379",
        )
    parse_endpoint(found["place"], default_port=_SERVER_PORT)
    return url


class State(Model):
    """What plugins remember for all workers: counters, limits, who was seen when. Losing it never loses mail."""

    url: Annotated[str, AfterValidator(_state_url)]
    """`sqlite:///path` (absolute) on one machine, or `valkey://host:port/number` for several; `valkeys://` is with
    TLS, and `redis://` and `rediss://` are understood too."""
    login: str | None = None
    """The user name at the server."""
    password: SecretRef | None = None
    """Its password."""
    timeout: Duration = 2.0
    """How long one call may take."""

    @property
    def path(self) -> Path | None:
        """The file; None where it is a server."""
        if not self.url.startswith("sqlite:"):
            return None
        return sqlite_path(self.url)

    @property
    def server(self) -> str:
        """The URL of the server in the words of its library."""
        kind, _, rest = self.url.partition("://")
        return f"{_SERVERS[kind]}://{rest}"


def _spool_url(url: str) -> str:
    if is_postgres(without_login(url)):
        postgres_places(url)
    elif not is_sqlite(url):
        raise refusal(
            "RP212",
            f"{quoted(url)} is not a database that is known",
            "write sqlite:///var/spool/relayproxy/spool.db, or postgresql://HOST:PORT/DATABASE",
        )
    return url


class Postgres(Model):
    """A database in a file, or at a PostgreSQL server with what a login there takes."""

    url: Annotated[str, AfterValidator(_spool_url)]
    """`sqlite:///path` (absolute) on one machine, or `postgresql://host:port/database` for several; hosts may be a
    list with commas, of which the one that takes writes is used."""
    login: str | None = None
    """The user name at the PostgreSQL server."""
    password: SecretRef | None = None
    """Its password."""
    tls: Literal["off", "opportunistic", "required", "verify"] = "opportunistic"
    """Encryption towards the PostgreSQL server; `verify` checks its certificate and name."""
    ca: FilePath | None = None
    """Certificates that `verify` trusts, PEM; left out: the system's."""

    @property
    def path(self) -> Path | None:
        """The file; None where it is a server."""
        return None if is_postgres(self.url) else sqlite_path(self.url)


class Spool(Postgres):
    """Where queued and held messages are kept. The folder of a file is the proxy's own, with contents of large messages."""

    min_free: Size = 200_000_000
    """Octets that must be free on the file's file system; below that, clients hear 452."""
    min_free_inodes: int = Field(default=1000, ge=0)
    """Inodes that must be free there."""
    keep_held: Grace = 30 * 86_400.0
    """How long held messages wait for a decision; then they are deleted, and logged. `0s`: for ever."""
