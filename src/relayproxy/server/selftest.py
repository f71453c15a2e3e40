"""A conversation with our own listener, as a client would lead it: the liveness probe.

A banner alone stays green while RCPT hangs; this asks EHLO, MAIL and RCPT and wants an answer to each, whatever it
is. Nothing is sent.
"""

import asyncio
import socket
import ssl

from relayproxy.model.reply import printable

_PATIENCE = 10.0
_COMMANDS = ("{hello} livez.invalid", "MAIL FROM:<>", "RCPT TO:<postmaster>", "QUIT")


class _TurnedAwayError(Exception):
    """The listener answers, but doesn't want to speak with us: its limits, its plugins, or not a balancer it knows."""


async def converse(sock: socket.socket, *, lmtp: bool, implicit_tls: bool, proxied: bool) -> tuple[bool, str]:
    """Return whether the listener answers every command, and what to tell."""
    step = "connect"
    context: ssl.SSLContext | None = None
    if implicit_tls:
        # The probe asks whether anybody is at home, not who: our own certificate names another host.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await _open(sock, None if proxied else context)
            try:
                if proxied:
                    writer.write(b"PROXY UNKNOWN\r\n")
                    if context is not None:
                        await _start_tls(writer, context)
                step = "banner"
                banner = await _reply(reader)
                if banner[:1] in b"45":
                    return True, f"alive, and turned us away: {printable(banner.decode('latin-1').strip())}"
                for command in _COMMANDS:
                    line = command.format(hello="LHLO" if lmtp else "EHLO")
                    step = line.partition(" ")[0]
                    writer.write(f"{line}\r\n".encode())
                    await _reply(reader)
            finally:
                writer.close()
    except _TurnedAwayError:
        return True, "alive, and turned us away"
    except (OSError, TimeoutError, EOFError, ValueError) as error:
        return False, f"{step}: {str(error) or type(error).__name__}"
    return True, "alive"


async def _start_tls(writer: asyncio.StreamWriter, context: ssl.SSLContext) -> None:
    """Start TLS behind a PROXY header; who isn't listed for it is let go at once. Raises _TurnedAwayError."""
    try:
        await writer.start_tls(context)
    except ConnectionError as error:
        raise _TurnedAwayError from error


async def _open(
    sock: socket.socket, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    name = sock.getsockname()
    if not isinstance(name, tuple):
        return await asyncio.open_unix_connection(
            name, ssl=context, server_hostname="localhost" if context else None
        )
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name[0], name[0])  # noqa: S104  (compared, not bound)
    return await asyncio.open_connection(host, name[1], ssl=context)


async def _reply(reader: asyncio.StreamReader) -> bytes:
    while True:
        line = await reader.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError("the connection was closed")
        if line[3:4] != b"-":
            return line
