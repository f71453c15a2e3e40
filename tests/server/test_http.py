"""What every HTTP port of ours does with a request: bounds, time, one answer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.servers.process import PATIENCE, wait_for

from relayproxy.server.http import Answer, Door, HttpConnection, Request


@asynccontextmanager
async def listening(patience: float = PATIENCE) -> AsyncIterator[tuple[int, list[Request]]]:
    seen: list[Request] = []

    async def handler(request: Request) -> Answer:
        seen.append(request)
        return Answer(200, b"done\n", headers=(("Retry-After", "5"),))

    server = await asyncio.get_running_loop().create_server(
        lambda: HttpConnection(handler, most_body=100, patience=patience), "127.0.0.1", 0
    )
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()
        await server.wait_closed()


async def said(port: int, *pieces: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(PATIENCE):
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody",
        b"POST /a?b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n",
    ],
)
async def test_a_body_comes_with_its_request(request_: bytes):
    async with listening() as (port, seen):
        answer = await said(port, *(bytes((octet,)) for octet in request_))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"Retry-After: 5\r\n" in answer
    (request,) = seen
    assert (request.method, request.target, request.body, request.peer) == (
        "POST",
        "/a?b",
        b"body",
        "127.0.0.1",
    )
    assert request.headers["host"] == "x"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 101, b"413"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
    ],
)
async def test_what_is_too_large_or_wrong_reaches_nobody(request_: bytes, code: bytes):
    async with listening() as (port, seen):
        answer = await said(port, request_)
    assert answer.split()[1] == code
    assert seen == []


async def test_who_waits_to_send_the_body_is_told_to_go_on():
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    async with listening() as (port, seen):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            writer.write(b"body")
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await writer.wait_closed()
    assert [request.body for request in seen] == [b"body"]


async def test_no_more_come_in_than_there_is_room_for():
    door = Door(1)

    async def handler(request: Request) -> Answer:
        return Answer(200, b"done\n")

    server = await asyncio.get_running_loop().create_server(
        lambda: HttpConnection(handler, door=door), "127.0.0.1", 0
    )
    port = server.sockets[0].getsockname()[1]
    _, first = await asyncio.open_connection("127.0.0.1", port)
    await wait_for(lambda: door.inside == 1, "the first to be in")
    with contextlib.suppress(ConnectionError):
        assert await said(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == b""
    first.close()
    await first.wait_closed()
    await wait_for(lambda: door.inside == 0, "the first to have gone")
    assert (await said(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    server.close()
    await server.wait_closed()


async def test_head_is_answered_without_a_body():
    async with listening() as (port, _):
        head, _, body = (await said(port, b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")).partition(b"\r\n\r\n")
    assert b"Content-Length: 5" in head
    assert body == b""


async def test_a_silent_client_is_not_waited_for():
    async with listening(patience=0.05) as (port, seen):
        assert await said(port, b"GET /met") == b""
    assert seen == []
