"""Numbered messages from several sessions at once, and what each sender was told: for counting lost and doubled."""

import asyncio
import re
from collections import Counter, deque

from tests.servers.client import Answer, Client, HangUpError, wire_form

from relayproxy.testing.upstream import UpstreamSink

_NUMBER = re.compile(rb"number (\d+)\r\n")
_PAUSE = 0.02


class Load:
    """Sends `total` messages, or goes on until `stop` when that is None.

    A message that was not answered with 250 is sent again under its number, as any client would do. `told`
    has the numbers that heard 250, `ambiguous` those whose connection ended between the final dot and its
    reply, `temporary` and `permanent` all 4xx and 5xx replies.
    """

    def __init__(self, port: int, *, total: int | None = None, sessions: int = 6, octets: int = 2000) -> None:
        self._port = port
        self._total = total
        self._sessions = sessions
        self._filler = b"some words to fill a line with, none of them a dot\r\n" * (octets // 52)
        self._next = 0
        self._again: deque[int] = deque()
        self._stopped = False
        self.told: set[int] = set()
        self.ambiguous: set[int] = set()
        self.temporary: list[Answer] = []
        self.permanent: list[Answer] = []

    def stop(self) -> None:
        """Let every session end after its message."""
        self._stopped = True

    async def run(self, seconds: float = 60.0) -> None:
        """Send. Raises TimeoutError."""
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for _ in range(self._sessions):
                group.create_task(self._session())

    def _take(self) -> int | None:
        if self._stopped:
            return None
        if self._again:
            return self._again.popleft()
        if self._total is not None and self._next >= self._total:
            return None
        self._next += 1
        return self._next

    async def _session(self) -> None:
        client: Client | None = None
        while (number := self._take()) is not None:
            try:
                client = client or await _welcomed(self._port)
                done = await self._send(client, number)
            except (HangUpError, OSError):
                done = False
                if client is not None:
                    client.abort()
                client = None
                # Nobody listens, or nobody does any more: a client waits a little and tries again.
                await asyncio.sleep(_PAUSE)
            if not done:
                self._again.append(number)
        if client is not None:
            await client.close()

    async def _send(self, client: Client, number: int) -> bool:
        for answer in await client.envelope(f"n{number}@example.org"):
            if answer.kind != 2:
                return await self._refused(client, answer)
        answer = await client.say("DATA")
        if answer.code != 354:
            return await self._refused(client, answer)
        await client.send(wire_form(b"Subject: load\r\n\r\nnumber %d\r\n" % number + self._filler))
        try:
            answer = await client.read()
        except HangUpError:
            self.ambiguous.add(number)
            raise
        if answer.kind != 2:
            return await self._refused(client, answer)
        self.told.add(number)
        return True

    async def _refused(self, client: Client, answer: Answer) -> bool:
        (self.permanent if answer.kind == 5 else self.temporary).append(answer)
        if answer.code == 421:
            raise HangUpError
        await client.say("RSET")
        return False


async def _welcomed(port: int) -> Client:
    client = await Client.open(port)
    if client.banner.code != 220:
        client.abort()
        raise HangUpError(client.banner.text)
    return client


def numbers_at(sink: UpstreamSink) -> Counter[int]:
    """How often each number was taken by the sink."""
    found = (_NUMBER.search(sunk.content) for sunk in sink.messages)
    return Counter(int(match[1]) for match in found if match)


def assert_nothing_lost_or_doubled(load: Load, sink: UpstreamSink) -> None:
    """250 means delivered, once; only a client that never heard the reply to its dot may have caused a second."""
    counts = numbers_at(sink)
    assert load.permanent == []
    assert load.told - set(counts) == set(), "lost"
    assert {number for number, count in counts.items() if count > 1} <= load.ambiguous, "doubled"
    assert set(counts) - load.told <= load.ambiguous, "delivered, but the client was told otherwise"
