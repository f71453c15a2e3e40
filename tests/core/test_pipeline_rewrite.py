"""Hooks that edit, observe, identify and report."""

import asyncio
import json

import pytest
from tests.core.making import RAW, answering, plugin

from relayproxy.api import (
    QUEUE,
    AddHeader,
    AddRecipient,
    Address,
    Credentials,
    DropHeader,
    DropRecipient,
    Recipient,
    ReplaceBody,
    ReplaceHeader,
    ReplaceRecipient,
    Reply,
    RequireTls,
    SetRoute,
    SetSender,
    State,
    accept,
    defer,
    hook,
    reject,
)
from relayproxy.core.policy import Route
from relayproxy.testing.mail import make_address
from relayproxy.testing.session import SessionDriver, Standin, entry_for

BOB, EVE = make_address("b@example.net"), make_address("eve@example.net")


def events(driver, name):
    return [event for event in map(json.loads, driver.log) if event["event"] == name]


# -- rewrite ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        (),
        AddHeader("X-A", "1"),
        [AddHeader("X-A", "1")],
        (AddHeader("X-A", "1"), DropHeader("Subject")),
        {AddHeader("X-A", "1")},
        "generator",
    ],
    ids=str,
)
async def test_edits_come_one_by_one_in_any_iterable_or_not_at_all(answer):
    def before_forward(_self):
        return (edit for edit in [AddHeader("X-A", "1")]) if answer == "generator" else answer

    delivery = await SessionDriver(plugin("editor", before_forward=before_forward)).deliver(RAW)
    count = 1 if isinstance(answer, AddHeader | str) else len(answer or ())
    wanted = count > 0
    assert delivery.sent.data.removeprefix(delivery.sent.lead).startswith(b"X-A: 1\r\n") is wanted
    assert delivery.mail.trace[0].answer == ("1 edit" if count == 1 else f"{count} edits")


async def test_a_later_hook_sees_what_an_earlier_one_edited():
    subjects = []

    def tagging(_self, mail):
        subjects.append(mail.message.subject)
        return ReplaceHeader("Subject", f"[tag] {mail.message.subject}")

    driver = SessionDriver(plugin("one", before_forward=tagging), plugin("two", before_forward=tagging))
    delivery = await driver.deliver(RAW)
    assert subjects == ["x", "[tag] x"]
    assert b"Subject: [tag] [tag] x\r\n" in delivery.sent.data


async def test_a_route_is_named():
    routes = []
    driver = SessionDriver(plugin("editor", before_forward=lambda _self, route: routes.append(route)))
    await driver.deliver(RAW)
    assert routes == ["upstream"]


async def test_a_generator_that_fails_half_way_edits_nothing():
    def before_forward(_self):
        yield AddHeader("X-A", "1")
        raise RuntimeError("hunter2")

    driver = SessionDriver(entry_for(plugin("editor", before_forward=before_forward), on_error="skip"))
    delivery = await driver.deliver(RAW)
    assert b"X-A" not in delivery.sent.data
    assert events(driver, "plugin_fault")[0]["kind"] == "type"


@pytest.mark.parametrize("stage", ["before_forward", "rewrite_envelope"])
async def test_a_rewrite_hook_can_not_reject(stage):
    driver = SessionDriver(plugin("editor", **{stage: lambda _self: reject("no")}))
    assert str((await driver.deliver(RAW)).reply).startswith("451 4.3.0")


@pytest.mark.parametrize("edit", [AddHeader("X-A", "1"), ReplaceBody(b""), DropHeader("A")])
async def test_the_envelope_has_no_header(edit):
    driver = SessionDriver(plugin("editor", rewrite_envelope=lambda _self: edit))
    assert str((await driver.deliver(RAW)).reply).startswith("451 4.3.0")


async def test_a_rewrite_hook_may_note_findings():
    def before_forward(_self, mail):
        mail.note("dkim", "pass")

    driver = SessionDriver(plugin("editor", before_forward=before_forward))
    delivery = await driver.deliver(RAW)
    assert [(finding.method, finding.by) for finding in delivery.mail.findings] == [("dkim", "editor")]


async def test_the_sender_is_rewritten_before_the_next_hop_hears_it():
    def rewrite_envelope(_self, rcpt):
        return SetSender(make_address("srs0=x@example.net")) if rcpt is None else None

    driver = SessionDriver(plugin("srs", rewrite_envelope=rewrite_envelope))
    delivery = await driver.deliver(RAW)
    assert str(driver.upstream.begun[0][0].sender) == "srs0=x@example.net"
    assert str(delivery.sent.envelope.sender) == "srs0=x@example.net"
    assert len(driver.upstream.begun) == 1


async def test_a_recipient_is_rewritten_and_keeps_its_options():
    def rewrite_envelope(_self, rcpt):
        return ReplaceRecipient(rcpt.address, EVE) if rcpt else None

    driver = SessionDriver(plugin("aliases", rewrite_envelope=rewrite_envelope))
    await driver.say("EHLO x", "MAIL FROM:<a@example.org>")
    await driver.say("RCPT TO:<b@example.net> NOTIFY=NEVER ORCPT=rfc822;B@example.net")
    delivery = await driver.content(RAW)
    assert delivery.sent.recipients == (Recipient(EVE, ("NEVER",), "rfc822;B@example.net"),)


async def test_a_later_plugin_is_asked_about_what_an_earlier_one_has_made_of_a_recipient():
    asked = []

    def moved(_self, rcpt):
        return [ReplaceRecipient(rcpt.address, EVE), AddRecipient(Recipient(BOB))] if rcpt else None

    def noted(_self, rcpt):
        asked.append(rcpt and str(rcpt.address))
        return ReplaceRecipient(EVE, make_address("f@example.net")) if rcpt and rcpt.address == EVE else None

    driver = SessionDriver(plugin("moved", rewrite_envelope=moved), plugin("noted", rewrite_envelope=noted))
    delivery = await driver.deliver(RAW, recipients=["c@example.net"])
    assert asked == [None, "eve@example.net", "b@example.net"]
    assert [str(one.address) for one in delivery.sent.recipients] == ["f@example.net", "b@example.net"]


async def test_nobody_is_asked_about_a_recipient_that_has_become_nobody():
    asked = []

    def dropped(_self, rcpt):
        return DropRecipient(rcpt.address) if rcpt else None

    def noted(_self, rcpt):
        asked.append(rcpt)

    driver = SessionDriver(
        plugin("dropped", rewrite_envelope=dropped), plugin("noted", rewrite_envelope=noted)
    )
    assert str((await driver.deliver(RAW)).reply) == "550 5.1.1 No such recipient"
    assert asked == [None]


async def test_a_copy_goes_along_once_and_its_refusal_is_nobodys_business():
    def rewrite_envelope(_self, rcpt):
        return [AddRecipient(Recipient(EVE)), AddRecipient(Recipient(BOB))] if rcpt else None

    driver = SessionDriver(plugin("archive", rewrite_envelope=rewrite_envelope))
    delivery = await driver.deliver(RAW, recipients=["b@example.net", "c@example.net"])
    assert [str(one.address) for one in delivery.sent.recipients] == [
        "b@example.net",
        "eve@example.net",
        "c@example.net",
    ]
    refusing = SessionDriver(plugin("archive", rewrite_envelope=rewrite_envelope))
    refusing.upstream.answers["eve@example.net"] = Reply(550, "5.1.1", "No such user")
    delivery = await refusing.deliver(RAW)
    assert [str(one.address) for one in delivery.sent.recipients] == ["b@example.net"]
    assert events(refusing, "copy_refused")[0]["to"] == "eve@example.net"


async def test_a_recipient_that_becomes_nobody_is_refused():
    def rewrite_envelope(_self, rcpt):
        return DropRecipient(rcpt.address) if rcpt else None

    driver = SessionDriver(plugin("dropping", rewrite_envelope=rewrite_envelope))
    assert str((await driver.deliver(RAW)).reply) == "550 5.1.1 No such recipient"


# -- observe ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["connect", "helo", "mail", "rcpt", "message"])
async def test_observing_decides_nothing_and_says_what_it_would_have(stage):
    def member(_self):
        return reject("no")

    driver = SessionDriver(entry_for(plugin("watcher", **{stage: member}), observe=True))
    delivery = await driver.deliver(RAW)
    assert delivery.reply.ok
    told = events(driver, "would_have")
    assert [(event["plugin"], event["hook"], event["verdict"], event["reply"]) for event in told] == [
        ("watcher", stage, "reject", "550 5.7.1 no")
    ]


@pytest.mark.parametrize(
    ("stage", "edit"),
    [("before_forward", AddHeader("X-No", "1")), ("rewrite_envelope", ReplaceRecipient(BOB, EVE))],
)
async def test_observing_edits_nothing(stage, edit):
    driver = SessionDriver(entry_for(plugin("watcher", **{stage: lambda _self: edit}), observe=True))
    delivery = await driver.deliver(RAW)
    assert delivery.sent.data == delivery.sent.lead + RAW
    assert delivery.sent.recipients == (Recipient(BOB),)
    assert events(driver, "would_have")[0]["edits"] == 1


async def test_findings_of_an_observer_count_as_findings():
    driver = SessionDriver(entry_for(plugin("watcher", message=answering(None, "seen")), observe=True))
    assert (await driver.deliver(RAW)).mail.finding("seen")


@pytest.mark.parametrize(
    "stage", ["connect", "helo", "mail", "rcpt", "rewrite_envelope", "message", "before_forward"]
)
async def test_a_fault_of_an_observer_decides_nothing_either(stage):
    def member(_self):
        raise RuntimeError

    driver = SessionDriver(entry_for(plugin("watcher", **{stage: member}), observe=True))
    assert (await driver.deliver(RAW)).reply.ok
    assert events(driver, "plugin_fault")


async def test_verdicts_are_counted_by_mode():
    driver = SessionDriver(
        entry_for(plugin("watcher", after=(), message=answering(reject("no"))), observe=True),
        plugin("judge", after=(), message=answering(accept())),
    )
    await driver.deliver(RAW)
    counts = {
        s.labels: s.value for s in driver.services.metrics.samples() if s.family.name == "verdicts_total"
    }
    assert {labels for labels, value in counts.items() if value} == {
        ("message", "watcher", "reject", "observe"),
        ("message", "judge", "accept", "enforce"),
    }


# -- identify -----------------------------------------------------------------------------------------------------------


def knowing(*logins):
    async def auth(_self, client, credentials):
        await asyncio.sleep(0)
        return credentials.login if credentials.login in logins and credentials.password == "pw" else None

    return auth


async def identified(*entries, login="ana"):
    """Return what the pipeline makes of a login with the right password."""
    driver = SessionDriver(*entries)
    return await driver.services.pipeline.identify(driver.session.client, Credentials("PLAIN", login, "pw"))


def failing(_self):
    raise RuntimeError("hunter2")


async def test_the_first_identity_wins():
    one, two = plugin("one", auth=knowing("ana")), plugin("two", auth=lambda _self: "somebody")
    assert await identified(one, two) == ("ana", False)
    assert await identified(one, two, login="eve") == ("somebody", False)
    assert await identified(one, login="eve") == (None, False)
    assert await identified() == (None, False)


async def test_a_plugin_that_fails_to_tell_is_not_a_wrong_password():
    broken, one = plugin("broken", auth=failing), plugin("one", auth=knowing("ana"))
    assert await identified(broken, one) == ("ana", False)
    assert await identified(broken, one, login="eve") == (None, True)
    assert await identified(entry_for(broken, on_error="skip"), one, login="eve") == (None, False)
    assert await identified(plugin("odd", auth=lambda _self: True)) == (None, True)
    assert await identified(plugin("empty", auth=lambda _self: "")) == (None, False)


async def test_an_observer_lets_nobody_in_and_keeps_nobody_out():
    assert await identified(entry_for(plugin("one", auth=knowing("ana")), observe=True)) == (None, False)
    assert await identified(entry_for(plugin("one", auth=failing), observe=True)) == (None, False)


# -- report -------------------------------------------------------------------------------------------------------------


async def test_report_hooks_hear_the_outcome_of_every_recipient():
    heard = []

    @hook
    async def after_forward(_self, mail, outcomes):
        await asyncio.sleep(0)
        heard.append((mail.id, [(str(one.recipient.address), one.state, one.route) for one in outcomes]))
        return reject("too late")

    driver = SessionDriver(plugin("reporter", after_forward=after_forward))
    assert (await driver.deliver(RAW, recipients=["b@example.net", "c@example.net"])).reply.ok
    done = [("b@example.net", State.DONE, "upstream"), ("c@example.net", State.DONE, "upstream")]
    assert heard == [("c0.1", done)]


async def test_report_hooks_hear_that_the_queue_took_it_in_place_of_the_upstream():
    heard = []

    def after_forward(_self, outcomes):
        heard.extend((one.state, one.route) for one in outcomes)

    driver = SessionDriver(plugin("reporter", after_forward=after_forward), upstream=Standin(queued=True))
    assert (await driver.deliver(RAW)).reply.ok
    assert heard == [(State.DONE, QUEUE)]


async def test_report_hooks_hear_of_what_a_message_hook_rejects_and_not_of_what_it_puts_off():
    heard = []

    def after_forward(_self, outcomes):
        heard.extend((one.state, one.reply.code) for one in outcomes)

    verdicts = [defer("later"), reject("never")]
    driver = SessionDriver(
        plugin("judge", message=lambda _self: verdicts.pop(0)),
        plugin("reporter", after_forward=after_forward),
    )
    assert (await driver.deliver(RAW)).reply.code == 451
    assert heard == []
    assert (await driver.deliver(RAW)).reply.code == 550
    assert heard == [(State.FAILED, 550)]


@pytest.mark.parametrize("stage", ["mail", "rcpt"])
async def test_a_421_of_a_plugin_ends_the_connection(stage):
    driver = SessionDriver(
        plugin("full", **{stage: lambda _self: defer("Too much", code=421, status="4.7.0")})
    )
    delivery = await driver.deliver(RAW)
    assert delivery.reply.code == 421
    assert driver.session.closing


async def test_a_recipient_may_take_another_sender_where_another_plugin_leads_it():
    def aliases(_self, rcpt):
        if rcpt is not None and rcpt.address.local == "alias":
            return ReplaceRecipient(rcpt.address, Address("ana", "elsewhere.example"))
        return None

    def forwards(_self, rcpt):
        if rcpt is not None and rcpt.address.domain == "elsewhere.example":
            return SetSender(Address("forwarder", "example.net"))
        return None

    driver = SessionDriver(
        plugin("aliases", rewrite_envelope=aliases), plugin("forwards", rewrite_envelope=forwards)
    )
    delivery = await driver.deliver(RAW, recipients=["alias@example.net"])
    assert str(delivery.sent.envelope.sender) == "forwarder@example.net"
    assert [str(one.address) for one in delivery.sent.recipients] == ["ana@elsewhere.example"]
    await driver.say("MAIL FROM:<a@example.org>")
    replies = await driver.say(
        "RCPT TO:<b@example.net>", "RCPT TO:<alias@example.net>", "RCPT TO:<c@example.net>"
    )
    assert [reply.code for reply in replies] == [250, 452, 250]
    await driver.say("RSET", "MAIL FROM:<a@example.org>")
    assert [(await driver.say(f"RCPT TO:<{name}@example.net>"))[0].code for name in ("alias", "b")] == [
        250,
        452,
    ]


async def test_totals_of_a_connection(fake_clock):
    heard = []

    def session_closed(_self, client, totals):
        heard.append((client.ip, totals))

    driver = SessionDriver(plugin("reporter", session_closed=session_closed), clock=fake_clock)
    await driver.deliver(RAW, recipients=["b@example.net", "c@example.net"])
    await driver.deliver(RAW)
    fake_clock.advance(7)
    await driver.say("QUIT")
    [(ip, totals)] = heard
    assert (ip, totals.messages, totals.recipients) == ("192.0.2.1", 2, 3)
    assert (totals.octets, totals.seconds) == (2 * len(RAW), 7.0)


class TestTheWayOn:
    @staticmethod
    def ways(hook):
        hops = {"store": Standin("store"), "archive": Standin("archive")}
        routes = (Route("store", "store"), Route("archive", "archive", chosen=True))
        return SessionDriver(plugin("way", **hook), routes=routes, upstreams=hops), hops

    async def test_a_route_that_no_mail_takes_of_itself_can_be_chosen(self):
        talk, hops = self.ways(
            {"rewrite_envelope": lambda _s, mail, rcpt: SetRoute("archive") if rcpt else None}
        )
        assert (await talk.deliver(RAW)).reply.code == 250
        assert (len(hops["store"].sent), len(hops["archive"].sent)) == (0, 1)
        talk, hops = self.ways({"rewrite_envelope": lambda _s, mail, rcpt: ()})
        assert (await talk.deliver(RAW)).reply.code == 250
        assert (len(hops["store"].sent), len(hops["archive"].sent)) == (1, 0)

    async def test_at_mail_it_is_for_all_recipients(self):
        talk, hops = self.ways(
            {"rewrite_envelope": lambda _s, mail, rcpt: None if rcpt else SetRoute("archive")}
        )
        await talk.deliver(RAW, recipients=["b@example.net", "c@example.net"])
        assert [len(one.recipients) for one in hops["archive"].sent] == [2]

    @pytest.mark.parametrize("stage", ["rewrite_envelope", "before_forward"])
    async def test_one_that_is_not_there_is_a_451(self, stage):
        hooks = {
            "rewrite_envelope": lambda _s, mail, rcpt: SetRoute("nowhere"),
            "before_forward": lambda _s, mail, route: SetRoute("nowhere"),
        }
        talk, hops = self.ways({stage: hooks[stage]})
        reply = (await talk.deliver(RAW)).reply
        assert (reply.code, reply.status) == (451, "4.3.5")
        assert not hops["store"].sent
        assert any('"unknown_route"' in line and '"nowhere"' in line for line in talk.log)

    async def test_it_can_be_changed_while_nothing_of_the_content_has_gone(self):
        talk, hops = self.ways(
            {"before_forward": lambda _s, mail, route: [SetRoute("archive"), RequireTls()]}
        )
        assert (await talk.deliver(RAW)).reply.code == 250
        assert not hops["store"].sent
        assert hops["archive"].sent[0].envelope.tls_onward
        assert hops["store"].aborted == 1

    async def test_a_recipient_that_needs_tls_onward_comes_apart(self):
        def rewrite_envelope(_self, mail, rcpt):
            return RequireTls() if rcpt and rcpt.address.local == "t" else None

        talk, hops = self.ways({"rewrite_envelope": rewrite_envelope})
        said = await talk.say(
            "EHLO x", "MAIL FROM:<a@example.org>", *(f"RCPT TO:<{n}@example.net>" for n in "bt")
        )
        assert [reply.code for reply in said[2:]] == [250, 452]
        assert not (await talk.content(RAW)).sent.envelope.tls_onward
        assert (await talk.deliver(RAW, recipients=["t@example.net"])).sent.envelope.tls_onward
        assert len(hops["store"].sent) == 2
