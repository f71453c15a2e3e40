"""Everything an upstream can do wrong, at every step: the client hears the truth and nothing is half done.

One relayproxy and its upstreams serve the whole module; each case plans a fault, sends a message to two
recipients, looks at what the client was told and what the upstream has, and sends a clean one afterwards.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count

import pytest
import pytest_asyncio
from tests.servers.client import Answer, Client, HangUpError
from tests.servers.process import free_port
from tests.servers.relay import Relay, a_relay
from tests.servers.tls import Certificates

from relayproxy.testing.upstream import (
    NONSENSE,
    Action,
    Capabilities,
    Disconnect,
    Fault,
    Reset,
    Say,
    Stall,
    Step,
    Sunk,
    Trickle,
    UpstreamSink,
    answer,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORD = "the-upstream-password"
NO = {
    "4xx": answer(451, "4.3.0 not now"),
    "5xx": answer(550, "5.7.1 not ever"),
    "421": answer(421, "4.3.2 going down", close=True),
    "5xx in two lines": answer(554, "5.7.1 not ever", "5.7.1 and not here"),
    "4xx that is not ASCII": answer(452, "4.3.1 später, nicht jetzt"),
}
ENDS: dict[str, Action] = {"disconnect": Disconnect(), "reset": Reset(), "stall": Stall()}
YES = {
    "250 in two lines": answer(250, "2.0.0 yes", "2.0.0 indeed"),
    "250 that is not ASCII": answer(250, "2.0.0 schön"),
    "250 without text": Say(b"250\r\n"),
}
ANY_REPLY: dict[str, Action] = {**ENDS, **NO, **NONSENSE}
UNASKED: dict[str, Action] = {**ENDS, "421": NO["421"], "garbage": Say(b"\0\r\n\xff", close=True)}

PLAIN, SECURE, LMTP, POOLED = "plain", "secure", "lmtp", "pooled"
LMTP_IN = "lmtp-in"
BAD = [
    *[(PLAIN, Step.CONNECT, None, name, action) for name, action in {**ENDS, **NONSENSE}.items()],
    *[
        (PLAIN, step, None, name, action)
        for step in (Step.BANNER, Step.EHLO)
        for name, action in ANY_REPLY.items()
    ],
    *[
        (SECURE, step, None, name, action)
        for step in (Step.STARTTLS, Step.AUTH)
        for name, action in ANY_REPLY.items()
    ],
    *[
        (PLAIN, step, nth, name, action)
        for step, nth in (
            (Step.MAIL, None),
            (Step.RCPT, None),
            (Step.RCPT, 1),
            (Step.DATA, None),
            (Step.DOT, None),
        )
        for name, action in ANY_REPLY.items()
    ],
    *[
        (way, Step.CONTENT, None, name, action)
        for way in (PLAIN, SECURE, LMTP)
        for name, action in UNASKED.items()
    ],
    *[
        (LMTP, step, None, name, action)
        for step in (Step.MAIL, Step.RCPT, Step.DOT)
        for name, action in {
            **ENDS,
            "4xx": NO["4xx"],
            "5xx": NO["5xx"],
            "garbage": NONSENSE["binary"],
        }.items()
    ],
]
GOOD = [
    *[(PLAIN, step, "trickle", Trickle()) for step in Step],
    *[(PLAIN, step, name, say) for step in (Step.MAIL, Step.RCPT, Step.DOT) for name, say in YES.items()],
    *[(way, Step.AFTER, name, action) for way in (PLAIN, POOLED, LMTP) for name, action in UNASKED.items()],
    *[(SECURE, step, "trickle", Trickle()) for step in (Step.EHLO, Step.STARTTLS, Step.AUTH, Step.DOT)],
]


@dataclass(frozen=True, slots=True)
class House:
    """The relay and, by name, its listeners' ports and their upstreams."""

    relay: Relay
    ports: dict[str, int]
    sinks: dict[str, UpstreamSink]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(certificates: Certificates) -> AsyncIterator[House]:
    secure = Capabilities(starttls=certificates.server_context(), auth={"relay": PASSWORD})
    async with (
        a_relay() as relay,
        UpstreamSink(hostname="localhost") as plain,
        UpstreamSink(secure, hostname="localhost") as encrypted,
        UpstreamSink(lmtp=True) as lmtp,
        UpstreamSink() as pooled,
    ):
        sinks = {PLAIN: plain, SECURE: encrypted, LMTP: lmtp, POOLED: pooled}
        ports = {name: free_port() for name in (*sinks, LMTP_IN)}
        short = dict.fromkeys(("connect", "command", "data", "final"), "500ms")
        common = {"timeouts": short, "breaker": {"failures": 10_000, "retry": "1ms"}}
        once = {**common, "pool": {"reuse": 1}}
        relay.port = ports[PLAIN]
        secret = relay.write_secret("upstream-password", PASSWORD)
        relay.configure(
            "unused",
            listeners=[
                {
                    "name": name,
                    "listen": f"127.0.0.1:{port}",
                    "protocol": "lmtp" if name == LMTP_IN else "smtp",
                }
                for name, port in ports.items()
            ],
            upstreams={
                PLAIN: {"address": plain.address, "tls": "off", **once},
                SECURE: {
                    "address": encrypted.address,
                    "tls": "verify",
                    "ca": str(certificates.ca),
                    "login": "relay",
                    "password": {"file": str(secret)},
                    **once,
                },
                LMTP: {"address": lmtp.address, "protocol": "lmtp", **once},
                POOLED: {"address": pooled.address, **common},
            },
            routes=[{"upstream": name, "listeners": [name]} for name in sinks if name != LMTP]
            + [{"upstream": LMTP, "listeners": [LMTP, LMTP_IN]}],
        )
        await relay.start(*ports.values())
        yield House(relay, ports, sinks)


_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A message to two recipients: all replies, the last one, who was accepted, and the number in it."""

    number: int
    replies: tuple[Answer, ...]
    told: bool
    accepted: tuple[str, ...]

    @property
    def marker(self) -> bytes:
        return b"this is number %d.\r\n" % self.number


async def _attempt(port: int, octets: int = 100) -> Attempt:
    number = next(_numbers)
    replies: list[Answer] = []
    accepted: list[str] = []
    marker = Attempt(number, (), False, ()).marker
    content = b"Subject: x\r\n\r\n" + marker + (b"z" * 98 + b"\r\n") * (octets // 100)
    async with await Client.open(port) as client:
        assert client.banner.code == 220, client.banner
        try:
            replies.append(await client.say(f"MAIL FROM:<n{number}@example.org>"))
            for recipient in ("b@example.net", "c@example.net"):
                replies.append(await client.say(f"RCPT TO:<{recipient}>"))
                if replies[-1].kind == 2:
                    accepted.append(recipient)
            if accepted:
                replies.append(await client.data(content))
        except HangUpError:
            # A server may end a session by a 421, and in no other way.
            assert replies, "no reply at all"
            assert replies[-1].code == 421, replies
    told = bool(accepted) and replies[-1].code == 250
    return Attempt(number, tuple(replies), told, tuple(accepted))


def _taken(sink: UpstreamSink, attempt: Attempt) -> list[Sunk]:
    return [sunk for sunk in sink.messages if attempt.marker in sunk.content]


async def _assert_all_is_well(house: House, way: str) -> None:
    """The next message goes through, to both recipients, once."""
    sink = house.sinks[way]
    sink.plan.clear()
    sink.release()
    attempt = await _attempt(house.ports[way])
    assert attempt.told, attempt.replies
    (sunk,) = _taken(sink, attempt)
    assert sunk.recipients == attempt.accepted
    # From SMTP to LMTP the second recipient comes back on its own: one reply can't tell two fates.
    assert len(attempt.accepted) == (1 if way == LMTP else 2)
    assert sink.complaints == []


@pytest.mark.parametrize(
    ("way", "step", "nth", "name", "action"),
    [
        pytest.param(
            way, step, nth, name, action, id=f"{way}-{step.value}{'' if nth is None else nth}-{name}"
        )
        for way, step, nth, name, action in BAD
    ],
)
async def test_what_goes_wrong_upstream_is_told_and_leaves_nothing_half_done(
    house: House, way: str, step: Step, nth: int | None, name: str, action: Action
):
    sink = house.sinks[way]
    sink.complaints.clear()
    sink.plan.clear()
    sink.plan.add(Fault(step, action, nth=nth, after=100_000 if step is Step.CONTENT else 0, times=0))
    attempt = await _attempt(house.ports[way], 3_000_000 if step is Step.CONTENT else 100)
    taken = _taken(sink, attempt)

    # A refusal for good is the upstream's own, word for word.
    for reply in attempt.replies:
        if reply.kind == 5:
            assert isinstance(action, Say)
            assert str(reply.code).encode() == action.data[:3]
            assert "not ever" in reply.text
    if (
        isinstance(action, Say)
        and name in NO
        and name != "421"
        and step in (Step.MAIL, Step.RCPT, Step.DATA, Step.DOT)
    ):
        code = int(action.data[:3])
        said = [reply.text for reply in attempt.replies if reply.code == code]
        assert any("not now" in text or "not ever" in text or "jetzt" in text for text in said), (
            attempt.replies
        )

    # Delivered is what was told, and told is what was delivered.
    if attempt.told:
        (sunk,) = taken
        assert sunk.recipients == attempt.accepted
        # Only a fault at one recipient leaves something to deliver.
        assert (step, nth) == (Step.RCPT, 1)
    elif not (step is Step.DOT and isinstance(action, Say) and action.agrees):
        assert taken == []
    await _assert_all_is_well(house, way)


@pytest.mark.parametrize(
    ("way", "step", "name", "action"),
    [
        pytest.param(way, step, name, action, id=f"{way}-{step.value}-{name}")
        for way, step, name, action in GOOD
    ],
)
async def test_what_is_only_odd_does_no_harm(house: House, way: str, step: Step, name: str, action: Action):
    sink = house.sinks[way]
    sink.complaints.clear()
    sink.plan.clear()
    sink.plan.add(Fault(step, action))
    attempt = await _attempt(house.ports[way])
    assert attempt.told, attempt.replies
    assert len(_taken(sink, attempt)) == 1
    await _assert_all_is_well(house, way)
    assert [sunk for sunk in sink.messages if attempt.marker in sunk.content] == _taken(sink, attempt)


@pytest.mark.parametrize(
    "action",
    [
        pytest.param(Disconnect(), id="disconnect"),
        pytest.param(Reset(), id="reset"),
        pytest.param(answer(421, "4.4.2 idle", close=True), id="421"),
    ],
)
async def test_a_connection_that_went_stale_in_the_pool_costs_nobody_anything(house: House, action: Action):
    sink = house.sinks[POOLED]
    sink.complaints.clear()
    await _assert_all_is_well(house, POOLED)
    sessions = sink.sessions
    sink.plan.add(Fault(Step.RSET, action))
    attempt = await _attempt(house.ports[POOLED])
    assert attempt.told, attempt.replies
    assert len(_taken(sink, attempt)) == 1
    assert sink.sessions == sessions + 1


async def test_nobody_listens_upstream(house: House):
    sink = house.sinks[PLAIN]
    await sink.close()
    try:
        attempt = await _attempt(house.ports[PLAIN])
    finally:
        await sink.start()
    assert {reply.kind for reply in attempt.replies} <= {2, 4}
    assert not attempt.told
    await _assert_all_is_well(house, PLAIN)


@pytest.mark.parametrize(
    ("action", "code"),
    [
        pytest.param(answer(452, "4.2.2 not now"), 452, id="4xx"),
        pytest.param(answer(550, "5.2.1 not ever"), 550, id="5xx"),
        pytest.param(Disconnect(), 4, id="disconnect"),
        pytest.param(Stall(), 4, id="stall"),
        pytest.param(NONSENSE["no code"], 4, id="nonsense"),
    ],
)
async def test_from_lmtp_to_lmtp_every_recipient_hears_its_own_fate(house: House, action: Action, code: int):
    """The first of two recipients is taken, the second fares badly: the first was told so nevertheless."""
    sink = house.sinks[LMTP]
    sink.complaints.clear()
    sink.plan.clear()
    sink.plan.add(Fault(Step.DOT, action, nth=1))
    async with await Client.open(house.ports[LMTP_IN], helo="") as client:
        await client.ehlo(verb="LHLO")
        answers = await client.envelope(recipients=("b@example.net", "c@example.net"))
        assert [reply.code for reply in answers] == [250, 250, 250]
        replies = [await client.data(b"Subject: x\r\n\r\ntwo fates\r\n"), await client.read()]
    sink.release()
    assert replies[0].code == 250, replies
    assert code in (replies[1].code, replies[1].kind), replies
    assert sink.messages[-1].recipients[0] == "b@example.net"


async def test_every_fault_left_the_log_without_a_traceback(house: House):
    assert "Traceback" not in house.relay.log
    assert PASSWORD not in house.relay.log
