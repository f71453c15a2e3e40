"""The command loop of a connection: lines, unknown verbs, who may speak when, batches of RCPT."""

import asyncio

import pytest
from tests.server.harness import MESSAGE, serving
from tests.servers.client import Client, HangUpError, wire_form
from tests.servers.client import _Wire as Words
from tests.servers.process import wait_for

from relayproxy.api import Plugin, Settings, hook
from relayproxy.core.policy import Limits
from relayproxy.testing.upstream import Capabilities, Step, UpstreamSink
from relayproxy.testing.upstream_wire import Wire


async def test_a_message_goes_through(sink: UpstreamSink):
    async with serving(sink) as served, await served.client() as client:
        assert client.banner.code == 220
        assert client.banner.text.startswith("relay.test ESMTP")
        reply = await client.message(MESSAGE)
        assert reply.code == 250
        assert " id=" in reply.text
        assert (await client.say("QUIT")).code == 221
        with pytest.raises(HangUpError):
            await client.read()
    assert sink.messages[0].content.endswith(MESSAGE)
    assert served.became("accepted") == 1
    assert served.counted("messages_total", "main", "relayed") == 1
    assert served.counted("commands_total", "main", "RCPT", "2xx") == 1


async def test_every_verb_in_any_case(sink: UpstreamSink):
    async with serving(sink) as served, await served.client(helo="") as client:
        for line, code in (
            ("ehlo c.example", 250),
            ("Helo c.example", 250),
            ("EHLO", 501),
            ("LHLO c.example", 500),
            ("NOOP", 250),
            ("NOOP with words", 250),
            ("HELP", 214),
            ("VRFY <a@example.net>", 252),
            ("EXPN list", 252),
            ("RSET", 250),
            ("RSET x", 501),
            ("DATA x", 501),
            ("DATA", 503),
            ("RCPT TO:<b@example.net>", 503),
            ("XCLIENT ADDR=192.0.2.1", 550),
            ("XFORWARD ADDR=192.0.2.1", 550),
            ("STARTTLS", 502),
            ("AUTH PLAIN", 503),
            ("mail from:<a@example.org>", 250),
            ("MAIL FROM:<a@example.org>", 503),
            ("rcpt to:<b@example.net>", 250),
        ):
            assert (await client.say(line)).code == code, line


async def test_so_many_idle_commands_between_messages(sink: UpstreamSink):
    async with serving(sink, limits=Limits(idle_commands=3)) as served, await served.client() as client:
        for _ in range(2):
            assert [(await client.say(verb)).code for verb in ("NOOP", "HELP", "RSET")] == [250, 214, 250]
            await client.envelope()
            assert (await client.data(b"Subject: x\r\n\r\nx\r\n")).code == 250
        await client.send(b"NOOP\r\n" * 40_000)
        assert [(await client.read()).code for _ in range(4)] == [250, 250, 250, 421]
        with pytest.raises(HangUpError):
            await client.read()


@pytest.mark.parametrize(
    "line", [b"BOGUS", b"", b" EHLO x", b"EHLO\tx", b"M\xc3\x84IL FROM:<>", b"GET / HTTP/1.1"]
)
async def test_an_unknown_verb(sink: UpstreamSink, line: bytes):
    async with serving(sink) as served, await served.client() as client:
        reply = await client.say(line)
        assert (reply.code, reply.enhanced) == (500, "5.5.1")
        assert (await client.say("NOOP")).code == 250


async def test_so_many_bad_commands_and_no_more(sink: UpstreamSink):
    async with serving(sink, limits=Limits(bogus_commands=3)) as served, await served.client() as client:
        assert (await client.say("X")).code == 500
        assert (await client.say("NOOP")).code == 250
        assert (await client.say(b"NOOP\xff")).code == 500
        reply = await client.say("Y")
        assert (reply.code, reply.enhanced) == (421, "4.7.0")
        with pytest.raises(HangUpError):
            await client.read()
    assert served.counted("commands_total", "main", "other", "4xx") == 1


async def test_bad_commands_in_one_piece_end_with_one_421(sink: UpstreamSink):
    async with serving(sink, limits=Limits(bogus_commands=3)) as served, await served.client() as client:
        await client.send(b"X\r\n" * 50)
        assert [(await client.read()).code for _ in range(3)] == [500, 500, 421]
        with pytest.raises(HangUpError):
            await client.read()


@pytest.mark.parametrize(
    "line",
    [
        b"NOOP\n",
        b"NOOP a\rb\r\n",
        b"NOOP a\0b\r\n",
        b"NOOP\r\r\n",
        b"NOOP a\tb\r\n",
        b"NOOP \xff\r\n",
        b"NOOP a\x1bb\r\n",
        b"RCPT TO:<b@exa\0mple.net>\r\n",
        b"RCPT TO:<b@example.net>\n",
    ],
)
@pytest.mark.parametrize("behind", [b"", b"NOOP\r\n"])
async def test_odd_octets_in_a_command(sink: UpstreamSink, line: bytes, behind: bytes):
    async with serving(sink) as served, await served.client() as client:
        await client.say("MAIL FROM:<a@example.org>")
        await client.send(line + behind)
        assert (await client.read()).code == 500
        if behind:
            assert (await client.read()).code == 250
        assert (await client.say("NOOP")).code == 250
    assert sink.reached[Step.RCPT] == 0


async def test_bare_newlines_are_taken_where_the_admin_says_so(sink: UpstreamSink):
    async with serving(sink, normalise=True) as served, await served.client() as client:
        await client.send(b"MAIL FROM:<a@example.org>\nRCPT TO:<b@example.net>\nNOOP\0\n")
        assert [(await client.read()).code for _ in range(3)] == [250, 250, 500]
        await client.say("DATA")
        await client.send(b"Subject: x\n\nbody\n\r\n.\r\n")
        assert (await client.read()).code == 250
    assert sink.messages[0].content.endswith(b"Subject: x\r\n\r\nbody\r\n\r\n")


class TestLineLength:
    LIMITS = Limits(command_line=1024, bogus_commands=3)

    async def test_a_line_of_the_limit_is_taken_and_one_octet_more_is_not(self, sink: UpstreamSink):
        async with serving(sink, limits=self.LIMITS) as served, await served.client() as client:
            longest = b"NOOP " + b"x" * (1024 - 7)
            assert (await client.say(longest)).code == 250
            reply = await client.say(longest + b"x")
            assert (reply.code, reply.enhanced) == (500, "5.5.2")
            assert (await client.say("NOOP")).code == 250

    async def test_in_a_batch_as_well(self, sink: UpstreamSink):
        async with serving(sink, limits=self.LIMITS) as served, await served.client() as client:
            longest = b"NOOP " + b"x" * (1024 - 7)
            assert [r.code for r in await client.pipelined(longest, longest + b"x", "NOOP")] == [
                250,
                500,
                250,
            ]

    @pytest.mark.parametrize("size", [1025, 5000, 60_000])
    async def test_an_endless_line_is_dropped_up_to_its_end(self, sink: UpstreamSink, size: int):
        async with serving(sink, limits=self.LIMITS) as served, await served.client() as client:
            await client.send(b"x" * size)
            await served.until_idle()
            await client.send(b"x\r\nNOOP\r\n")
            assert [(await client.read()).code for _ in range(2)] == [500, 250]

    async def test_but_not_for_ever(self, sink: UpstreamSink):
        async with serving(sink, limits=self.LIMITS) as served, await served.client() as client:
            await client.send(b"x" * 100_000)
            with pytest.raises(HangUpError):
                await client.read()
            await served.until_empty()

    async def test_too_many_of_them_end_the_session(self, sink: UpstreamSink):
        async with serving(sink, limits=self.LIMITS) as served, await served.client() as client:
            for code in (500, 500, 421):
                await client.send(b"x" * 2000)
                await served.until_idle()
                await client.send(b"\r\n")
                assert (await client.read()).code == code
            with pytest.raises(HangUpError):
                await client.read()

    async def test_a_client_that_goes_in_the_middle_of_a_line(self, sink: UpstreamSink):
        async with serving(sink, limits=self.LIMITS) as served:
            for begun in (b"NO", b"x" * 3000):
                client = await served.client()
                await client.send(begun)
                client.abort()
            await served.until_empty()


class TestSpeakingOutOfTurn:
    @pytest.mark.parametrize(
        "ahead",
        [
            b"EHLO c.example\r\nMAIL FROM:<a@example.org>\r\n",
            b"HELO c.example\r\nNOOP\r\n",
            b"DATA\r\nSubject: x\r\n\r\nx\r\n.\r\n",
            b"AUTH PLAIN AGEAYg==\r\nNOOP\r\n",
            b"XCLIENT ADDR=192.0.2.1\r\nEHLO x\r\n",
        ],
    )
    async def test_whoever_does_not_wait_is_sent_away(self, sink: UpstreamSink, ahead: bytes):
        async with serving(sink) as served, await served.client() as client:
            await client.envelope()
            await client.send(ahead)
            reply = await client.read()
            assert (reply.code, reply.enhanced) == (554, "5.5.0")
            with pytest.raises(HangUpError):
                await client.read()
        assert served.events("unauthorised_pipelining")
        assert sink.arrived == []

    async def test_after_helo_there_is_no_pipelining(self, sink: UpstreamSink):
        async with serving(sink) as served, await served.client(helo="") as client:
            await client.say("HELO c.example")
            await client.send(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\n")
            assert (await client.read()).code == 554
            with pytest.raises(HangUpError):
                await client.read()

    async def test_starttls_with_more_behind_it_gets_no_answer_at_all(self, sink: UpstreamSink, certificates):
        async with (
            serving(sink, tls=certificates.server_context()) as served,
            await served.client() as client,
        ):
            await client.send(b"STARTTLS\r\nMAIL FROM:<evil@example.org>\r\n")
            with pytest.raises(HangUpError) as end:
                await client.read()
            assert end.value.args == (b"",)
        assert served.events("unauthorised_pipelining")[0]["after"] == "STARTTLS"

    @pytest.mark.parametrize("early", [b"EHLO c.example\r\n", b"E", b"\x16\x03\x01"])
    async def test_an_early_talker_hears_no_banner(self, sink: UpstreamSink, early: bytes):
        """The connect hook makes room for the client's impatience."""

        class Slow(Plugin[Settings]):
            spoken = asyncio.Event()

            @hook
            async def connect(self, client):
                await self.spoken.wait()

        slow = Slow(Settings())
        async with serving(sink, plugins=[slow]) as served:
            transport, wire = await asyncio.get_running_loop().create_connection(
                Words, "127.0.0.1", served.port
            )
            transport.write(early)
            await wait_for(lambda: any(c._buffer for c in served.connections), "the early words")
            slow.spoken.set()
            client = Client(transport, wire)
            reply = await client.read()
            assert (reply.code, reply.enhanced) == (554, "5.5.0")
            with pytest.raises(HangUpError):
                await client.read()
        assert served.events("early_talker")


class TestBatches:
    @pytest.fixture
    def pieces(self, monkeypatch) -> list[bytes]:
        """The pieces in which octets reach the upstream."""
        seen: list[bytes] = []
        received = Wire.data_received

        def data_received(wire: Wire, data: bytes) -> None:
            seen.append(data)
            received(wire, data)

        monkeypatch.setattr(Wire, "data_received", data_received)
        return seen

    async def test_the_usual_batch(self, sink: UpstreamSink):
        async with serving(sink) as served, await served.client() as client:
            replies = await client.pipelined(
                "RSET",
                "MAIL FROM:<a@example.org>",
                "RCPT TO:<b@example.net>",
                "RCPT TO:<c@example.net>",
                "DATA",
            )
            assert [reply.code for reply in replies] == [250, 250, 250, 250, 354]
            await client.send(wire_form(MESSAGE) + b"MAIL FROM:<z@example.org>\r\nQUIT\r\n")
            assert [(await client.read()).code for _ in range(3)] == [250, 250, 221]
        assert sink.messages[0].recipients == ("b@example.net", "c@example.net")

    async def test_recipients_in_one_piece_go_upstream_in_one_piece(
        self, sink: UpstreamSink, pieces: list[bytes]
    ):
        names = [f"u{number}@example.net" for number in range(50)]
        async with serving(sink) as served, await served.client() as client:
            replies = await client.pipelined("MAIL FROM:<a@example.org>", *(f"RCPT TO:<{n}>" for n in names))
            assert {reply.code for reply in replies} == {250}
            (piece,) = [piece for piece in pieces if b"RCPT" in piece]
            assert piece.count(b"RCPT") == 50
            assert piece.startswith(b"MAIL FROM:<a@example.org>")

    async def test_each_of_a_batch_gets_its_own_answer_in_order(self, sink: UpstreamSink):
        sink.refusals = {"c@example.net": b"550 5.1.1 nobody\r\n", "d@example.net": b"450 4.2.1 later\r\n"}
        async with serving(sink, limits=Limits(recipients=4)) as served, await served.client() as client:
            replies = await client.pipelined(
                "MAIL FROM:<a@example.org>",
                "RCPT TO:<b@example.net>",
                "RCPT TO:nonsense",
                "RCPT TO:<c@example.net>",
                "rcpt to:<d@example.net>",
                "RCPT TO:<e@example.net> FOO=bar",
                "NOOP",
                "RCPT TO:<f@example.net>",
            )
            assert [reply.code for reply in replies] == [250, 250, 501, 550, 450, 555, 250, 250]
            assert (await client.data(MESSAGE)).code == 250
        assert sink.messages[0].recipients == ("b@example.net", "f@example.net")

    @pytest.mark.parametrize(
        "odd", [b"RCPT TO:<x@example.net>\n", b"RCPT TO:<x\r@example.net>\r\n", b"RCPT \xff\r\n"]
    )
    async def test_an_odd_line_in_a_batch_is_its_own_trouble(self, sink: UpstreamSink, odd: bytes):
        async with serving(sink) as served, await served.client() as client:
            await client.send(
                b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\n"
                + odd
                + b"RCPT TO:<c@example.net>\r\n"
            )
            assert [(await client.read()).code for _ in range(4)] == [250, 250, 500, 250]

    async def test_a_line_that_is_too_long_in_a_batch(self, sink: UpstreamSink):
        async with serving(sink, limits=Limits(command_line=1024)) as served, await served.client() as client:
            for size, code in ((1024, 501), (1025, 500)):
                line = b"RCPT TO:<" + b"x" * (size - 11)
                await client.say("RSET")
                replies = await client.pipelined("MAIL FROM:<a@example.org>", "RCPT TO:<b@example.net>", line)
                assert [reply.code for reply in replies] == [250, 250, code]

    async def test_an_upstream_that_does_not_pipeline_is_asked_one_by_one(self):
        async with (
            UpstreamSink(Capabilities(pipelining=False)) as sink,
            serving(sink) as served,
            await served.client() as client,
        ):
            replies = await client.pipelined(
                "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.net>", "RCPT TO:<c@example.net>"
            )
            assert [reply.code for reply in replies] == [250, 250, 250]
            assert sink.complaints == []


async def test_lmtp_answers_for_each_recipient(sink: UpstreamSink):
    async with serving(sink, protocol="lmtp") as served, await served.client(helo="") as client:
        assert (await client.say("EHLO c.example")).code == 500
        assert (await client.ehlo(verb="LHLO")).code == 250
        await client.envelope(recipients=("b@example.net", "c@example.net"))
        assert (await client.data(MESSAGE)).code == 250
        assert (await client.read()).code == 250


async def test_a_unix_socket(sink: UpstreamSink, short_folder):
    async with serving(sink, path=str(short_folder / "smtp.sock")) as served, await served.client() as client:
        # Nobody knows who this is, so it may send to our own domains only.
        assert [r.code for r in await client.envelope(recipients=("x@far.example", "b@example.net"))] == [
            250,
            550,
            250,
        ]
        assert (await client.data(MESSAGE)).code == 250
