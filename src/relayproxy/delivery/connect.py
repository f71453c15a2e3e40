"""Opening a connection to a next hop.

aiosmtplib connects, reads the greeting, starts TLS and logs in; then the transport is ours, and we say EHLO (or
LHLO) and, if wanted, who the client is. Over LMTP, which aiosmtplib doesn't speak, STARTTLS is ours too. This and
login.py are the only ones that import it.
"""

import asyncio
import socket
import ssl
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import cast

import aiosmtplib

from relayproxy.core.outbox import Outbox
from relayproxy.core.ports import Capabilities
from relayproxy.delivery import tls_results
from relayproxy.delivery.settings import Address, UpstreamSettings
from relayproxy.delivery.tls_policy import FROM_DNS, DaneError, Demand, PolicyError, TlsPolicies
from relayproxy.delivery.wire import Wire, WireError
from relayproxy.model.client import Client
from relayproxy.model.reply import Reply, printable
from relayproxy.smtp.xclient import format_attributes, write_address


class ConnectError(Exception):
    """No usable connection came about; the text says why."""


class NoTlsError(Exception):
    """STARTTLS over LMTP came to nothing; the text says why."""


@dataclass(slots=True)
class Connection:
    """A greeted connection with what is known of it. `fresh` until the first transaction is over."""

    wire: Wire
    address: Address
    capabilities: Capabilities
    key: tuple[object, ...]
    tls: str = ""
    used: int = 0
    idle_since: float = 0.0
    fresh: bool = True


@dataclass(frozen=True, slots=True)
class Secured:
    """What a connection has to be once TLS has begun, and who can tell."""

    policies: TlsPolicies
    demand: Demand

    def check(self, transport: asyncio.BaseTransport) -> None:
        """Compare the certificates that were shown with the TLSA records. Raises DaneError."""
        self.policies.check(self.demand, transport.get_extra_info("ssl_object"))


async def connect(
    settings: UpstreamSettings,
    address: Address,
    client: Client | None,
    key: tuple[object, ...],
    outbox: Outbox | None = None,
    policies: TlsPolicies | None = None,
) -> Connection:
    """Open one connection within `timeouts.connect`. Raises ConnectError.

    Opportunistic TLS that fails is tried once more without TLS; every other policy never falls back. `policies` is
    needed where `tls` is dane or mta-sts.
    """
    try:
        async with asyncio.timeout(settings.timeouts.connect):
            try:
                if settings.tls in FROM_DNS:
                    made = await _by_policy(settings, address, client, key, outbox, policies)
                else:
                    made = await _connect(settings, address, client, key, settings.tls, outbox)
            except ConnectError as error:
                tls_results.report(settings, address, error=error)
                if settings.tls != "opportunistic" or not _tls_failed(settings, error.__cause__):
                    raise
                return await _connect(settings, address, client, key, "off", outbox)
            tls_results.report(settings, address, version=made.tls)
            return made
    except TimeoutError:
        raise ConnectError(f"{address}: no connection within {settings.timeouts.connect:g} s") from None


async def _by_policy(
    settings: UpstreamSettings,
    address: Address,
    client: Client | None,
    key: tuple[object, ...],
    outbox: Outbox | None,
    policies: TlsPolicies | None,
) -> Connection:
    """Connect as DNS and policies demand; a policy in mode testing does without a CA, but never without TLS."""
    assert policies is not None
    try:
        demand = await policies.demand(
            settings.tls, address.host, address.port, settings.policy_domain or address.host
        )
    except PolicyError as error:
        raise ConnectError(f"{address}: {error}") from error
    secured = Secured(policies, demand)
    context = settings.tls_context if demand.verified else settings.unverified_context
    try:
        return await _connect(
            replace(settings, tls_context=context), address, client, key, "verify", outbox, secured
        )
    except ConnectError as error:
        if not demand.lenient or settings.login or not _tls_failed(settings, error.__cause__):
            raise
        policies.tested(address.host, str(error))
        blind = replace(settings, tls_context=settings.unverified_context)
        return await _connect(blind, address, client, key, "required", outbox, secured)


def _tls_failed(settings: UpstreamSettings, error: BaseException | None) -> bool:
    """Whether an opportunistic connection may do without TLS: not where it would show our password to whoever broke it.

    A next hop that can't be reached or doesn't greet us won't do so the second time either.
    """
    return (
        not settings.login
        and isinstance(error, (ssl.SSLError, aiosmtplib.SMTPException, NoTlsError))
        and not isinstance(error, (aiosmtplib.SMTPConnectError, aiosmtplib.SMTPHeloError))
    )


async def _connect(
    settings: UpstreamSettings,
    address: Address,
    client: Client | None,
    key: tuple[object, ...],
    tls: str,
    outbox: Outbox | None,
    secured: Secured | None = None,
) -> Connection:
    loop = asyncio.get_running_loop()
    sock: socket.socket | None = None
    library: aiosmtplib.SMTP | None = None
    wire = Wire(loop, outbox)
    try:
        if settings.send_client == "proxy" and client is not None:
            sock = await _proxied_socket(loop, settings, address, client)
        library = aiosmtplib.SMTP(
            hostname=address.host or "localhost",
            port=address.port if not address.path and sock is None else None,
            sock=sock,
            socket_path=address.path or None if sock is None else None,
            source_address=(settings.source_address, 0) if settings.source_address and sock is None else None,
            local_hostname=settings.hostname,
            use_tls=tls == "implicit",
            # aiosmtplib would say EHLO to find out, which an LMTP server must not hear (RFC 2033 section 4.1).
            start_tls=False
            if settings.protocol == "lmtp"
            else {"off": False, "implicit": False, "opportunistic": None}.get(tls, True),
            tls_context=settings.tls_context,
            # A password waits until the certificate has been compared with what DNS says of it.
            username=(settings.login or None) if secured is None else None,
            password=(settings.password or None) if secured is None else None,
            timeout=settings.timeouts.connect,
        )
        await library.connect()
        assert library.transport is not None
        if secured is not None and settings.protocol != "lmtp":
            secured.check(library.transport)
            if settings.login:
                await library.login(settings.login, settings.password)
        transport = cast("asyncio.Transport", library.transport)
        transport.set_protocol(wire)
        wire.connection_made(transport)
        capabilities = await _hello(wire, settings)
        if settings.protocol == "lmtp" and tls not in ("off", "implicit"):
            started = await _starttls(loop, wire, transport, settings, address, capabilities, tls)
            if started is not None:
                transport, capabilities = started
            if secured is not None:
                secured.check(transport)
        cipher = transport.get_extra_info("cipher")
        connection = Connection(wire, address, capabilities, key, tls=cipher[1] if cipher else "")
        if settings.send_client == "xclient" and client is not None:
            await _xclient(connection, settings, client)
    except (aiosmtplib.SMTPException, NoTlsError, DaneError, OSError, WireError, ValueError) as error:
        wire.close()
        if library is not None:
            library.close()
        elif sock is not None:
            sock.close()
        raise ConnectError(f"{address}: {_reason(error, settings.password)}") from error
    except BaseException:
        wire.close()
        if library is not None:
            library.close()
        raise
    return connection


async def _starttls(
    loop: asyncio.AbstractEventLoop,
    wire: Wire,
    transport: asyncio.Transport,
    settings: UpstreamSettings,
    address: Address,
    capabilities: Capabilities,
    tls: str,
) -> tuple[asyncio.Transport, Capabilities] | None:
    """Begin TLS on a greeted LMTP connection (RFC 3207); None where it is not offered and need not be.

    What was said before is forgotten: LHLO is said again. Octets behind the go-ahead break the wire. Raises NoTlsError
    and WireError.
    """
    if "STARTTLS" not in capabilities:
        if tls == "opportunistic":
            return None
        raise NoTlsError("the upstream offers no STARTTLS")
    assert settings.tls_context is not None
    try:
        reply = await _ask(wire, "STARTTLS", settings)
        if reply.code != 220 or wire.broken:
            raise NoTlsError(f"STARTTLS was answered {reply}{wire.broken and f', then {wire.broken}'}")
        name = address.host or "localhost"
        secured = await loop.start_tls(transport, wire, settings.tls_context, server_hostname=name)
    except (OSError, WireError) as error:
        raise NoTlsError(f"STARTTLS failed: {error}") from error
    if secured is None:
        raise NoTlsError("STARTTLS failed: the connection was closed")
    wire.connection_made(secured)
    return secured, await _hello(wire, settings)


def _reason(error: BaseException, password: str) -> str:
    """Return what to log; an upstream that quotes our password doesn't bring it there."""
    if password:
        return _reason(error, "").replace(password, "***")
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return printable(f"{error.code} {error.message}".replace("\n", " "), 200)
    return printable(str(error).replace("\n", " ") or type(error).__name__, 200)


async def _hello(wire: Wire, settings: UpstreamSettings) -> Capabilities:
    """Say EHLO (or LHLO, or HELO to who knows no better) and read what the other end can take."""
    verb = "LHLO" if settings.protocol == "lmtp" else "EHLO"
    reply = await _ask(wire, f"{verb} {settings.hostname}", settings)
    if reply.permanent and verb == "EHLO":
        reply = await _ask(wire, f"HELO {settings.hostname}", settings)
        if reply.ok:
            return Capabilities()
    if not reply.ok:
        raise WireError(f"{verb} was answered {reply}")
    extensions: set[str] = set()
    size = 0
    for line in reply.text.split("\n")[1:]:
        words = line.upper().split()
        if not words:
            continue
        extensions.add(words[0])
        if words[0] == "SIZE" and len(words) > 1 and words[1].isdigit():
            size = int(words[1])
        elif words[0] in ("XCLIENT", "XFORWARD"):
            extensions.update(f"{words[0]} {name}" for name in words[1:])
    return Capabilities(frozenset(extensions), size)


async def _ask(wire: Wire, command: str, settings: UpstreamSettings) -> Reply:
    return (await wire.ask(f"{command}\r\n".encode(), 1, settings.timeouts.command))[0]


async def _xclient(connection: Connection, settings: UpstreamSettings, client: Client) -> None:
    """Tell the upstream who the client is; it then starts over as if that client had connected."""
    if "XCLIENT" not in connection.capabilities:
        raise WireError("the upstream offers no XCLIENT to us")
    known = {
        "NAME": client.ptr,
        "ADDR": write_address(client.ip),
        "PORT": str(client.port or ""),
        "PROTO": "SMTP" if client.proto == "SMTP" else "ESMTP",
        "HELO": client.helo,
        "LOGIN": client.identity,
    }
    offered = {name: value for name, value in known.items() if f"XCLIENT {name}" in connection.capabilities}
    reply = await _ask(connection.wire, f"XCLIENT {format_attributes(offered)}", settings)
    if reply.code != 220:
        raise WireError(f"XCLIENT was answered {reply}")
    connection.capabilities = await _hello(connection.wire, settings)


async def _proxied_socket(
    loop: asyncio.AbstractEventLoop, settings: UpstreamSettings, address: Address, client: Client
) -> socket.socket:
    """Connect, and send a PROXY protocol v1 header in front of everything (HAProxy's proxy-protocol.txt)."""
    if address.path:
        sock = socket.socket(socket.AF_UNIX)
        target: tuple[str, int] | str = address.path
    else:
        family, _, _, _, resolved = (
            await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        )[0]
        sock = socket.socket(family)
        target = resolved  # type: ignore[assignment]
    sock.setblocking(False)
    try:
        if settings.source_address and not address.path:
            sock.bind((settings.source_address, 0))
        await loop.sock_connect(sock, target)
        await loop.sock_sendall(sock, proxy_header(client))
    except BaseException:
        sock.close()
        raise
    return sock


def proxy_header(client: Client) -> bytes:
    """Return the PROXY v1 line for a client; UNKNOWN where its address isn't known."""
    try:
        source, target = ip_address(client.ip), ip_address(client.local_ip)
    except ValueError:
        return b"PROXY UNKNOWN\r\n"
    if source.version != target.version:
        return b"PROXY UNKNOWN\r\n"
    return f"PROXY TCP{source.version} {source} {target} {client.port} {client.local_port}\r\n".encode()
