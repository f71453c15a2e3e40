"""The page where readers unsubscribe: its address, its certificate, and how much it takes.

Must not know what a token is, nor what becomes of who unsubscribes.
"""

from pydantic import Field

from relayproxy.config.base import Model
from relayproxy.config.listeners import TlsVersion
from relayproxy.config.values import FilePath, ListenAddress, Network


class WebTls(Model):
    """The certificate of a web page."""

    cert: FilePath
    """PEM file with the certificate and its intermediates."""
    key: FilePath
    """PEM file with the private key; not readable by everybody."""
    min_version: TlsVersion = "1.2"
    """The oldest TLS version that is spoken."""


class Unsubscribe(Model):
    """The page behind the URLs of `list_unsubscribe` (RFC 8058); it may face the internet."""

    listen: ListenAddress
    """`host:port`, `[v6]:port` or `unix:/path`."""
    tls: WebTls | None = None
    """Left out: plain HTTP, for a reverse proxy in front that speaks TLS."""
    trusted_proxies: tuple[Network, ...] = ()
    """Reverse proxies that are believed about the client (the last address of X-Forwarded-For)."""
    rate: int = Field(default=600, ge=1, le=1_000_000)
    """Requests a minute that one client address (of IPv6: one /64) may make of each worker; more are a 429."""
    connections: int = Field(default=256, ge=1, le=65_536)
    """Connections at the same time, for each worker; more are closed at once."""
