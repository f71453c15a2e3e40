"""Rules in a whole conversation: when they answer, whom they tell apart, what goes on."""

import pytest
from tests.core.making import plugin
from tests.rules.asking import MESSAGE, driver

from relayproxy.api import AddHeader, DnsStatus, Origin, ReplaceHeader, Reply, SharedState, reject
from relayproxy.model.message import Message
from relayproxy.testing.mail import make_mail
from relayproxy.testing.resolver import FakeResolver
from relayproxy.testing.session import Standin

SPLIT = "452 4.5.3 This recipient needs another treatment: send it in another transaction"


def headers(delivery):
    return {field.name: field.value for field in Message.from_bytes(delivery.sent.data).fields}


async def test_a_rule_that_can_answer_at_rcpt_does():
    talk = driver({"id": "a", "match": {"sender.domain": "bad.example"}, "then": {"reject": "No, {sender}"}})
    replies = await talk.say("EHLO x", "MAIL FROM:<q@bad.example>", "RCPT TO:<b@example.net>", "DATA")
    assert str(replies[2]) == "550 5.7.1 No, q@bad.example"
    assert replies[3].code == 554


async def test_a_rule_about_the_message_answers_after_it():
    talk = driver(
        {"id": "a", "match": {"subject": {"contains": "hell"}}, "then": {"defer": {"code": 450, "text": "x"}}}
    )
    delivery = await talk.deliver(MESSAGE)
    assert str(delivery.reply) == "450 4.7.1 x id=c0.1"
    assert delivery.sent is None


async def test_without_a_rule_for_it_mail_passes_untouched():
    talk = driver({"id": "a", "match": {"subject": "nope"}, "then": {"add_header": {"X": "y"}}})
    delivery = await talk.deliver(MESSAGE)
    assert delivery.sent.data.endswith(MESSAGE)
    assert delivery.mail.findings == ()


async def test_discard_is_a_250_and_nobody_gets_it():
    delivery = await driver({"id": "a", "match": {"subject": "hello"}, "then": "discard"}).deliver(MESSAGE)
    assert (delivery.reply.code, delivery.sent) == (250, None)


async def test_changes_of_the_header():
    talk = driver(
        {
            "id": "a",
            "match": {"subject": "hello"},
            "then": {
                "add_header": {"X-From": "{from.name} {{{score}}}", "X-Mail": "{subject}\\"},
                "replace_header": {"To": "someone"},
                "remove_header": ["X-Old"],
                "prefix_subject": "[é]",
            },
        }
    )
    raw = "From: Zoë <z@example.org>\r\nTo: b\r\nX-Old: 1\r\nSubject: hello\r\n\r\n".encode()
    delivery = await talk.deliver(raw)
    found = headers(delivery)
    assert Message.from_bytes(delivery.sent.data).all("X-From")[0].text == "Zoë {0.0}"
    assert found["To"] == "someone"
    assert "X-Old" not in found
    assert Message.from_bytes(delivery.sent.data).subject == "[é] hello"


async def test_a_value_can_not_leave_its_place():
    talk = driver({"id": "a", "then": {"add_header": {"X-Helo": "<{client.helo}> {header.x-evil}"}}})
    raw = b"X-Evil: =?utf-8?q?a=0D=0AX-Made-Up:_yes?=\r\n\r\n"
    delivery = await talk.deliver(raw)
    assert [field.name for field in Message.from_bytes(delivery.sent.data).fields] == [
        "Received",
        "X-Helo",
        "X-Evil",
    ]
    assert AddHeader("X", headers(delivery)["X-Helo"])


async def test_scores_and_tags_are_seen_by_later_rules():
    talk = driver(
        {
            "id": "a",
            "match": {"subject": "hello"},
            "then": [{"score": {"add": 3, "symbol": "HELLO"}}, {"tag": "greets"}],
        },
        {"id": "b", "match": {"score": {"above": 2}, "tags": "greets"}, "then": {"reject": "Score {score}"}},
        {"id": "c", "then": {"add_header": {"X": "never"}}},
    )
    delivery = await talk.deliver(MESSAGE)
    assert str(delivery.reply) == "550 5.7.1 Score 3.0 id=c0.1"
    noted = [(f.method, f.props.get("id", f.props.get("name")), f.score) for f in delivery.mail.findings]
    assert noted == [("rule", "a", 3.0), ("rule", "b", 0.0), ("tag", "greets", 0.0)]
    assert delivery.mail.findings[0].props["symbol"] == "HELLO"


async def test_accept_ends_the_rules_of_both_stages():
    talk = driver(
        {"id": "friend", "match": {"sender": "a@example.org"}, "then": "accept"},
        {"id": "a", "match": {"client.tls": False}, "then": {"reject": "TLS"}},
        {"id": "b", "match": {"subject": "hello"}, "then": {"reject": "hello"}},
    )
    assert (await talk.deliver(MESSAGE)).reply.code == 250
    talk.reconnect()
    assert str((await talk.deliver(MESSAGE, sender="x@example.org")).reply) == "550 5.7.1 TLS"


async def test_what_an_accept_at_the_message_may_take_away_waits_for_it():
    talk = driver(
        {"id": "password", "match": {"subject": {"contains": "hello"}}, "then": "accept"},
        {"id": "a", "match": {"sender.domain": "example.org"}, "then": {"reject": "no"}},
    )
    assert (await talk.deliver(MESSAGE)).reply.code == 250
    assert (await talk.deliver(b"Subject: x\r\n\r\n")).reply.code == 550


async def test_recipients_that_need_another_verdict_come_apart():
    talk = driver(
        {
            "id": "vip",
            "match": {"recipient": "boss@example.net", "subject": "hello"},
            "then": {"reject": "busy"},
        },
        {"id": "log", "match": {"recipient.local": "x"}, "then": {"log": True}},
    )
    replies = await talk.say(
        "EHLO x",
        "MAIL FROM:<a@example.org>",
        *(f"RCPT TO:<{name}@example.net>" for name in ("b", "boss", "c", "x")),
    )
    assert [str(reply) for reply in replies[3:4]] == [SPLIT]
    assert [reply.code for reply in replies[2:]] == [250, 452, 250, 250]
    delivery = await talk.content(MESSAGE)
    assert [str(rcpt.address) for rcpt in delivery.sent.recipients] == [
        "b@example.net",
        "c@example.net",
        "x@example.net",
    ]
    assert (await talk.deliver(MESSAGE, recipients=["boss@example.net"])).reply.code == 550


async def test_recipients_come_apart_only_where_a_rule_can_still_match():
    talk = driver(
        {
            "id": "a",
            "match": {"recipient": "boss@example.net", "client.tls": True, "subject": "x"},
            "then": "reject",
        }
    )
    delivery = await talk.deliver(MESSAGE, recipients=["b@example.net", "boss@example.net"])
    assert len(delivery.sent.recipients) == 2


async def test_changes_of_recipients():
    talk = driver(
        {"id": "a", "match": {"recipient": "old@example.net"}, "then": {"redirect": "new@example.com"}},
        {
            "id": "b",
            "match": {"recipient.local": {"starts_with": "me+"}},
            "then": {"rewrite_recipient": {"local": "me"}},
        },
        {
            "id": "c",
            "match": {"sender.local": "boss"},
            "then": {"add_recipient": "archive+{sender.domain}@example.net"},
        },
        {"id": "d", "match": {"subject": "move"}, "then": {"rewrite_recipient": {"domain": "moved.example"}}},
    )
    got = await talk.deliver(MESSAGE, recipients=["old@example.net", "me+x@example.net"])
    assert [str(r.address) for r in got.sent.recipients] == ["new@example.com", "me@example.net"]
    got = await talk.deliver(MESSAGE, sender="boss@example.org")
    assert [str(r.address) for r in got.sent.recipients] == [
        "b@example.net",
        "archive+example.org@example.net",
    ]
    assert got.sent.recipients[1].notify == ("NEVER",)
    got = await talk.deliver(b"Subject: move\r\n\r\n", recipients=["a@example.net", "b@example.net"])
    assert [str(r.address) for r in got.sent.recipients] == ["a@moved.example", "b@moved.example"]


async def test_a_rate_lets_a_burst_pass_and_then_defers():
    rule = {"id": "a", "then": {"rate_limit": {"key": "{sender}", "rate": "60/m", "burst": 2}}}
    talk = driver(rule)
    codes = [(await talk.deliver(MESSAGE)).reply.code for _ in range(3)]
    assert codes == [250, 250, 450]
    assert (await talk.deliver(MESSAGE, sender="other@example.org")).reply.code == 250
    talk.clock.advance(1)
    assert (await talk.deliver(MESSAGE)).reply.code == 250


async def test_a_rate_of_recipients_answers_at_rcpt():
    limit = {"key": "{client.ip}", "rate": "2/h", "count": "recipients"}
    talk = driver({"id": "a", "then": {"rate_limit": limit, "reject": {"code": 550, "text": "enough"}}})
    replies = await talk.say(
        "EHLO x", "MAIL FROM:<a@example.org>", *[f"RCPT TO:<{n}@example.net>" for n in "abc"]
    )
    assert [reply.code for reply in replies[2:]] == [250, 250, 550]


async def test_observe_says_what_it_would_do():
    talk = driver(
        {"id": "a", "mode": "observe", "match": {"subject": "hello"}, "then": {"score": 9, "reject": "x"}}
    )
    delivery = await talk.deliver(MESSAGE)
    assert delivery.reply.code == 250
    (finding,) = delivery.mail.findings
    assert (finding.props["did"], finding.score) == ("would score +9, reject", 0)


async def test_a_rule_ends():
    rule = {"id": "a", "until": "2027-01-15T08:00:10Z", "match": {"subject": "hello"}, "then": "reject"}
    talk = driver(rule)
    assert (await talk.deliver(MESSAGE)).reply.code == 550
    talk.clock.advance(10)
    assert (await talk.deliver(MESSAGE)).reply.code == 250


async def test_a_sample_is_a_share_and_the_same_for_the_same_message():
    talk = driver({"id": "a", "sample": 0.5, "match": {"subject": "hello"}, "then": "reject"})
    codes = [(await talk.deliver(MESSAGE)).reply.code for _ in range(60)]
    assert 10 < codes.count(550) < 50


BLOCKED = {"blocked": {"type": "dns", "zone": "bl.example"}}


def listed(answer, **more):
    rule = {"id": "a", "match": {"client.ip": {"in_list": "blocked"}}, "then": {"reject": "listed"}, **more}
    return driver(rule, lists=BLOCKED, resolver=FakeResolver({("1.2.0.192.bl.example", "A"): answer}))


@pytest.mark.parametrize(
    ("answer", "code"), [(["127.0.0.2"], 550), (DnsStatus.NXDOMAIN, 250), (["10.0.0.1"], 250)]
)
async def test_a_dns_list(answer, code):
    assert (await listed(answer).deliver(MESSAGE)).reply.code == code


@pytest.mark.parametrize("answer", [DnsStatus.TIMEOUT, ["127.255.255.254"]])
@pytest.mark.parametrize(("on_error", "code"), [("defer", 451), ("skip", 250), ("reject", 554)])
async def test_a_dns_list_that_does_not_answer_is_no_listing(answer, on_error, code):
    talk = listed(answer, on_error=on_error)
    assert (await talk.deliver(MESSAGE)).reply.code == code


async def test_an_observed_rule_that_can_not_be_asked_decides_nothing():
    assert (await listed(DnsStatus.TIMEOUT, mode="observe").deliver(MESSAGE)).reply.code == 250


async def test_a_list_file_is_read_again_when_it_changes(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("x.example  # a comment\n\n.example.org\n")
    rule = {"id": "a", "match": {"sender.domain": {"in_list": "names"}}, "then": "reject"}
    talk = driver(rule, lists={"names": {"type": "domain", "file": "names.txt"}})
    await talk.start(tmp_path)
    assert (await talk.deliver(MESSAGE, sender="a@x.example")).reply.code == 550
    assert (await talk.deliver(MESSAGE, sender="a@y.example")).reply.code == 250
    file.write_text("y.example\n")
    talk.clock.advance(3)
    assert (await talk.deliver(MESSAGE, sender="a@y.example")).reply.code == 550
    assert (await talk.deliver(MESSAGE, sender="a@x.example")).reply.code == 250
    file.write_text("not a domain\n")
    talk.clock.advance(3)
    assert (await talk.deliver(MESSAGE, sender="a@y.example")).reply.code == 550
    file.unlink()
    talk.clock.advance(3)
    assert (await talk.deliver(MESSAGE, sender="a@y.example")).reply.code == 550


async def test_direction_at_rcpt_is_that_of_the_recipient():
    rule = {"id": "a", "match": {"direction": "outbound"}, "then": {"reject": "no way out"}}
    talk = driver(rule, networks=["192.0.2.0/24"])
    replies = await talk.say(
        "EHLO x", "MAIL FROM:<a@example.net>", "RCPT TO:<b@example.net>", "RCPT TO:<c@else.example>"
    )
    assert [reply.code for reply in replies[2:]] == [250, 550]


async def test_nothing_is_left_behind_by_a_mail():
    talk = driver(
        {
            "id": "a",
            "match": {"recipient": "b@example.net", "subject": "hello"},
            "then": {"add_header": {"X": "y"}},
        },
        {"id": "b", "match": {"recipient.local": "b"}, "then": {"add_recipient": "c@example.net"}},
    )
    for _ in range(3):
        await talk.deliver(MESSAGE)
    (entry,) = talk.services.pipeline.entries
    assert (entry.plugin._first, entry.plugin._changes, entry.plugin._edits) == ({}, {}, {})


def test_hooks_that_no_rule_needs_are_not_there():
    talk = driver({"id": "a", "match": {"client.tls": False}, "then": "reject"})
    (entry,) = talk.services.pipeline.entries
    assert set(entry.hooks) == {"startup", "rcpt"}
    talk = driver({"id": "a", "match": {"subject": "x"}, "then": {"reject": "x"}})
    (entry,) = talk.services.pipeline.entries
    assert set(entry.hooks) == {"startup", "message"}


async def test_rules_are_asked_again_about_a_released_message():
    talk = driver(
        {"id": "a", "match": {"subject": "hello"}, "then": {"prefix_subject": "[late]", "discard": True}}
    )
    (entry,) = talk.services.pipeline.entries
    await talk.start()
    mail = make_mail(MESSAGE)
    assert entry.plugin.before_forward(mail, "x") == ()
    mail.origin = Origin.RELEASE
    assert await entry.plugin.before_forward(mail, "x") == (ReplaceHeader("Subject", "[late] hello"),)


async def test_a_text_that_can_not_be_an_address_is_a_451():
    talk = driver(
        {"id": "a", "match": {"recipient.local": "x"}, "then": {"redirect": "{client.login}@example.net"}},
    )
    assert (await talk.deliver(MESSAGE, recipients=["x@example.net"])).reply.code == 451


async def test_a_rate_of_recipients_counts_them_at_the_message_too():
    limit = {"key": "{sender}", "rate": "3/h", "count": "recipients"}
    talk = driver({"id": "a", "match": {"subject": "hello"}, "then": {"rate_limit": limit}})
    names = ["b@example.net", "c@example.net"]
    codes = [(await talk.deliver(MESSAGE, recipients=names)).reply.code for _ in range(2)]
    assert codes == [250, 450]
    assert (await talk.deliver(MESSAGE)).reply.code == 250


BOSS = {
    "id": "vip",
    "match": {"recipient": "boss@example.net", "subject": "hello"},
    "then": {"reject": "busy"},
}


async def test_one_whom_the_next_hop_refused_is_not_the_first():
    talk = driver(BOSS)
    talk.upstream.answers["boss@example.net"] = Reply(450, "4.2.1", "Full")
    said = await talk.say("EHLO x", "MAIL FROM:<a@example.org>", "RCPT TO:<boss@example.net>")
    said += await talk.say("RCPT TO:<b@example.net>")
    said += await talk.say("RCPT TO:<c@example.net>")
    assert [reply.code for reply in said[2:]] == [450, 250, 250]
    assert (await talk.content(MESSAGE)).reply.code == 250


async def test_the_recipients_of_one_batch_are_compared_with_each_other():
    talk = driver(BOSS)
    said = await talk.say(
        "EHLO x", "MAIL FROM:<a@example.org>", *(f"RCPT TO:<{n}@example.net>" for n in ("boss", "b"))
    )
    assert [reply.code for reply in said[2:]] == [250, 452]
    assert str((await talk.content(MESSAGE)).reply) == "550 5.7.1 busy id=c0.1"


def checks(**more):
    """A plugin that refuses all, at RCPT and at the message."""
    return plugin(
        "check",
        after=(),
        rcpt=lambda _self, mail, rcpt: reject("at rcpt"),
        message=lambda _self, mail: reject("at the message"),
        **more,
    )


async def test_an_accept_can_skip_a_check_behind_the_rules():
    friend = {"id": "f", "match": {"sender": "f@example.org"}, "then": {"accept": {"skip": ["check"]}}}
    talk = driver(friend, behind=[checks()])
    assert (await talk.deliver(MESSAGE, sender="f@example.org")).reply.code == 250
    trace = (await talk.deliver(MESSAGE, sender="f@example.org")).mail.trace
    assert [step.answer for step in trace] == ["ok", "skipped", "ok", "skipped"]
    talk.reconnect()
    assert str((await talk.deliver(MESSAGE)).reply) == "550 5.7.1 at rcpt"


async def test_an_accept_at_the_message_skips_what_is_asked_then():
    friend = {"id": "f", "match": {"subject": "hello"}, "then": {"accept": {"skip": "check"}}}
    late = plugin("check", after=(), message=lambda _self, mail: reject("at the message"))
    talk = driver(friend, behind=[late])
    assert (await talk.deliver(MESSAGE)).reply.code == 250
    talk.reconnect()
    assert (await talk.deliver(b"Subject: other\r\n\r\n")).reply.code == 550


async def test_who_is_skipped_and_who_is_not_come_apart():
    friend = {"id": "f", "match": {"recipient.local": "f"}, "then": {"accept": {"skip": ["check"]}}}
    late = plugin("check", after=(), message=lambda _self, mail: reject("at the message"))
    talk = driver(friend, behind=[late])
    said = await talk.say("EHLO x", "MAIL FROM:<a@example.org>", "RCPT TO:<f@example.net>")
    said += await talk.say("RCPT TO:<b@example.net>")
    assert [reply.code for reply in said[2:]] == [250, 452]
    assert (await talk.content(MESSAGE)).reply.code == 250
    assert (await talk.deliver(MESSAGE)).reply.code == 550


async def test_a_rule_in_observe_mode_skips_nothing():
    rule = {"id": "f", "mode": "observe", "then": {"accept": {"skip": ["check"]}}}
    assert (await driver(rule, behind=[checks()]).deliver(MESSAGE)).reply.code == 550


def two_ways(*rules):
    hops = {"store": Standin("store"), "archive": Standin("archive")}
    return driver(*rules, upstreams=hops), hops


@pytest.mark.parametrize("match", [{"recipient.local": "b"}, {"subject": "hello"}])
async def test_a_rule_chooses_the_route(match):
    talk, hops = two_ways({"id": "a", "match": match, "then": {"route": "archive"}})
    assert (await talk.deliver(MESSAGE)).reply.code == 250
    assert [len(hop.sent) for hop in hops.values()] == [0, 1]
    await talk.deliver(b"Subject: other\r\n\r\n", recipients=["c@example.net"])
    assert [len(hop.sent) for hop in hops.values()] == [1, 1]


async def test_recipients_of_other_routes_come_apart():
    talk, hops = two_ways({"id": "a", "match": {"recipient.local": "b"}, "then": {"route": "archive"}})
    said = await talk.say(
        "EHLO x", "MAIL FROM:<a@example.org>", *(f"RCPT TO:<{n}@example.net>" for n in ("c", "b", "d"))
    )
    assert [reply.code for reply in said[2:]] == [250, 452, 250]
    assert "another way on" in said[3].text
    await talk.content(MESSAGE)
    assert [one.address.local for one in hops["store"].sent[0].recipients] == ["c", "d"]


@pytest.mark.parametrize("match", [{"recipient.local": "b"}, {"subject": "hello"}])
async def test_a_rule_demands_tls_onward(match):
    talk = driver({"id": "a", "match": match, "then": {"require_tls": True}})
    assert (await talk.deliver(MESSAGE)).sent.envelope.tls_onward
    other = await talk.deliver(b"Subject: other\r\n\r\n", recipients=["c@example.net"])
    assert not other.sent.envelope.tls_onward


async def test_the_log_names_the_rule():
    talk = driver(
        {"id": "early", "match": {"sender.domain": "bad.example"}, "then": {"reject": "no"}},
        {"id": "mark", "match": {"subject": "hello"}, "then": {"score": 1}},
    )
    await talk.deliver(MESSAGE, sender="q@bad.example")
    assert any('"refused"' in line and '"reason":"rule early (rules.0)"' in line for line in talk.log)
    await talk.deliver(MESSAGE)
    assert any('"message"' in line and '"rule:mark"' in line for line in talk.log)


async def test_a_rate_of_recipients_lets_a_large_message_pass_a_full_bucket():
    rule = {
        "id": "a",
        "match": {"subject": "hello"},
        "then": {"rate_limit": {"key": "{sender}", "rate": "2/h", "count": "recipients"}, "reject": "no"},
    }
    talk = driver(rule)
    many = [f"{n}@example.net" for n in range(5)]
    assert [(await talk.deliver(MESSAGE, recipients=many)).reply.code for _ in range(2)] == [250, 550]


async def test_a_rate_that_nobody_can_count_is_for_on_error():
    then = {"rate_limit": {"key": "{sender}", "rate": "2/h", "count": "recipients"}, "reject": "no"}
    lost = SharedState()
    assert (await driver({"id": "a", "then": then}, state=lost).deliver(MESSAGE)).reply.code == 451
    rule = {"id": "a", "then": then, "on_error": "skip"}
    assert (await driver(rule, state=lost).deliver(MESSAGE)).reply.code == 250
