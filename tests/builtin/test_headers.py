from base64 import b64encode
from email.header import decode_header

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from relayproxy.api import AddHeader, App, Direction, DropHeader, Finding, Message, ReplaceHeader, TlsInfo
from relayproxy.builtin.headers import (
    PLACEHOLDERS,
    Headers,
    HeadersSettings,
    encoded_words,
    is_marked,
    prefixed,
)
from relayproxy.model.edits import apply_to_message
from relayproxy.model.message import decode_words, split_fields
from relayproxy.testing.mail import make_client, make_mail, run_hook

HELLO = b"From: a@example.org\r\nSubject: Hello\r\nX-A: 1\r\nx-a: 2\r\nX-Abc: 3\r\n\r\nText\r\n"


def edits(options, mail=None):
    plugin = Headers(HeadersSettings.model_validate(options))
    return run_hook(plugin, "before_forward", mail=mail or make_mail(HELLO), route="store")


def edited(options, raw):
    """The message after the edits, which the message before them must have survived."""
    mail = make_mail(raw)
    after = apply_to_message(mail.message, edits(options, mail))
    assert bytes(mail.message) == raw
    return bytes(after)


def subject(raw_subject, prefix="[EXT]"):
    """What a reader sees as subject afterwards."""
    raw = b"From: a@example.org\r\nSubject:" + raw_subject + b"\r\nTo: b@example.net\r\n\r\n"
    return Message.from_bytes(edited({"subject_prefix": prefix}, raw)).subject


# --- remove -----------------------------------------------------------------------------------------------


def test_remove_takes_all_fields_of_the_name_in_any_case():
    assert edited({"remove": ["X-a"]}, HELLO) == (
        b"From: a@example.org\r\nSubject: Hello\r\nX-Abc: 3\r\n\r\nText\r\n"
    )


def test_remove_with_a_star_takes_every_name_that_begins_so():
    assert edited({"remove": ["X-A*"]}, HELLO) == b"From: a@example.org\r\nSubject: Hello\r\n\r\nText\r\n"


def test_remove_of_what_is_not_there_edits_nothing():
    assert edits({"remove": ["X-Other", "Y-*"]}) == []


def test_a_star_spares_received_and_from():
    raw = b"Received: by mx\r\nReply-To: c@example.org\r\nFrom: a@example.org\r\nFoo: x\r\n\r\n"
    assert edited({"remove": ["re*", "F*"]}, raw) == b"Received: by mx\r\nFrom: a@example.org\r\n\r\n"


# --- add and replace --------------------------------------------------------------------------------------


def test_added_fields_stand_on_top_in_their_order():
    raw = edited({"add": {"X-One": "1", "X-Two": "2"}}, HELLO)
    assert raw == b"X-One: 1\r\nX-Two: 2\r\n" + HELLO


def test_replace_leaves_exactly_one_in_the_first_place():
    raw = edited({"replace": {"X-A": "new"}}, HELLO)
    assert raw == b"From: a@example.org\r\nSubject: Hello\r\nX-A: new\r\nX-Abc: 3\r\n\r\nText\r\n"


def test_replace_adds_what_is_missing():
    raw = edited({"replace": {"X-New": "new"}}, HELLO)
    assert raw == HELLO.replace(b"\r\n\r\n", b"\r\nX-New: new\r\n\r\n")


def test_an_empty_value_is_not_added_and_removes_a_forged_one():
    login = "{client.identity}"
    assert edits({"add": {"X-Login": login}}) == []
    assert edits({"replace": {"X-Login": login}}) == [DropHeader("X-Login")]


def test_remove_then_add_puts_ours_in_place_of_the_sender_s():
    raw = edited({"remove": ["X-A"], "add": {"X-A": "ours"}}, HELLO)
    assert raw == b"X-A: ours\r\nFrom: a@example.org\r\nSubject: Hello\r\nX-Abc: 3\r\n\r\nText\r\n"


# --- templates --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{id}", "test.1"),
        ("{hostname}", "mx.example.com"),
        ("{route}", "store"),
        ("{listener}", "inbound"),
        ("{direction}", "outbound"),
        ("{client.ip}", "2001:db8::1"),
        ("{client.helo}", "client.example.org"),
        ("{client.ptr}", ""),
        ("{client.identity}", "ana"),
        ("{client.tls}", "TLSv1.3"),
        ("<{sender}>", "<ana+x@example.org>"),
        ("{sender.domain}", "example.org"),
        ("{recipients_count}", "2"),
        ("{size}", "4"),
        ("{score}", "5.2"),
        ("id={id}; n={recipients_count}", "id=test.1; n=2"),
        ("{{{id}}}", "{test.1}"),
        ("plain", "plain"),
    ],
)
async def test_placeholders(template, value, tmp_path):
    mail = make_mail(
        b"\r\nab",
        sender="ana+x@Example.org",
        recipients=["b@example.net", "c@example.net"],
        ip="2001:db8::1",
        identity="ana",
        tls=TlsInfo("TLSv1.3", "", 256),
        direction=Direction.OUTBOUND,
        findings=[Finding("a", "hit", 2.0), Finding("b", "hit", 3.24)],
    )
    plugin = Headers(HeadersSettings.model_validate({"add": {"X-T": template}}))
    plugin.startup(App("mx.example.com", None, None, tmp_path))
    answer = list(plugin.before_forward(mail, "store"))
    assert answer == ([AddHeader("X-T", value)] if value else [])


def test_the_null_sender_is_an_empty_text():
    assert edits({"add": {"X-From": "<{sender}>"}}, make_mail(HELLO, sender="")) == [
        AddHeader("X-From", "<>")
    ]


def test_what_a_client_chose_can_end_nothing():
    mail = make_mail(HELLO, sender='"a> (b), c"@müller.example')
    mail.client = make_client(helo='x") =?utf-8?q?y?= \r\n<z>%')
    answer = edits({"add": {"X-A": '"{sender}" ({client.helo})'}}, mail)
    assert answer == [
        AddHeader(
            "X-A",
            '"%22a%3E%20%28b%29%2C%20c%22@xn--mller-kva.example" (x%22%29%20=%3Futf-8%3Fq%3Fy%3F=%20%0D%0A%3Cz%3E%25)',
        )
    ]


@given(st.text(), st.text())
def test_no_helo_and_no_local_part_breaks_a_header(helo, local):
    mail = make_mail(HELLO, sender=f"{local}@example.org")
    mail.client = make_client(helo=helo)
    (edit,) = edits({"add": {"X-A": 'x "{client.helo}" <{sender}>'}}, mail)
    assert edit.value.isascii()
    assert edit.value.isprintable()
    assert len(edit.value) <= 900


def test_text_outside_ascii_becomes_encoded_words():
    (edit,) = edits({"add": {"X-Note": "geprüft: {id}"}})
    assert edit.value.isascii()
    assert decode_words(edit.value) == "geprüft: test.1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "nothing to do"),
        ({"add": {"X-A": "{client.pi}"}}, r"no placeholder \{client.pi\}; did you mean \{client.ip\}"),
        ({"add": {"X-A": "{sender.__class__}"}}, "no placeholder"),
        ({"add": {"X-A": "{qqqqqq}"}}, "there are id, hostname"),
        ({"add": {"X-A": "{id"}}, "brace stands alone"),
        ({"add": {"X-A": "id}"}}, "brace stands alone"),
        ({"add": {"X-A": {"id": None}}}, "put the value in quotes"),
        ({"add": {"X-A": "a\r\nBcc: x"}}, "folds"),
        ({"add": {"X-A": "a\nBcc: x"}}, "control character"),
        ({"add": {"X A": "a"}}, "not a header field name"),
        ({"add": {"": "a"}}, "not a header field name"),
        ({"add": {"Subject": "a"}}, "use replace"),
        ({"add": {"Received": "a"}}, "left alone"),
        ({"replace": {"received": "a"}}, "left alone"),
        ({"remove": ["Received"]}, "left alone"),
        ({"remove": ["From"]}, "can't be removed"),
        ({"remove": ["*"]}, "can't be removed"),
        ({"replace": {"Reply-To": "Jörg <j@example.org>"}}, "ASCII text only"),
        ({"subject_prefix": "  "}, "plain text"),
        ({"subject_prefix": "=?utf-8?q?x?="}, "plain text"),
        ({"subject_prefix": "a\nb"}, "control character"),
        ({"subject_prefix": "x" * 61}, "at most 60"),
        ({"subject_prefix": "[A]", "replace": {"subject": "x"}}, "or else"),
        ({"subject_prefix": "[A]", "remove": ["Subject"]}, "or else"),
        ({"prefix": "[A]"}, "Extra inputs"),
    ],
)
def test_settings(options, words):
    with pytest.raises(ValidationError, match=words):
        HeadersSettings.model_validate(options)


# --- subject ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "prefix", "field"),
    [
        (b" Hello", "[EXT]", b"Subject: [EXT] Hello\r\n"),
        (b"Hello", "[EXT]", b"Subject: [EXT] Hello\r\n"),
        (b" =?utf-8?q?f=C3=BCr?= dich", "[EXT]", b"Subject: [EXT] =?utf-8?q?f=C3=BCr?= dich\r\n"),
        (b"\r\n =?utf-8?q?a?=\r\n =?utf-8?q?b?=", "[X]", b"Subject: [X] =?utf-8?q?a?= =?utf-8?q?b?=\r\n"),
        (b" f\xc3\xbcr dich", "[EXT]", b"Subject: [EXT] f\xc3\xbcr dich\r\n"),
        (b" two\r\n\tlines", "[EXT]", b"Subject: [EXT] two\tlines\r\n"),
        (b" a\r\n  \r\n b", "[EXT]", b"Subject: [EXT] a   b\r\n"),
        (b"", "[EXT]", b"Subject: [EXT]\r\n"),
        (b"  ", "[EXT]", b"Subject: [EXT]\r\n"),
        (b" f\xfcr", "[EXT]", b"Subject: [EXT] =?unknown-8bit?b?Zvxy?=\r\n"),
        (b" a\x1bb", "[EXT]", b"Subject: [EXT] =?unknown-8bit?b?YRti?=\r\n"),
        (b" Hello", "[\xc4]", b"Subject: =?utf-8?b?W8OEXQ==?= Hello\r\n"),
        (b" =?utf-8?q?=C3=BC?=", "[\xc4]", b"Subject: =?utf-8?b?W8OEXSA=?= =?utf-8?q?=C3=BC?=\r\n"),
    ],
)
def test_a_prefix_stands_in_front_and_the_rest_stays(raw, prefix, field):
    before, after = b"From: a@example.org\r\n", b"To: b@example.net\r\n\r\nText\r\n"
    message = before + b"Subject:" + raw + b"\r\n" + after
    assert edited({"subject_prefix": prefix}, message) == before + field + after


def test_a_long_subject_is_folded_at_its_blanks():
    words = b" ".join([b"word"] * 40)
    raw = edited({"subject_prefix": "[EXT]"}, b"Subject: " + words + b"\r\n\r\n")
    assert max(map(len, raw.split(b"\r\n"))) <= 78
    assert raw.replace(b"\r\n", b"") == b"Subject: [EXT] " + words


def test_a_line_of_998_octets_gets_no_longer():
    raw = edited({"subject_prefix": "[EXT]"}, b"Subject: " + b"x" * 989 + b"\r\n\r\n")
    assert max(map(len, raw.split(b"\r\n"))) <= 998


def test_a_message_without_subject_gets_one():
    raw = edited({"subject_prefix": "[EXT]"}, b"From: a@example.org\r\n\r\nText\r\n")
    assert raw == b"From: a@example.org\r\nSubject: [EXT]\r\n\r\nText\r\n"


def test_each_of_several_subjects_is_marked():
    raw = edited({"subject_prefix": "[EXT]"}, b"Subject: a\r\nSUBJECT : b\r\n\r\n")
    assert raw == b"Subject: [EXT] a\r\nSUBJECT: [EXT] b\r\n\r\n"


@pytest.mark.parametrize(
    "text",
    [
        b" [EXT] Hello",
        b" [ext] Hello",
        b" Re: [EXT] Hello",
        b" RE: AW: [EXT] Hello",
        b" Re[2]: [EXT] Hello",
        b" Fwd : [EXT] Hello",
        b" [list] Re: [EXT] Hello",
        b" Re:[EXT]",
        b" \xe5\x9b\x9e\xe5\xa4\x8d\xef\xbc\x9a[EXT] Hello",
        b" =?utf-8?q?Re=3A_=5BEXT=5D_f=C3=BCr?=",
        b" Re:\r\n =?utf-8?q?=5BEXT=5D_f=C3=BCr?=",
    ],
)
def test_a_reply_is_not_marked_twice(text):
    raw = b"Subject:" + text + b"\r\n\r\n"
    assert edited({"subject_prefix": "[EXT]"}, raw) == raw


@pytest.mark.parametrize(
    "text",
    [
        b" Hello [EXT]",
        b" Urgent: pay now [EXT]",
        b" Re: hello [EXT]",
        b" Re: a: b [EXT]",
        b" [" + b"x" * 50 + b"] [EXT]",
        b" EXT",
        b" =?utf-8?b?a?= [EXT]",
    ],
)
def test_the_prefix_further_inside_does_not_count(text):
    raw = edited({"subject_prefix": "[EXT]"}, b"Subject:" + text + b"\r\n\r\n")
    assert raw == b"Subject: [EXT]" + text + b"\r\n\r\n"


@given(st.text().filter(lambda text: "=?" not in text and not any(c in text for c in "\r\n\ud800")))
def test_any_text_is_still_readable_behind_the_prefix(text):
    encoded = b" " + encoded_words(map(str.encode, text), "utf-8").encode()
    assert subject(encoded) in {f"[EXT] {text}", text}


@given(st.binary(max_size=300), st.sampled_from(["[EXT]", "[Äußerst lang: " + "ü" * 40 + "]"]))
def test_no_subject_is_too_odd_to_be_marked(octets, prefix):
    field = prefixed(octets, prefix)
    line = ReplaceHeader("Subject", field)
    head = bytes(apply_to_message(Message(b"To: b@example.net\r\nSubject: x\r\n\r\n"), [line]))
    names = [found.name for found in split_fields(head)]
    assert names == ["To", "Subject"]
    shown = "".join(
        p if isinstance(p, str) else p.decode("utf-8", "replace") for p, _ in decode_header(field)
    )
    assert shown.startswith(prefix)


@given(st.binary(max_size=300))
def test_marking_twice_is_marking_once(octets):
    (field,) = split_fields(b"Subject: " + prefixed(octets, "[EXT]").encode() + b"\r\n")
    assert is_marked(field, "[EXT]")


@given(st.text(max_size=400))
def test_encoded_words_decode_to_what_went_in(text):
    words = encoded_words(map(str.encode, text), "utf-8")
    assert all(len(word) <= 75 for word in words.split(" "))
    assert decode_words(words) == text


# --- what the documentation says about DKIM ---------------------------------------------------------------


@pytest.fixture(scope="module")
def signed():
    """A signed message as it arrives, and a function that says whether octets still verify."""
    key = rsa.generate_private_key(65537, 2048)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    record = b"v=DKIM1; k=rsa; p=" + b64encode(public)
    raw = b"From: a@example.org\r\nTo: b@example.net\r\nSubject: Hello\r\nX-Free: 1\r\n\r\nText\r\n"
    listed = [
        b"from",
        b"from",
        b"to",
        b"subject",
        b"list-id",
    ]  # From is oversigned, List-Id absent and signed
    signature = dkim.sign(
        raw, b"sel", b"example.org", secret, canonicalize=(b"relaxed", b"relaxed"), include_headers=listed
    )

    def verifies(octets):
        return dkim.verify(octets, dnsfunc=lambda name, timeout=5: record)

    return signature + raw, verifies


@pytest.mark.parametrize(
    ("options", "survives"),
    [
        ({"add": {"X-Relay": "{id}"}}, True),
        ({"remove": ["X-Free"]}, True),
        ({"replace": {"X-Free": "2"}}, True),
        ({"remove": ["To"]}, False),
        ({"replace": {"To": "c@example.net"}}, False),
        ({"subject_prefix": "[EXT]"}, False),
        ({"add": {"List-Id": "<x.example.net>"}}, False),
        ({"remove": ["List-Id"]}, True),
    ],
)
def test_which_edits_break_a_signature(signed, options, survives):
    raw, verifies = signed
    assert verifies(raw)
    assert verifies(edited(options, raw)) is survives


def test_every_placeholder_is_on_the_page(request):
    page = (request.config.rootpath / "docs/plugins/headers.md").read_text()
    assert [name for name in PLACEHOLDERS if f"`{{{name}}}`" not in page] == []
