"""The PROXY protocol in front of a connection (HAProxy's proxy-protocol.txt, versions 1 and 2).

aiosmtpd parses it; this module feeds the parser straight from the socket, octet for octet and no further, so that a
TLS handshake may follow at once. Only peers that are listed get this far.
"""

import asyncio
import socket

from aiosmtpd.proxy_protocol import V2_CMD, get_proxy

HEADER_SECONDS = 5.0
_V1_MOST = 107


class ProxyError(Exception):
    """No usable PROXY header came in time."""


class _SocketReader:
    """What aiosmtpd's parser reads from: never takes an octet more than it is asked for."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._loop = loop
        self._sock = sock

    async def read(self, num_bytes: int | None = None) -> bytes:
        return await self._loop.sock_recv(self._sock, num_bytes or 1)

    async def readexactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            more = await self._loop.sock_recv(self._sock, n - len(data))
            if not more:
                raise asyncio.IncompleteReadError(data, n)
            data += more
        return data

    async def readuntil(self, until_chars: bytes | None = None) -> bytes:
        end = until_chars or b"\n"
        data = b""
        while not data.endswith(end):
            data += await self.readexactly(1)
            if len(data) > _V1_MOST:
                raise asyncio.LimitOverrunError("PROXY line is too long", len(data))
        return data


async def read_header(
    loop: asyncio.AbstractEventLoop, sock: socket.socket
) -> tuple[str, int, str, int] | None:
    """Return (client address, port, our address, port), or None for LOCAL and UNKNOWN. Raises ProxyError."""
    try:
        async with asyncio.timeout(HEADER_SECONDS):
            data = await get_proxy(_SocketReader(loop, sock))
    except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
        raise ProxyError(f"no PROXY header: {error}") from None
    if not data:
        raise ProxyError(data.error or "no PROXY header")
    if data.version == 2 and data.command == V2_CMD.LOCAL:
        # A balancer's own connection: whatever addresses it brings are to be ignored (section 2.2).
        return None
    if data.src_addr is None or data.dst_addr is None or isinstance(data.src_addr, bytes):
        return None
    return _plain(data.src_addr), int(data.src_port or 0), _plain(data.dst_addr), int(data.dst_port or 0)


def _plain(address: object) -> str:
    """Write an address; an IPv4-mapped one as IPv4, which `str` shows in hexadecimal."""
    return str(getattr(address, "ipv4_mapped", None) or address)
