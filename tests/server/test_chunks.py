"""BDAT on a connection (RFC 3030): pieces, what may stand between them, refusals that swallow what was announced."""

import pytest
from tests.server.harness import MESSAGE, received, serving
from tests.servers.client import HangUpError
from tests.servers.process import wait_for

from relayproxy.core.session import Session
from relayproxy.testing.upstream import UpstreamSink


async def test_a_line_end_may_be_cut(sink: UpstreamSink):
    async with serving(sink) as served, await served.client() as client:
        await client.envelope()
        await client.send(b"BDAT 13\r\nSubject: x\r\n\rBDAT 1\r\n\nBDAT 4 LAST\r\nz\r\n\r")
        await client.send(b"\nNOOP\r\n")
        # The LF that belongs to no chunk is an empty line in front of NOOP.
        assert [(await client.read()).code for _ in range(5)] == [250, 250, 550, 500, 250]
        await client.envelope()
        await client.send(b"BDAT 13\r\nSubject: x\r\n\rBDAT 1\r\n\nBDAT 3 LAST\r\nz\r\n")
        assert [(await client.read()).code for _ in range(3)] == [250, 250, 250]
    assert received(sink) == [b"Subject: x\r\n\r\nz\r\n"]


async def test_the_size_that_was_received_is_named(sink: UpstreamSink):
    async with serving(sink) as served, await served.client() as client:
        await client.envelope()
        reply = await client.say(b"bdat 14\r\nSubject: x\r\n")
        assert (reply.code, reply.text) == (250, "2.0.0 14 octets received")
        assert (await client.say("BDAT 0")).code == 250
        assert (await client.say("bdat 0 last")).code == 250
    assert received(sink) == [b"Subject: x\r\n\r\n"]


async def test_nothing_at_all_is_a_message_too(sink: UpstreamSink):
    async with serving(sink) as served, await served.client() as client:
        await client.envelope()
        assert (await client.say("BDAT 0 LAST")).code == 250
    assert received(sink) == [b""]


async def test_a_cr_at_the_very_end_is_normalised_like_any_other(sink: UpstreamSink):
    async with serving(sink, normalise=True) as served, await served.client() as client:
        await client.envelope()
        await client.send(b"BDAT 16 LAST\r\nSubject: x\r\n\r\na\r")
        assert (await client.read()).code == 250
    assert received(sink) == [b"Subject: x\r\n\r\na\r\n"]
    assert sink.complaints == []


@pytest.mark.parametrize(
    "arg", ["", " ", " x", " -1", " 5 FIRST", " 5 LAST LAST", " 1e3", " 123456789012345678901", " \u0661"]
)
async def test_a_size_that_makes_no_sense_ends_the_session(sink: UpstreamSink, arg: str):
    """Where the next command begins can't be known."""
    async with serving(sink) as served, await served.client() as client:
        await client.envelope()
        await client.send(f"BDAT{arg}\r\nQUIT\r\n".encode())
        reply = await client.read()
        assert (reply.code, reply.enhanced) == (501, "5.5.4")
        with pytest.raises(HangUpError):
            await client.read()


async def test_a_refused_chunk_is_swallowed(sink: UpstreamSink):
    sink.refusals = {
        "nobody@example.net": b"550 5.1.1 nobody\r\n",
        "busy@example.net": b"450 4.2.1 busy\r\n",
    }
    hidden = b"QUIT\r\nRSET\r\n" * 3
    chunks = b"BDAT %d\r\n" % len(hidden) + hidden + b"BDAT %d LAST\r\n" % len(hidden) + hidden
    async with serving(sink) as served, await served.client() as client:
        await client.send(chunks + b"NOOP\r\n")
        assert [(await client.read()).code for _ in range(3)] == [503, 503, 250]
        for name, code in (("nobody", 554), ("busy", 451)):
            await client.envelope(recipients=(f"{name}@example.net",))
            await client.send(chunks + b"RSET\r\n")
            assert [(await client.read()).code for _ in range(3)] == [code, code, 250]
        assert (await client.message(MESSAGE)).code == 250
    assert received(sink) == [MESSAGE]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("MAIL FROM:<z@example.org>", 503),
        ("RCPT TO:<z@example.net>", 503),
        ("DATA", 503),
        ("STARTTLS", 502),
        ("NOOP", 250),
        ("BOGUS", 500),
    ],
)
async def test_other_commands_between_chunks_change_nothing(sink: UpstreamSink, command: str, code: int):
    async with serving(sink) as served, await served.client() as client:
        await client.envelope()
        assert (await client.say(b"BDAT 14\r\nSubject: x\r\n")).code == 250
        assert (await client.say(command)).code == code
        assert (await client.say(b"BDAT 6 LAST\r\nbody")).code == 250
    assert received(sink) == [b"Subject: x\r\n\r\nbody\r\n"]
    assert sink.messages[0].recipients == ("b@example.net",)


@pytest.mark.parametrize("forget", ["RSET", "EHLO again.example", "HELO again.example"])
async def test_rset_and_a_new_hello_forget_the_chunks(sink: UpstreamSink, forget: str):
    async with serving(sink) as served, await served.client() as client:
        await client.envelope()
        assert (await client.say(b"BDAT 18\r\nX-Forgotten: yes")).code == 250
        assert (await client.say(forget)).code == 250
        assert served.services.budget.used == 0
        assert (await client.say("BDAT 0 LAST")).code == 503
        assert (await client.message(MESSAGE)).code == 250
    assert received(sink) == [MESSAGE]


@pytest.mark.parametrize("end", ["QUIT", "abort", "half", "garbage"])
async def test_a_client_that_goes_between_chunks_leaves_nothing_behind(sink: UpstreamSink, end: str):
    """The harness looks at the budget in the end."""
    async with serving(sink) as served, await served.client() as client:
        await client.envelope()
        await client.say(b"BDAT 2000\r\n" + b"x" * 1998)
        assert served.services.budget.used == 2000
        if end == "QUIT":
            await client.say("QUIT")
        elif end == "garbage":
            await client.say("BDAT x")
        elif end == "half":
            await client.send(b"BDAT 2000 LAST\r\n" + b"x" * 1000)
            await wait_for(lambda: served.services.budget.used == 3000, "the octets to be counted")
            client.abort()
        else:
            client.abort()
        await served.until_empty()
        assert served.services.budget.used == 0
    assert sink.arrived == []


async def test_a_defect_between_chunks_forgets_them(sink: UpstreamSink, monkeypatch: pytest.MonkeyPatch):
    async def broken(*_: object) -> None:
        raise RuntimeError("secret")

    async with serving(sink, defects=1) as served, await served.client() as client:
        await client.envelope()
        await client.say(b"BDAT 5\r\nabc")
        with monkeypatch.context() as patch:
            patch.setattr(Session, "xclient", broken)
            assert (await client.say("XCLIENT ADDR=192.0.2.1")).code == 451
        assert (await client.message(MESSAGE)).code == 250
    assert received(sink) == [MESSAGE]
