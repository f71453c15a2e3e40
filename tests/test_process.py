"""What a worker is put together from: the log's way out, its style, the certificate's end, the resolver."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from tests.servers.tls import Certificates
from tests.test_app import a_config
from tests.test_resolver import server

from relayproxy import process
from relayproxy.api import DnsStatus
from relayproxy.process import Lines, SystemClock, certificate_end, log_style, make_resolver

__all__ = ["server"]  # the fixture


class TestLines:
    async def test_all_of_one_turn_go_out_at_once(self, monkeypatch: pytest.MonkeyPatch):
        written: list[bytes] = []
        monkeypatch.setattr(process.os, "write", lambda _, data: written.append(bytes(data)) or len(data))
        lines = Lines(asyncio.get_running_loop())
        for text in ("one\n", "tw\udcff\n", "drei ü\n"):
            lines(text)
        assert written == []
        await asyncio.sleep(0)
        assert written == ["one\ntw\\udcff\ndrei ü\n".encode()]
        lines("more\n")
        lines.flush()
        await asyncio.sleep(0)
        assert written[1:] == [b"more\n"]

    async def test_a_pipe_that_takes_a_part(self, monkeypatch: pytest.MonkeyPatch):
        written: list[bytes] = []
        monkeypatch.setattr(
            process.os, "write", lambda _, data: written.append(data[:3]) or min(3, len(data))
        )
        lines = Lines(asyncio.get_running_loop())
        lines("0123456789\n")
        lines.flush()
        assert b"".join(written) == b"0123456789\n"

    async def test_a_reader_that_has_gone_stops_nobody(self, monkeypatch: pytest.MonkeyPatch):
        reader, writer = os.pipe()
        os.close(reader)
        write: Callable[[int, bytes], int] = os.write
        monkeypatch.setattr(process.os, "write", lambda _, data: write(writer, data))
        lines = Lines(asyncio.get_running_loop())
        lines("lost\n")
        lines.flush()
        lines("lost as well\n")
        lines.flush()
        os.close(writer)


@pytest.mark.parametrize(
    ("wanted", "terminal", "style"),
    [
        ("auto", True, "human"),
        ("auto", False, "json"),
        ("json", True, "json"),
        ("human", False, "human"),
    ],
)
def test_how_the_log_is_written(monkeypatch: pytest.MonkeyPatch, wanted: str, terminal: bool, style: str):
    monkeypatch.setattr(process.sys.stderr, "isatty", lambda: terminal)
    assert log_style(a_config(log={"format": wanted})) == style


def test_when_a_certificate_ends(certificates: Certificates, tmp_path: Path):
    """Of a chain the first one counts: it is the listener's own."""
    chain = tmp_path / "chain.pem"
    chain.write_bytes(certificates.server.read_bytes() + certificates.ca.read_bytes())
    ours = x509.load_pem_x509_certificate(certificates.server.read_bytes())
    assert certificate_end(chain) == ours.not_valid_after_utc.timestamp()
    assert certificate_end(chain) > time.time()


def test_the_clock_is_the_real_one():
    clock = SystemClock()
    assert abs(clock.time() - time.time()) < 60
    assert clock.monotonic() <= clock.monotonic()


async def test_the_resolver_is_the_configured_one(server):
    """Its questions go to the server that is named, and to no other where that one says nothing."""
    host, port = server.address
    for timeout, name, wanted in (("30s", "a.test", False), ("200ms", "silent.test", True)):
        dns = {"servers": [f"{host}:{port}"], "timeout": timeout}
        resolver, begin, close = make_resolver(a_config(dns=dns))
        begin()
        answer = await resolver.query(name, "TXT")
        assert answer.failed is wanted
        await close()
    assert server.seen["a.test."] == 1
    assert answer.status is DnsStatus.TIMEOUT
