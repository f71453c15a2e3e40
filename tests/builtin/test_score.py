import types

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from relayproxy.api import Action, AddHeader, Finding, Message, Recipient, ReplaceHeader, hook
from relayproxy.builtin._score_settings import ScoreSettings
from relayproxy.builtin.greylist import Greylist
from relayproxy.builtin.score import WEIGHTS, Score, reasons_of
from relayproxy.model.edits import apply_to_message
from relayproxy.model.finding import RESULTS
from relayproxy.testing.mail import call, make_address, make_mail
from relayproxy.testing.session import SessionDriver, entry_for

RAW = b"From: a@example.org\r\nSubject: Hello\r\n\r\nText\r\n"


def plugin(**settings):
    return Score(ScoreSettings.model_validate(settings))


def worth(score):
    return Finding("check", "hit", score)


async def judged(made, *findings, raw=RAW, **more):
    mail = make_mail(raw, findings=findings, **more)
    verdict = await call(made, "message", mail=mail)
    return verdict, mail


async def forwarded(made, *findings, raw=RAW, **more):
    _, mail = await judged(made, *findings, raw=raw, **more)
    edits = await call(made, "before_forward", mail=mail)
    return apply_to_message(Message.from_bytes(raw), edits)


@pytest.mark.parametrize(
    ("score", "action", "greylist", "verdict"),
    [
        (0.0, "none", "no", None),
        (3.999, "none", "no", None),
        (4.0, "greylist", "yes", None),
        (6.0, "mark", "yes", None),
        (10.0, "hold", "no", Action.HOLD),
        (15.0, "reject", "no", Action.REJECT),
        (1e9, "reject", "no", Action.REJECT),
        (-50.0, "none", "no", None),
    ],
)
async def test_thresholds(score, action, greylist, verdict):
    answer, mail = await judged(plugin(thresholds={"hold": 10.0}), worth(score))
    found = mail.finding("score")
    assert (found.props["action"], found.props["greylist"]) == (action, greylist)
    assert found.result == ("hit" if score >= 6 else "miss")
    assert (answer.action if answer else None) == verdict


async def test_the_refusal_has_a_text_for_the_sender_and_reasons_for_the_admin():
    answer, _ = await judged(plugin(text="Looks like spam, sorry"), worth(14.0), Finding("spf", "fail"))
    assert str(answer.reply) == "550 5.7.1 Looks like spam, sorry"
    assert answer.reason == "score 16.0: check.hit=+14.0, spf.fail=+2.0"


async def test_null_is_never():
    answer, mail = await judged(
        plugin(thresholds={"reject": None, "mark": None, "greylist": None}), worth(99.0)
    )
    assert answer is None
    assert mail.finding("score").props["action"] == "none"


async def test_a_weight_counts_once_and_in_place_of_the_checks_own_score():
    made = plugin(weights={"check.hit": 1.5, "dkim.pass": -1.0})
    _, mail = await judged(made, worth(7.0), worth(3.0), *[Finding("dkim", "pass")] * 5)
    assert mail.finding("score").props["total"] == "0.5"
    assert mail.score == pytest.approx(0.5)


async def test_spf_of_helo_is_not_spf_of_the_sender():
    helo = Finding("spf", "fail", props={"smtp.helo": "x"})
    sender = Finding("spf", "pass", props={"smtp.mailfrom": "x"})
    _, mail = await judged(plugin(), helo, sender)
    assert mail.finding("score").reason == "spf_helo.fail=+1.0"


async def test_the_built_in_weights_can_be_changed_and_left_out():
    fail = Finding("dmarc", "fail")
    for settings, total in (({}, 2.0), ({"weights": {"dmarc.fail": 5}}, 5.0), ({"defaults": False}, 0.0)):
        _, mail = await judged(plugin(**settings), fail)
        assert float(mail.finding("score").props["total"]) == total


FINDINGS = st.lists(
    st.builds(
        Finding,
        st.sampled_from(["spf", "dkim", "dnsbl", "x"]),
        st.sampled_from(sorted(RESULTS)),
        st.floats(-20, 20).map(lambda score: round(score, 2)),
    ),
    max_size=12,
)


@given(FINDINGS, st.dictionaries(st.sampled_from(["spf.fail", "dnsbl.hit", "x.pass"]), st.floats(-9, 9)))
def test_the_reasons_are_the_sum(findings, weights):
    total = sum(reason.score for reason in reasons_of(findings, weights))
    named = {f"{f.method}.{f.result}" for f in findings}
    expected = sum(weights[name] for name in named & set(weights))
    expected += sum(f.score for f in findings if f"{f.method}.{f.result}" not in weights)
    assert total == pytest.approx(expected, abs=1e-6)


@given(FINDINGS)
def test_afterwards_the_score_of_the_mail_is_the_total(findings):
    mail = make_mail(RAW, findings=findings)
    made = plugin()
    made.message(mail)
    mail.findings += tuple(mail.noted)
    total = sum(reason.score for reason in reasons_of(findings, WEIGHTS))
    assert mail.score == pytest.approx(total, abs=0.002)


async def test_the_header_says_how_it_came_about():
    message = await forwarded(
        plugin(),
        worth(4.2),
        Finding("dnsbl", "hit", 2.0, {"zone": "zen.example"}),
        Finding("x", "miss", -0.5),
    )
    assert message.head.startswith(
        b"X-Spam-Score: 5.7\r\n"
        b"X-Spam-Status: No, score=5.7 required=6.0 tests=check.hit=+4.2,\r\n"
        b" dnsbl.hit(zen.example)=+2.0, x.miss=-0.5\r\n"
        b"From: a@example.org\r\n"
    )
    assert message.body == b"Text\r\n"


async def test_marked_mail_has_a_flag_stars_and_a_subject():
    made = plugin(headers={"level": "X-Spam-Level", "status": None, "score": "X-Our-Score"}, subject="[SPAM]")
    message = await forwarded(made, worth(7.9))
    assert message.header("X-Our-Score") == "7.9"
    assert message.header("X-Spam-Flag") == "YES"
    assert message.header("X-Spam-Level") == "*******"
    assert message.header("X-Spam-Status") is None
    assert message.subject == "[SPAM] Hello"
    clean = await forwarded(made, worth(1.0))
    assert (clean.header("X-Spam-Flag"), clean.subject) == (None, "Hello")


async def test_a_message_without_a_subject_and_one_that_is_marked_already():
    made = plugin(subject="[SPAM]")
    assert (await forwarded(made, worth(7.0), raw=b"From: a@b\r\n\r\n")).subject == "[SPAM]"
    raw = b"Subject: Re: [SPAM] Hello\r\n\r\n"
    assert (await forwarded(made, worth(7.0), raw=raw)).subject == "Re: [SPAM] Hello"


async def test_nobody_clears_himself():
    raw = b"X-Spam-Score: -99\r\nX-SPAM-flag: NO\r\nX-Spam-Report: fine\r\nx-our: 1\r\n" + RAW
    message = await forwarded(plugin(headers={"score": "X-Our"}), worth(1.0), raw=raw)
    names = [field.name for field in message.fields]
    assert names == ["X-Our", "X-Spam-Status", "From", "Subject"]
    assert bytes(message).endswith(RAW)
    kept = await forwarded(plugin(strip=False), worth(1.0), raw=raw)
    assert len(kept.all("X-Spam-Score")) == 2


async def test_a_strange_reason_can_not_break_the_header():
    message = await forwarded(plugin(), Finding("x\r\nEvil: y", "hit", 1.0))
    assert message.header("Evil") is None
    assert "x??Evil: y.hit=+1.0" in message.header("X-Spam-Status")


async def test_without_a_result_nothing_is_claimed():
    edits = await call(plugin(), "before_forward", mail=make_mail(RAW))
    assert not any(isinstance(edit, AddHeader | ReplaceHeader) for edit in edits)


OVERRIDES = {
    "overrides": [
        {"recipients": ["strict.example", ".strict.example"], "mark": 3, "greylist": 2, "reject": 5},
        {"recipients": ["Abuse@Example.net"], "reject": None, "hold": None},
        {"listeners": ["test"], "mark": 5},
    ]
}


@pytest.mark.parametrize(
    ("rcpt", "listener", "score", "action"),
    [
        ("a@strict.example", "inbound", 5.0, "reject"),
        ("a@sub.strict.example", "inbound", 5.0, "reject"),
        ("a@notstrict.example", "inbound", 5.0, "greylist"),
        ("abuse@example.net", "inbound", 99.0, "mark"),
        ("a@example.net", "test", 5.0, "mark"),
        ("a@example.net", "inbound", 5.0, "greylist"),
    ],
)
async def test_other_thresholds_for_some(rcpt, listener, score, action):
    _, mail = await judged(plugin(**OVERRIDES), worth(score), recipients=[rcpt], listener=listener)
    assert mail.finding("score").props["action"] == action


async def test_recipients_of_other_thresholds_are_sent_apart():
    driver = SessionDriver(plugin(**OVERRIDES), domains=["example.net", "strict.example"])
    await driver.say("EHLO client.example.org", "MAIL FROM:<a@example.org>")
    replies = await driver.say(
        "RCPT TO:<a@example.net>", "RCPT TO:<a@strict.example>", "RCPT TO:<b@example.net>"
    )
    assert [reply.code for reply in replies] == [250, 452, 250]
    assert (await driver.content(RAW)).reply.code == 250
    await driver.say("MAIL FROM:<a@example.org>")
    replies = await driver.say("RCPT TO:<a@strict.example>", "RCPT TO:<a@example.net>")
    assert [reply.code for reply in replies] == [250, 452]


async def test_without_overrides_no_recipient_is_kept_in_mind():
    made = plugin()
    assert await call(made, "rcpt", mail=make_mail(), rcpt=Recipient(make_address("b@example.net"))) is None
    assert not made._first


async def test_what_is_kept_in_mind_has_a_bound():
    made = plugin(**OVERRIDES)
    for number in range(10_050):
        mail = make_mail()
        mail.id = str(number)
        made.rcpt(mail, Recipient(make_address("b@example.net")))
    assert len(made._first) == 10_000


async def test_score_and_greylist_work_together():
    def driver(score):
        module = types.ModuleType("suspicious")

        def message(mail):
            mail.note("suspicious", "hit", score=score)

        module.message = hook(message)
        return SessionDriver(entry_for(module), plugin(), Greylist)

    assert (await driver(1.0).deliver(RAW)).reply.code == 250
    doubtful = await driver(5.0).deliver(RAW)
    assert (doubtful.reply.code, doubtful.reply.status) == (451, "4.7.1")
    assert (await driver(20.0).deliver(RAW)).reply.code == 550


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"weights": {"spf": 1}}, "METHOD.RESULT"),
        ({"weights": {"spf.bad": 1}}, "METHOD.RESULT"),
        ({"thresholds": {"mark": 20}}, "would never count"),
        ({"overrides": [{"mark": 3}]}, "name listeners or recipients"),
        ({"overrides": [{"listeners": ["a"], "mark": 30}]}, "would never count"),
        ({"headers": {"score": "X Spam"}}, "header field"),
        ({"text": "pas très bien"}, "ASCII"),
    ],
)
def test_mistakes_are_told(settings, word):
    with pytest.raises(ValidationError, match=word):
        plugin(**settings)
