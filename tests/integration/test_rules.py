"""Rules in the running program: they decide, a failing test keeps what runs, and a rule that fails is a 451."""

import json
from typing import Any

from tests.servers.client import Client
from tests.servers.process import free_port
from tests.servers.relay import Relay

from relayproxy.testing.upstream import UpstreamSink

MESSAGE = b"From: a@example.org\r\nSubject: greetings\r\n\r\nbody\r\n"


def rules(text: str, expected: str) -> dict[str, Any]:
    return {
        "pipeline": ["rules"],
        "rules": [
            {"id": "greetings", "match": {"subject": "greetings"}, "then": {"reject": text}},
            {
                "id": "marked",
                "match": {"recipient.local": "ana"},
                "then": {"add_header": {"X-For": "our own"}},
            },
            {"id": "bad", "match": {"sender.domain": "bad.example"}, "then": {"reject": "not from there"}},
        ],
        "tests": [{"given": {"headers": {"Subject": "greetings"}}, "expect": {"text": expected}}],
    }


async def answer(
    relay: Relay, sender: str = "a@example.org", recipient: str = "b@example.net", raw: bytes = MESSAGE
) -> str:
    async with await Client.open(relay.port) as client:
        replies = await client.envelope(sender, (recipient,))
        if replies[-1].code != 250:
            return f"{replies[-1].code} {replies[-1].text}"
        reply = await client.data(raw)
        return f"{reply.code} {reply.text}"


async def test_rules_decide_and_a_failing_test_keeps_what_runs(relay: Relay) -> None:
    async with UpstreamSink() as sink:
        relay.configure(sink.address, **rules("No greetings", "No greetings"))
        await relay.start()
        assert (await answer(relay)).startswith("550 5.7.1 No greetings id=")
        assert await answer(relay, sender="x@bad.example") == "550 5.7.1 not from there"
        assert (
            await answer(relay, recipient="ana@example.net", raw=b"Subject: x\r\n\r\nbody\r\n")
        ).startswith("250")
        assert b"X-For: our own\r\nSubject: x\r\n\r\nbody\r\n" in sink.messages[-1].content

        relay.configure(sink.address, **rules("Another text", "No greetings"))
        code, said = await relay.output("reload", "--socket", str(relay.folder / "control.sock"))
        assert code != 0
        assert "RP815" in said + relay.log
        assert (await answer(relay)).startswith("550 5.7.1 No greetings id=")

        relay.configure(sink.address, **rules("Another text", "Another text"))
        code, said = await relay.output("reload", "--socket", str(relay.folder / "control.sock"))
        assert code == 0, said
        assert (await answer(relay)).startswith("550 5.7.1 Another text id=")


async def test_a_rule_that_can_not_be_asked_is_a_451(relay: Relay) -> None:
    rule = {"id": "listed", "match": {"client.ip": {"in_list": "bl"}}, "then": {"reject": "listed"}}
    async with UpstreamSink() as sink:
        relay.configure(
            sink.address,
            pipeline=["rules"],
            lists={"bl": {"type": "dns", "zone": "bl.example"}},
            rules=[rule],
            dns={"servers": ["127.0.0.1:1"], "timeout": "200ms"},
        )
        await relay.start()
        assert await answer(relay) == "451 4.3.0 A check failed, try again later"
        assert sink.messages == []
        assert "rule listed" in relay.log


async def test_a_rule_holds_a_message_until_it_is_released(relay: Relay) -> None:
    async with UpstreamSink() as sink:
        relay.configure(
            sink.address,
            spool={"url": f"sqlite:///{relay.folder}/spool.db"},
            pipeline=["rules"],
            rules=[{"id": "odd", "match": {"subject": "greetings"}, "then": {"hold": "looks odd"}}],
        )
        await relay.start()
        said = await answer(relay)
        assert said.startswith("250 2.0.0 Ok: held for review id=")
        id_ = said.rpartition("id=")[2]
        config = ("-C", str(relay.config_file))
        status, text = await relay.output("quarantine", "list", "--json", *config)
        assert status == 0
        assert [row["id"] for row in json.loads(text)["messages"]] == [id_]
        shown = (await relay.output("quarantine", "show", id_, *config))[1]
        assert "relayproxy.yaml:" in shown
        assert "): looks odd" in shown
        assert sink.messages == []
        assert (await relay.output("quarantine", "release", "--yes", id_, *config))[0] == 0
        await sink.until_messages(1)
        assert sink.messages[0].content.endswith(MESSAGE)


async def test_rules_choose_the_route_and_demand_tls_of_what_is_queued(relay: Relay) -> None:
    async with UpstreamSink() as store, UpstreamSink() as archive:
        relay.configure(
            store.address,
            upstreams={"store": {"address": store.address}, "archive": {"address": archive.address}},
            routes=[{"upstream": "store", "delivery": "queue", "queue": {"retry": ["1h"], "expire": "2h"}}],
            spool={"url": f"sqlite:///{relay.folder}/spool.db"},
            pipeline=["rules"],
            rules=[
                {"id": "way", "match": {"subject": "greetings"}, "then": {"route": "archive"}},
                {"id": "tls", "match": {"recipient.local": "t"}, "then": {"require_tls": True}},
            ],
        )
        await relay.start()
        assert (await answer(relay)).startswith("250")
        assert len(archive.messages) == 1
        other = b"Subject: other\r\n\r\nbody\r\n"
        assert (await answer(relay, recipient="t@example.net", raw=other)).startswith("250")
        await relay.until_logged("queue_delivery")
        assert "451 4.7.10 The next hop does not take TLS now" in relay.log
        assert (await answer(relay, recipient="c@example.net", raw=other)).startswith("250")
        await store.until_messages(1)
        assert store.messages[0].content.endswith(other)
        assert len(archive.messages) == 1


async def test_the_list_of_rules_shows_what_each_did_in_the_running_proxy(relay: Relay) -> None:
    async with UpstreamSink() as sink:
        given = rules("No greetings", "No greetings")
        given["rules"] += [
            {"id": "trial", "mode": "observe", "match": {"subject": "trial"}, "then": {"reject": "no"}},
            {"id": "odd", "match": {"subject": "odd"}, "then": {"score": 1}},
        ]
        socket = str(relay.folder / "control.sock")
        relay.configure(sink.address, **given, metrics={"listen": f"127.0.0.1:{free_port()}"})
        await relay.start()
        await answer(relay)
        await answer(relay, sender="x@bad.example")
        await answer(relay, sender="y@bad.example")
        assert (await answer(relay, raw=b"Subject: trial\r\n\r\nbody\r\n")).startswith("250")

        code, said = await relay.output("rules", "list", "-C", str(relay.config_file), "-o", "json")
        assert code == 0, said
        matched = {row["id"]: row["matched"] for row in json.loads(said)}
        assert matched["greetings"] == {"enforced": 1, "error": 0}
        assert matched["bad"] == {"enforced": 2, "error": 0}
        assert matched["trial"] == {"observed": 1, "error": 0}

        code, said = await relay.output("rules", "list", "-C", str(relay.config_file), "--socket", socket)
        assert (code, "never matched in" in said) == (0, True)
        assert said.rstrip().endswith(": marked, odd")

        relay.configure(sink.address, **given)
        code, said = await relay.output("reload", "--socket", socket)
        assert code == 0, said
        code, said = await relay.output("rules", "list", "-C", str(relay.config_file))
        assert (code, "ENFORCED" in said) == (0, False)
