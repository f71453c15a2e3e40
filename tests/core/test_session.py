"""Conversations: what a client says and what it hears, without a socket."""

import pytest

from relayproxy.api import Reply, TlsInfo
from relayproxy.core.policy import Limits, ListenerPolicy, Route
from relayproxy.core.ports import Capabilities
from relayproxy.testing.session import SessionDriver, Standin

RAW = b"From: <a@example.org>\r\nMessage-ID: <1@example.org>\r\n\r\nhello\r\n"
TLS = TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256)


async def test_a_whole_conversation():
    await SessionDriver().transcript(
        """
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
        C: hello
        C: .
        S: 250 2.0.0 Ok: queued as TEST id=c0.1
        C: QUIT
        S: 221 2.0.0 Bye
        """
    )


async def test_dsn_parameters_keep_their_case():
    driver = SessionDriver()
    await driver.say("EHLO x")
    await driver.say("MAIL FROM:<a@example.org> ENVID=QQ-Mixed")
    await driver.say("RCPT TO:<b@example.net> ORCPT=rfc822;Bob@Example.NET")
    sent = (await driver.content(RAW)).sent
    assert sent.envelope.envid == "QQ-Mixed"
    assert sent.recipients[0].orcpt == "rfc822;Bob@Example.NET"


@pytest.mark.parametrize(
    ("networks", "ip", "identity", "code"),
    [
        ((), "192.0.2.1", "", 550),
        (("192.0.2.0/24",), "192.0.2.1", "", 250),
        (("192.0.2.0/24",), "198.51.100.1", "", 550),
        ((), "192.0.2.1", "ana", 250),
        (("192.0.2.0/24",), "::ffff:192.0.2.1", "", 250),
        (("0.0.0.0/0",), "", "", 550),
    ],
)
async def test_relaying_is_for_those_who_may(networks, ip, identity, code):
    driver = SessionDriver(networks=networks, ip=ip, identity=identity, domains=())
    assert (await driver.deliver(RAW, recipients=["b@elsewhere.example"])).reply.code == code


async def test_the_upstream_speaks_for_itself():
    upstream = Standin(
        answers={
            "b@example.net": Reply(550, "5.1.1", "No such user here"),
            "c@example.net": Reply(450, "", "busy"),
        }
    )
    driver = SessionDriver(upstream=upstream)
    assert str((await driver.deliver(RAW)).reply) == "550 5.1.1 No such user here"
    assert str((await driver.deliver(RAW, recipients=["c@example.net"])).reply) == "450 4.0.0 busy"
    upstream.final = Reply(554, "5.7.1", "Spam")
    assert str((await driver.deliver(RAW, recipients=["d@example.net"])).reply) == "554 5.7.1 Spam"


async def test_only_temporary_refusals_make_data_temporary():
    driver = SessionDriver(upstream=Standin(answers={"b@example.net": Reply(450, "4.2.1", "busy")}))
    await driver.transcript(
        """
        C: HELO x
        S: 250 mx.example.net
        C: MAIL FROM:<>
        S: 250 *
        C: RCPT TO:<b@example.net>
        S: 450 4.2.1 busy
        C: DATA
        S: 451 4.5.1 *
        """
    )


async def test_another_route_is_for_another_transaction():
    hops = {"one": Standin("one"), "two": Standin("two")}
    routes = (Route("one", "one", recipient_domains=frozenset({"one.example"})), Route("two", "two"))
    driver = SessionDriver(domains=("one.example", "two.example"), upstreams=hops, routes=routes)
    await driver.say("EHLO x")
    await driver.say("MAIL FROM:<a@example.org>")
    assert (await driver.say("RCPT TO:<a@one.example>"))[0].ok
    other = (await driver.say("RCPT TO:<b@two.example>"))[0]
    assert (other.code, other.status) == (452, "4.5.3")


async def test_what_the_upstream_can_not_take_is_not_offered():
    driver = SessionDriver(
        upstream=Standin(capabilities=Capabilities(frozenset({"PIPELINING", "SIZE"}), 1000))
    )
    text = (await driver.say("EHLO x"))[0].text
    assert "SIZE 1000" in text
    for keyword in ("8BITMIME", "SMTPUTF8", "DSN", "REQUIRETLS"):
        assert keyword not in text
    assert (await driver.say("MAIL FROM:<a@example.org> BODY=8BITMIME"))[0].code == 555
    assert (await driver.say("MAIL FROM:<a@example.org> SIZE=1001"))[0].code == 552


async def test_a_lost_250_is_answered_again_and_not_delivered_again():
    driver = SessionDriver()
    first = await driver.deliver(RAW)
    driver.reconnect()
    again = await driver.deliver(RAW)
    assert again.reply == first.reply
    assert len(driver.upstream.sent) == 1
    driver.session.confirm()
    driver.reconnect()
    assert (await driver.deliver(RAW)).reply.ok
    assert len(driver.upstream.sent) == 2


async def test_a_message_without_message_id_is_never_taken_for_another():
    driver = SessionDriver()
    for _ in range(2):
        assert (await driver.deliver(b"Subject: x\r\n\r\nx\r\n")).reply.ok
        driver.reconnect()
    assert len(driver.upstream.sent) == 2


async def test_a_client_that_hung_up_before_the_commit_gets_nothing_sent():
    driver = SessionDriver()
    await driver.say("EHLO x")
    await driver.say("MAIL FROM:<a@example.org>")
    await driver.say("RCPT TO:<b@example.net>")
    delivery = await driver.content(RAW, gone=lambda: True)
    assert delivery.reply.temporary
    assert driver.upstream.sent == []
    assert driver.upstream.aborted == 1


async def test_results_that_claim_to_be_ours_are_taken_off():
    forged = b"Authentication-Results: mx.example.net; spf=pass\r\nAuthentication-Results: other.example; spf=fail\r\n"
    delivery = await SessionDriver().deliver(forged + RAW)
    assert b"mx.example.net; spf" not in delivery.sent.data
    assert b"other.example; spf=fail" in delivery.sent.data


async def test_received_names_us_and_no_recipient():
    driver = SessionDriver(tls=TLS)
    data = (await driver.deliver(RAW)).sent.data
    lead = data.removesuffix(RAW)
    assert lead.startswith(b"Received: from client.example.org ([192.0.2.1])\r\n\t(using TLSv1.3 ")
    assert b" with ESMTPS id c0.1;" in lead
    assert b"example.net>" not in lead


async def test_lmtp_answers_for_each_recipient():
    upstream = Standin(per_recipient=True)
    driver = SessionDriver(upstream=upstream, policy=ListenerPolicy("l", protocol="lmtp"))
    delivery = await driver.deliver(RAW, recipients=["a@example.net", "b@example.net"])
    assert len(delivery.replies) == 2
    smtp = SessionDriver(upstream=Standin(per_recipient=True))
    await smtp.say("EHLO x")
    await smtp.say("MAIL FROM:<>")
    await smtp.say("RCPT TO:<a@example.net>")
    assert (await smtp.say("RCPT TO:<b@example.net>"))[0].code == 452


async def test_limits_of_a_session():
    limits = Limits(recipients=1, messages_per_connection=1, headers=10, received_hops=2)
    driver = SessionDriver(policy=ListenerPolicy("l", limits=limits))
    assert (await driver.deliver(b"X: y\r\n" * 11 + RAW)).reply.code == 552
    driver.reconnect()
    assert str((await driver.deliver(b"Received: x\r\n" * 3 + RAW)).reply).startswith("554 5.4.6")
    assert (await driver.deliver(RAW)).reply.code == 421
    assert driver.session.closing


@pytest.mark.parametrize("verb", ["XCLIENT", "XFORWARD"])
async def test_nobody_speaks_for_others_unless_listed(verb):
    driver = SessionDriver()
    await driver.say("EHLO x")
    assert (await driver.say(f"{verb} ADDR=203.0.113.9"))[0].code == 550
    assert driver.session.client.ip == "192.0.2.1"


async def test_a_login_sends_from_its_own_addresses():
    policy = ListenerPolicy("l", senders={"ana": ("ana@example.org", ".example.com")})
    driver = SessionDriver(policy=policy, identity="ana", domains=())
    for sender, code in (
        ("ana@example.org", 250),
        ("x@sub.example.com", 250),
        ("bob@example.org", 553),
        ("", 250),
    ):
        driver.reconnect()
        await driver.say("EHLO x")
        assert (await driver.say(f"MAIL FROM:<{sender}>"))[0].code == code
