"""Listeners: where clients connect, and how they are greeted, encrypted, authenticated and bounded."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema

from relayproxy.config.base import Model, refusal
from relayproxy.config.limits import Limits
from relayproxy.config.values import FileMode, FilePath, ListenAddress, Name, Network, SenderPattern


def _version(value: object) -> object:
    """Take the YAML number 1.3 for what it looks like."""
    return str(value) if isinstance(value, float) else value


TlsVersion: TypeAlias = Annotated[
    Literal["1.2", "1.3"],
    BeforeValidator(_version),
    WithJsonSchema({"enum": ["1.2", "1.3", 1.2, 1.3], "title": "TLS version"}),
]


class ListenerTls(Model):
    """TLS towards clients."""

    mode: Literal["off", "starttls", "implicit"] = "starttls"
    """`starttls` offers it, `implicit` begins with it (port 465), `off` has none."""
    cert: FilePath | None = None
    """PEM file with the certificate and its intermediates."""
    key: FilePath | None = None
    """PEM file with the private key; not readable by everybody."""
    min_version: TlsVersion = "1.2"
    """The oldest TLS version that is spoken."""
    client_ca: FilePath | None = None
    """PEM file of CAs: clients are asked for a certificate, and one of these makes it verified."""
    required: bool = False
    """Whether mail is refused (530 5.7.0) until STARTTLS was given."""


class AuthBackend(Model):
    """What checks passwords: a password file, or the upstream that clients would log in to otherwise."""

    file: FilePath | None = None
    """Lines of `login:hash`, hashes of argon2 or bcrypt."""
    upstream: Name | None = None
    """Name of the upstream that is asked."""


def _backend(value: Any) -> Any:
    if isinstance(value, str):
        return {"file": value}
    if isinstance(value, dict) and len(value) != 1:
        raise refusal("RP212", "one of 'file' and 'upstream' is wanted", "write backend: passwords.txt")
    return value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


Mechanism: TypeAlias = Annotated[Literal["PLAIN", "LOGIN"], BeforeValidator(_upper)]


class Auth(Model):
    """AUTH: who may relay by password, and from which addresses."""

    mechanisms: tuple[Mechanism, ...] = Field(default=("PLAIN", "LOGIN"), min_length=1)
    """What is offered."""
    backend: Annotated[
        AuthBackend | None,
        BeforeValidator(_backend),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string"},
                    {
                        "type": "object",
                        "properties": {"file": {"type": "string"}, "upstream": {"type": "string"}},
                        "additionalProperties": False,
                        "minProperties": 1,
                        "maxProperties": 1,
                    },
                ]
            }
        ),
    ] = None
    """A password file, or `{upstream: NAME}`. Left out, only plugins are asked."""
    require_tls: bool = True
    """Whether AUTH is offered only over TLS."""
    required: bool = False
    """Whether mail is refused (530 5.7.0) until the client has logged in."""
    senders: dict[str, tuple[SenderPattern, ...]] = Field(default_factory=dict)
    """For a login, the addresses and domains that it may send from. A login that is not listed is bound
    by what `*` says, and may use any address without it."""


class Trusted(Model):
    """Whom to believe when it speaks for another client."""

    networks: tuple[Network, ...] = ()
    """The networks of those peers. Empty: nobody."""


class Listener(Model):
    """One place where clients connect."""

    name: Name
    """How logs, metrics, routes and conditions call it."""
    listen: ListenAddress
    """`host:port`, `[v6]:port` or `unix:/path`."""
    mode: FileMode = 0o660
    """File mode of a Unix socket."""
    protocol: Literal["smtp", "lmtp"] = "smtp"
    """`lmtp` answers for each recipient after DATA (RFC 2033)."""
    tls: ListenerTls = Field(default_factory=lambda: ListenerTls(mode="off"))
    """TLS towards clients. Left out: none."""
    auth: Auth | None = None
    """AUTH. Left out: none."""
    proxy_protocol: Trusted = Trusted()
    """Peers that begin with a PROXY header (v1 or v2); from these it is required."""
    xclient: Trusted = Trusted()
    """Peers that may replace the client's address and name by XCLIENT."""
    xforward: Trusted = Trusted()
    """Peers that may tell the client's address and name by XFORWARD."""
    bare_newlines: Literal["reject", "normalise"] = "reject"
    """What becomes of a message with bare CR or LF: refused (550 5.5.2), or made CRLF."""
    limits: Limits = Limits()
    """Limits of this listener, where they differ from the global ones."""
