"""The wire to a next hop: one reply for each command, however it is cut; anything else ends its use."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayproxy.core.outbox import Outbox
from relayproxy.delivery import wire as module
from relayproxy.delivery.wire import Wire, WireError
from relayproxy.model.reply import Reply


class Line(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.end = ""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.end = self.end or "closed"

    def abort(self) -> None:
        self.end = self.end or "aborted"


@pytest.fixture
async def line() -> Line:
    return Line()


@pytest.fixture
async def wire(line: Line) -> Wire:
    wire = Wire(asyncio.get_running_loop())
    wire.connection_made(line)
    return wire


async def test_a_command_and_its_reply(wire: Wire, line: Line):
    asked = wire.ask(b"MAIL FROM:<>\r\n", 1, 5)
    assert wire.busy
    await asyncio.sleep(0)
    assert line.written == b"MAIL FROM:<>\r\n"
    wire.data_received(b"250 2.1.0 ok\r\n")
    assert await asked == [Reply(250, "2.1.0", "ok")]
    assert not wire.busy
    assert wire.broken == ""


REPLIES = st.lists(
    st.tuples(
        st.sampled_from([220, 250, 354, 421, 450, 550, 599]),
        st.lists(st.text("abc 2.1", max_size=12), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=200, deadline=None)
@given(REPLIES, st.lists(st.integers(1, 9), min_size=1, max_size=6), st.booleans())
def test_replies_however_they_are_cut(
    said: list[tuple[int, list[str]]], cuts: list[int], octet_by_octet: bool
):
    wanted = [(code, len(lines)) for code, lines in said]
    data = b"".join(
        b"".join(f"{code}-{text}\r\n".encode() for text in lines[:-1]) + f"{code} {lines[-1]}\r\n".encode()
        for code, lines in said
    )

    async def run() -> list[Reply]:
        wire, line = Wire(asyncio.get_running_loop()), Line()
        wire.connection_made(line)
        asked = wire.ask(b"A\r\n" * len(said), len(said), 5)
        rest, turn = data, 0
        while rest:
            assert not asked.done()
            size = 1 if octet_by_octet else cuts[turn % len(cuts)]
            wire.data_received(rest[:size])
            rest, turn = rest[size:], turn + 1
        assert not wire.broken
        return await asked

    heard = asyncio.run(run())
    assert [(reply.code, reply.text.count("\n") + 1) for reply in heard] == wanted


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"what?\r\n", "not an SMTP reply"),
        (b"25 ok\r\n", "not an SMTP reply"),
        (b"099 ok\r\n", "not an SMTP reply"),
        (b"250ok\r\n", "not an SMTP reply"),
        (b"\r\n", "not an SMTP reply"),
        (b"250-a\r\n550 b\r\n", "changes from 250 to 550"),
        (b"250-a\r\n" * 101, "more than 100 lines"),
        (b"250 " + b"x" * 40_000, "more than 32768 octets"),
    ],
)
async def test_nonsense_in_place_of_a_reply(wire: Wire, line: Line, data: bytes, why: str):
    asked = wire.ask(b"NOOP\r\n", 1, 5)
    wire.data_received(data)
    with pytest.raises(WireError, match=why) as error:
        await asked
    assert error.value.replies == ()
    assert wire.broken
    assert line.end == "aborted"


@pytest.mark.parametrize(
    ("more", "why"),
    [(b"what?\r\n", "not an SMTP reply"), (b"421 bye\r\n", "nothing asked for"), (b"2", "a part of")],
)
async def test_a_reply_with_more_behind_it_counts_but_ends_the_use(
    wire: Wire, line: Line, more: bytes, why: str
):
    asked = wire.ask(b"NOOP\r\n", 1, 5)
    wire.data_received(b"250 ok\r\n" + more)
    assert await asked == [Reply(250, "", "ok")]
    assert why in wire.broken
    assert line.end == "aborted"
    with pytest.raises(WireError, match=why):
        await wire.ask(b"NOOP\r\n", 1, 5)
    assert b"NOOP" not in line.written.replace(b"NOOP\r\n", b"", 1)


async def test_a_reply_that_nobody_asked_for(wire: Wire, line: Line):
    wire.data_received(b"421 4.4.2 idle for too long\r\n")
    assert wire.broken == "a reply that nothing asked for: 421 4.4.2 idle for too long"
    assert line.end == "aborted"
    wire.data_received(b"more\r\n")
    assert wire.broken.startswith("a reply that")


async def test_half_a_reply_that_nobody_asked_for_is_seen_too(wire: Wire):
    """What comes before a command can't be its answer, be it complete or not."""
    wire.data_received(b"250 sm")
    assert wire.broken == "a part of a reply that nothing asked for"


@pytest.mark.parametrize("how", ["eof", "lost", "lost with an error"])
async def test_the_end_of_the_connection(wire: Wire, how: str):
    asked = wire.ask(b"A\r\nB\r\nC\r\n", 3, 5)
    wire.data_received(b"250 one\r\n550 two\r\n")
    if how == "eof":
        assert wire.eof_received() is False
    else:
        wire.connection_lost(OSError("broken pipe") if "error" in how else None)
    with pytest.raises(WireError) as error:
        await asked
    assert error.value.replies == (Reply(250, "", "one"), Reply(550, "", "two"))
    assert wire.broken == (
        "the connection was lost: broken pipe" if "error" in how else "the connection was closed"
    )
    wire.connection_lost(None)


class TestTime:
    async def test_no_answer_in_time(self, wire: Wire, line: Line):
        with pytest.raises(WireError, match="no answer in time"):
            await wire.ask(b"NOOP\r\n", 1, 0.05)
        assert line.end == "aborted"

    async def test_half_an_answer_is_none(self, wire: Wire):
        asked = wire.ask(b"A\r\nB\r\n", 2, 0.05)
        wire.data_received(b"250 one\r\n250-tw")
        with pytest.raises(WireError, match="no answer in time") as error:
            await asked
        assert error.value.replies == (Reply(250, "", "one"),)

    async def test_a_shorter_deadline_after_a_longer_one(self, wire: Wire):
        asked = wire.ask(b"A\r\n", 1, 600)
        wire.data_received(b"250 ok\r\n")
        await asked
        with pytest.raises(WireError, match="no answer in time"):
            await wire.ask(b"B\r\n", 1, 0.05)

    async def test_a_longer_deadline_after_a_shorter_one(self, wire: Wire, monkeypatch: pytest.MonkeyPatch):
        """The timer of the first is let run; when it fires it looks again. A second wire shows that it has fired."""
        other = Wire(asyncio.get_running_loop())
        other.connection_made(Line())
        asked = wire.ask(b"A\r\n", 1, 0.05)
        wire.data_received(b"250 ok\r\n")
        await asked
        asked = wire.ask(b"B\r\n", 1, 600)
        with pytest.raises(WireError, match="no answer in time"):
            await other.ask(b"C\r\n", 1, 0.1)
        assert not asked.done()
        wire.data_received(b"250 late\r\n")
        assert (await asked)[0].text == "late"
        wire.close()

    async def test_a_long_wait_is_looked_at_now_and_then(self, wire: Wire, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(module, "_LOOK", 0.02)
        with pytest.raises(WireError, match="no answer in time"):
            await wire.ask(b"A\r\n", 1, 0.1)

    async def test_no_deadline_while_nothing_is_asked(self, wire: Wire):
        asked = wire.ask(b"A\r\n", 1, 0.02)
        wire.data_received(b"250 ok\r\n")
        await asked
        other = Wire(asyncio.get_running_loop())
        other.connection_made(Line())
        with pytest.raises(WireError):
            await other.ask(b"C\r\n", 1, 0.08)
        assert wire.broken == ""


class TestPieces:
    """Content: what asks for replies is written piece by piece."""

    async def test_the_replies_may_come_before_or_after_the_end(self, wire: Wire, line: Line):
        for early in (True, False):
            wire.expect(2)
            wire.write(b"piece")
            if early:
                wire.data_received(b"250 a\r\n552 b\r\n")
            await wire.drain(5)
            asked = wire.replies(5)
            if not early:
                wire.data_received(b"250 a\r\n552 b\r\n")
            assert [reply.code for reply in await asked] == [250, 552]
        assert line.written == b"piecepiece"

    async def test_what_was_asked_before_goes_out_before(self, wire: Wire, line: Line):
        asked = wire.ask(b"first ", 1, 5)
        wire.write(b"second")
        assert line.written == b"first second"
        wire.data_received(b"250 ok\r\n")
        await asked

    async def test_a_full_socket_is_waited_for(self, wire: Wire):
        await wire.drain(5)
        wire.pause_writing()
        draining = asyncio.create_task(wire.drain(5))
        await asyncio.sleep(0)
        assert not draining.done()
        wire.resume_writing()
        await draining

    async def test_a_full_socket_is_not_waited_for_for_ever(self, wire: Wire):
        wire.pause_writing()
        with pytest.raises(WireError, match="no answer in time"):
            await wire.drain(0.05)

    async def test_what_was_said_before_the_end_is_known(self, wire: Wire):
        wire.expect(1)
        wire.write(b"piece")
        wire.pause_writing()
        draining = asyncio.create_task(wire.drain(5))
        await asyncio.sleep(0)
        wire.data_received(b"552 5.3.4 too big\r\n")
        wire.connection_lost(None)
        with pytest.raises(WireError) as error:
            await draining
        assert error.value.replies == (Reply(552, "5.3.4", "too big"),)

    async def test_a_lost_wire_takes_nothing_more(self, wire: Wire, line: Line):
        wire.expect(2)
        wire.data_received(b"250 one\r\n")
        wire.connection_lost(None)
        wire.write(b"lost")
        assert line.written == b""
        with pytest.raises(WireError):
            await wire.drain(5)
        with pytest.raises(WireError) as error:
            await wire.replies(5)
        assert error.value.replies == (Reply(250, "", "one"),)


class TestEnding:
    async def test_quit(self, line: Line):
        with watched() as (outbox, run):
            wire = Wire(asyncio.get_running_loop(), outbox)
            wire.connection_made(line)
            wire.quit()
            assert (line.written, line.end) == (b"", "")
            run()
            assert (line.written, line.end) == (b"QUIT\r\n", "closed")
            wire.quit()
            run()
            assert line.written == b"QUIT\r\n"

    @pytest.mark.parametrize("said", [b"250-half", b"what?\r\n"])
    async def test_a_wire_that_is_out_of_step_says_nothing(self, wire: Wire, line: Line, said: bytes):
        wire.data_received(said)
        wire.quit()
        await asyncio.sleep(0)
        assert line.written == b""
        assert line.end

    async def test_a_wire_that_never_was(self):
        wire = Wire(asyncio.get_running_loop())
        wire.close()
        wire.quit()
        with pytest.raises(WireError, match="closed by us"):
            await wire.ask(b"NOOP\r\n", 1, 5)

    async def test_octets_after_the_end_change_nothing(self, wire: Wire):
        wire.close()
        wire.data_received(b"250 ok\r\n")
        wire.eof_received()
        wire.connection_lost(None)
        assert wire.broken == "closed by us"

    async def test_nobody_is_left_waiting(self, wire: Wire):
        asked = wire.ask(b"NOOP\r\n", 1, 5)
        wire.close()
        wire.connection_lost(None)
        async with asyncio.timeout(5):
            with pytest.raises(WireError):
                await asked


@contextmanager
def watched() -> Iterator[tuple[Outbox, Callable[[], None]]]:
    """An outbox, and what ends its turn."""
    calls: list[Callable[[], None]] = []

    def run() -> None:
        while calls:
            calls.pop(0)()

    yield Outbox(calls.append), run
