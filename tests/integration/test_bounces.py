"""The whole round: out through a real Postfix, its bounce back, and nobody writes there again."""

import json

import pytest
from tests.servers.client import Client
from tests.servers.relay import Relay

from relayproxy.testing.upstream import Fault, FaultPlan, Step, UpstreamSink, answer

pytestmark = pytest.mark.servers

NEWS = b"From: news@example.org\r\nTo: gone@far.example\r\nSubject: news\r\n\r\nHello\r\n"


async def sent(relay: Relay, recipient: str) -> tuple[int, str]:
    """What the client hears, at RCPT or after the content."""
    async with await Client.open(relay.port) as client:
        answer = await client.message(NEWS, sender="news@example.org", recipients=(recipient,))
    return answer.code, answer.text


@pytest.mark.parametrize(
    ("words", "class_"),
    [("5.1.1 User unknown", "hard"), ("5.7.1 Blocked by our content filter as spam", None)],
)
async def test_a_bounce_of_postfix(relay: Relay, start_postfix, words: str, class_: str | None):
    plan = FaultPlan(Fault(Step.RCPT, answer(550, words), times=0))
    async with UpstreamSink(plan=plan) as far:
        await _round(relay, start_postfix, far, class_)


async def _round(relay: Relay, start_postfix, far: UpstreamSink, class_: str | None):
    postfix = await start_postfix(
        settings={
            "relay_domains": "far.example, bounce.example.org",
            "transport_maps": f"inline:{{ {{far.example = smtp:[127.0.0.1]:{far.port}}}, {{bounce.example.org = smtp:[127.0.0.1]:{relay.port}}} }}",
        }
    )
    secret = relay.write_secret("bounces", "a secret of ours, long enough")
    relay.configure(
        f"127.0.0.1:{postfix.port}",
        relay={"domains": ["example.net", "bounce.example.org"], "networks": ["127.0.0.1/32"]},
        pipeline=[
            "suppression",
            {
                "bounces": {
                    "domain": "bounce.example.org",
                    "secrets": [{"file": str(secret)}],
                    "senders": ["example.org"],
                    "mailbox": "ana@example.net",
                }
            },
        ],
    )
    await relay.start()
    assert (await sent(relay, "gone@far.example"))[0] == 250
    await postfix.until_logged("status=sent", 1)  # the bounce, to relayproxy
    assert postfix.delivered("ana") == []  # it was read, so nobody has to see it
    code, text = await relay.output("suppression", "list", "--json", "-C", str(relay.config_file))
    assert code == 0
    listed = [(line["address"], line["class"]) for line in json.loads(text)]
    assert listed == ([("gone@far.example", class_)] if class_ else [])
    assert (await sent(relay, "gone@far.example"))[0] == (550 if class_ else 250)
    assert (await sent(relay, "bob@example.net"))[0] == 250
