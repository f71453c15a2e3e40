"""Traps of authentication that only a whole pipeline can fall into."""

import pytest

from relayproxy.api import Direction, Plugin, accept, hook
from relayproxy.builtin.dkim_sign import DkimSign, DkimSignSettings
from relayproxy.mailauth.canonical import body_digests
from relayproxy.mailauth.dkim_keys import new_ed25519_key
from relayproxy.mailauth.dkim_verify import body_forms, find_signatures, questions, verify
from relayproxy.model.message import Message
from relayproxy.testing import FakeClock, FakeResolver
from relayproxy.testing.session import SessionDriver

NOW = 1_790_000_000
EIGHT_BIT = b"From: a@example.org\r\nSubject: Gr\xc3\xbc\xc3\x9fe\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n"


class Welcome(Plugin):
    """A rule that lets everything pass, as allow lists do."""

    name = "welcome"
    directions = frozenset(Direction)

    @hook
    def message(self):
        return accept("listed")


@pytest.fixture
def signer(tmp_path):
    folder = tmp_path / "example.org"
    folder.mkdir()
    key = new_ed25519_key()
    (folder / "s.key").write_bytes(key.pem())
    (folder / "s.key").chmod(0o600)
    return DkimSign(DkimSignSettings(keys=str(tmp_path))), key


async def verified(sent, key):
    message = Message.from_bytes(sent.lead + sent.data)
    found = find_signatures(message)
    zone = FakeResolver({("s._domainkey.example.org", "TXT"): key.record()})
    answers = {question: await zone.query(*question) for question in questions(found)}
    results = verify(message, found, answers, body_digests(message, body_forms(found)), now=NOW)
    return [result.result for result in results]


async def test_what_is_let_pass_is_signed_all_the_same(signer):
    plugin, key = signer
    talk = SessionDriver(Welcome, plugin, networks=("192.0.2.0/24",), clock=FakeClock(NOW))
    delivery = await talk.deliver(EIGHT_BIT, recipients=("b@far.example",))
    assert await verified(delivery.sent, key) == ["pass"]


async def test_a_signature_over_eight_bits_holds_where_the_upstream_knows_only_seven(signer):
    """Nothing is converted after signing, which would break it."""
    plugin, key = signer
    talk = SessionDriver(plugin, networks=("192.0.2.0/24",), clock=FakeClock(NOW), capabilities=())
    delivery = await talk.deliver(EIGHT_BIT, recipients=("b@far.example",))
    assert delivery.sent.data.endswith(EIGHT_BIT)
    assert await verified(delivery.sent, key) == ["pass"]


@pytest.mark.parametrize(
    ("facts", "recipient"),
    [
        ({}, "b@example.net"),
        ({"identity": "joe", "networks": ("192.0.2.0/24",)}, "b@far.example"),
        ({"networks": ("192.0.2.0/24",)}, "b@far.example"),
        ({"networks": ("192.0.2.0/24",)}, "b@example.net"),
    ],
    ids=["inbound", "authenticated", "outbound", "internal"],
)
async def test_results_in_our_name_are_taken_out_of_all_mail(facts, recipient):
    forged = b"Authentication-Results: mx.example.net; dkim=pass header.d=bank.example\r\n"
    delivery = await SessionDriver(**facts).deliver(forged + EIGHT_BIT, recipients=(recipient,))
    assert delivery.reply.ok
    assert b"bank.example" not in delivery.sent.lead + delivery.sent.data
    assert delivery.sent.data.endswith(EIGHT_BIT)
