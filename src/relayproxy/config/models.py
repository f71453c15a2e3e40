"""The configuration as one value: everything that relayproxy.yaml can say.

Each attribute's docstring is its documentation: the reference page and the JSON Schema are made from it. Must
not know files, positions, or whether what it names exists.
"""

import socket
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, PlainValidator, WithJsonSchema

from relayproxy.config.base import Model, refusal
from relayproxy.config.bulk import Bulk, PoolMember, Shape, Source, Warmup
from relayproxy.config.history import DmarcReports, History, TlsReports
from relayproxy.config.limits import Limits
from relayproxy.config.listeners import Auth, AuthBackend, Listener, ListenerTls, Trusted
from relayproxy.config.operations import Control, Dns, Log, Metrics, Spool, State, Suppression
from relayproxy.config.pipeline import Common, PipelineEntry, When
from relayproxy.config.quantities import Duration, Grace
from relayproxy.config.routes import Queue, Relay, Route
from relayproxy.config.unsubscribe import Unsubscribe
from relayproxy.config.upstreams import Breaker, Pool, Timeouts, Upstream, WeightedAddress
from relayproxy.config.values import FilePath, HostName, Name
from relayproxy.model.endpoint import Endpoint
from relayproxy.model.refused import quoted
from relayproxy.secrets import Secret, SecretError

__all__ = [
    "Auth",
    "AuthBackend",
    "Breaker",
    "Bulk",
    "Common",
    "Config",
    "Control",
    "DmarcReports",
    "Dns",
    "Duration",
    "Endpoint",
    "History",
    "Limits",
    "Listener",
    "ListenerTls",
    "Log",
    "Metrics",
    "PipelineEntry",
    "Pool",
    "PoolMember",
    "Queue",
    "Relay",
    "Route",
    "Secret",
    "SecretError",
    "Shape",
    "Source",
    "Spool",
    "State",
    "Timeouts",
    "Trusted",
    "Upstream",
    "Warmup",
    "WeightedAddress",
    "When",
]

_MOST_WORKERS = 32  # the id of a connection has room for so many


def _workers(value: Any) -> Any:
    if value == "auto" or (type(value) is int and 1 <= value <= _MOST_WORKERS):
        return value
    raise refusal("RP203", f"{quoted(value)} is not a number of workers", f"auto, or 1 to {_MOST_WORKERS}")


Workers: TypeAlias = Annotated[
    int | Literal["auto"],
    PlainValidator(_workers),
    WithJsonSchema(
        {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": _MOST_WORKERS}]}
    ),
]


_MOST_NODES = 2**20


def _node(value: Any) -> Any:
    if value == "auto" or (type(value) is int and 0 <= value < _MOST_NODES):
        return value
    raise refusal("RP203", f"{quoted(value)} is not a node", f"auto, or 0 to {_MOST_NODES - 1}")


Node: TypeAlias = Annotated[
    int | Literal["auto"],
    PlainValidator(_node),
    WithJsonSchema(
        {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 0, "maximum": _MOST_NODES - 1}]}
    ),
]


def _version(value: Any) -> Any:
    if type(value) is int and value == 1:
        return value
    raise refusal("RP201", f"version {quoted(value)} is not known here", "write version: 1")


class Config(Model):
    """Everything that relayproxy.yaml can say."""

    version: Annotated[Literal[1], PlainValidator(_version), WithJsonSchema({"const": 1})]
    """The version of this format: 1."""
    hostname: HostName = Field(default_factory=socket.gethostname)
    """Our name in the banner, EHLO and Received. Default: the name of this machine."""
    listeners: tuple[Listener, ...] = Field(min_length=1)
    """Where clients connect."""
    relay: Relay = Relay()
    """Who may send where. Default: nobody anywhere."""
    upstreams: dict[Name, Upstream] = Field(min_length=1)
    """The next hops, by name."""
    routes: tuple[Route, ...] = ()
    """Which upstream takes a message; the first match wins. May be left out when there is one upstream."""
    bulk: Bulk = Bulk()
    """Bulk mail: rules for destinations, and what follows when a source is refused for its reputation."""
    limits: Limits = Limits()
    """The bounds of sessions and of the process."""
    dns: Dns = Dns()
    """How names are looked up."""
    plugin_folders: tuple[FilePath, ...] = ()
    """Folders of single-file plugins."""
    pipeline: tuple[PipelineEntry, ...] = ()
    """The plugins, in their order: a name, or a name with options."""
    lists: dict[Name, Any] = Field(default_factory=dict)
    """Lists that rules refer to by name: items, files that are read again when they change, DNS lists."""
    rules: tuple[Any, ...] = ()
    """What should happen to which mail; the plugin `rules` in the pipeline asks them."""
    tests: tuple[Any, ...] = ()
    """Mail and what the rules must make of it; a test that fails keeps the running configuration."""
    spool: Spool | None = None
    """Where queued and held messages are kept. Left out: nothing is queued or held."""
    state: State | None = None
    """Where plugins keep what all workers share. Left out: in the memory of each worker, until it ends."""
    history: History | None = None
    """What happened to each message, kept for reports. Default: nothing is kept."""
    dmarc_reports: DmarcReports | None = None
    """What `relayproxy dmarc report` says of us. Default: no reports are made."""
    tls_reports: TlsReports | None = None
    """What `relayproxy tls report` says of us. Default: no reports are made."""
    suppression: Suppression | None = None
    """Where the list is kept of who gets no more mail. Left out: in the files that the plugins name."""
    unsubscribe: Unsubscribe | None = None
    """The web page where readers unsubscribe. Left out: none is served."""
    node: Node | None = None
    """What tells the ids of this machine's messages from those of others: a number, or `auto`, made from /etc/machine-id and
    both host names. Left out: `auto` where the spool is in PostgreSQL, else ids are shorter and unique on one machine."""
    workers: Workers = 1
    """Processes that share the listeners: a number, or `auto` for one per core."""
    metrics: Metrics = Metrics()
    """Prometheus metrics and health checks."""
    log: Log = Log()
    """The log."""
    control: Control = Control()
    """The socket of `status` and `reload`."""
    shutdown_timeout: Grace = 60.0
    """How long transactions in progress have to finish after SIGTERM."""
    reload_grace: Grace = 60.0
    """How long connections made before a reload go on with the old configuration."""

    @property
    def table(self) -> tuple[Route, ...]:
        """The routes; without any, the one to the only upstream."""
        if self.routes or len(self.upstreams) != 1:
            return self.routes
        return (Route(upstream=next(iter(self.upstreams))),)

    def limits_of(self, listener: Listener) -> Limits:
        """Return the limits of a listener: its own where it has them, else the global ones."""
        own = {name: getattr(listener.limits, name) for name in listener.limits.model_fields_set}
        return self.limits.model_copy(update=own)
