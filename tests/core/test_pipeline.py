"""The pipeline: what a later hook sees, order, and hooks that run at once."""

import asyncio
import itertools

import pytest
from tests.core.making import RAW, Gate, answering, plugin

from relayproxy.api import (
    Action,
    AddHeader,
    Direction,
    Finding,
    TlsInfo,
    accept,
    defer,
    discard,
    hold,
    hook,
    reject,
)
from relayproxy.core.entry import When
from relayproxy.model.client import Client
from relayproxy.testing.session import SessionDriver, entry_for


async def weather(_self, mail):
    await asyncio.sleep(0)
    mail.note("weather", "pass", score=1.5, header__x="sunny")


def seen(_self, mail):
    found = mail.finding("weather")
    return reject(f"seen {found.result} by {found.by}") if found else None


async def test_a_later_hook_sees_an_earlier_finding():
    driver = SessionDriver(plugin("noting", message=weather), plugin("reading", message=seen))
    delivery = await driver.deliver(RAW)
    assert str(delivery.reply).startswith("550 5.7.1 seen pass by noting")
    assert delivery.mail.findings == (Finding("weather", "pass", 1.5, {"header.x": "sunny"}, "", "noting"),)
    assert delivery.sent is None


async def test_an_earlier_hook_does_not_see_a_later_finding():
    driver = SessionDriver(plugin("reading", message=seen), plugin("noting", message=weather))
    assert (await driver.deliver(RAW)).reply.ok


async def test_a_hook_of_a_later_stage_sees_the_findings_of_all_stages_before():
    noted = {}

    def noting(stage):
        def member(_self, mail):
            noted[stage] = [finding.method for finding in mail.findings]
            mail.note(stage, "hit")

        return member

    def at_connect(_self, client, note):
        note("connect", "hit", policy__ip=client.ip)

    def at_helo(_self, client, name, note):
        note("helo", "hit", reason=name)

    def before_forward(_self, mail):
        noted["before_forward"] = [finding.method for finding in mail.findings]

    stages = {stage: noting(stage) for stage in ("mail", "rcpt", "message")}
    driver = SessionDriver(
        plugin("all", connect=at_connect, helo=at_helo, before_forward=before_forward, **stages)
    )
    delivery = await driver.deliver(RAW)
    order = ["connect", "helo", "mail", "rcpt", "message", "before_forward"]
    assert noted == {stage: order[: order.index(stage)] for stage in order[2:]}
    assert delivery.mail.findings[:2] == (
        Finding("connect", "hit", 0.0, {"policy.ip": "192.0.2.1"}, "", "all"),
        Finding("helo", "hit", 0.0, {}, "client.example.org", "all"),
    )


async def test_what_a_hook_does_to_its_view_changes_nothing():
    def message(_self, mail):
        mail.findings = (Finding("forged", "pass"),)
        mail.message = None
        mail.envelope = None
        mail.client = None

    delivery = await SessionDriver(plugin("rude", message=message)).deliver(RAW)
    assert delivery.reply.ok
    assert delivery.mail.findings == ()
    assert delivery.sent.data.endswith(RAW)


async def test_the_trace_tells_what_each_hook_said():
    driver = SessionDriver(
        plugin("a", message=answering(None)),
        entry_for(plugin("b", message=answering(reject("no"))), observe=True),
        plugin("c", message=answering(hold("x"))),
        plugin("d", message=answering(accept())),
    )
    trace = (await driver.deliver(RAW)).mail.trace
    assert [(step.plugin, step.hook, step.answer, step.error) for step in trace] == [
        ("a", "message", "ok", ""),
        ("b", "message", "would reject", ""),
        ("c", "message", "hold", ""),
        ("d", "message", "accept", ""),
    ]


# -- order ------------------------------------------------------------------------------------------------------------


async def test_hooks_that_need_nothing_run_at_once_and_the_order_of_the_yaml_decides():
    answers = {"a": None, "b": reject("from b"), "c": reject("from c"), "d": defer("from d")}
    for finishing in itertools.permutations(answers):
        gate = Gate()
        driver = SessionDriver(*(plugin(n, after=(), message=gate.member(n, v)) for n, v in answers.items()))
        task = asyncio.create_task(driver.deliver(RAW))
        await gate.until_started(*answers)
        for name in finishing:
            gate.open(name)
            await gate.until(lambda name=name, gate=gate: name in gate.ended)
        delivery = await task
        assert gate.ended == list(finishing)
        assert [finding.method for finding in delivery.mail.findings] == list(answers)
        assert delivery.reply.text.startswith("from b")
        assert all(seen == [] for seen in gate.seen.values())


async def test_without_after_a_hook_waits_for_all_before_it():
    gate = Gate()
    driver = SessionDriver(*(plugin(name, message=gate.member(name)) for name in "abc"))
    task = asyncio.create_task(driver.deliver(RAW))
    for number, name in enumerate("abc"):
        await gate.until_started(*"abc"[: number + 1])
        gate.open(name)
    assert (await task).reply.ok
    assert gate.seen == {"a": [], "b": ["a"], "c": ["a", "b"]}


async def test_after_makes_a_hook_wait_for_what_it_names_only():
    gate = Gate()
    driver = SessionDriver(
        plugin("slow", after=(), message=gate.member("slow")),
        plugin("needed", after=(), message=gate.member("needed")),
        plugin("last", after=("needed",), message=gate.member("last")),
    )
    task = asyncio.create_task(driver.deliver(RAW))
    await gate.until_started("slow", "needed")
    gate.open("needed")
    await gate.until_started("slow", "needed", "last")
    assert gate.seen["last"] == ["needed"]
    gate.open()
    delivery = await task
    assert [finding.method for finding in delivery.mail.findings] == ["slow", "needed", "last"]


async def test_after_holds_through_a_plugin_that_has_no_such_hook():
    gate = Gate()
    driver = SessionDriver(
        plugin("first", after=(), message=gate.member("first")),
        plugin("between", after=("first",), mail=lambda _self: None),
        plugin("last", after=("between",), message=gate.member("last")),
    )
    task = asyncio.create_task(driver.deliver(RAW))
    await gate.until_started("first")
    gate.open("first")
    await gate.until_started("first", "last")
    assert gate.seen["last"] == ["first"]
    gate.open("last")
    assert (await task).reply.ok


async def test_a_name_in_after_that_is_not_in_the_pipeline_is_no_matter():
    driver = SessionDriver(plugin("a", after=("nobody",), message=answering(None, "a")))
    assert (await driver.deliver(RAW)).mail.findings[0].method == "a"


async def test_a_plain_function_waits_for_what_it_needs():
    gate = Gate()
    driver = SessionDriver(
        plugin("needed", after=(), message=gate.member("needed")),
        plugin("reader", after=("needed",), message=answering(None, "reader")),
        plugin("free", after=(), message=answering(None, "free")),
    )
    task = asyncio.create_task(driver.deliver(RAW))
    await gate.until_started("needed")
    gate.open()
    methods = [finding.method for finding in (await task).mail.findings]
    assert methods == ["needed", "reader", "free"]


async def test_signers_come_last_whatever_the_yaml_says():
    order = []

    def naming(name):
        def before_forward(_self, mail):
            order.append(name)
            return AddHeader(f"X-{name}", str(len(mail.message.fields)))

        return before_forward

    driver = SessionDriver(
        plugin("sealer", signer=True, before_forward=naming("sealer")),
        plugin("other", before_forward=naming("other")),
        plugin("signer", signer=True, before_forward=naming("signer")),
        plugin("third", before_forward=naming("third")),
    )
    data = (await driver.deliver(RAW)).sent.data
    assert order == ["other", "third", "sealer", "signer"]
    assert b"X-signer: 6\r\nX-sealer: 5\r\nX-third: 4\r\nX-other: 3\r\nFrom:" in data


# -- verdicts ---------------------------------------------------------------------------------------------------------

CODES = {Action.ACCEPT: 250, Action.DISCARD: 250, Action.HOLD: 451, Action.DEFER: 451, Action.REJECT: 550}


@pytest.mark.parametrize(
    "pair", [*itertools.permutations((accept(), discard(), hold("x"), defer(), reject()), 2)]
)
async def test_the_strongest_verdict_wins(pair):
    plugins = [plugin(f"p{n}", after=(), message=answering(verdict)) for n, verdict in enumerate(pair)]
    delivery = await SessionDriver(*plugins).deliver(RAW)
    winner = max(verdict.action for verdict in pair)
    assert delivery.reply.code == CODES[winner]
    assert (delivery.sent is None) == (winner is not Action.ACCEPT)


@pytest.mark.parametrize("verdict", [accept(), discard(), hold("x"), defer()], ids=lambda v: v.action.name)
async def test_only_a_rejection_spares_the_hooks_behind_it(verdict):
    driver = SessionDriver(
        plugin("first", message=answering(verdict)),
        plugin("second", message=answering(reject("x"), "second")),
    )
    delivery = await driver.deliver(RAW)
    assert delivery.reply.code == 550
    assert delivery.mail.finding("second")


async def test_what_needs_a_plugin_that_rejects_is_not_asked_and_all_else_is():
    driver = SessionDriver(
        plugin("refusing", after=(), message=answering(reject("first"), "refusing")),
        plugin("beside", after=(), message=answering(reject("second"), "beside")),
        plugin("behind", after=("refusing",), message=answering(reject("third"), "behind")),
        plugin("last", message=answering(None, "last")),
    )
    delivery = await driver.deliver(RAW)
    assert delivery.reply.text.startswith("first")
    assert [finding.method for finding in delivery.mail.findings] == ["refusing", "beside"]
    assert [step.plugin for step in delivery.mail.trace if step.answer == "not run"] == ["behind", "last"]


async def test_a_rejection_that_only_observes_spares_nobody():
    driver = SessionDriver(
        entry_for(plugin("watching", message=answering(reject("x"))), observe=True),
        plugin("behind", message=answering(None, "behind")),
    )
    delivery = await driver.deliver(RAW)
    assert delivery.reply.ok
    assert delivery.mail.finding("behind")


async def test_the_short_cut_does_not_depend_on_who_ends_first():
    outcomes = set()
    for finishing in itertools.permutations("abc"):
        gate = Gate()
        driver = SessionDriver(
            plugin("a", after=(), message=gate.member("a", reject("from a"))),
            plugin("b", after=(), message=gate.member("b")),
            plugin("c", after=("b",), message=gate.member("c", reject("from c"))),
            plugin("d", after=("c",), message=answering(None, "d")),
        )
        task = asyncio.create_task(driver.deliver(RAW))
        await gate.until_started("a", "b")
        for name in finishing:
            gate.open(name)
            await asyncio.sleep(0)
        delivery = await task
        steps = tuple(
            (step.plugin, step.answer) for step in sorted(delivery.mail.trace, key=lambda s: s.plugin)
        )
        findings = tuple(finding.method for finding in delivery.mail.findings)
        outcomes.add((str(delivery.reply), findings, steps))
    assert len(outcomes) == 1


# -- whom an entry is asked about ---------------------------------------------------------------------------------------

TLS = TlsInfo("TLSv1.3", "X", 256)


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        (When(), True),
        (When(listeners=frozenset({"inbound"})), True),
        (When(listeners=frozenset({"submission"})), False),
        (When(directions=frozenset({Direction.INBOUND})), True),
        (When(directions=frozenset({Direction.OUTBOUND, Direction.INTERNAL})), False),
        (When(authenticated=True), True),
        (When(authenticated=False), False),
        (When(tls=True), True),
        (When(tls=False), False),
        (When(listeners=frozenset({"inbound"}), tls=False), False),
    ],
)
def test_conditions(when, holds):
    client = Client("c", "inbound", "192.0.2.1", identity="ana", tls=TLS)
    assert when.holds(client, Direction.INBOUND) is holds
    if when.directions is None:
        assert when.holds(client, None) is holds
    else:
        assert when.holds(client, None), "before MAIL the direction doesn't matter"


async def test_hooks_are_asked_about_the_mail_that_is_theirs():
    asked = []

    def noting(stage):
        def member(self, mail=None):
            asked.append((self.name, stage))

        member.__name__ = stage
        return hook(member)

    stages = ("mail", "message", "before_forward", "after_forward", "rewrite_envelope")
    inbound = {"directions": frozenset({Direction.INBOUND})}
    outbound = {"directions": frozenset({Direction.OUTBOUND})}
    driver = SessionDriver(
        plugin("inbound", **inbound, **{stage: noting(stage) for stage in stages}),
        plugin("outbound", **outbound, **{stage: noting(stage) for stage in stages}),
        entry_for(
            plugin("never", session_closed=lambda _self: asked.append("never"), auth=lambda _self: "eve"),
            when=When(listeners=frozenset({"elsewhere"})),
        ),
    )
    await driver.deliver(RAW)
    await driver.say("QUIT")
    assert {name for name, _ in asked} == {"inbound"}
    assert {stage for _, stage in asked} == set(stages)


async def test_budgeted_look_ups_begin_anew_with_each_mail():
    begun = []
    driver = SessionDriver(plugin("any", message=answering(None)))
    driver.services.begin_queries = lambda: begun.append("begun")
    await driver.deliver(RAW)
    await driver.deliver(RAW)
    assert begun == ["begun"] * 2
    bare = SessionDriver()
    bare.services.begin_queries = lambda: begun.append("needless")
    await bare.deliver(RAW)
    assert "needless" not in begun
