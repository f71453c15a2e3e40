import asyncio
import logging
import socket

import pytest
import uvloop
from pydantic import TypeAdapter, ValidationError
from tests.builtin.scanning import an_app, scripted

from relayproxy.api import Plugin, ServiceError, Settings, hook
from relayproxy.builtin._remote import Breaker, Pause, Service, Where, connected, last_words, send, service_of
from relayproxy.core.metrics import Metrics
from relayproxy.model.endpoint import Endpoint
from relayproxy.plugging import meters_of
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.session import SessionDriver, entry_for

LOG = logging.getLogger("relayproxy.plugin.test")


class Bench:
    """A service that a test makes fail, with its clock and its numbers."""

    def __init__(self, failures=3, retry=30, deadline=5.0):
        self.clock = FakeClock()
        self.metrics = Metrics()
        app = an_app(clock=self.clock, meter=meters_of(self.metrics))
        self.service = Service("scanner", Breaker(failures=failures, retry=f"{retry}s"), deadline, app, LOG)
        self.asked = 0

    async def ask(self, fault=None):
        async def work():
            self.asked += 1
            if fault is not None:
                raise fault
            return "answer"

        return await self.service.ask(work)

    async def fail(self, times=1, fault=None):
        for _ in range(times):
            with pytest.raises(ServiceError):
                await self.ask(fault or ConnectionRefusedError("nobody there"))

    def counts(self):
        return {
            sample.labels[1]: sample.value
            for sample in self.metrics.samples()
            if sample.family.name == "service_requests_total"
        }

    @property
    def open_gauge(self):
        return self.metrics.cell("service_breaker_open", "scanner").value


async def test_an_answer_passes():
    bench = Bench()
    assert await bench.ask() == "answer"
    assert bench.counts() == {"ok": 1, "error": 0, "timeout": 0, "refused": 0}


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (ConnectionRefusedError("nobody there"), "scanner: nobody there"),
        (ConnectionResetError(), "scanner: ConnectionResetError"),
        (asyncio.IncompleteReadError(b"", 1), "scanner: the connection ended before the answer"),
        (ServiceError("said nonsense"), "scanner: said nonsense"),
    ],
)
async def test_what_goes_wrong_with_a_service_is_a_service_error(fault, text):
    bench = Bench()
    with pytest.raises(ServiceError) as raised:
        await bench.ask(fault)
    assert str(raised.value) == text
    assert bench.counts()["error"] == 1


async def test_a_stalled_service_is_given_up():
    bench = Bench(failures=1, deadline=0.01)
    with pytest.raises(ServiceError, match=r"scanner: no answer within 0\.0 s"):
        await bench.service.ask(asyncio.Event().wait)
    assert bench.counts()["timeout"] == 1
    assert bench.service.is_open


async def test_a_mistake_of_the_plugin_is_no_failure_of_the_service():
    bench = Bench(failures=1)
    with pytest.raises(KeyError):
        await bench.ask(KeyError("x"))
    assert not bench.service.is_open


async def test_the_breaker_opens_after_failures_in_a_row(caplog):
    bench = Bench(failures=3)
    await bench.fail(2)
    assert await bench.ask() == "answer"
    await bench.fail(2)
    assert not bench.service.is_open
    await bench.fail()
    assert bench.service.is_open
    assert bench.open_gauge == 1
    assert "failed 3 times in a row and is not asked for 30 s: nobody there" in caplog.text


async def test_an_open_breaker_asks_nobody():
    bench = Bench(failures=1)
    await bench.fail()
    with pytest.raises(ServiceError, match="scanner is not asked: it failed 1 times in a row"):
        await bench.ask()
    assert bench.asked == 1
    assert bench.counts()["refused"] == 1


async def test_one_message_tries_and_closes_it(caplog):
    bench = Bench(failures=1, retry=30)
    await bench.fail()
    bench.clock.advance(30)
    assert await bench.ask() == "answer"
    assert not bench.service.is_open
    assert bench.open_gauge == 0
    assert "scanner answers again" in caplog.text


async def test_a_trial_that_fails_leaves_it_open_and_says_nothing_again(caplog):
    bench = Bench(failures=1, retry=30)
    await bench.fail()
    bench.clock.advance(30)
    await bench.fail()
    bench.clock.advance(29)
    with pytest.raises(ServiceError, match="is not asked"):
        await bench.ask()
    assert bench.asked == 2
    assert caplog.text.count("in a row") == 1


async def test_only_one_message_tries_at_a_time():
    bench = Bench(failures=1)
    await bench.fail()
    bench.clock.advance(30)
    gate = asyncio.Event()
    trial = asyncio.create_task(bench.service.ask(gate.wait))
    await asyncio.sleep(0)
    with pytest.raises(ServiceError, match="is not asked"):
        await bench.ask()
    gate.set()
    assert await trial
    assert await bench.ask() == "answer"


async def test_a_trial_that_is_cancelled_leaves_the_next_one_to_others():
    bench = Bench(failures=1)
    await bench.fail()
    bench.clock.advance(30)
    trial = asyncio.create_task(bench.service.ask(asyncio.Event().wait))
    await asyncio.sleep(0)
    trial.cancel()
    await asyncio.gather(trial, return_exceptions=True)
    assert bench.service.is_open
    assert await bench.ask() == "answer"


@pytest.mark.parametrize(("waited", "is_open"), [(2.4, False), (2.6, True)])
async def test_who_is_cancelled_after_a_long_wait_has_waited_in_vain(waited, is_open):
    bench = Bench(failures=1, deadline=5.0)
    waiting = asyncio.create_task(bench.service.ask(asyncio.Event().wait))
    await asyncio.sleep(0)
    bench.clock.advance(waited)
    waiting.cancel()
    (fault,) = await asyncio.gather(waiting, return_exceptions=True)
    assert isinstance(fault, asyncio.CancelledError)
    assert bench.service.is_open is is_open


async def test_its_deadline_ends_before_the_hook_does():
    plugin = Plugin(Settings())
    plugin.timeout = 0.02
    service = service_of(plugin, Breaker(), an_app(), "scanner")
    async with asyncio.timeout(5):
        with pytest.raises(ServiceError, match="no answer"):
            await service.ask(asyncio.Event().wait)


async def test_a_service_error_is_a_fault_without_a_traceback():
    class Asking(Plugin):
        name = "asking"

        @hook
        def message(self, mail):
            raise ServiceError("scanner: nobody there")

    raw = b"From: <a@example.org>\r\nMessage-ID: <1@example.org>\r\n\r\nx\r\n"
    driver = SessionDriver(entry_for(Asking))
    assert (await driver.deliver(raw)).reply.code == 451
    event = next(line for line in driver.log if '"plugin_fault"' in line)
    assert '"kind":"service"' in event
    assert '"traceback":""' in event
    assert (await SessionDriver(entry_for(Asking, on_error="skip")).deliver(raw)).reply.code == 250


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_connection_that_is_lost_while_we_write_is_a_service_error(loop):
    async def hangs_up(reader, writer):
        writer.transport.abort()

    async def write():
        async with scripted(hangs_up) as address:
            place = TypeAdapter(Where).validate_python(address)
            async with connected(place) as (_, writer):
                for _ in range(1000):
                    await send(writer, b"x" * 100_000)

    async def ask():
        service = Service("scanner", Breaker(), 20.0, an_app(), LOG)
        with pytest.raises(ServiceError, match="scanner: "):
            await service.ask(write)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(ask())


async def write_on(writer):
    while True:
        await send(writer, b"y")


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("said", [b"too large\0", b""])
def test_what_a_peer_said_before_it_hung_up_is_heard(loop, said):
    async def talk():
        with socket.create_server(("127.0.0.1", 0)) as server:
            place = Endpoint(*server.getsockname())
            async with connected(place) as (_, writer):
                peer, _ = server.accept()
                with last_words(writer) as words:
                    writer.write(b"x" * 1000)
                    peer.recv(10)
                    peer.send(said)
                    peer.close()  # with something unread: the connection breaks
                    with pytest.raises(ConnectionError):
                        await write_on(writer)
                    assert words() == said
                    assert words() == b""

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(talk())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("127.0.0.1:3310", "127.0.0.1:3310"),
        ("clamav.example:3310", "clamav.example:3310"),
        ("[::1]:3310", "[::1]:3310"),
        ("unix:/run/clamd.sock", "unix:/run/clamd.sock"),
    ],
)
def test_addresses(text, shown):
    assert str(TypeAdapter(Where).validate_python(text)) == shown


@pytest.mark.parametrize(
    "text",
    ["", "127.0.0.1", "a:0", "a:65536", "::1:3310", "unix:relative", "/run/x", 3310, "unix:/" + "x" * 200],
)
def test_what_is_no_address(text):
    with pytest.raises(ValidationError):
        TypeAdapter(Where).validate_python(text)


def test_durations():
    pause = TypeAdapter(Pause)
    assert [pause.validate_python(text) for text in ("250ms", "30s", "5m", "1h")] == [0.25, 30, 300, 3600]
    for wrong in ("5", "5 weeks", "0s", 7, -1):
        with pytest.raises(ValidationError):
            pause.validate_python(wrong)
