"""The test upstream proves others, so it is proved first: by a raw client, by smtplib, and by every fault."""

import asyncio
import contextlib
import smtplib
import ssl
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.servers.client import Client, HangUpError, wire_form
from tests.servers.process import PATIENCE
from tests.servers.tls import Certificates

from relayproxy.testing.faults import NONSENSE
from relayproxy.testing.upstream import (
    Action,
    Capabilities,
    Disconnect,
    Fault,
    FaultPlan,
    Reset,
    Say,
    Stall,
    Step,
    Trickle,
    UpstreamSink,
    answer,
)

CONTENT = b"Subject: one\r\n\r\n.dot\r\n..two dots\r\nlast line\r\n"


async def test_what_is_sent_is_kept_octet_for_octet_with_its_envelope():
    async with UpstreamSink(Capabilities(dsn=True)) as sink, await Client.open(sink.port) as client:
        await client.say("MAIL FROM:<a@example.org> SIZE=50 BODY=8BITMIME RET=HDRS ENVID=QQ+3D1")
        await client.say("RCPT TO:<B.b@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;B@example.net")
        await client.say('RCPT TO:<"a > b"@example.net>')
        assert (await client.data(CONTENT)).code == 250
    (sunk,) = sink.messages
    assert sunk.content == CONTENT
    assert sunk.body == b".dot\r\n..two dots\r\nlast line\r\n"
    assert sunk.mail == b"MAIL FROM:<a@example.org> SIZE=50 BODY=8BITMIME RET=HDRS ENVID=QQ+3D1"
    assert sunk.rcpts[0] == b"RCPT TO:<B.b@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;B@example.net"
    assert (sunk.sender, sunk.recipients) == (
        "a@example.org",
        ("B.b@example.net", '"a > b"@example.net'),
    )
    assert sunk.peer.helo == b"client.example.org"
    assert sink.complaints == []


async def test_pythons_own_client_gets_along_with_it():
    def send(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port) as smtp:
            smtp.sendmail("a@example.org", ["b@example.net", "c@example.net"], CONTENT)

    async with UpstreamSink() as sink:
        await asyncio.to_thread(send, sink.port)
    assert sink.messages[0].content == CONTENT
    assert sink.complaints == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.lists(st.binary(max_size=40)), cut=st.integers(1, 9))
def test_any_octets_come_through_data_however_they_are_cut(content, cut):
    lines = [line.replace(b"\r", b".").replace(b"\n", b".") for line in content]
    sent = b"".join(line + b"\r\n" for line in lines)

    async def run() -> bytes:
        async with UpstreamSink() as sink, await Client.open(sink.port) as client:
            await client.envelope()
            await client.say("DATA")
            wire = wire_form(sent)
            for start in range(0, len(wire), cut):
                await client.send(wire[start : start + cut])
            await client.read()
        return sink.messages[0].content

    assert asyncio.run(run()) == sent


async def test_chunks_are_joined_and_may_be_pipelined():
    async with (
        UpstreamSink(Capabilities(chunking=True)) as sink,
        await Client.open(sink.port) as client,
    ):
        await client.envelope()
        await client.send(b"BDAT 5\r\nab\r\n.BDAT 2\r\n\r\nBDAT 0 LAST\r\n")
        assert [(await client.read()).code for _ in range(3)] == [250, 250, 250]
    assert sink.messages[0].content == b"ab\r\n.\r\n"
    assert sink.messages[0].chunked


async def test_lmtp_answers_for_each_recipient():
    async with UpstreamSink(lmtp=True) as sink, await Client.open(sink.port, helo="") as client:
        sink.plan.add(Fault(Step.DOT, answer(452, "4.2.2 full"), nth=1))
        assert (await client.ehlo(verb="LHLO")).code == 250
        await client.envelope(recipients=("a@example.net", "b@example.net", "c@example.net"))
        codes = [(await client.data(CONTENT)).code, (await client.read()).code, (await client.read()).code]
    assert codes == [250, 452, 250]
    assert sink.messages[0].recipients == ("a@example.net", "c@example.net")


async def test_starttls_implicit_tls_and_client_certificates(certificates: Certificates):
    context = certificates.server_context(ask_client=True)
    async with (
        UpstreamSink(Capabilities(starttls=context, requiretls=True)) as sink,
        await Client.open(sink.port) as client,
    ):
        assert "STARTTLS" in client.extensions
        assert "REQUIRETLS" not in client.extensions
        await client.start_tls(certificates.client_context(with_certificate=True))
        assert "STARTTLS" not in client.extensions
        assert (await client.message(CONTENT, options="REQUIRETLS")).code == 250
    assert sink.messages[0].peer.tls == "TLSv1.3"
    assert sink.messages[0].peer.certificate
    async with (
        UpstreamSink(tls=certificates.server_context()) as sink,
        await Client.open(sink.port, tls=certificates.client_context(), host="localhost") as client,
    ):
        assert (await client.message(CONTENT)).code == 250
    assert sink.messages[0].peer.tls == "TLSv1.3"


@pytest.mark.parametrize("when", ["nothing", "garbage", "distrust", "gone"])
async def test_a_handshake_that_fails_is_no_session_and_keeps_nobody_waiting(
    certificates: Certificates, when: str
):
    async with asyncio.timeout(PATIENCE):
        sink = UpstreamSink(tls=certificates.server_context())
        await sink.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", sink.port)
        match when:
            case "garbage":
                writer.write(b"EHLO client.example.org\r\n")
                with contextlib.suppress(ConnectionError):
                    await reader.read()
            case "distrust":
                context = ssl.create_default_context()
                with pytest.raises(ssl.SSLCertVerificationError):
                    await asyncio.open_connection("127.0.0.1", sink.port, ssl=context)
            case "gone":
                writer.close()
        await sink.close()
        assert (sink.sessions, sink.open_sessions, sink.complaints) == (0, 0, [])
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_connection_that_comes_with_the_end_is_dropped():
    async with asyncio.timeout(PATIENCE):
        sink = UpstreamSink()
        await sink.start()
        coming = [asyncio.open_connection("127.0.0.1", sink.port) for _ in range(20)]
        connecting = asyncio.gather(*coming, return_exceptions=True)
        await sink.until(lambda: sink.open_sessions > 0)
        await sink.close()
        for came in await connecting:
            if not isinstance(came, BaseException):
                reader, writer = came
                with contextlib.suppress(ConnectionError):
                    await reader.read()
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
        assert sink.open_sessions == 0


async def test_logins_are_checked():
    async with UpstreamSink(Capabilities(auth={"ana": "secret"})) as sink:
        async with await Client.open(sink.port) as client:
            assert (await client.say("AUTH PLAIN AGFuYQB3cm9uZw==")).code == 535
            assert (await client.say("AUTH PLAIN AGFuYQBzZWNyZXQ=")).code == 235
            await client.message(CONTENT)
        async with await Client.open(sink.port) as client:
            assert (await client.say("AUTH LOGIN")).code == 334
            assert (await client.say("YW5h")).code == 334
            assert (await client.say("c2VjcmV0")).code == 235
            assert (await client.say("AUTH PLAIN AGFuYQBzZWNyZXQ=")).code == 503
    assert sink.messages[0].peer.login == "ana"


async def test_xclient_starts_over_and_xforward_is_kept():
    capabilities = Capabilities(xclient=("ADDR", "NAME"), xforward=("ADDR", "HELO"))
    async with UpstreamSink(capabilities) as sink, await Client.open(sink.port) as client:
        assert (await client.say("XCLIENT ADDR=192.0.2.7")).code == 220
        assert (await client.say("MAIL FROM:<a@example.org>")).code == 503
        await client.ehlo()
        assert (await client.say("XFORWARD ADDR=192.0.2.8 HELO=x")).code == 250
        await client.message(CONTENT)
    peer = sink.messages[0].peer
    assert peer.xclient == {b"ADDR": b"192.0.2.7"}
    assert peer.xforward == {b"ADDR": b"192.0.2.8", b"HELO": b"x"}


async def test_a_unix_socket(short_folder: Path):
    async with (
        UpstreamSink(path=short_folder / "s") as sink,
        await Client.open(path=short_folder / "s") as client,
    ):
        assert (await client.message(CONTENT)).code == 250
    assert len(sink.messages) == 1
    assert not (short_folder / "s").exists()


@pytest.mark.parametrize(
    ("capabilities", "talk", "complaint"),
    [
        (Capabilities(pipelining=False), b"MAIL FROM:<a@b>\r\nRSET\r\n", "pipelined behind b'MAIL'"),
        (Capabilities(), b"EHLO again\r\nMAIL FROM:<a@b>\r\n", "sent ahead behind b'EHLO'"),
        (Capabilities(eightbitmime=False), b"MAIL FROM:<a@b> BODY=8BITMIME\r\n", "MAIL that is not possible"),
        (Capabilities(size=None), b"MAIL FROM:<a@b> SIZE=1\r\n", "MAIL that is not possible"),
        (Capabilities(), b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d> NOTIFY=NEVER\r\n", "RCPT that is not possible"),
        (Capabilities(), b"MAIL FROM:<\xc3\xa4@b>\r\n", "8-bit octets in a command"),
        (Capabilities(), b"RSET\n", "odd octets"),
        (Capabilities(), b"BDAT 1 LAST\r\n.", "BDAT that is not possible"),
        (Capabilities(), b"STARTTLS\r\n", "not possible here"),
        (Capabilities(), b"FROB\r\n", "unknown command"),
        (Capabilities(), b"MAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\r\n", "out of sequence"),
    ],
)
async def test_what_a_client_does_wrong_is_noted(capabilities, talk, complaint):
    async with UpstreamSink(capabilities) as sink, await Client.open(sink.port) as client:
        await client.send(talk)
        await sink.until(lambda: bool(sink.complaints))
    assert complaint in sink.complaints[0]


async def test_bare_line_ends_and_undeclared_8bit_octets_are_noted():
    async with UpstreamSink() as sink, await Client.open(sink.port) as client:
        await client.message(b"a\rb\r\n")
        await client.message(b"a\nb\r\n")
        await client.message(b"\xe4\r\n")
        await client.message(b"\xe4\r\n", options="BODY=8BITMIME")
    assert len(sink.complaints) == 3
    assert len(sink.messages) == 4


@pytest.mark.parametrize("end", [b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n"])
async def test_a_lax_sink_takes_what_careless_receivers_take_and_a_strict_one_does_not(end):
    talk = b"one" + end + b"MAIL FROM:<x@y>\r\nRCPT TO:<z@y>\r\nDATA\r\ntwo\r\n.\r\n"
    counts = []
    for lax in (False, True):
        async with UpstreamSink(lax=lax) as sink, await Client.open(sink.port) as client:
            await client.envelope()
            await client.say("DATA")
            await client.send(talk)
            await client.read()
            if lax:
                await sink.until_messages(2)
        counts.append(len(sink.messages))
    assert counts == [1, 2]


async def _walk(client: Client) -> list[int | str]:
    """Everything up to the reply that matters, as codes; "end" where the connection ended."""
    codes: list[int | str] = []
    try:
        for command in ("MAIL FROM:<a@example.org>", "RCPT TO:<b@example.net>", "RCPT TO:<c@example.net>"):
            codes.append((await client.say(command)).code)  # noqa: PERF401  (an end keeps what came before)
        codes.append((await client.data(b"x" * 100 + b"\r\n")).code)
        codes.append((await client.say("NOOP")).code)
    except HangUpError:
        codes.append("end")
    return codes


@pytest.mark.parametrize(
    ("fault", "codes", "arrived", "taken"),
    [
        (Fault(Step.MAIL, Disconnect()), ["end"], 0, 0),
        (Fault(Step.MAIL, Reset()), ["end"], 0, 0),
        (Fault(Step.MAIL, answer(451, "later")), [451, 503, 503, 503, 250], 0, 0),
        (Fault(Step.RCPT, answer(550, "no", "never"), nth=1), [250, 250, 550, 250, 250], 1, 1),
        (Fault(Step.RCPT, answer(421, "bye", close=True)), [250, 421, "end"], 0, 0),
        (Fault(Step.DATA, answer(452, "full")), [250, 250, 250, 452, 250], 0, 0),
        (Fault(Step.CONTENT, Disconnect(), after=10), [250, 250, 250, "end"], 0, 0),
        (Fault(Step.DOT, Disconnect()), [250, 250, 250, "end"], 1, 0),
        (Fault(Step.DOT, Trickle()), [250, 250, 250, 250, 250], 1, 1),
        (Fault(Step.DOT, answer(554, "no")), [250, 250, 250, 554, 250], 1, 0),
        (Fault(Step.AFTER, Reset()), [250, 250, 250, 250, "end"], 1, 1),
        (Fault(Step.AFTER, answer(421, "bye", close=True)), [250, 250, 250, 250, 421], 1, 1),
    ],
    ids=str,
)
async def test_a_fault_happens_where_it_was_planned_and_once(fault, codes, arrived, taken):
    async with UpstreamSink(plan=FaultPlan(fault)) as sink:
        async with await Client.open(sink.port) as client:
            assert await _walk(client) == codes
        assert (len(sink.arrived), len(sink.messages)) == (arrived, taken)
        async with await Client.open(sink.port) as client:
            assert await _walk(client) == [250, 250, 250, 250, 250]


@pytest.mark.parametrize("step", [Step.CONNECT, Step.BANNER])
@pytest.mark.parametrize("action", [Disconnect(), Reset()])
async def test_no_banner(step: Step, action: Action):
    async with UpstreamSink(plan=FaultPlan(Fault(step, action))) as sink:
        with pytest.raises(HangUpError):
            await Client.open(sink.port)
        async with await Client.open(sink.port) as client:
            assert client.banner.code == 220


@pytest.mark.parametrize("name", NONSENSE)
async def test_nonsense_goes_out_as_it_is(name: str):
    say = NONSENSE[name]
    async with UpstreamSink(plan=FaultPlan(Fault(Step.EHLO, say))) as sink:
        reader, writer = await asyncio.open_connection("127.0.0.1", sink.port)
        await reader.readline()
        writer.write(b"EHLO x\r\n")
        assert await reader.readexactly(len(say.data)) == say.data
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("step", [Step.CONNECT, Step.EHLO, Step.RCPT, Step.CONTENT, Step.DOT, Step.AFTER])
async def test_a_stall_lasts_until_the_sink_is_released(step: Step):
    async with UpstreamSink(plan=FaultPlan(Fault(step, Stall()))) as sink:

        async def deliver() -> int:
            async with await Client.open(sink.port) as client:
                code = (await client.message(CONTENT)).code
                await client.say("NOOP")
                return code

        task = asyncio.create_task(deliver())
        await sink.until_reached(step)
        await asyncio.wait([task], timeout=0.05)
        assert not task.done()
        sink.release()
        assert await task == 250


async def test_a_fault_can_last():
    plan = FaultPlan(Fault(Step.MAIL, Say(b"451 later\r\n"), times=0))
    async with UpstreamSink(plan=plan) as sink, await Client.open(sink.port) as client:
        assert {(await client.message(CONTENT)).code for _ in range(3)} == {451}
        plan.clear()
        assert (await client.message(CONTENT)).code == 250


async def test_it_refuses_whom_it_is_told_to_and_counts_duplicates():
    refusals = {"no@example.net": b"550 5.1.1 Nobody of that name\r\n"}
    async with UpstreamSink(refusals=refusals) as sink, await Client.open(sink.port) as client:
        assert (await client.message(CONTENT, recipients=("no@example.net",))).code == 550
        for head in (b"A: 1\r\n", b"A: 2\r\n", b"A: 3\r\n"):
            await client.message(head + CONTENT)
        await client.message(b"\r\nother\r\n")
    assert list(sink.duplicates().values()) == [3]
    assert sink.duplicates(lambda sunk: sunk.content) == {}


async def test_it_keeps_its_port_and_its_records_when_started_again():
    sink = UpstreamSink()
    for _ in range(2):
        async with sink, await Client.open(sink.port) as client:
            await client.message(CONTENT)
        with pytest.raises(OSError, match="111"):
            await Client.open(sink.port)
    assert len(sink.messages) == 2
    assert sink.open_sessions == 0


def test_it_runs_on_uvloop_as_well(certificates: Certificates):
    async def run() -> None:
        context = certificates.server_context()
        plan = FaultPlan(Fault(Step.AFTER, Reset()))
        async with UpstreamSink(Capabilities(starttls=context), plan=plan) as sink:
            async with await Client.open(sink.port) as client:
                await client.start_tls(certificates.client_context())
                assert (await client.message(CONTENT)).code == 250
                with pytest.raises(HangUpError):
                    await client.say("NOOP")
            assert len(sink.messages) == 1

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
