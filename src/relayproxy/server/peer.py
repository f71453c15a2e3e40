"""Who is at the other end of a transport, as the socket, TLS and a PROXY header tell.

Must not know SMTP, nor whom to trust.
"""

import asyncio
from hashlib import sha256
from typing import NamedTuple, TypeAlias

from relayproxy.model.client import TlsInfo

Proxied: TypeAlias = tuple[str, int, str, int]
"""What a PROXY header says: address and port of the client, and those that it connected to."""


class Peer(NamedTuple):
    """`ip` and `port` of the client, `peer` the address of the socket's other end; "" on a Unix socket."""

    ip: str
    port: int
    peer: str
    local_ip: str
    local_port: int


def peer_of(transport: asyncio.BaseTransport, proxied: Proxied | None) -> Peer:
    """Return who has connected."""
    peer = transport.get_extra_info("peername")
    local = transport.get_extra_info("sockname")
    ip, port = (peer[0], peer[1]) if isinstance(peer, tuple) else ("", 0)
    local_ip, local_port = (local[0], local[1]) if isinstance(local, tuple) else ("", 0)
    socket_ip = plain_ip(ip)
    if proxied is not None:
        ip, port, local_ip, local_port = proxied
    return Peer(plain_ip(ip), port, socket_ip, plain_ip(local_ip), local_port)


def plain_ip(ip: str) -> str:
    """An address as checks see it: IPv4-mapped IPv6 as IPv4, no zone."""
    return ip.removeprefix("::ffff:").partition("%")[0] if "." in ip else ip.partition("%")[0]


def tls_info(transport: asyncio.BaseTransport) -> TlsInfo | None:
    """Describe the TLS session of a transport; None without one."""
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return None
    cipher = tls.cipher() or ("unknown", "", 0)
    subject = fingerprint = ""
    certificate = tls.getpeercert(binary_form=True)
    if certificate:
        fingerprint = sha256(certificate).hexdigest()
        facts = tls.getpeercert() or {}
        names = [value for part in facts.get("subject", ()) for key, value in part if key == "commonName"]
        subject = names[0] if names else ""
    # OpenSSL ends the handshake for a client certificate that no CA of ours vouches for.
    return TlsInfo(
        tls.version() or "", cipher[0], cipher[2] or 0, subject, fingerprint, verified=bool(certificate)
    )
