"""The promises of the design, each by its number, at the outer contract: a real process, real sockets."""

import asyncio
import base64
import re
import shutil
from itertools import count, product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.servers.client import Client, HangUpError
from tests.servers.compare import relays_named, trace_above
from tests.servers.contents import contents
from tests.servers.process import free_port, wait_for
from tests.servers.relay import Relay, as_yaml, configuration

from relayproxy.testing.upstream import (
    Capabilities,
    Fault,
    Say,
    Step,
    UpstreamSink,
    answer,
)

FAULTY = Path(__file__).parents[1] / "servers" / "faulty.py"
HEAD = b"From: a@example.org\r\nTo: b@example.net\r\nSubject: promised\r\nMessage-ID: <1@example.org>\r\n"
MESSAGE = HEAD + b"\r\nbody\r\n"


# -- 1: 250 means that the next hop said so; a refusal means that nobody got it -------------------------------


async def test_promise_1_truth(relay: Relay):
    """Every mix of the upstream's answers for three recipients and the message reaches the client as it is."""
    rcpt_answers = [
        b"250 2.1.5 Ok\r\n",
        b"450 4.2.1 Busy, come back\r\n",
        b"550-5.1.1 Nobody\r\n550 5.1.1 of that name\r\n",
    ]
    final_answers = [
        answer(250, "2.0.0 taken as 77"),
        answer(451, "4.3.0 no disk"),
        answer(554, "5.6.0 no taste"),
    ]
    names = ("x@example.net", "y@example.net", "z@example.net")
    async with UpstreamSink() as sink:
        relay.configure(sink.address)
        await relay.start()
        async with await Client.open(relay.port) as client:
            for *rcpts, final in product(rcpt_answers, rcpt_answers, rcpt_answers, final_answers):
                sink.refusals = dict(zip(names, rcpts, strict=True))
                sink.plan.clear()
                sink.plan.add(Fault(Step.DOT, final))
                sink.arrived.clear()
                mail, *heard = await client.envelope(recipients=names)
                assert mail.code == 250
                said = [(int(raw[:3]), raw.decode().splitlines()[-1][4:]) for raw in rcpts]
                assert [(reply.code, reply.lines[-1]) for reply in heard] == said
                accepted = tuple(name for name, (code, _) in zip(names, said, strict=True) if code == 250)
                if not accepted:
                    assert (await client.say("DATA")).kind in (4, 5)
                    await client.say("RSET")
                    assert sink.arrived == []
                    continue
                reply = await client.data(MESSAGE)
                assert reply.code == int(final.data[:3])
                assert final.data.decode()[4:].rstrip() in reply.text
                assert len(sink.arrived) == 1
                taken = [sunk.recipients for sunk in sink.messages]
                assert taken == ([accepted] if reply.code == 250 else [])
        assert sink.complaints == []


# -- 2: bit for bit ------------------------------------------------------------------------------------------


def test_promise_2_bytes(relay: Relay):
    """Random octets, through DATA and BDAT in, to DATA and BDAT upstream."""
    with asyncio.Runner() as runner:
        sinks = [UpstreamSink(), UpstreamSink(Capabilities(chunking=True))]
        ports = [relay.port, free_port()]
        for sink in sinks:
            runner.run(sink.start())
        relay.configure(
            "unused",
            listeners=[{"name": f"l{n}", "listen": f"127.0.0.1:{port}"} for n, port in enumerate(ports)],
            upstreams={f"u{n}": {"address": sink.address} for n, sink in enumerate(sinks)},
            routes=[{"upstream": f"u{n}", "listeners": [f"l{n}"]} for n in range(2)],
        )
        runner.run(relay.start(*ports))
        clients = [runner.run(Client.open(port)) for port in ports]
        numbers = count()

        async def carry(way: int, content: bytes, *, chunked: bool) -> bytes:
            client, sink = clients[way], sinks[way]
            sink.arrived.clear()
            # Each under a sender of its own: the ledger would answer for one that another client just sent.
            await client.envelope(f"n{next(numbers)}@example.org", options="BODY=8BITMIME")
            if chunked:
                half = len(content) // 2
                await client.send(b"BDAT %d\r\n" % half + content[:half])
                await client.send(b"BDAT %d LAST\r\n" % (len(content) - half) + content[half:])
                replies = [await client.read(), await client.read()]
                assert [reply.code for reply in replies] == [250, 250]
            else:
                assert (await client.data(content)).code == 250
            (sunk,) = sink.messages
            return sunk.content

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(way=st.integers(0, 1), chunked=st.booleans(), content=contents())
        def check(way: int, chunked: bool, content: bytes) -> None:
            if content.endswith(b"no line end") and not (chunked and way == 1):
                content += b"\r\n"
            received = runner.run(carry(way, content, chunked=chunked))
            assert relays_named(trace_above(received, content)) == 1

        check()
        for client in clients:
            runner.run(client.close())
        for sink in sinks:
            assert sink.complaints == []
            runner.run(sink.close())


# -- 3: closed -----------------------------------------------------------------------------------------------


async def _stranger_is_refused(port: int, sink: UpstreamSink) -> None:
    async with await Client.open(port, source="127.0.0.2") as client:
        mail, rcpt = await client.envelope(recipients=("victim@elsewhere.example",))
        assert mail.code == 250
        assert (rcpt.code, rcpt.enhanced) == (550, "5.7.1")
        for trick in (
            "@example.net:victim@elsewhere.example",
            '"victim@elsewhere.example"@relay.test',
            "victim%elsewhere.example@relay.test",
        ):
            assert (await client.say(f"RCPT TO:<{trick}>")).kind == 5, trick
        for command in (
            "XCLIENT ADDR=127.0.0.1",
            "XFORWARD ADDR=127.0.0.1",
            "PROXY TCP4 127.0.0.1 127.0.0.1 1 2",
        ):
            assert (await client.say(command)).kind == 5, command
        assert (await client.say("RCPT TO:<victim@elsewhere.example>")).kind == 5
    assert sink.reached[Step.RCPT] == 0


async def test_promise_3_closed(relay: Relay):
    """A stranger, from another address of this machine, may send to our domains and nowhere else."""
    async with UpstreamSink() as sink:
        relay.configure(sink.address, relay={"networks": ["127.0.0.1/32"], "domains": ["example.net"]})
        await relay.start()
        await _stranger_is_refused(relay.port, sink)
        async with await Client.open(relay.port, source="127.0.0.2") as client:
            assert (await client.message(MESSAGE)).code == 250
        async with await Client.open(relay.port) as client:
            assert (await client.message(MESSAGE, recipients=("x@elsewhere.example",))).code == 250


# -- 4: a fault is a 451 -------------------------------------------------------------------------------------


async def test_promise_4_a_fault_is_a_451(relay: Relay):
    """Each hook raises, hangs and returns nonsense: the client keeps its message, the others notice nothing."""
    folder = relay.folder / "plugins"
    folder.mkdir()
    shutil.copy(FAULTY, folder)
    async with UpstreamSink() as sink:
        relay.configure(
            sink.address, plugin_folders=[str(folder)], pipeline=[{"faulty": {"timeout": "300ms"}}]
        )
        await relay.start()
        async with await Client.open(relay.port) as bystander:
            for how, where in product(
                ("raises", "hangs", "nonsense"), ("mail", "rcpt", "rewrite", "message", "forward")
            ):
                async with await Client.open(relay.port) as client:
                    recipient = f"{how}@example.net"
                    reply = await client.message(MESSAGE, f"{how}@{where}.example", (recipient,))
                    assert reply.code == 451, (how, where, reply)
                    assert "secret" not in reply.text
                    assert "Error" not in reply.text
                    # The session itself is none the worse for it.
                    assert (await client.message(MESSAGE + how.encode() + where.encode())).code == 250
            for how in ("raises", "hangs", "nonsense"):
                async with await Client.open(relay.port, helo="") as client:
                    assert (await client.ehlo(f"helo-{how}.example")).kind == 4
            assert (await bystander.message(MESSAGE)).code == 250
        assert len(sink.messages) == 16
    assert "secret-of-the-plugin" in relay.log, "the admin hears what the client does not"
    relay.expect_tracebacks()


# -- 5: bounded ----------------------------------------------------------------------------------------------


async def test_promise_5_bounded(relay: Relay):
    """Each limit has an answer of its own, and the session goes on unless the answer is a 421."""
    limits = {
        "message_size": "100 kB",
        "recipients": 3,
        "messages_per_connection": 4,
        "connections_per_client": 5,
        "command_line": 1024,
        "bogus_commands": 3,
        "headers": 20,
        "header_bytes": "2 kB",
        "received_hops": 5,
        "command_timeout": "1s",
        "data_timeout": "1s",
    }
    async with UpstreamSink() as sink:
        relay.configure(sink.address, limits=limits)
        await relay.start()
        async with await Client.open(relay.port) as client:
            assert client.extensions["SIZE"] == "100000"
            assert (await client.say("MAIL FROM:<a@example.org> SIZE=100001")).code == 552
            *_, late = await client.envelope(recipients=tuple(f"{n}@example.net" for n in range(4)))
            assert (late.code, late.enhanced) == (452, "4.5.3")
            reply = await client.data(HEAD + b"\r\n" + b"x" * 100_000)
            assert (reply.code, reply.enhanced) == (552, "5.3.4")
            assert (await client.message(b"X: y\r\n" * 21 + MESSAGE)).code in (552, 554)
            assert (await client.message(b"X: " + b"y" * 2000 + b"\r\n" + MESSAGE)).code in (552, 554)
        async with await Client.open(relay.port) as client:
            looped = await client.message(b"Received: from x by y; date\r\n" * 6 + MESSAGE)
            assert (looped.code, looped.enhanced) == (554, "5.4.6")
            assert (await client.say("NOOP " + "x" * 2000)).code == 500
            assert (await client.message(MESSAGE)).code == 250
        async with await Client.open(relay.port) as client:
            codes = [(await client.say("FROB")).code for _ in range(3)]
            assert codes[:2] == [500, 500]
            assert codes[2] == 421
        async with await Client.open(relay.port) as client:
            assert (await client.read()).code == 421  # for saying nothing
        async with await Client.open(relay.port) as client:
            await client.envelope()
            await client.say("DATA")
            assert (await client.read()).code == 421  # for sending nothing
        clients = [await Client.open(relay.port, helo="") for _ in range(6)]
        assert [client.banner.code for client in clients] == [220] * 5 + [421]
        for client in clients:
            await client.close()
        async with await Client.open(relay.port) as client:
            replies = []
            for number in range(5):
                try:
                    replies.append((await client.message(MESSAGE + b"%d" % number)).code)
                except HangUpError:
                    replies.append(0)
            assert replies[:4] == [250] * 4
            assert replies[4] in (0, 421)
        assert await relay.end() == 0
        # One in the second connection, four in the last; above all none from the client that fell silent.
        assert [sunk.content.rpartition(b"body\r\n")[2] for sunk in sink.arrived] == [
            b"",
            b"0\r\n",
            b"1\r\n",
            b"2\r\n",
            b"3\r\n",
        ]


# -- 6: one grammar ------------------------------------------------------------------------------------------

ENDS = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\n.\r",
    b"\r.\n",
    b"\r\r\n.\r\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\n\n.\r\n",
    b"\r\n.\r\r\n",
    b"\xff\n.\r\n",
]
SMUGGLED = b"MAIL FROM:<evil@example.org>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\nsmuggled\r\n.\r\n"


@pytest.mark.parametrize("upstream", ["data", "bdat"])
async def test_promise_6_one_grammar(relay: Relay, upstream: str):
    """Sequences that careless receivers take for the end, by DATA, BDAT and pipelined, to one that takes them all."""
    async with UpstreamSink(Capabilities(chunking=upstream == "bdat"), lax=True) as sink:
        relay.configure(sink.address)
        await relay.start()
        for number, end in enumerate(ENDS):
            inner = MESSAGE + b"honest" + end + SMUGGLED.removesuffix(b".\r\n")
            for way in ("data", "bdat", "pipelined"):
                async with await Client.open(relay.port) as client:
                    mail, rcpt = b"MAIL FROM:<a@example.org>", b"RCPT TO:<b@example.net>"
                    if way == "bdat":
                        await client.pipelined(mail, rcpt)
                        await client.send(b"BDAT %d LAST\r\n" % len(inner) + inner)
                    elif way == "data":
                        await client.pipelined(mail, rcpt, b"DATA")
                        await client.send(inner + b"\r\n.\r\n")
                    else:
                        await client.send(
                            mail + b"\r\n" + rcpt + b"\r\nDATA\r\n" + inner + b"\r\n.\r\nNOOP\r\n"
                        )
                        await client.read()
                        await client.read()
                    reply = await client.read()
                    if reply.code == 354:
                        reply = await client.read()
                    expected = [(550, "5.5.2"), (554, "5.5.0")] if way == "pipelined" else [(550, "5.5.2")]
                    assert (reply.code, reply.enhanced) in expected, (number, way, reply)
        assert sink.arrived == []
        assert sink.complaints == []
        async with await Client.open(relay.port) as client:
            assert (await client.message(MESSAGE)).code == 250
        assert len(sink.messages) == 1


# -- 7: secrets ----------------------------------------------------------------------------------------------

UPSTREAM_SECRET, LOGIN_SECRET, TYPED_SECRET = "upstream-Pa55", "login-Pa55", "typed-Pa55"


def _plain(login: str, password: str) -> str:
    return base64.b64encode(f"\0{login}\0{password}".encode()).decode()


async def test_promise_7_secrets(relay: Relay, certificates):
    """Passwords of clients and ours pass through a working, a failing and a broken set-up, and show nowhere."""
    import argon2

    secrets = [UPSTREAM_SECRET, LOGIN_SECRET, TYPED_SECRET]
    secrets += [_plain("ana", password) for password in (LOGIN_SECRET, TYPED_SECRET)]
    upstream = Capabilities(starttls=certificates.server_context(), auth={"relay": UPSTREAM_SECRET})
    passwords = relay.write_secret("passwords", f"ana:{argon2.PasswordHasher().hash(LOGIN_SECRET)}\n")
    async with UpstreamSink(upstream, hostname="localhost") as sink:
        config = configuration(
            relay.port,
            sink.address,
            relay.folder,
            log={"level": "debug"},
            listeners=[
                {
                    "name": "main",
                    "listen": f"127.0.0.1:{relay.port}",
                    "tls": {"cert": str(certificates.server), "key": str(certificates.server_key)},
                    "auth": {"backend": {"file": str(passwords)}},
                }
            ],
            upstreams={
                "sink": {
                    "address": sink.address,
                    "tls": "verify",
                    "ca": str(certificates.ca),
                    "login": "relay",
                    "password": {"file": str(relay.write_secret("password", UPSTREAM_SECRET))},
                }
            },
        )
        relay.write(as_yaml(config))
        await relay.start()
        async with await Client.open(relay.port) as client:
            assert "AUTH" not in client.extensions
            assert (await client.say(f"AUTH PLAIN {_plain('ana', LOGIN_SECRET)}")).kind == 5
            await client.start_tls(certificates.client_context())
            assert (await client.say(f"AUTH PLAIN {_plain('ana', TYPED_SECRET)}")).code == 535
            assert (await client.say(f"AUTH PLAIN {_plain('ana', LOGIN_SECRET)}")).code == 235
            assert (await client.message(MESSAGE)).code == 250
        assert sink.messages[0].peer.login == "relay"
        # The upstream changes its mind about our password, and quotes it.
        sink.plan.add(Fault(Step.AUTH, Say(f"535 5.7.8 {UPSTREAM_SECRET} is wrong\r\n".encode()), times=0))
        sink.plan.add(Fault(Step.RSET, Say(b"421 4.3.2 bye\r\n", close=True)))
        async with await Client.open(relay.port) as client:
            reply = await client.message(MESSAGE)
            assert reply.kind == 4
            assert not any(secret in reply.text for secret in secrets)
        shown = [relay.log]
        code, output = await relay.output("config", "show", "-C", str(relay.config_file))
        assert code == 0
        shown.append(output)
        broken = as_yaml(config).replace('"login": "relay"', f'"login": "relay", "pasword": "{TYPED_SECRET}"')
        relay.write(broken)
        code, output = await relay.output("check", "-C", str(relay.config_file))
        assert code == 78
        assert "pasword" in output
        shown.append(output)
        literal = re.sub(r'"password": \{[^}]*\}', f'"password": "{TYPED_SECRET}"', as_yaml(config))
        relay.write(literal)
        code, output = await relay.output("check", "-C", str(relay.config_file))
        assert code == 78
        assert "RP120" in output
        shown.append(output)
        already = len(relay.log)
        relay.reload()
        await wait_for(lambda: "RP120" in relay.log[already:], "the reload to be refused")
        shown.append(relay.log)
    for text in shown:
        assert [secret for secret in secrets if secret in text] == []
