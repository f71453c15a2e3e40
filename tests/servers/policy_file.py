"""An HTTPS server on port 443 of a loopback address of its own, which has one MTA-STS policy."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.servers.process import do_without, free_port
from tests.servers.tls import Certificates


class PolicyHost:
    """`address` is where it listens, `text` what it has, `asked` counts the requests."""

    def __init__(self, text: str) -> None:
        port = free_port()
        self.address = f"127.77.{port >> 8}.{port & 255}"
        self.text = text
        self.asked = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and hang up."""
        request = await reader.readuntil(b"\r\n\r\n")
        self.asked += request.startswith(b"GET /.well-known/mta-sts.txt ")
        body = self.text.encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def a_policy_host(text: str, certificates: Certificates) -> AsyncIterator[PolicyHost]:
    """Serve a policy; its certificate is good for mta-sts.example.org."""
    if os.geteuid() != 0:
        do_without("port 443 needs root")
    host = PolicyHost(text)
    server = await asyncio.start_server(
        host.answer, host.address, 443, ssl=certificates.server_context(), ssl_handshake_timeout=10
    )
    try:
        yield host
    finally:
        server.close()
        await server.wait_closed()
