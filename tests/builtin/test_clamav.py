import asyncio

import pytest
from pydantic import ValidationError
from tests.builtin.scanning import INFECTED, RAW, an_app, scripted, started
from tests.servers.clamd import FOUND, UNWANTED, WORD, Clamd

from relayproxy.api import Action, Message, ServiceError, SharedState
from relayproxy.builtin.clamav import Clamav, ClamavSettings
from relayproxy.core.metrics import Metrics
from relayproxy.plugging import meters_of
from relayproxy.testing import MemoryState
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.mail import call, make_mail


def clam(**options):
    return started(Clamav, **{"remember": "0s", **options})


async def received(reader):
    """Read one INSTREAM command and return the octets in it."""
    assert await reader.readuntil(b"\0") == b"zINSTREAM\0"
    stream = b""
    while length := int.from_bytes(await reader.readexactly(4), "big"):
        stream += await reader.readexactly(length)
    return stream


def saying(answer, seen=None):
    """Return a talk that reads a stream to its end and says `answer`."""

    async def talk(reader, writer):
        stream = await received(reader)
        if seen is not None:
            seen.append(stream)
        writer.write(answer)

    return talk


async def judged(answer, raw=RAW, **options):
    async with scripted(saying(answer)) as address:
        mail = make_mail(raw)
        verdict = await call(clam(address=address, **options), "message", mail=mail)
        return verdict, mail.finding("clamav")


async def test_a_clean_message_passes():
    verdict, finding = await judged(b"stream: OK\0")
    assert verdict is None
    assert finding.result == "miss"


async def test_a_find_is_refused_and_named():
    verdict, finding = await judged(b"stream: Win.Test.EICAR_HDB-1 FOUND\0")
    assert str(verdict.reply) == "550 5.7.1 Message refused: it contains Win.Test.EICAR_HDB-1"
    assert (finding.result, finding.score) == ("hit", 10.0)
    assert finding.props == {"virus": "Win.Test.EICAR_HDB-1"}


@pytest.mark.parametrize(
    ("on_find", "action"), [("hold", Action.HOLD), ("discard", Action.DISCARD), ("note", None)]
)
async def test_what_follows_from_a_find(on_find, action):
    verdict, finding = await judged(b"stream: X FOUND\0", on_find=on_find, score=4)
    assert (verdict and verdict.action) == action
    assert finding.score == 4


async def test_a_name_can_be_left_to_the_score():
    verdict, finding = await judged(b"stream: PUA.Win.Packer FOUND\0", note_only=["PUA.*"])
    assert verdict is None
    assert finding.result == "hit"
    verdict, _ = await judged(b"stream: Win.Worm FOUND\0", note_only=["PUA.*"])
    assert verdict.action is Action.REJECT


async def test_a_name_from_the_daemon_is_made_fit_for_a_reply():
    verdict, _ = await judged(b"stream: a\r\n250 ok\xff FOUND\0")
    assert str(verdict.reply) == "550 5.7.1 Message refused: it contains a??250 ok?"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"stream: OK",
        b"UNKNOWN COMMAND\0",
        b"stream: X FOUNDER\0",
        b"stream: Can't open file ERROR\0",
        b"\0",
    ],
)
async def test_what_is_no_answer_is_a_fault(answer):
    with pytest.raises(ServiceError, match=r"^clamav: "):
        await judged(answer)


@pytest.mark.parametrize(
    ("too_large", "code"),
    [("reject", "552 5.3.4 Message too large to be scanned for viruses"), ("pass", None)],
)
async def test_a_message_beyond_the_limit_is_not_sent(too_large, code):
    plugin = clam(address="127.0.0.1:1", max_size=10, too_large=too_large)
    mail = make_mail(RAW)
    verdict = await call(plugin, "message", mail=mail)
    assert (verdict and str(verdict.reply)) == code
    assert mail.finding("clamav").result == "policy"


async def test_the_limit_of_the_daemon_is_the_limit_too():
    verdict, _ = await judged(b"INSTREAM size limit exceeded. ERROR\0", too_large="hold")
    assert verdict.action is Action.HOLD


async def test_an_answer_before_the_end_is_heard():
    async def talk(reader, writer):
        await reader.readexactly(100)
        writer.write(b"INSTREAM size limit exceeded. ERROR\0")

    async with scripted(talk) as address:
        raw = RAW + b"x" * 70 + b"\r\n" + b"y" * 8_000_000 + b"\r\n"
        verdict = await call(clam(address=address), "message", mail=make_mail(raw))
    assert verdict.reply.code == 552


async def test_the_octets_arrive_as_they_are_whatever_holds_them():
    seen = []
    head, body = RAW[:-7], b"a" * 70_000 + b"\r\n" + b"b" * 600_000 + b"\r\n"
    pieces = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
    messages = [
        Message.from_bytes(RAW),
        Message(head, memoryview(body)),
        Message.from_pieces([head, *pieces]),
        Message(head, memoryview(body), reader=lambda: iter([b"", *pieces, b""])),
        Message(head),
    ]
    async with scripted(saying(b"stream: OK\0", seen)) as address:
        plugin = clam(address=address)
        for message in messages:
            mail = make_mail(RAW)
            mail.message = message
            await call(plugin, "message", mail=mail)
    assert seen == [bytes(message) for message in messages]


async def test_nobody_there_and_no_answer_are_faults():
    async with scripted(saying(b"")) as address:
        pass
    plugin = clam(address=address, breaker={"failures": 1})
    for text in ("clamav: .*Connect call failed", "clamav is not asked"):
        with pytest.raises(ServiceError, match=text):
            await call(plugin, "message", mail=make_mail(RAW))

    async def stalls(reader, writer):
        await asyncio.Event().wait()

    async with scripted(stalls) as address:
        with pytest.raises(ServiceError, match="no answer within"):
            await call(clam(address=address, timeout=0.05), "message", mail=make_mail(RAW))


@pytest.mark.parametrize("options", [{}, {"address": "x"}, {"address": "a:1", "note_only": [" "]}])
def test_settings_that_are_refused(options):
    with pytest.raises(ValidationError):
        ClamavSettings.model_validate(options)


class Daemon:
    """A clamd for tests: `version` and `answer` are what it says; `scans` counts."""

    def __init__(self):
        self.version, self.answer, self.scans = b"ClamAV 1.4/1/x", b"stream: OK\0", 0

    async def __call__(self, reader, writer):
        command = await reader.readuntil(b"\0")
        if command == b"zVERSION\0":
            writer.write(self.version + b"\0")
            return
        while length := int.from_bytes(await reader.readexactly(4), "big"):
            await reader.readexactly(length)
        self.scans += 1
        writer.write(self.answer)


class Bench:
    """Two workers with one state and one daemon."""

    def __init__(self, address, **options):
        self.clock, self.metrics = FakeClock(), Metrics()
        state = MemoryState(self.clock.time)
        app = an_app(clock=self.clock, state=state, meter=meters_of(self.metrics))
        self.workers = [started(Clamav, app=app, address=address, **options) for _ in range(2)]

    async def ask(self, raw=RAW, worker=0):
        mail = make_mail(raw)
        verdict = await call(self.workers[worker], "message", mail=mail)
        return verdict and verdict.reply.code, mail.finding("clamav").result

    def count(self, result):
        return self.metrics.cell("service_answers_total", "clamav", result).value


@pytest.mark.parametrize(
    ("answer", "told"), [(b"stream: OK\0", (None, "miss")), (b"stream: X FOUND\0", (550, "hit"))]
)
async def test_the_same_message_is_scanned_once(answer, told):
    daemon = Daemon()
    daemon.answer = answer
    async with scripted(daemon) as address:
        bench = Bench(address)
        for worker in (0, 1, 0):
            assert await bench.ask(worker=worker) == told
        assert (daemon.scans, bench.count("hit"), bench.count("miss")) == (1, 2, 1)
        await bench.ask(RAW + b"more\r\n")
        assert daemon.scans == 2
        bench.clock.advance(301)
        await bench.ask()
        assert daemon.scans == 3


async def test_new_signatures_end_what_is_remembered():
    daemon = Daemon()
    async with scripted(daemon) as address:
        bench = Bench(address)
        await bench.ask()
        daemon.version, daemon.answer = b"ClamAV 1.4/2/x", b"stream: X FOUND\0"
        bench.clock.advance(61)
        assert await bench.ask() == (550, "hit")


async def test_what_is_no_definite_answer_is_not_remembered():
    daemon = Daemon()
    async with scripted(daemon) as address:
        bench = Bench(address, too_large="pass")
        daemon.answer = b"INSTREAM size limit exceeded. ERROR\0"
        assert await bench.ask() == (None, "policy")
        daemon.answer = b"stream: Can't open file ERROR\0"
        with pytest.raises(ServiceError):
            await bench.ask()
        daemon.answer = b"stream: OK\0"
        assert await bench.ask() == (None, "miss")
        assert daemon.scans == 3


async def test_a_state_that_fails_costs_a_scan_and_no_mail():
    daemon = Daemon()
    async with scripted(daemon) as address:
        plugin = started(Clamav, app=an_app(state=SharedState()), address=address)
        for _ in range(2):
            mail = make_mail(RAW)
            assert await call(plugin, "message", mail=mail) is None
            assert mail.finding("clamav").result == "miss"
    assert daemon.scans == 2


@pytest.mark.servers
async def test_a_real_clamd_over_both_sockets():
    clamd = Clamd()
    try:
        await clamd.start()
        for address in (clamd.address, f"unix:{clamd.socket}"):
            plugin = started(Clamav, address=address, note_only=["PUA.*"])
            verdicts = {}
            for name, raw in (("clean", RAW), ("eicar", INFECTED), ("word", RAW.replace(b"hello", WORD))):
                mail = make_mail(raw)
                verdicts[name] = await call(plugin, "message", mail=mail)
            assert verdicts["clean"] is None
            assert str(verdicts["eicar"].reply) == f"550 5.7.1 Message refused: it contains {FOUND}"
            assert verdicts["word"] is None
            assert mail.finding("clamav").props == {"virus": UNWANTED}
            for _ in range(10):
                large = make_mail(RAW + (b"y" * 998 + b"\r\n") * 3000)
                assert (await call(plugin, "message", mail=large)).reply.code == 552
    finally:
        await clamd.stop()
