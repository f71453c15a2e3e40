"""Conversations: every command of the state machine in every state, and what the client hears."""

import itertools
import json

import pytest
from tests.core.making import RAW, plugin

from relayproxy.api import Reply, defer, discard, hold, reject
from relayproxy.core.policy import ListenerPolicy, Route
from relayproxy.testing.session import SessionDriver, Standin

LMTP = ListenerPolicy("l", protocol="lmtp")


async def test_a_whole_conversation():
    await SessionDriver().transcript(
        """
        S: 220 mx.example.net ESMTP relayproxy
        C: MAIL FROM:<a@example.org>
        S: 503 5.5.1 Say hello first
        C: EHLO client.example.org
        S: 250-mx.example.net
        S: 250-PIPELINING
        S: 250-SIZE 52428800
        S: 250-ENHANCEDSTATUSCODES
        S: 250-CHUNKING
        S: 250-8BITMIME
        S: 250-SMTPUTF8
        S: 250-DSN
        S: 250 LIMITS RCPTMAX=1000 MAILMAX=1000
        C: RCPT TO:<b@example.net>
        S: 503 5.5.1 Need MAIL first
        C: DATA
        S: 503 5.5.1 Need MAIL and RCPT first
        C: MAIL FROM:<a@example.org> SIZE=100 BODY=8BITMIME RET=HDRS ENVID=Ab+3D
        S: 250 2.1.0 Sender ok
        C: MAIL FROM:<a@example.org>
        S: 503 5.5.1 Sender already given
        C: DATA
        S: 554 5.5.1 No valid recipients
        C: RCPT TO:<b@elsewhere.example>
        S: 550 5.7.1 Relaying denied
        C: RCPT TO:<>
        S: 501 5.1.3 *
        C: RCPT TO:<b@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;B@Example.NET
        S: 250 2.1.5 Ok
        C: DATA
        S: 354 Go on
        C: Subject: hi
        C:
        C: ..hello
        C: .
        S: 250 2.0.0 Ok: queued as TEST id=c0.1
        C: DATA
        S: 503 5.5.1 Need MAIL and RCPT first
        C: MAIL FROM:<>
        S: 250 2.1.0 Sender ok
        C: RSET
        S: 250 2.0.0 Ok
        C: RCPT TO:<b@example.net>
        S: 503 5.5.1 Need MAIL first
        C: MAIL FROM:<> SIZE=52428801
        S: 552 5.3.4 Message is too big
        C: MAIL FROM:<a@example.org> FROB
        S: 555 5.5.4 Parameter FROB not recognized or not offered
        C: MAIL FROM:a@example.org
        S: 501 5.5.4 Syntax: MAIL FROM:<address>
        C: QUIT
        S: 221 2.0.0 Bye
        """
    )


async def test_a_pipelined_conversation():
    driver = SessionDriver()
    await driver.transcript(
        """
        C: EHLO client.example.org
        S: 250-*
        S: 250-*
        S: 250-*
        S: 250-*
        S: 250-*
        S: 250-*
        S: 250-*
        S: 250-*
        S: 250 *
        C: MAIL FROM:<a@example.org>
        C: RCPT TO:<b@example.net>
        C: RCPT TO:<c@elsewhere.example>
        C: RCPT TO:<d@example.net>
        C: DATA
        S: 250 2.1.0 Sender ok
        S: 250 2.1.5 Ok
        S: 550 5.7.1 Relaying denied
        S: 250 2.1.5 Ok
        S: 354 Go on
        C: Subject: hi
        C: .
        S: 250 2.0.0 Ok: queued as TEST id=c0.1
        """
    )
    assert [str(one.address) for one in driver.upstream.asked] == ["b@example.net", "d@example.net"]
    assert driver.upstream.sent[0].data.endswith(b"Subject: hi\r\n")


async def test_helo_offers_nothing():
    await SessionDriver().transcript(
        """
        C: HELO client.example.org
        S: 250 mx.example.net
        C: MAIL FROM:<a@example.org> SIZE=1
        S: 555 5.5.4 *
        C: MAIL FROM:<a@example.org> BODY=8BITMIME
        S: 555 5.5.4 *
        C: MAIL FROM:<a@example.org>
        S: 250 2.1.0 Sender ok
        C: RCPT TO:<b@example.net> NOTIFY=NEVER
        S: 555 5.5.4 *
        C: RCPT TO:<b@example.net>
        S: 250 2.1.5 Ok
        """
    )


async def test_an_lmtp_conversation():
    upstream = Standin(per_recipient=True, finals={"c@example.net": Reply(452, "4.2.2", "Mailbox full")})
    await SessionDriver(policy=LMTP, upstream=upstream, capabilities=[]).transcript(
        """
        S: 220 mx.example.net LMTP relayproxy
        C: EHLO client.example.org
        S: 500 5.5.1 This is LMTP: say LHLO
        C: HELO client.example.org
        S: 500 5.5.1 This is LMTP: say LHLO
        C: LHLO client.example.org
        S: 250-mx.example.net
        S: 250-PIPELINING
        S: 250-SIZE 52428800
        S: 250-ENHANCEDSTATUSCODES
        S: 250-CHUNKING
        S: 250 LIMITS RCPTMAX=1000 MAILMAX=1000
        C: MAIL FROM:<a@example.org>
        S: 250 2.1.0 Sender ok
        C: RCPT TO:<b@example.net>
        C: RCPT TO:<nobody@elsewhere.example>
        C: RCPT TO:<c@example.net>
        C: RCPT TO:<d@example.net>
        S: 250 2.1.5 Ok
        S: 550 5.7.1 Relaying denied
        S: 250 2.1.5 Ok
        S: 250 2.1.5 Ok
        C: DATA
        S: 354 Go on
        C: Subject: hi
        C: .
        S: 250 2.0.0 Ok: queued as TEST id=c0.1
        S: 452 4.2.2 Mailbox full
        S: 250 2.0.0 Ok: queued as TEST id=c0.1
        C: MAIL FROM:<>
        S: 250 2.1.0 Sender ok
        """
    )


async def test_smtp_is_not_lmtp():
    reply = (await SessionDriver().say("LHLO x"))[0]
    assert str(reply) == "500 5.5.1 This is SMTP: say EHLO"


@pytest.mark.parametrize("name", ["", "a b", "x" * 256, "a\x00b", "a\tb"])
@pytest.mark.parametrize("verb", ["EHLO", "HELO"])
async def test_a_name_is_one_printable_word(verb, name):
    driver = SessionDriver()
    assert str((await driver.say(f"{verb} {name}"))[0]) == f"501 5.5.4 Syntax: {verb} hostname"
    assert (await driver.say("MAIL FROM:<>"))[0].code == 503


@pytest.mark.parametrize(
    "name", ["client", "[192.0.2.1]", "[IPv6:::1]", "-odd_", "bücher.example", "x" * 255]
)
async def test_a_name_need_not_be_true(name):
    driver = SessionDriver()
    assert (await driver.say(f"EHLO {name}"))[0].ok
    assert driver.session.client.helo == name


async def test_another_hello_ends_the_transaction():
    driver = SessionDriver()
    await driver.say("EHLO x", "MAIL FROM:<>", "RCPT TO:<b@example.net>")
    assert driver.session.in_transaction
    await driver.say("EHLO y")
    assert not driver.session.in_transaction
    assert driver.upstream.aborted == 1
    assert (await driver.say("RCPT TO:<b@example.net>"))[0].code == 503


async def test_a_bad_hello_changes_nothing():
    driver = SessionDriver()
    await driver.say("EHLO x", "MAIL FROM:<>")
    assert (await driver.say("EHLO"))[0].code == 501
    assert driver.session.in_transaction
    assert driver.session.client.helo == "x"


async def test_a_hello_that_a_plugin_refuses_changes_nothing():
    """RFC 5321 section 4.1.4: the server stays in the same state."""

    def helo(_self, name):
        return reject("That is not you") if name == "mx.example.net" else None

    driver = SessionDriver(plugin("names", helo=helo))
    assert (await driver.say("EHLO mx.example.net"))[0].code == 550
    assert (await driver.say("MAIL FROM:<>"))[0].code == 503
    await driver.say("EHLO x", "MAIL FROM:<>")
    assert (await driver.say("EHLO mx.example.net"))[0].code == 550
    assert driver.session.in_transaction
    assert driver.session.client.helo == "x"


async def test_findings_of_an_earlier_hello_go_with_it():
    def helo(_self, name, note):
        note("helo", "hit", reason=name)

    driver = SessionDriver(plugin("names", helo=helo))
    await driver.say("EHLO one", "EHLO two", "EHLO three", "MAIL FROM:<>")
    assert [finding.reason for finding in driver.session.mail_in_progress.findings] == ["three"]


@pytest.mark.parametrize(
    ("verdict", "banner"),
    [
        (reject("Go away"), "554 5.7.1 Go away"),
        (defer("Not now"), "421 4.7.1 Not now"),
        (hold("x"), "220 mx.example.net ESMTP relayproxy"),
    ],
)
async def test_connect_may_refuse_in_place_of_the_banner(verdict, banner):
    driver = SessionDriver(plugin("gate", connect=lambda _self: verdict))
    await driver.start()
    assert str(driver.banner) == banner
    assert driver.session.closing is (not driver.banner.ok)


# -- refusals by plugins ------------------------------------------------------------------------------------------------


async def test_a_refused_sender_leaves_no_transaction():
    driver = SessionDriver(plugin("no", mail=lambda _self: reject("Not from you")))
    await driver.say("EHLO x")
    assert str((await driver.say("MAIL FROM:<>"))[0]) == "550 5.7.1 Not from you"
    assert not driver.session.in_transaction
    assert driver.upstream.begun == []
    assert any('"refused"' in line for line in driver.log)


async def test_a_refused_recipient_is_never_offered_to_the_next_hop():
    def rcpt(_self, rcpt):
        return reject("Not to her") if rcpt.address.local == "eve" else None

    driver = SessionDriver(plugin("no", rcpt=rcpt))
    await driver.say("EHLO x", "MAIL FROM:<>")
    replies = await driver.say(
        "RCPT TO:<b@example.net>", "RCPT TO:<eve@example.net>", "RCPT TO:<c@example.net>"
    )
    assert [reply.code for reply in replies] == [250, 550, 250]
    assert [one.address.local for one in driver.upstream.asked] == ["b", "c"]


@pytest.mark.parametrize("stage", ["mail", "rcpt"])
async def test_a_verdict_that_can_not_be_told_yet_counts_in_the_end(stage):
    """Hold and discard have no reply of their own: they are settled with the message."""
    driver = SessionDriver(plugin("holding", **{stage: lambda _self: hold("look at it")}))
    delivery = await driver.deliver(RAW)
    assert driver.upstream.sent == []
    assert delivery.reply.temporary, "there is no store here"


def events(driver, name):
    return [event for event in map(json.loads, driver.log) if event["event"] == name]


def judge_of_recipients():
    def rcpt(_self, rcpt):
        return {"gone": discard("a trap"), "kept": hold("look")}.get(rcpt.address.local)

    return plugin("judge", rcpt=rcpt)


@pytest.mark.parametrize("pipelined", [True, False])
async def test_to_hold_or_discard_one_recipients_mail_does_so_to_nobody_elses(pipelined):
    """Who is discarded goes along unseen; who is held comes in a transaction of its own."""
    names = ["gone", "b", "gone", "c", "kept"]
    driver = SessionDriver(judge_of_recipients())
    await driver.say("EHLO x", "MAIL FROM:<>")
    lines = [f"RCPT TO:<{name}@example.net>" for name in names]
    replies = await driver.say(*lines) if pipelined else [(await driver.say(line))[0] for line in lines]
    assert [(reply.code, reply.status) for reply in replies] == [*[(250, "2.1.5")] * 4, (452, "4.5.3")]
    assert [one.address.local for one in driver.upstream.asked] == ["b", "c"]
    delivery = await driver.content(RAW)
    assert [one.address.local for one in delivery.sent.recipients] == ["b", "c"]
    (event,) = events(driver, "message")
    assert (event["to"], event["outcome"]) == (["b@example.net", "c@example.net"], "relayed")
    assert [one["reason"] for one in events(driver, "recipient_discarded")] == ["a trap"] * 2
    assert (await driver.deliver(RAW, recipients=["kept@example.net"])).reply.code == 451


async def test_mail_that_is_discarded_for_all_is_read_and_nobody_is_asked():
    driver = SessionDriver(judge_of_recipients(), domains=["example.net"], upstream=Standin())
    delivery = await driver.deliver(RAW, recipients=["gone@example.net", "gone@example.net"])
    assert (delivery.reply.code, delivery.sent) == (250, None)
    assert (driver.upstream.begun, driver.upstream.asked) == ([], [])
    (event,) = events(driver, "message")
    assert (event["outcome"], event["reason"], event["size"]) == ("discarded", "a trap", len(RAW))
    assert event["to"] == ["gone@example.net"] * 2


async def test_whom_the_next_hop_refuses_is_not_saved_by_one_whose_mail_is_discarded():
    driver = SessionDriver(
        judge_of_recipients(), upstream=Standin(answers={"b@example.net": Reply(550, "5.1.1", "No")})
    )
    await driver.say("EHLO x", "MAIL FROM:<>")
    replies = await driver.say("RCPT TO:<gone@example.net>", "RCPT TO:<b@example.net>")
    assert [reply.code for reply in replies] == [250, 550]
    delivery = await driver.content(RAW)
    assert (delivery.reply.code, delivery.sent) == (250, None)


async def test_a_message_that_is_refused_is_refused_also_where_some_of_it_was_to_be_discarded():
    judge = judge_of_recipients()
    driver = SessionDriver(judge, plugin("no", message=lambda _self: reject("Spam")))
    for names in (["gone", "b"], ["gone"]):
        delivery = await driver.deliver(RAW, recipients=[f"{name}@example.net" for name in names])
        assert (delivery.reply.code, delivery.sent) == (550, None)


async def test_what_is_discarded_for_all_is_not_held_for_them():
    driver = SessionDriver(judge_of_recipients(), plugin("holds", message=lambda _self: hold("look")))
    assert (await driver.deliver(RAW, recipients=["gone@example.net"])).reply.code == 250
    assert [event["outcome"] for event in events(driver, "message")] == ["discarded"]
    assert (await driver.deliver(RAW, recipients=["b@example.net"])).reply.code == 451


async def test_lmtp_answers_each_recipient_also_those_whose_mail_is_discarded():
    upstream = Standin(
        per_recipient=True, finals={"c@example.net": Reply(552, "5.2.2", "The mailbox of c is full")}
    )
    driver = SessionDriver(
        judge_of_recipients(), policy=ListenerPolicy("lmtp", protocol="lmtp"), upstream=upstream
    )
    await driver.say("LHLO x", "MAIL FROM:<>")
    await driver.say(*(f"RCPT TO:<{name}@example.net>" for name in ("gone", "b", "gone", "c")))
    assert driver.session.reply_count == 4
    delivery = await driver.content(RAW)
    assert [reply.code for reply in delivery.replies] == [250, 250, 250, 552]
    assert [one.address.local for one in delivery.sent.recipients] == ["b"]


async def test_smtp_to_lmtp_is_one_recipient_at_a_time_besides_those_whose_mail_is_discarded():
    driver = SessionDriver(judge_of_recipients(), upstream=Standin(per_recipient=True))
    await driver.say("EHLO x", "MAIL FROM:<>")
    replies = await driver.say(*(f"RCPT TO:<{name}@example.net>" for name in ("gone", "b", "gone", "c")))
    assert [reply.code for reply in replies] == [250, 250, 250, 452]
    delivery = await driver.content(RAW)
    assert [reply.code for reply in delivery.replies] == [250]
    assert [one.address.local for one in delivery.sent.recipients] == ["b"]


@pytest.mark.parametrize("stage", ["connect", "helo"])
async def test_what_a_connection_owes_counts_for_each_of_its_messages(stage):
    driver = SessionDriver(plugin("judge", **{stage: lambda _self: discard("spam trap")}))
    for _ in range(2):
        delivery = await driver.deliver(RAW)
        assert (delivery.reply.code, delivery.sent) == (250, None)


async def test_what_an_earlier_hello_owed_goes_with_it():
    driver = SessionDriver(plugin("judge", helo=lambda _self, name: discard() if name == "one" else None))
    await driver.say("EHLO one", "EHLO two")
    assert (await driver.deliver(RAW)).sent is not None


@pytest.mark.parametrize(
    ("final", "outcome"),
    [
        (Reply(250, "2.0.0", "Ok: queued"), "queued"),
        (Reply(452, "4.3.1", "Full"), "deferred"),
        (Reply(552, "5.3.4", "Too big"), "rejected"),
    ],
)
async def test_what_is_stored_is_queued_and_not_relayed(final, outcome):
    driver = SessionDriver(upstream=Standin(queued=True, final=final))
    delivery = await driver.deliver(RAW)
    assert delivery.reply.code == final.code
    assert [event["outcome"] for event in events(driver, "message")] == [outcome]
    counted = {name: cell.value for name, cell in driver.at.messages.items() if cell.value}
    assert (counted, driver.at.octets.value) == ({outcome: 1}, len(RAW) if final.ok else 0)


# -- what the next hop says -------------------------------------------------------------------------------------------


async def test_the_next_hop_speaks_for_itself():
    upstream = Standin(
        answers={
            "b@example.net": Reply(550, "5.1.1", "No such user here"),
            "c@example.net": Reply(450, "", "busy"),
            "d@example.net": Reply(251, "", "will forward"),
            "e@example.net": Reply(252, "2.5.2", "can't verify\nbut will try"),
        }
    )
    driver = SessionDriver(upstream=upstream)
    await driver.say("EHLO x", "MAIL FROM:<>")
    replies = await driver.say(*(f"RCPT TO:<{name}@example.net>" for name in "bcde"))
    assert list(map(str, replies)) == [
        "550 5.1.1 No such user here",
        "450 4.0.0 busy",
        "251 2.1.5 will forward",
        "252 2.5.2 can't verify / but will try",
    ]
    assert not driver.session.closing


async def test_a_next_hop_that_closes_closes():
    driver = SessionDriver(upstream=Standin(answers={"b@example.net": Reply(421, "4.3.2", "Going down")}))
    assert str((await driver.deliver(RAW)).reply) == "421 4.3.2 Going down"
    assert driver.session.closing
    with pytest.raises(ValueError, match="over"):
        await driver.say("RSET")
    driver = SessionDriver(upstream=Standin(final=Reply(421, "", "Going down")))
    assert str((await driver.deliver(RAW)).reply) == "421 4.0.0 Going down"
    assert driver.session.closing


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ((450,), 451),
        ((550,), 554),
        ((550, 450), 451),
        ((450, 550), 451),
        ((550, 250), None),
        ((450, 250), None),
    ],
)
async def test_data_without_recipients_is_as_final_as_their_refusals(answers, code):
    told = {f"{n}@example.net": Reply(one, f"{one // 100}.0.0", "x") for n, one in enumerate(answers)}
    driver = SessionDriver(upstream=Standin(answers=told))
    await driver.say("EHLO x", "MAIL FROM:<>", *(f"RCPT TO:<{address}>" for address in told))
    reply = (await driver.say("DATA"))[0]
    assert reply.code == (code or 354)


async def test_mail_and_recipients_of_one_batch_are_one_transaction():
    driver = SessionDriver()
    await driver.say("EHLO x", "MAIL FROM:<a@example.org> SIZE=123", "RCPT TO:<b@example.net>")
    await driver.say("RCPT TO:<c@example.net>", "RCPT TO:<d@example.net>")
    assert [(str(envelope.sender), size) for envelope, size in driver.upstream.begun] == [
        ("a@example.org", 123)
    ]
    assert [one.address.local for one in driver.upstream.asked] == ["b", "c", "d"]


RCPTS = ["b@example.net", "no@example.net", "x@elsewhere.example", "c@other.example", ">", "b@example.net"]


@pytest.mark.parametrize("order", [*itertools.permutations(RCPTS[:5], 3), tuple(RCPTS)], ids=" ".join)
async def test_a_batch_is_answered_like_one_by_one(order):
    def driver():
        hops = {
            "one": Standin("one", answers={"no@example.net": Reply(550, "5.1.1", "No")}),
            "two": Standin("two"),
        }
        routes = (Route("a", "one", recipient_domains=frozenset({"example.net"})), Route("b", "two"))
        return SessionDriver(domains=("example.net", "other.example"), upstreams=hops, routes=routes)

    batch, single = driver(), driver()
    lines = [f"RCPT TO:<{address}>" for address in order]
    await batch.say("EHLO x", "MAIL FROM:<>")
    await single.say("EHLO x", "MAIL FROM:<>")
    assert await batch.say(*lines) == [(await single.say(line))[0] for line in lines]
    assert batch.session.may_send_data() == single.session.may_send_data()


# -- routes -------------------------------------------------------------------------------------------------------------


def two_routes(**options):
    hops = {"one": Standin("one"), "two": Standin("two")}
    routes = (
        Route("a", "one", recipient_domains=frozenset({"one.example"})),
        Route("b", "two", recipient_domains=frozenset({"two.example"})),
    )
    domains = ("one.example", "two.example", "three.example")
    return SessionDriver(domains=domains, upstreams=hops, routes=routes, **options), hops


async def test_another_route_is_for_another_transaction():
    driver, hops = two_routes()
    await driver.say("EHLO x", "MAIL FROM:<a@example.org>")
    replies = await driver.say(
        "RCPT TO:<a@one.example>",
        "RCPT TO:<b@two.example>",
        "RCPT TO:<c@one.example>",
        "RCPT TO:<d@three.example>",
    )
    assert [(reply.code, reply.status) for reply in replies] == [
        (250, "2.1.5"),
        (452, "4.5.3"),
        (250, "2.1.5"),
        (550, "5.1.2"),
    ]
    assert (await driver.content(RAW)).sent.recipients == tuple(hops["one"].asked)
    assert hops["two"].begun == []
    assert (await driver.deliver(RAW, recipients=["b@two.example"])).reply.ok
    assert len(hops["two"].sent) == 1


async def test_an_smtp_client_sends_to_one_recipient_at_a_time_where_each_has_an_answer():
    driver = SessionDriver(upstream=Standin(per_recipient=True))
    await driver.say("EHLO x", "MAIL FROM:<>")
    replies = await driver.say("RCPT TO:<b@example.net>", "RCPT TO:<c@example.net>")
    assert [reply.code for reply in replies] == [250, 452]
    assert (await driver.say("RCPT TO:<d@example.net>"))[0].status == "4.5.3"
    delivery = await driver.content(RAW)
    assert len(delivery.replies) == 1


async def test_a_rcpt_hook_sees_who_shares_the_message_so_far():
    seen = []

    def rcpt(_self, mail, rcpt):
        seen.append(tuple(one.address.local for one in (*mail.envelope.recipients, rcpt)))

    talk = SessionDriver(plugin("watch", rcpt=rcpt))
    talk.upstream.answers["a@example.net"] = Reply(550, "5.1.1", "No")
    await talk.say("EHLO x", "MAIL FROM:<a@example.org>", "RCPT TO:<a@example.net>")
    await talk.say("RCPT TO:<b@example.net>", "RCPT TO:<c@example.net>")
    await talk.say("RCPT TO:<d@example.net>")
    assert seen == [("a",), ("b",), ("b", "c"), ("b", "c", "d")]
