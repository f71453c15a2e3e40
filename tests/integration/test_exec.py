"""Programs that a relayproxy asks: what they say is done, and a program that fails or hangs is a 451."""

import sys

from tests.builtin.scanning import RAW
from tests.servers.client import Client
from tests.servers.relay import Relay

from relayproxy.testing.upstream import UpstreamSink

_PROGRAM = f"""#!{sys.executable}
import json, sys, time
told = json.loads(sys.stdin.buffer.readline())
content = sys.stdin.buffer.read()
if b"hang-word" in content:
    time.sleep(600)
if b"fail-word" in content:
    raise ValueError("the secret of the program")
if b"large-word" in content:
    value = str(len(content))
else:
    value = told["envelope"]["sender"]
edits = [{{"edit": "add_header", "name": "X-Program", "value": value}}]
verdict = "reject" if b"reject-word" in content else "accept"
print(json.dumps({{"verdict": verdict, "edits": edits}}))
"""


async def test_a_program_through_the_whole_proxy(relay: Relay):
    program = relay.folder / "check"
    program.write_text(_PROGRAM)
    program.chmod(0o755)
    script = {"name": "check", "command": ["./check"], "send": "message"}
    async with UpstreamSink() as sink:
        relay.configure(sink.address, pipeline=[{"exec": {"scripts": [script], "timeout": "3s"}}])
        await relay.start()
        async with await Client.open(relay.port) as client:
            codes = {}
            for word in (b"good", b"reject-word", b"fail-word", b"hang-word"):
                answer = await client.message(RAW.replace(b"hello", word).replace(b"<1@", b"<%b@" % word))
                codes[word] = answer.code
                assert "secret" not in answer.text
            large = RAW.replace(b"hello", b"large-word" + b"\r\n" + (b"x" * 998 + b"\r\n") * 3000)
            assert (await client.message(large)).code == 250
        assert codes == {b"good": 250, b"reject-word": 550, b"fail-word": 451, b"hang-word": 451}
        assert [b"X-Program: a@example.org" in sunk.content for sunk in sink.messages] == [True, False]
        assert b"X-Program: %d" % len(large) in sink.messages[1].content
    await relay.until_logged("exec check: ended with status 1: ValueError: the secret of the program")
    await relay.until_logged("exec check: no answer within")


async def test_a_program_that_ends_before_it_is_told_anything(relay: Relay):
    script = {"name": "quick", "command": ["/bin/echo", "{}"], "send": "message"}
    async with UpstreamSink() as sink:
        relay.configure(sink.address, pipeline=[{"exec": {"scripts": [script]}}])
        await relay.start()
        async with await Client.open(relay.port) as client:
            for number in range(30):
                raw = RAW.replace(b"<1@", b"<%d@" % number) + b"x" * 900 + b"\r\n"
                assert (await client.message(raw)).code == 250
