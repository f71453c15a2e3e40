"""Chains made to order: hops that seal, and fields with one thing wrong that no honest hop writes."""

from relayproxy.api import Answer, DnsStatus
from relayproxy.mailauth.arc_chain import find_chain
from relayproxy.mailauth.arc_seal import seal
from relayproxy.mailauth.arc_verify import body_forms, questions, verify
from relayproxy.mailauth.canonical import body_digests
from relayproxy.mailauth.dkim_keys import new_rsa_key
from relayproxy.model.edits import AddHeader, apply_to_message
from relayproxy.model.message import Message

KEY = new_rsa_key()
NOW = 1_700_000_000

RAW = (
    b"From: Joe <joe@example.org>\r\n"
    b"To: list@example.net\r\n"
    b"Subject: Is dinner ready?\r\n"
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700\r\n"
    b"\r\n"
    b"Hi.\r\n\r\nWe lost the game.\r\n"
)


def hop(raw, cv=None, *, domain="hop.example", selector="s1", key=KEY, results="spf=pass", names=None):
    """Return the message with one more set on top; `cv` follows from what is there, unless given."""
    message = Message.from_bytes(raw)
    chain = find_chain(message)
    added = seal(
        message,
        chain,
        key,
        cv=cv or ("pass" if chain.sets else "none"),
        results=f"mx.{domain}; {results}",
        domain=domain,
        selector=selector,
        now=NOW,
        names=names,
    )
    return bytes(apply_to_message(message, [AddHeader(*field) for field in added.fields]))


def hops(count, raw=RAW):
    for _ in range(count):
        raw = hop(raw)
    return raw


def result(raw, zone=None, now=NOW):
    """Verify as a plugin does; `zone` maps key names to lists of records or to a status, others have the key of KEY."""
    message = Message.from_bytes(raw)
    chain = find_chain(message)
    answers = {}
    for question in questions(chain):
        records = (zone or {}).get(question[0], [KEY.record().encode()])
        ok = not isinstance(records, DnsStatus)
        answers[question] = Answer(DnsStatus.OK, tuple(records)) if ok else Answer(records)
    return verify(message, chain, answers, body_digests(message, body_forms(chain)), now=now)
