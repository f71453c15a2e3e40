"""Services that plugins ask, each real: killed, stalled and started again while mail goes on.

A message is answered 250 only if it was looked at; without an answer it is a 451 and nothing has gone to the upstream.
The breaker opens, so that nobody waits for what isn't there, and closes when the service is back; the log says both.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
import pytest
from tests.builtin.scanning import INFECTED, RAW
from tests.servers.clamd import Clamd
from tests.servers.client import Answer, Client
from tests.servers.opendkim import StrictOpenDkim
from tests.servers.process import free_port
from tests.servers.relay import Relay
from tests.servers.rspamd_scanner import RspamdScanner
from tests.servers.spamd import Spamd
from tests.servers.web_hook import WebHook

from relayproxy.testing.upstream import UpstreamSink

pytestmark = pytest.mark.servers

ALL = {"when": {"direction": ["inbound", "outbound", "internal"]}}  # the tests' clients are
NUMBERS = count(1)
BREAKER = {"failures": 2, "retry": "100ms"}


@dataclass(frozen=True, slots=True)
class Case:
    """A service, the plugin that asks it, the plugin's settings by its address, and messages that it takes and refuses.

    `name` is what the service is called in the log and in metrics.
    """

    plugin: str
    name: str
    server: Callable[[], Any]
    options: Callable[[str], dict[str, Any]]
    bad: bytes
    good: bytes = RAW


CASES = (
    Case("clamav", "clamav", Clamd, lambda at: {"address": at}, INFECTED),
    Case(
        "rspamd",
        "rspamd",
        RspamdScanner,
        lambda at: {"url": at, **ALL},
        RAW.replace(b"hello", b"reject-word"),
    ),
    Case(
        "spamassassin",
        "spamassassin",
        Spamd,
        lambda at: {"address": at, "reject_score": 10, **ALL},
        RAW.replace(b"hello", b"reject-word"),
    ),
    Case(
        "http",
        "http hook",
        WebHook,
        lambda at: {"scripts": [{"name": "hook", "url": at}]},
        RAW.replace(b"Subject: x", b"Subject: reject-word"),
    ),
    Case(
        "milter",
        "milter opendkim",
        StrictOpenDkim,
        lambda at: {"milters": [{"name": "opendkim", "address": at}]},
        bad=RAW,
        good=b"Date: Fri, 11 Jul 2003 21:00:37 -0700\r\n" + RAW,
    ),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """What a test has before it."""

    case: Case
    server: Any
    relay: Relay
    sink: UpstreamSink
    monitor: int

    async def is_open(self) -> float:
        """Return what the gauge of the breaker says."""
        async with httpx.AsyncClient(trust_env=False) as client:
            page = (await client.get(f"http://127.0.0.1:{self.monitor}/metrics")).text
        start = f'relayproxy_service_breaker_open{{service="{self.case.name}"}} '
        (line,) = [line for line in page.splitlines() if line.startswith(start)]
        return float(line.removeprefix(start))

    async def send(self, raw: bytes = b"") -> Answer:
        """Send one message over a connection of its own; each is another, as a resend needs no second look."""
        own = (raw or self.case.good).replace(b"<1@", b"<%d@" % next(NUMBERS))
        async with await Client.open(self.relay.port) as client:
            return await client.message(own)

    async def refused(self, times: int) -> None:
        """Send messages that can't be looked at: each hears 451, none arrives."""
        before = len(self.sink.messages)
        for _ in range(times):
            answer = await self.send()
            assert (answer.code, answer.enhanced) == (451, "4.3.0")
            assert "plugin" not in answer.text
        assert len(self.sink.messages) == before

    async def until_taken(self) -> None:
        """Send until one message is taken, as a client does that tries again."""
        async with asyncio.timeout(20):
            while (await self.send()).code != 250:
                pass

    async def works(self) -> None:
        """A good message arrives, a bad one is refused."""
        before = len(self.sink.messages)
        assert (await self.send()).code == 250
        assert (await self.send(self.case.bad)).code == 550
        assert len(self.sink.messages) == before + 1


@pytest.fixture(params=CASES, ids=lambda case: case.plugin)
async def scene(request: pytest.FixtureRequest, relay: Relay) -> AsyncIterator[Scene]:
    case = request.param
    server = case.server()
    try:
        await server.start()
        async with UpstreamSink() as sink:
            options = {"breaker": BREAKER, "timeout": "2s", **case.options(server.address)}
            monitor = free_port()
            relay.configure(
                sink.address,
                pipeline=[{case.plugin: options}],
                metrics={"listen": f"127.0.0.1:{monitor}"},
            )
            await relay.start()
            scene = Scene(case, server, relay, sink, monitor)
            await scene.until_taken()  # the first message of a service that has just begun may take longer
            yield scene
    finally:
        await server.stop()


async def test_killed_and_started_again(scene: Scene):
    await scene.works()
    await scene.server.kill()
    await scene.refused(4)
    await scene.relay.until_logged("failed 2 times in a row and is not asked")
    await scene.relay.until_logged("it failed 2 times in a row")
    assert await scene.is_open() == 1
    await scene.server.start()
    await scene.until_taken()
    await scene.relay.until_logged("answers again")
    assert await scene.is_open() == 0
    await scene.works()
    faults = [event for event in scene.relay.events if event["event"] == "plugin_fault"]
    assert {event["kind"] for event in faults} == {"service"}
    assert {event["plugin"] for event in faults} == {scene.case.plugin}


async def test_stalled_and_let_go_on(scene: Scene):
    await scene.works()
    scene.server.signal_group(signal.SIGSTOP)
    try:
        await scene.refused(2)
        await scene.relay.until_logged("failed 2 times in a row and is not asked")
    finally:
        scene.server.signal_group(signal.SIGCONT)
    await scene.until_taken()
    await scene.relay.until_logged("answers again")
    await scene.works()


async def test_killed_under_load(scene: Scene):
    """Many at once, the service killed among them: what heard 250 arrived, and nothing else did."""

    async def one(number: int) -> tuple[bytes, int]:
        mark = b"number-%d-of-many" % number
        answer = await scene.send(scene.case.good.replace(b"hello", mark))
        return mark, answer.code

    before = len(scene.sink.messages)
    sending = [asyncio.create_task(one(number)) for number in range(40)]
    await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
    await scene.server.kill()
    told = await asyncio.gather(*sending)
    assert {code for _, code in told} <= {250, 451}
    arrived = [mark for mark, _ in told if any(mark + b"\r" in sunk.content for sunk in scene.sink.messages)]
    assert sorted(arrived) == sorted(mark for mark, code in told if code == 250)
    assert len(scene.sink.messages) == before + len(arrived)
    await scene.server.start()
    await scene.until_taken()


async def test_skip_lets_mail_through_unseen(scene: Scene):
    await scene.server.kill()
    options = {"on_error": "skip", **scene.case.options(scene.server.address)}
    scene.relay.configure(scene.sink.address, pipeline=[{scene.case.plugin: options}])
    scene.relay.reload()
    await scene.relay.until_logged('"event":"reloaded"')
    assert (await scene.send()).code == 250
