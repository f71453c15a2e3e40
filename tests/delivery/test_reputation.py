"""Which refusals are about us, and how long a source rests for one."""

from pathlib import Path

import pytest

from relayproxy.bounces import rules
from relayproxy.bounces.rules import rules_of
from relayproxy.config.yaml import read_file
from relayproxy.delivery.reputation import Rests, is_block, reply_in
from relayproxy.model.reply import Reply

RULES = rules_of(read_file(Path(rules.__file__).with_name("rules.yaml")))
NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("reply", "blocked"),
    [
        (
            Reply(
                550, "5.7.1", "Service unavailable, client host [192.0.2.1] blocked using zen.spamhaus.org"
            ),
            True,
        ),
        (Reply(421, "4.7.0", "Messages from 192.0.2.1 temporarily refused: poor reputation"), True),
        (Reply(554, "5.7.1", "Your IP address is on our block list"), True),
        (Reply(550, "5.7.25", "The sending IP has no PTR record"), True),
        (Reply(550, "5.1.1", "No such user"), False),
        (Reply(452, "4.2.2", "Mailbox full"), False),
        (Reply(421, "4.7.28", "Unusual rate of mail, try again later"), False),
        (Reply(250, "2.1.5", "Ok, though your IP is on a block list"), False),
    ],
)
def test_what_is_about_us(reply, blocked):
    assert is_block(RULES, reply) is blocked


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("192.0.2.1:25: 554 5.7.1 Blocked", Reply(554, "5.7.1", "Blocked")),
        ("[2001:db8::1]:25: 421 too many", Reply(421, "", "too many")),
        ("192.0.2.1:25: 554 4.7.1 said badly", Reply(554, "", "said badly")),
        ("192.0.2.1:25: [Errno 111] Connection refused", None),
        ("10.0.0.5:25: no connection within 5 s", None),
        ("", None),
    ],
)
def test_the_reply_in_a_reason(text, reply):
    assert reply_in(text) == reply


def test_rests_grow_and_a_good_message_ends_that():
    rests = Rests(3600.0)
    assert rests.begin("a", "example.net", NOW) == 3600.0
    assert rests.begin("a", "example.net", NOW + 1) == 0.0, "it rests already"
    assert rests.until("a", "example.net", NOW + 3599) == NOW + 3600
    assert rests.until("a", "example.com", NOW) == 0.0
    assert rests.until("b", "example.net", NOW) == 0.0
    later = NOW + 3600
    assert rests.until("a", "example.net", later) == 0.0
    lengths = []
    for _ in range(6):
        lengths.append(rests.begin("a", "example.net", later))
        later += lengths[-1]
    assert lengths == [7200.0, 14400.0, 28800.0, 57600.0, 86400.0, 86400.0]
    rests.end("a", "example.net")
    assert rests.begin("a", "example.net", later) == 3600.0
