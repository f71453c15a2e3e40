"""What runs beside the mail: DNS, metrics, logs, the control socket, the databases."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import unquote

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from relayproxy.config.base import Model, quoted, refusal
from relayproxy.config.quantities import Duration, Size
from relayproxy.config.values import Endpoint, FilePath, NameServer, parse_endpoint


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


def _sqlite(url: str) -> str:
    if not url.startswith("sqlite:///") or url.endswith("/") or "?" in url:
        raise refusal(
            "RP212",
            f"{quoted(url)} is not a database that is known",
            "write sqlite:///FOLDER/FILE, such as sqlite:///var/lib/relayproxy/state.db",
        )
    return url


class State(Model):
    """Where counters are kept. Comes with a later version; the ledger of hand-overs is in shared memory."""

    url: Annotated[str, AfterValidator(_sqlite)]
    """`sqlite:///path`; the path is absolute."""

    @property
    def path(self) -> Path:
        """The file."""
        return Path("/" + unquote(self.url.removeprefix("sqlite://")).lstrip("/"))


class Spool(Model):
    """Where queued and held messages are kept. Its folder is the proxy's own; contents of large messages are there too."""

    url: Annotated[str, AfterValidator(_sqlite)]
    """`sqlite:///path`; the path is absolute."""
    min_free: Size = 200_000_000
    """Octets that must be free on its file system; below that, clients hear 452."""
    min_free_inodes: int = Field(default=1000, ge=0)
    """Inodes that must be free there."""

    @property
    def path(self) -> Path:
        """The file."""
        return Path("/" + unquote(self.url.removeprefix("sqlite://")).lstrip("/"))
