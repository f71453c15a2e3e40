"""Recipients are asked for at the next hop before the queue takes them: what is asked, remembered and answered."""

import asyncio
import json
from dataclasses import replace

import pytest
from tests.spool.making import CLIENT, MESSAGE, a_mail, recipients
from tests.spool.test_hop import ENVELOPE, TRUSTED, Bench
from tests.spool.test_scheduler import Hop, SetClock, Transaction

from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.model.address import NULL_SENDER
from relayproxy.model.envelope import Envelope
from relayproxy.model.finding import Finding
from relayproxy.model.reply import Reply
from relayproxy.spool.hop import QueueTransaction
from relayproxy.spool.verifying import Verification, Verifier

NO = Reply(550, "5.1.1", "No such user")
LATER = Reply(450, "4.2.1", "Busy")
RULE = Verification("unverified", timeout=5.0, accepted_for=100.0, refused_for=10.0)
BY_SPF = Finding("spf", "pass", props={"smtp.mailfrom": "example.org"})
BY_DKIM = Finding("dkim", "pass", props={"header.d": "example.org"})


class Asked(Hop):
    """Remembers the transactions that were begun."""

    def __init__(self) -> None:
        super().__init__()
        self.begun_for: list[Envelope] = []
        self.aborted = 0

    def begin(self, mail, size):
        self.begun_for.append(mail.envelope)
        transaction = super().begin(mail, size)
        transaction.abort = self._abort
        return transaction

    def _abort(self) -> None:
        self.aborted += 1


class Asking:
    def __init__(self) -> None:
        self.hop, self.clock, self.metrics, self.log = Asked(), SetClock(), Metrics(), []
        log = Log(lambda line: self.log.append(json.loads(line)), self.clock.time)
        self.verifier = Verifier("mx.test", clock=self.clock, log=log, metrics=self.metrics)

    async def ask(self, *names: str, rule: Verification = RULE) -> list[int]:
        found = await self.verifier.ask("r0", self.hop, rule, recipients(*names))
        return [reply.code for reply in found]

    def counted(self, result: str) -> float:
        return self.metrics.cell("queue_verifications_total", result).value


async def test_the_next_hop_is_asked_with_the_null_sender_and_sent_nothing():
    asking = Asking()
    asking.hop.answers = {"b@example.net": NO, "c@example.net": LATER}
    names = ("a@example.net", "b@example.net", "c@example.net", "a@example.net")
    assert await asking.ask(*names) == [250, 550, 450, 250]
    (envelope,) = asking.hop.begun_for
    assert (envelope.sender, len(envelope.recipients)) == (NULL_SENDER, 3)
    assert (asking.hop.aborted, asking.hop.got) == (1, [])
    assert [asking.counted(name) for name in ("accepted", "refused", "unknown", "remembered")] == [1, 1, 1, 0]
    assert [(event["event"], event["to"]) for event in asking.log] == [
        ("recipient_not_verified", "c@example.net")
    ]


async def test_a_yes_and_a_no_are_remembered_for_their_times_and_a_maybe_is_not():
    asking = Asking()
    asking.hop.answers = {"b@example.net": NO, "c@example.net": LATER}
    names = ("a@example.net", "b@example.net", "c@example.net")
    for passed, again in ((0.0, 3), (9.0, 1), (2.0, 2), (90.0, 3)):
        asking.clock.ahead += passed
        assert await asking.ask(*names) == [250, 550, 450]
        assert len(asking.hop.begun_for[-1].recipients) == again


async def test_many_are_asked_for_in_pieces():
    asking = Asking()
    assert await asking.ask(*(f"u{number}@example.net" for number in range(250))) == [250] * 250
    assert [len(envelope.recipients) for envelope in asking.hop.begun_for] == [100, 100, 50]


async def test_too_many_recipients_is_no_refusal_of_one():
    asking = Asking()
    asking.hop.answers = {"b@example.net": Reply(552, "5.5.3", "Too many")}
    assert await asking.ask("b@example.net") == [452]


async def test_a_next_hop_that_does_not_answer_tells_nothing(monkeypatch):
    async def never(_self, _wanted):
        await asyncio.Event().wait()

    monkeypatch.setattr(Transaction, "recipients", never)
    asking = Asking()
    assert await asking.ask("b@example.net", rule=replace(RULE, timeout=0.01)) == [451]
    assert asking.hop.aborted == 1


def a_queue(rule: Verification = RULE) -> tuple[Bench, Asked]:
    hop = Asked()
    bench = Bench(hop)
    bench.hop.lanes["r0"] = replace(bench.hop.lanes["r0"], verification=rule)
    clock = SetClock()
    bench.hop.verifier = Verifier("mx.test", clock=clock, log=bench.hop.log, metrics=Metrics())
    return bench, hop


@pytest.mark.parametrize(
    ("whose", "client", "findings", "asked"),
    [
        ("unverified", CLIENT, (), True),
        ("unverified", CLIENT, (BY_SPF,), False),
        ("unverified", TRUSTED, (), False),
        ("always", TRUSTED, (), True),
        ("always", CLIENT, (BY_SPF,), True),
        ("never", CLIENT, (), False),
    ],
)
async def test_whose_recipients_are_verified(whose, client, findings, asked):
    bench, hop = a_queue(replace(RULE, whose=whose))
    hop.answers = {"b@example.net": NO}
    transaction = bench.hop.begin(a_mail(ENVELOPE, client, findings=findings), 0)
    heard = await transaction.recipients(recipients("a@example.net", "x@elsewhere.test", "b@example.net"))
    assert [reply.code for reply in heard] == [250, 550, 550 if asked else 250]
    assert len(hop.begun_for) == asked
    assert (await transaction.send(b"", MESSAGE))[0].code == 250
    (deposit,) = bench.shelf.kept
    assert len(deposit.envelope.recipients) == (1 if asked else 2)


@pytest.mark.parametrize(
    ("rule", "found_out", "sender", "final"),
    [
        (RULE, (), None, "451 4.1.1"),
        (replace(RULE, rejects=True), (), None, "550 5.7.1"),
        (RULE, (BY_DKIM,), None, "250 2.0.0"),
        (RULE, (), NULL_SENDER, "250 2.0.0"),
        (replace(RULE, whose="always"), (BY_DKIM,), None, "250 2.0.0"),
    ],
)
async def test_if_it_can_not_be_told_it_depends_on_what_the_content_shows(rule, found_out, sender, final):
    """DKIM is known only now; a message without a sender brings no bounce."""
    bench, hop = a_queue(rule)
    hop.answers = {"b@example.net": LATER}
    mail = a_mail(replace(ENVELOPE, sender=ENVELOPE.sender if sender is None else sender))
    transaction = bench.hop.begin(mail, 0)
    heard = await transaction.recipients(recipients("a@example.net", "b@example.net"))
    assert [reply.code for reply in heard] == [250, 250]
    mail.findings = found_out
    (reply,) = await transaction.send(b"", MESSAGE)
    assert str(reply).startswith(final)
    assert len(bench.shelf.kept) == reply.ok


async def test_what_stands_in_for_an_upstream_that_is_down_asks_nobody():
    bench, hop = a_queue(replace(RULE, whose="always"))
    transaction = QueueTransaction(bench.hop, a_mail(ENVELOPE), later=True)
    assert [reply.code for reply in await transaction.recipients(recipients("a@example.net"))] == [250]
    assert hop.begun_for == []
