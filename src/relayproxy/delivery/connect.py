"""Opening a connection to a next hop.

aiosmtplib connects, reads the greeting, starts TLS and logs in; then the transport is ours, and we say EHLO (or
LHLO) and, if wanted, who the client is. Over LMTP, which aiosmtplib doesn't speak, STARTTLS is ours too. This and
login.py are the only ones that import it.
"""

import asyncio
import socket
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from typing import cast

import aiosmtplib

from relayproxy.core.outbox import Outbox
from relayproxy.core.ports import Capabilities
from relayproxy.delivery import tls_results
from relayproxy.delivery.demand import Demand
from relayproxy.delivery.ratchet import Level, RatchetError
from relayproxy.delivery.settings import Address, UpstreamSettings
from relayproxy.delivery.tls_policy import FROM_DNS, DaneError, PolicyError, TlsPolicies
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
class Step:
    """One way to connect: the word for TLS, the context for it, and how well a connection is protected that has TLS."""

    tls: str
    context: ssl.SSLContext | None
    level: Level


@dataclass(frozen=True, slots=True)
class Secured:
    """What a connection has to be once TLS has begun, and who can tell."""

    policies: TlsPolicies
    demand: Demand
    settings: UpstreamSettings
    address: Address

    async def check(self, transport: asyncio.BaseTransport, step: Step) -> None:
        """Compare the certificates that were shown with the TLSA records, and the protection with what was seen before.

        Raises DaneError and RatchetError.
        """
        connection = transport.get_extra_info("ssl_object")
        if connection is not None:
            self.policies.check(self.demand, connection)
        ratchet, settings = self.policies.ratchet, self.settings
        # Where TLSA records decide, DNSSEC knows better than what was seen.
        if settings.ratchet != "off" and ratchet is not None and self.demand.dane is None:
            await ratchet.judge(
                self.address.name or self.address.host or self.address.path,
                self.address.port,
                step.level if connection is not None else Level.CLEAR,
                enforce=settings.ratchet == "enforce",
                expire=settings.ratchet_expire,
            )


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
    needed where `tls` is dane or mta-sts, or there is a ratchet. A connection whose other end has not been verified does
    not take REQUIRETLS, whatever is offered (RFC 8689 section 4.2.1).
    """
    try:
        async with asyncio.timeout(settings.timeouts.connect):
            demand = await _demanded(settings, address, policies)
            made, level = await _descend(settings, address, client, key, outbox, policies, demand)
    except TimeoutError:
        raise ConnectError(f"{address}: no connection within {settings.timeouts.connect:g} s") from None
    known = made.capabilities
    if level < Level.VERIFIED and "REQUIRETLS" in known:
        made.capabilities = Capabilities(known.extensions - {"REQUIRETLS"}, known.size)
    return made


async def _demanded(
    settings: UpstreamSettings, address: Address, policies: TlsPolicies | None
) -> Demand | None:
    """Return what TLS has to be, None where `tls` says all."""
    if settings.tls in FROM_DNS and settings.demand is None:
        assert policies is not None
        try:
            return await policies.demand(
                settings.tls, address.host, address.port, settings.policy_domain or address.host
            )
        except PolicyError as error:
            tls_results.refused(settings, address, error)
            raise ConnectError(f"{address}: {error}") from error
    demand = settings.demand
    if settings.ratchet != "off" and settings.unverified_context is not None:
        # Whether the certificate is good can only be remembered of those that were looked at.
        if demand is None and settings.tls in ("opportunistic", "required"):
            return Demand(tls=settings.tls == "required", verified=True, lenient=True)
        if demand is not None and not demand.verified and demand.dane is None:
            return Demand(demand.tls, verified=True, lenient=True, policy=demand.policy)
    return demand


def _steps(settings: UpstreamSettings, demand: Demand | None) -> list[Step]:
    """Return the ways to connect that will do, the best one first."""
    if demand is None:
        level = Level.VERIFIED if settings.tls in ("verify", "implicit") else Level.ENCRYPTED
        steps = [Step(settings.tls, settings.tls_context, level)]
        falls = settings.tls == "opportunistic"
    else:
        word = "required" if demand.tls else "opportunistic"
        steps = []
        if demand.verified:
            steps.append(Step(word, settings.tls_context, Level.VERIFIED))
        if demand.lenient or not demand.verified:
            level = Level.VERIFIED if demand.dane is not None else Level.ENCRYPTED
            steps.append(Step(word, settings.unverified_context, level))
        falls = not demand.tls
    return [*steps, Step("off", None, Level.CLEAR)] if falls else steps


async def _descend(
    settings: UpstreamSettings,
    address: Address,
    client: Client | None,
    key: tuple[object, ...],
    outbox: Outbox | None,
    policies: TlsPolicies | None,
    demand: Demand | None,
) -> tuple[Connection, Level]:
    """Connect in the best way that works. Raises ConnectError.

    One result of TLS is told: that of the first way that somebody asks for.
    """
    secured = None
    if demand is not None and policies is not None:
        secured = Secured(policies, demand, settings, address)
    elif demand is not None and demand.dane is not None:
        raise ConnectError(f"{address}: nobody can tell whether its certificate is the right one")
    steps = _steps(settings, demand)
    # For a ratchet alone it is tried whether the certificate is good: nobody's policy says that it has to be.
    asked = int(demand is not None and demand.lenient and not demand.policy)
    for place, step in enumerate(steps):
        try:
            made = await _connect(settings, address, client, key, step, outbox, secured)
        except ConnectError as error:
            ends = step is steps[-1] or not _may_descend(settings, steps[place + 1], error.__cause__)
            if place == asked or (ends and place < asked):
                tls_results.report(settings, address, demand, error=error)
            if ends:
                raise
            if demand is not None and demand.policy == "sts" and policies is not None:
                policies.tested(address.name or address.host, str(error))
        else:
            if place <= asked:
                tls_results.report(settings, address, demand, version=made.tls)
            return made, step.level if made.tls else Level.CLEAR
    raise ConnectError(f"{address}: there is no way to connect")


def _may_descend(settings: UpstreamSettings, step: Step, error: BaseException | None) -> bool:
    """Whether a lesser way may be tried: not where it would show our password to whoever broke the better one.

    A next hop that can't be reached or doesn't greet us won't do so the second time either.
    """
    guarded = settings.login and (step.level is Level.CLEAR or settings.tls in FROM_DNS)
    return (
        not guarded
        and isinstance(error, (ssl.SSLError, aiosmtplib.SMTPException, NoTlsError))
        and not isinstance(error, (aiosmtplib.SMTPConnectError, aiosmtplib.SMTPHeloError))
    )


async def _connect(
    settings: UpstreamSettings,
    address: Address,
    client: Client | None,
    key: tuple[object, ...],
    step: Step,
    outbox: Outbox | None,
    secured: Secured | None,
) -> Connection:
    tls, name = step.tls, _name_of(address, secured)
    loop = asyncio.get_running_loop()
    sock: socket.socket | None = None
    library: aiosmtplib.SMTP | None = None
    wire = Wire(loop, outbox)
    try:
        if address.name or (settings.send_client == "proxy" and client is not None):
            # The library would look up the name that it is to find in the certificate.
            sock = await _socket(loop, settings, address, client)
        library = aiosmtplib.SMTP(
            hostname=name,
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
            tls_context=step.context,
            # A password waits until the certificate has been compared with what DNS says of it.
            username=(settings.login or None) if secured is None else None,
            password=(settings.password or None) if secured is None else None,
            timeout=settings.timeouts.connect,
        )
        await library.connect()
        assert library.transport is not None
        if secured is not None and settings.protocol != "lmtp":
            await secured.check(library.transport, step)
            if settings.login:
                await library.login(settings.login, settings.password)
        transport = cast("asyncio.Transport", library.transport)
        transport.set_protocol(wire)
        wire.connection_made(transport)
        capabilities = await _hello(wire, settings)
        if settings.protocol == "lmtp":
            if tls not in ("off", "implicit"):
                started = await _starttls(loop, wire, transport, settings, name, capabilities, step)
                transport, capabilities = started or (transport, capabilities)
            if secured is not None:
                await secured.check(transport, step)
        cipher = transport.get_extra_info("cipher")
        connection = Connection(wire, address, capabilities, key, tls=cipher[1] if cipher else "")
        if settings.send_client == "xclient" and client is not None:
            await _xclient(connection, settings, client)
    except (
        aiosmtplib.SMTPException,
        NoTlsError,
        DaneError,
        RatchetError,
        OSError,
        WireError,
        ValueError,
    ) as error:
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


def _name_of(address: Address, secured: Secured | None) -> str:
    """Return the name of the host that TLS is to be with; with TLSA records the one they stand below."""
    if secured is not None and secured.demand.dane is not None and address.name:
        return secured.demand.dane.base
    return address.name or address.host or "localhost"


async def _starttls(
    loop: asyncio.AbstractEventLoop,
    wire: Wire,
    transport: asyncio.Transport,
    settings: UpstreamSettings,
    name: str,
    capabilities: Capabilities,
    step: Step,
) -> tuple[asyncio.Transport, Capabilities] | None:
    """Begin TLS on a greeted LMTP connection (RFC 3207); None where it is not offered and need not be.

    What was said before is forgotten: LHLO is said again. Octets behind the go-ahead break the wire. Raises NoTlsError
    and WireError.
    """
    if "STARTTLS" not in capabilities:
        if step.tls == "opportunistic":
            return None
        raise NoTlsError("the upstream offers no STARTTLS")
    assert step.context is not None
    try:
        reply = await _ask(wire, "STARTTLS", settings)
        if reply.code != 220 or wire.broken:
            raise NoTlsError(f"STARTTLS was answered {reply}{wire.broken and f', then {wire.broken}'}")
        secured = await loop.start_tls(transport, wire, step.context, server_hostname=name)
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


async def _socket(
    loop: asyncio.AbstractEventLoop, settings: UpstreamSettings, address: Address, client: Client | None
) -> socket.socket:
    """Connect; where wanted, send a PROXY protocol v1 header in front of everything (HAProxy's proxy-protocol.txt)."""
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
        if settings.send_client == "proxy" and client is not None:
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
