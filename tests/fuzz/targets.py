"""Every parser of foreign octets as a function of octets, which returns or refuses and does nothing else.

`tests/fuzz` throws structured nonsense at them, `bench/parsers.py` a megabyte of everything that costs time. A target
swallows the one error that its parser documents; whatever else is raised is a find.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.fuzz import content
from tests.fuzz.hostile import Hostile
from tests.fuzz.words import (
    ADDRESS_WORDS,
    FROM_WORDS,
    HEADER_LINES,
    KEY,
    RESULTS_WORDS,
    SIGNATURE_TAGS,
    SPF_TERMS,
    SRS_WORDS,
)

from relayproxy.api import AddHeader, Address, Answer, DnsStatus, DropHeader, Finding, ReplaceHeader
from relayproxy.bounces.read import read as read_bounce
from relayproxy.bounces.rules import normal_form
from relayproxy.bounces.trace import TraceFault, Tracer
from relayproxy.core.policy import Limits
from relayproxy.mailauth import (
    arc_chain,
    arc_verify,
    authres,
    bulk_rules,
    dkim_verify,
    from_header,
    spf_fields,
)
from relayproxy.mailauth.canonical import BodyForm, body_digests, canonical_body, relaxed_header
from relayproxy.mailauth.dkim_header import SignatureFault, read_record, read_signature
from relayproxy.mailauth.dkim_keys import KeyFault, new_ed25519_key, read_key, read_public_key
from relayproxy.mailauth.dkim_sign import sign
from relayproxy.mailauth.dkim_tags import Flaw, parse_tags, without_b
from relayproxy.mailauth.dmarc import Identifier, evaluate
from relayproxy.mailauth.dmarc_record import parse_record
from relayproxy.mailauth.mta_sts import parse_policy
from relayproxy.mailauth.psl import organizational_domain
from relayproxy.mailauth.spf import Spf
from relayproxy.mailauth.srs import Srs, SrsFault
from relayproxy.model.address import to_a_label
from relayproxy.model.edits import apply_to_message, header_line
from relayproxy.model.encoded_words import decode_words
from relayproxy.model.message import HeaderField, Message
from relayproxy.model.reply import Reply
from relayproxy.server.proxy import ProxyError, read_header
from relayproxy.smtp.commands import CommandError, Offered, parse_mail, parse_rcpt
from relayproxy.smtp.datastream import ContentCheck, DataReader, wire_chunks
from relayproxy.smtp.received import count_hops, received_field
from relayproxy.smtp.replies import NonsenseError, ReplyReader
from relayproxy.smtp.xclient import XCLIENT_NAMES, parse_attributes, xtext_decode
from relayproxy.testing.mail import make_client

NOW = 1_790_000_000.0
BOUNCE_WORDS = (
    b"Content-Type: message/delivery-status\r\n", b"Content-Type: text/html\r\n", b"--b\r\n", b"--b--\r\n", b"\r\n", b"\r\n\r\n",
    b"Final-Recipient: rfc822;a@b.example\r\n", b"Action: failed\r\n", b"Feedback-Type: abuse\r\n", b"<a@b.example>: ", b"550 5.1.1 ",
    b"X-Failed-Recipients: ", b"Subject: failure notice\r\n", b"<style>", b"<br ", b" ", b"to ", b"----", b"a@", b"base64", b"\xc3\xa4",
)  # fmt: skip
LIMITS = Limits()
SIGNER = new_ed25519_key()
HEAD = LIMITS.header_bytes - 2000
FIELDS = LIMITS.headers - 10
LINE = 65_536  # octets of a command line, were the limit raised to sixteen times the usual
OFFERED = Offered(10**9, True, True, True, True, True)


@dataclass(frozen=True)
class Target:
    """A parser: `run` takes octets, `words` are pieces of its grammar.

    `most` are the octets that can reach it, where something in front of it refuses more. With `fields` it takes a
    header block, which is to hold such fields.
    """

    name: str
    run: Callable[[bytes], object]
    words: Sequence[bytes]
    most: int = 1 << 30
    fields: Sequence[bytes] = ()

    def inputs(self, hostile: Hostile, size: int) -> Iterator[bytes]:
        """Yield what to run it with: about `size` octets, in one field and in as many as a header may have."""
        size = min(size, self.most)
        if not self.fields:
            yield hostile.make(size)
        for name in self.fields:
            yield name + hostile.make(size)
            room = max(size // FIELDS - len(name), 8)
            yield b"\r\n".join([name + hostile.make(room)] * FIELDS)


def drive(coroutine: Any) -> Any:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


def text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def within(message: Message) -> Message:
    """Return the message, or one without a header where the core refuses its header as too big (552)."""
    head = message.head
    lines = head.count(b"\r\n")
    if len(head) > LIMITS.header_bytes or lines > LIMITS.headers * 20:
        return Message(b"")
    return message if lines <= LIMITS.headers or len(message.fields) <= LIMITS.headers else Message(b"")


def from_value(data: bytes) -> None:
    with suppress(from_header.Anomaly):
        from_header.parse_mailbox(data)


def from_block(data: bytes) -> None:
    author = from_header.read_author(within(Message(data)))
    assert bool(author.domain) or bool(author.anomalies)
    assert isinstance(author.reason, str)


def tags(data: bytes) -> None:
    with suppress(Flaw):
        parse_tags(data)
    without_b(data)


def dkim_field(data: bytes) -> None:
    with suppress(SignatureFault):
        read_signature(b"DKIM-Signature: " + data)


def dkim_message(data: bytes) -> None:
    message = within(Message.from_bytes(data))
    found = dkim_verify.find_signatures(message)
    answers = {question: Answer(DnsStatus.OK, (KEY,)) for question in dkim_verify.questions(found)}
    digests = body_digests(message, dkim_verify.body_forms(found))
    dkim_verify.verify(message, found, answers, digests, now=NOW)


def public_key(data: bytes) -> None:
    for kind in ("rsa", "ed25519"):
        with suppress(KeyFault):
            read_public_key(kind, data)


def private_key(data: bytes) -> None:
    for given in (data, b"-----BEGIN PRIVATE KEY-----\n" + data + b"\n-----END PRIVATE KEY-----\n"):
        with suppress(KeyFault):
            read_key(given)


def spf_record(data: bytes) -> None:
    async def fetch(questions: Sequence[tuple[str, str]]) -> list[Answer]:
        return [_zone(rdtype, data) for _, rdtype in questions]

    result = drive(
        Spf("192.0.2.1", "helo.example", fetch, now=NOW).check_mail_from(Address("a", "example.org"))
    )
    assert result.result in {"none", "neutral", "pass", "fail", "softfail", "temperror", "permerror"}
    assert result.explanation.isprintable()


def _zone(rdtype: str, data: bytes) -> Answer:
    records: dict[str, tuple[Any, ...]] = {
        "TXT": (b"v=spf1 " + data, data), "A": ("198.51.100.1",), "MX": ((1, "mx.example.org"),), "PTR": ("x.example.org",),
    }  # fmt: skip
    return Answer(DnsStatus.OK, records.get(rdtype, ()))


def dmarc_record(data: bytes) -> None:
    parse_record(data)
    parse_record(b"v=DMARC1; p=none; " + data)


def dmarc_domains(data: bytes) -> None:
    """What a trusted sealer says was authenticated, which is the longest text that gets as far as this."""

    async def fetch(questions: Sequence[tuple[str, str]]) -> list[Answer]:
        return [Answer(DnsStatus.OK, (b"v=DMARC1; p=reject",)) for _ in questions]

    given = text(data)
    for organization in (None, organizational_domain):
        drive(
            evaluate(
                "example.org", [Identifier("dkim", given), Identifier("spf", given)], fetch, organization
            )
        )
        drive(evaluate(given, [Identifier("dkim", "example.org")], fetch, organization))


def results_value(data: bytes) -> None:
    for parse in (authres.parse, authres.parse_arc):
        with suppress(ValueError):
            parse(text(data))


def results_forged(data: bytes) -> None:
    message = within(Message.from_bytes(data))
    edits = authres.forged(message, "mx.example.com")
    left = apply_to_message(message, edits)
    assert authres.forged(left, "mx.example.com") == ()


def results_written(data: bytes) -> None:
    """What is written can be read, and nothing of a stranger's gets out of its quotes."""
    given = text(data)
    value = authres.header_value(
        "mx.example.com", [Finding("spf", "fail", 0, {"smtp.mailfrom": given}, given)]
    )
    bytes_ = AddHeader("Authentication-Results", value)
    read = authres.parse(bytes_.value.replace("\r\n", ""))
    assert [(one.method, one.result) for one in read.results] == [("spf", "fail")]
    assert set(read.results[0].props) == {"smtp.mailfrom"}


def spf_said(data: bytes) -> None:
    spf_fields.upgraded(within(Message.from_bytes(data)), "example.org")
    AddHeader("Received-SPF", spf_fields.received_spf("pass", text(data), helo=text(data)))


def arc_sets(data: bytes) -> None:
    message = within(Message.from_bytes(data))
    chain = arc_chain.find_chain(message)
    answers = {question: Answer(DnsStatus.OK, (KEY,)) for question in arc_verify.questions(chain)}
    digests = body_digests(message, arc_verify.body_forms(chain))
    arc_verify.verify(message, chain, answers, digests, now=NOW)


def header_block(data: bytes) -> None:
    message = Message.from_bytes(data)
    assert bytes(message) == data
    message = within(message)
    assert b"".join(field.raw for field in message.fields).startswith(
        message.head[:-2] if message.head else b""
    )
    for field in message.fields:
        assert isinstance(field.text, str)
    assert isinstance(message.subject, str)


def header_edits(data: bytes) -> None:
    message = within(Message.from_bytes(data))
    names = [field.name for field in message.fields if field.name]
    edits = [DropHeader(name, 0) for name in names[::2]] + [
        ReplaceHeader(name, "x", 0) for name in names[1::2]
    ]
    apply_to_message(message, edits)


def header_value(data: bytes) -> None:
    field = HeaderField("Subject", b"Subject: " + data)
    assert isinstance(field.text, str)
    assert isinstance(field.value, str)


def signed(data: bytes) -> None:
    message = within(Message.from_bytes(data))
    with suppress(ValueError):
        sign(message, SIGNER, domain="example.org", selector="s", now=int(NOW))


def header_line_(data: bytes) -> None:
    with suppress(ValueError):
        header_line("Subject", text(data))


def bulk(data: bytes) -> None:
    message = within(Message.from_bytes(data))
    list(bulk_rules.check_date(message, NOW, 86_400, 86_400))
    list(bulk_rules.check_message_id(message))
    list(bulk_rules.check_automatic(message, null_sender=True))
    list(bulk_rules.check_unsubscribe(message, bulk_rules.signers_of(message)))
    list(bulk_rules.check_from(from_header.read_author(message), ()))
    list(bulk_rules.check_singletons(message))
    list(bulk_rules.check_lines(message))
    assert bulk_rules.is_bulk(message) in (True, False)


def mail_command(data: bytes) -> None:
    for head in (b"", b"FROM:<", b"FROM:<a@b.example> "):
        with suppress(CommandError):
            parse_mail(text(head + data), OFFERED)


def rcpt_command(data: bytes) -> None:
    for head in (b"", b"TO:<", b"TO:<a@b.example> "):
        with suppress(CommandError):
            parse_rcpt(text(head + data), OFFERED, smtputf8=True)


def xclient(data: bytes) -> None:
    with suppress(CommandError):
        parse_attributes(text(data), XCLIENT_NAMES)
    with suppress(ValueError):
        xtext_decode(text(data))


def upstream_reply(data: bytes) -> None:
    with suppress(NonsenseError):
        for reply in ReplyReader().feed(data):
            bytes(reply)


class _Loop:
    """The part of an event loop that the reader of PROXY headers uses."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    async def sock_recv(self, sock: object, most: int) -> bytes:
        piece = self._data[self._at : self._at + most]
        self._at += len(piece)
        return piece


def proxy_header(data: bytes) -> None:
    for head in (
        b"",
        b"PROXY ",
        b"PROXY TCP4 ",
        b"\r\n\r\n\0\r\nQUIT\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c",
    ):
        with suppress(ProxyError):
            asyncio.run(read_header(_Loop(head + data), None))  # type: ignore[arg-type]


def srs(data: bytes) -> None:
    rewriter = Srs("srs.example", (b"a key",))
    address = Address(text(data), "srs.example")
    with suppress(SrsFault):
        rewriter.reverse(address, NOW)
    made = rewriter.forward(Address(text(data), "example.org"), NOW)
    if made is not None:
        assert rewriter.reverse(made, NOW) is not None


def received(data: bytes) -> None:
    count_hops(data.lower())
    line = received_field(make_client(helo=text(data), ip="192.0.2.1"), by="mx", id="1", when=NOW)
    assert line.count(b"\r\n") == 3


def bounce(data: bytes) -> None:
    message = Message.from_bytes(data)
    report = read_bounce(message)
    for fate in report.fates if report else ():
        normal_form(fate.diagnosis)


def bounce_address(data: bytes) -> None:
    tracer = Tracer("bounce.example", (b"key",))
    with suppress(TraceFault):
        tracer.read_address(Address("b+" + text(data), "bounce.example"), NOW)


def data_stream(data: bytes) -> None:
    class Kept:
        def write(self, data: bytes) -> None:
            pass

    DataReader(Kept(), ContentCheck(normalise=True)).feed(data)
    for _ in wire_chunks(Message(data)):
        pass


def canonical(data: bytes) -> None:
    relaxed_header(b"Subject: " + data)
    for relaxed in (False, True):
        for _ in canonical_body([data], relaxed=relaxed):
            pass
    body_digests(Message(b"\r\n", data), [BodyForm(True, 5)])


def written_reply(data: bytes) -> None:
    with suppress(ValueError):
        bytes(Reply(550, "5.7.1", text(data)))


TARGETS = (
    Target("from value", from_value, FROM_WORDS),
    Target("from block", from_block, FROM_WORDS, HEAD, (b"From: ", b"From")),
    Target("tag list", tags, SIGNATURE_TAGS),
    Target("dkim field", dkim_field, SIGNATURE_TAGS),
    Target("dkim message", dkim_message, SIGNATURE_TAGS, HEAD, (b"DKIM-Signature: ",)),
    Target("key record", read_record, (*SIGNATURE_TAGS, KEY, b"p=", b"k=rsa", b"k=ed25519", b"t=y:s", b"v=DKIM1;")),
    Target("public key", public_key, (b"\x30", b"\x02", b"\x82\x01", b"\x00", b"\xff" * 32)),
    Target("private key", private_key, (b"MC4CAQAwBQYDK2VwBCIEI", b"\n", b"=", b"A" * 32, b"-----END")),
    Target("spf record", spf_record, SPF_TERMS),
    Target("dmarc record", dmarc_record, (b"v=DMARC1", b";", b"p=none", b"rua=mailto:a@b", b"!10m", b",", b"=", b"np=", b" ")),
    Target("dmarc domains", dmarc_domains, (b".", b"a", b"example.org", b"xn--", b"\xc3\xa4", b"co.uk"), 16_384),
    Target("results value", results_value, RESULTS_WORDS),
    Target("results forged", results_forged, (*RESULTS_WORDS, *HEADER_LINES), HEAD, (b"Authentication-Results: ", b"Received-SPF: ", b"BIMI-Location: ", b"Authentication-Results")),
    Target("results written", results_written, RESULTS_WORDS),
    Target("received-spf", spf_said, (*RESULTS_WORDS, b"fail ", b"envelope-from=", b"receiver="), HEAD, (b"Received-SPF: fail ", b"Authentication-Results: ", b"ARC-Authentication-Results: i=1; ")),
    Target("arc sets", arc_sets, HEADER_LINES, HEAD, (b"ARC-Seal: i=1; ", b"ARC-Message-Signature: i=1; ", b"ARC-Authentication-Results: i=1; ")),
    Target("header block", header_block, HEADER_LINES, HEAD, (b"Subject: ", b"")),
    Target("header edits", header_edits, HEADER_LINES, HEAD, (b"Subject: ", b"")),
    Target("signed", signed, HEADER_LINES, HEAD, (b"From: ", b"From: a@example.org\r\nSubject: ")),
    Target("header line", header_line_, (b" ", b"\t", b"\r\n ", b"word", b"\xc3\xa4"), HEAD),
    Target("header value", header_value, (b"=?utf-8?q?", b"=?", b"?=", b"=?x?b?", b"\r\n ", b"=C3", b"YWI", b" ")),
    Target("encoded words", lambda data: decode_words(text(data)), (b"=?utf-8?q?", b"=?", b"?=", b"?b?", b"=?koi8-r*en?B?", b"=C3", b" ")),
    Target("bulk rules", bulk, (b"Mon, 21 Sep 2026 14:00:00 +0000", b"<", b">", b"@", b"https://", b"(", b")", b"+9999", b"\r\n"), HEAD, (b"Date: ", b"Message-ID: ", b"List-Unsubscribe: ", b"Precedence: ", b"DKIM-Signature: ")),
    Target("bounce", bounce, BOUNCE_WORDS, fields=(b"Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\n", b"From: mailer-daemon@x\r\n\r\n")),
    Target("bounce address", bounce_address, (b"abcdefghijkl", b"=", b"aa", b"~41", b"~", b".", b"m.1")),
    Target("policy file", parse_policy, (b"version: STSv1\n", b"mode: ", b"enforce", b"mx: *.", b"max_age: ", b"9" * 9, b":", b"\n")),
    Target("mail command", mail_command, ADDRESS_WORDS, LINE),
    Target("rcpt command", rcpt_command, ADDRESS_WORDS, LINE),
    Target("xclient", xclient, (b"NAME=", b"ADDR=IPV6:", b"PORT=", b"+41", b"+00", b"[UNAVAILABLE]", b" ", b"HELO"), LINE),
    Target("upstream reply", upstream_reply, (b"250", b"-", b" ", b"\r\n", b"5.7.1", b"550 5.1.1", b"\n", b"\t")),
    Target("written reply", written_reply, (b"\n", b" ", b"550", b"-"), LINE),
    Target("proxy header", proxy_header, (b"TCP4 ", b"192.0.2.1 ", b"25", b"\r\n", b"UNKNOWN", b"\x20", b"\x21\x21", b"\x00\x24")),
    Target("srs", srs, SRS_WORDS),
    Target("received", received, (b"\r\nReceived:", b"received:", b"\r\n ", b"[", b"(")),
    Target("data stream", data_stream, (b"\r\n", b".", b"\r", b"\n", b"\0", b"\r\n.\r\n")),
    Target("canonical", canonical, (b" ", b"\t", b"\r\n", b"\r", b"\n", b":", b"x")),
    Target("mime tree", content.mime_tree, content.MIME_WORDS),
    Target("mime header", content.mime_tree, content.MIME_WORDS, HEAD, (b"Content-Type: ", b"Content-Disposition: a; filename=")),
    Target("attachments", content.attachments, content.MIME_WORDS),
    Target("header form", content.header_form, HEADER_LINES, HEAD, (b"From: ", b"To: ", b"Content-Type: ", b"")),
    Target("archive", content.archive, (b"PK\x03\x04", b"PK\x01\x02", b"\x00" * 20, b"\x05\x00", b"a.exe", b"\x01")),
    Target("rar", content.rar, (b"\0" * 4, b"\x74\x00\x80", b"\x73\x00\x00\x0d\x00", b"\x20\x00", b"\x07", b"\x02\x02", b"\x80", b"a.exe", b"\0")),
    Target("7z", content.seven_zip, (b"\0", b"\x01", b"\x04", b"\x05", b"\x06", b"\x07", b"\x0b", b"\x0c", b"\x0a", b"\x11", b"\x03\x01\x01", b"\x23", b"\x5d\0\0\x10\0", b"\xff", b"a\0")),
    Target("tar", content.tar, (b"\0" * 512, b"12 path=abc\n", content.tar_header(b"a", 0, b"0"), content.tar_header(b"a", 5, b"x"), b"a")),
    Target("compressed", content.compressed, (b"\x1f\x8b\x08\0", b"BZh9", b"\xfd7zXZ\0", content.tar_header(b"a", 0, b"0"), b"\0" * 512, b"a")),
    Target("file name", content.file_name, (b".", b"exe", b" ", b":", b"%2E", b"\xe2\x80\xae", b"\xef\xbc\x8e", b"/", b"\\")),
    Target("appended text", content.appended_text, content.MIME_WORDS),
    Target("signatures", content.impact, (*SIGNATURE_TAGS, b"DKIM-Signature: ", b"\r\n"), HEAD, (b"DKIM-Signature: ", b"ARC-Message-Signature: ")),
    Target("words", content.learned_words, (*content.MIME_WORDS, b"https://", b"<", b">", b"\xe4\xb8\xad\xe6\x96\x87")),
    Target("token", content.token, (b".", b"A", b"-", b"_", b"=", b"MQo")),
    Target("aliases", content.alias_lines, (b":", b",", b"\n", b"a", b"b", b"@example.org", b'"', b"|", b" "), 20_000),
    Target("a-label", lambda data: to_a_label(text(data)), (b".", b"xn--", b"\xc3\xa4", b"\xe2\x80\x8d", b"\xe3\x80\x82", b"a")),
)  # fmt: skip
