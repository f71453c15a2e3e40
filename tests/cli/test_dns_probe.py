import asyncio
import ssl

import pytest
from tests.servers.process import free_port
from tests.servers.tls import make_certificates

from relayproxy.cli.dns_probe import probe_mx
from relayproxy.delivery.sts_fetch import fetch_policy
from relayproxy.mailauth.mta_sts import MOST_OCTETS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("tls"))


class Web:
    """Answers every request with the same octets, over TLS."""

    def __init__(self, certificates, reply):
        self._certificates, self._reply = certificates, reply
        self.requests = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, ssl=self._certificates.server_context()
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self._reply)
        writer.close()


def http(status, body=b"", more=b""):
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s" % (status, len(body), more, body)


async def fetched(certificates, reply, domain="example.org", addresses=("127.0.0.1",)):
    async with Web(certificates, reply) as web:
        file = await fetch_policy(domain, addresses, port=web.port, context=certificates.client_context())
    return file, web.requests


async def test_a_policy_is_fetched_under_its_name(certificates):
    reply = http(b"200 OK", b"version: STSv1\r\n", b"Content-Type: Text/Plain; charset=utf-8\r\n")
    file, (request,) = await fetched(certificates, reply)
    assert (file.status, file.text, file.media_type, file.fault) == (
        200,
        b"version: STSv1\r\n",
        "text/plain",
        "",
    )
    assert request.startswith(b"GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: mta-sts.example.org\r\n")


async def test_a_redirect_is_not_followed(certificates):
    reply = http(b"301 Moved Permanently", more=b"Location: https://mta-sts.example.org/x\r\n")
    file, requests = await fetched(certificates, reply)
    assert (file.status, len(requests)) == (301, 1)


async def test_a_file_without_end_is_not_read_to_its_end(certificates):
    file, _ = await fetched(certificates, b"HTTP/1.1 200 OK\r\n\r\n" + b"mx: a\r\n" * 100_000)
    assert MOST_OCTETS < len(file.text) < 10 * MOST_OCTETS


@pytest.mark.parametrize(
    "reply", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx"]
)
async def test_what_is_no_http_is_a_fault(certificates, reply):
    file, _ = await fetched(certificates, reply)
    assert file.fault


async def test_a_certificate_for_another_name_is_a_fault(certificates):
    file, requests = await fetched(certificates, http(b"200 OK"), "example.net")
    assert "certificate" in file.fault.lower()
    assert requests == []


async def test_the_second_address_is_tried_and_none_is_a_fault(certificates):
    file, _ = await fetched(certificates, http(b"200 OK"), addresses=("127.0.0.2", "127.0.0.1"))
    assert (file.status, file.fault) == (200, "")
    file, _ = await fetched(certificates, http(b"200 OK"), addresses=())
    assert file.fault == "mta-sts.example.org has no address"


class Mx:
    """An SMTP server that greets, and perhaps starts TLS."""

    def __init__(self, context=None):
        self._context = context

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        try:
            writer.write(b"220 mx.example.org ESMTP\r\n")
            while line := await reader.readline():
                if line.upper().startswith(b"EHLO"):
                    writer.write(
                        b"250-mx.example.org\r\n250 STARTTLS\r\n" if self._context else b"250 mx\r\n"
                    )
                elif line.upper().startswith(b"STARTTLS") and self._context:
                    writer.write(b"220 go\r\n")
                    await writer.start_tls(self._context)
                else:
                    writer.write(b"502 no\r\n")
        except (ssl.SSLError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.mark.parametrize(
    ("tls", "trusted", "level", "text"),
    [
        (True, True, "ok", "its certificate is good for the name"),
        (True, False, "warning", "its certificate can't be verified"),
        (False, True, "error", "it offers no STARTTLS that works"),
    ],
)
async def test_tls_of_an_mx(certificates, tls, trusted, level, text):
    context = certificates.client_context() if trusted else None
    async with Mx(certificates.server_context() if tls else None) as mx:
        line = await probe_mx("localhost", "me.example.org", port=mx.port, context=context)
    assert (line.check, line.name, line.level) == ("mx", "localhost", level)
    assert text in line.text


async def test_an_mx_that_is_not_there():
    line = await probe_mx("127.0.0.1", "me.example.org", port=free_port())
    assert line.level == "error"
    assert line.text.startswith("no connection")
