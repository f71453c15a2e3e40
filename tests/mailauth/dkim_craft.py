"""Signatures made to order, by dkimpy's canonical forms: what no honest signer writes, a test must be able to."""

import base64
from hashlib import sha256

from dkim import select_headers
from dkim.canonicalization import CanonicalizationPolicy

from relayproxy.api import Answer, DnsStatus
from relayproxy.mailauth.canonical import body_digests
from relayproxy.mailauth.dkim_keys import new_ed25519_key, new_rsa_key
from relayproxy.mailauth.dkim_verify import body_forms, find_signatures, questions, verify
from relayproxy.model.message import Message

RSA = new_rsa_key()
ED25519 = new_ed25519_key()
NOW = 1_700_000_000
NAME = "s1._domainkey.example.org"

RAW = (
    b"From: Joe <joe@example.org>\r\n"
    b"To: suzie@example.net\r\n"
    b"Subject: Is dinner ready?\r\n"
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700\r\n"
    b"\r\n"
    b"Hi.\r\n\r\nWe lost the game.\r\n"
)


def craft(raw=RAW, key=RSA, form="v={v}; a={a}; c={c}; d={d}; s={s}; h={h};{more} bh={bh}; b=", **tags):
    """Return `raw` with a signature on top; `form` is how its tags are written, up to where b= is filled in."""
    message = Message.from_bytes(raw)
    default = {
        "v": "1",
        "a": key.algorithm,
        "c": "relaxed/relaxed",
        "d": "example.org",
        "s": "s1",
        "h": "from:to:subject:date",
        "more": "",
    }
    tags = default | tags
    known = tags["c"] if tags["c"] in ("simple/simple", "simple/relaxed", "relaxed/simple", "relaxed") else ""
    policy = CanonicalizationPolicy.from_c_value((known or "relaxed/relaxed").encode())
    body = policy.canonicalize_body(bytes(message.body))
    if "l" in tags:
        tags["more"] += f" l={tags['l']};"
        body = body[: int(tags["l"])] if tags["l"].isdecimal() and len(tags["l"]) < 10 else body
    tags.setdefault("bh", base64.b64encode(sha256(body).digest()).decode())
    value = f" {form.format(**tags)}".encode()
    fields = [(field.name.encode(), field.raw.partition(b":")[2]) for field in message.fields if field.name]
    wanted = [name.strip().lower().encode() for name in tags["h"].split(":")]
    chosen = [*select_headers(fields, wanted), (b"DKIM-Signature", value)]
    block = b"".join(b"%b:%b" % field for field in policy.canonicalize_headers(chosen)).removesuffix(b"\r\n")
    return b"DKIM-Signature:" + value + base64.b64encode(key.sign(block)) + b"\r\n" + raw


def zone_of(key=RSA, form="{record}"):
    return {NAME: [form.format(record=key.record()).encode()]}


def results(raw, zone=None, now=NOW, most=5):
    """Verify as a plugin does; `zone` maps names to records or to a status, and has the key of RSA if not given."""
    zone = zone_of() if zone is None else zone
    message = Message.from_bytes(raw)
    found = find_signatures(message, most)
    answers = {}
    for question in questions(found):
        records = zone.get(question[0], DnsStatus.NXDOMAIN)
        ok = not isinstance(records, DnsStatus)
        answers[question] = Answer(DnsStatus.OK, tuple(records)) if ok else Answer(records)
    return verify(message, found, answers, body_digests(message, body_forms(found)), now=now)


def result(raw, zone=None, now=NOW):
    (only,) = results(raw, zone, now)
    return only
