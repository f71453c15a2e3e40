import base64
import email
import email.policy
import quopri
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from relayproxy.api import Message, ReplaceBody
from relayproxy.builtin.dkim_sign import DkimSign, DkimSignSettings
from relayproxy.builtin.footer import FooterPlugin, FooterSettings
from relayproxy.mailauth.dkim_keys import new_ed25519_key
from relayproxy.testing.mail import call, make_mail, run_hook
from relayproxy.testing.session import SessionDriver

TEXT = "Grüße, Zoë\nA company\n"
HTML = "<p>Gr\xfc\xdfe</p>"


def plugin(text=TEXT, html=HTML, **settings):
    return FooterPlugin(FooterSettings(footers=[{"text": text, "html": html}], **settings))


def plain(content=b"Hello\r\n", charset="utf-8", encoding="8bit", kind="text/plain"):
    return (
        f"From: a@example.org\r\nContent-Type: {kind}; charset={charset}\r\n"
        f"Content-Transfer-Encoding: {encoding}\r\n\r\n"
    ).encode() + content


async def changed(raw, made=None):
    """Return the whole message with its footer, or the reason why it has none."""
    mail = make_mail(raw)
    edits = await call(made or plugin(), "before_forward", mail=mail)
    if not edits:
        return mail.finding("footer").reason if mail.finding("footer") else "not asked"
    [edit] = edits
    assert isinstance(edit, ReplaceBody)
    return mail.message.head + edit.body


def read(raw, kind="plain"):
    """Return the text that the standard library reads."""
    message = email.message_from_bytes(raw, policy=email.policy.SMTP)
    part = message.get_body((kind,))
    return part.get_content()


@pytest.mark.parametrize(
    ("charset", "encoding", "footer"),
    [
        ("utf-8", "8bit", "Grüße, Zoë\nA company\n"),
        ("utf-8", "7bit", "Gru?e, Zoe\nA company\n"),
        ("iso-8859-1", "8bit", "Grüße, Zoë\nA company\n"),
        ("iso-8859-2", "8bit", "Grüße, Zoë\nA company\n"),
        ("koi8-r", "8bit", "Gru?e, Zoe\nA company\n"),
        ("us-ascii", "8bit", "Gru?e, Zoe\nA company\n"),
        ("utf-8", "quoted-printable", "Grüße, Zoë\nA company\n"),
        ("iso-8859-1", "quoted-printable", "Grüße, Zoë\nA company\n"),
        ("utf-8", "base64", "Grüße, Zoë\nA company\n"),
        ("koi8-r", "base64", "Gru?e, Zoe\nA company\n"),
        ("big5", "base64", "Gru?e, Zoe\nA company\n"),
    ],
)
async def test_plain_text_in_its_charset_and_encoding(charset, encoding, footer):
    content = b"Hello\r\n"
    if encoding == "base64":
        content = base64.b64encode(content) + b"\r\n"
    raw = plain(content, charset, encoding)
    now = await changed(raw)
    assert read(now).replace("\r\n", "\n") == "Hello\n\n" + footer
    if encoding != "base64":
        assert now.startswith(raw)
    if encoding == "7bit":
        assert now.isascii()


@pytest.mark.parametrize("encoding", ["7bit", "8bit", "quoted-printable", "base64"])
@pytest.mark.parametrize("end", [b"</body></html>\r\n", b"</BODY>\r\n</HTML>\r\n", b"</html>", b""])
async def test_html_gets_it_before_its_end(encoding, end):
    content = b"<html><body><p>Hello</p>\r\n" + end
    coded = {
        "base64": base64.b64encode(content),
        "quoted-printable": quopri.encodestring(content).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"),
    }.get(encoding, content)
    now = read(await changed(plain(coded, "iso-8859-1", encoding, "text/html")), "html")
    footer = "<p>Gr&#252;&#223;e</p>" if encoding == "7bit" else HTML
    assert (
        now.replace("\r\n", "\n")
        .rstrip("\n")
        .endswith(footer + end.decode().replace("\r\n", "\n").rstrip("\n"))
    )


async def test_an_end_that_soft_line_breaks_cut():
    content = b"<body>Hello</bo=\r\ndy>\r\n"
    now = await changed(plain(content, "utf-8", "quoted-printable", "text/html"))
    assert now.endswith(b"<body>Hello<p>Gr=C3=BC=C3=9Fe</p></bo=\r\ndy>\r\n")


async def test_html_is_made_from_the_text():
    now = await changed(plain(b"<body></body>", kind="text/html"), plugin("A & B\nC", ""))
    assert now.endswith(b"<body>A &amp; B<br>\r\nC</body>")


MIXED = (
    b"From: a@example.org\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n"
    b"--x\r\nContent-Type: multipart/alternative; boundary=y\r\n\r\n"
    b"--y\r\n\r\nHello\r\n"
    b"--y\r\nContent-Type: multipart/related; boundary=z\r\n\r\n"
    b"--z\r\nContent-Type: text/html\r\n\r\n<body>Hello</body>\r\n--z--\r\n--y--\r\n"
    b"--x\r\nContent-Type: text/plain\r\nContent-Disposition: attachment\r\n\r\nnotes\r\n--x--\r\n"
)


async def test_all_that_a_reader_shows_first_and_nothing_else():
    now = await changed(MIXED, plugin("Bye", "<p>Bye</p>"))
    assert now == MIXED.replace(b"--y\r\n\r\nHello", b"--y\r\n\r\nHello\r\n\r\nBye").replace(
        b"Hello</body>", b"Hello<p>Bye</p></body>"
    )


async def test_a_message_in_pieces():
    mail = make_mail(MIXED)
    mail.message = Message.from_pieces([MIXED[:100], MIXED[100:200], MIXED[200:]])
    [edit] = await call(plugin("Bye", "<p>Bye</p>"), "before_forward", mail=mail)
    assert mail.message.head + edit.body == await changed(MIXED, plugin("Bye", "<p>Bye</p>"))


async def test_a_large_message():
    now = await changed(plain(b"Hello\r\n" * 50_000))
    assert read(now).endswith("A company\r\n")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"From: a@example.org\r\nContent-Type: application/pdf\r\n\r\nx\r\n", "it has no text"),
        (b"From: a@example.org\r\nContent-Type: application/pkcs7-mime\r\n\r\nx\r\n", "it is encrypted"),
        (MIXED.replace(b"multipart/mixed", b"multipart/encrypted"), "it is encrypted"),
        (MIXED.replace(b"multipart/mixed", b"multipart/report"), "it is a report"),
        (
            MIXED.replace(b"multipart/mixed", b"multipart/signed"),
            "it would break the signature of the author",
        ),
        (plain(b"-----BEGIN PGP SIGNED MESSAGE-----\r\n"), "it would break the signature of the author (PGP"),
        (plain(b"-----BEGIN PGP MESSAGE-----\r\n"), "its text is encrypted"),
        (plain(charset="utf-16"), "nothing can be added to text of the charset utf-16"),
        (plain(charset="unknown"), "nothing can be added to text of the charset unknown"),
        (plain(encoding="x-odd"), "nothing can be added"),
        (plain(b"SGVsbG8=SGVsbG8=\r\n", encoding="base64"), "nothing can be added"),
        (
            plain(b"Hello\r\n\r\n> Gr\xc3\xbc\xc3\x9fe, Zo\xc3\xab\r\n> A company\r\n"),
            "the text is there already",
        ),
        (b"From: a@example.org\r\nContent-Type: multipart/mixed\r\n\r\nx\r\n", "its structure can't be read"),
    ],
)
async def test_what_stays_as_it_is(raw, reason):
    assert (await changed(raw)).startswith(reason)


async def test_it_may_be_repeated():
    raw = plain(b"Hello\r\n\r\nBye\r\n")
    assert await changed(raw, plugin("Bye")) == "the text is there already"
    assert await changed(raw, plugin("Bye", repeat=True)) == raw + b"\r\nBye\r\n"


def signed(raw, body):
    digest = base64.b64encode(sha256(body).digest())
    return (
        b"DKIM-Signature: v=1; a=rsa-sha256; d=far.example; s=s; h=from; bh=" + digest + b"; b=YQ==\r\n" + raw
    )


async def test_a_signature_is_not_broken_unless_the_admin_says_so(caplog):
    raw = signed(plain(), b"Hello\r\n")
    assert await changed(raw) == "it would break the signature of far.example"
    mail = make_mail(raw)
    assert await call(plugin(signed="break"), "before_forward", mail=mail)
    assert mail.finding("footer").props["broken"] == "far.example"
    assert "the footer breaks the signature of far.example" in caplog.text


async def test_a_signature_that_is_broken_already_does_not_count():
    assert (await changed(signed(plain(), b"another"))).endswith(b"A company\r\n")


async def test_by_the_domain_of_the_author():
    made = FooterPlugin(
        FooterSettings(
            footers=[
                {"text": "One", "sender_domains": ["example.org"]},
                {"text": "Two", "sender_domains": ["Example.NET"]},
            ]
        )
    )
    assert (await changed(plain(), made)).endswith(b"One\r\n")
    assert (await changed(plain().replace(b"a@example.org", b"a@example.net"), made)).endswith(b"Two\r\n")
    assert await changed(plain().replace(b"a@example.org", b"a@example.com"), made) == "not asked"


async def test_our_own_signature_is_made_after_it(tmp_path):
    (tmp_path / "example.org").mkdir()
    key = tmp_path / "example.org" / "s.key"
    key.write_bytes(new_ed25519_key().pem())
    key.chmod(0o600)
    signer = DkimSign(DkimSignSettings(keys="."))
    driver = SessionDriver(signer, plugin("Bye"), networks=("192.0.2.0/24",))
    await driver.start(tmp_path)
    delivery = await driver.deliver(plain(), recipients=("b@far.example",))
    assert delivery.reply.ok
    sent = email.message_from_bytes(bytes(delivery.sent.data))
    body = b"Hello\r\n\r\nBye\r\n"
    assert bytes(delivery.sent.data).endswith(b"\r\n\r\n" + body)
    assert base64.b64encode(sha256(body).digest()).decode() in "".join(sent["DKIM-Signature"].split())


@pytest.mark.parametrize("footers", [[], [{"text": ""}], [{"text": "x", "sender_domains": ["a@b"]}]])
def test_settings_that_can_not_be_used(footers):
    with pytest.raises(ValidationError):
        FooterSettings(footers=footers)


@given(st.binary(max_size=200), st.sampled_from(["utf-8", "iso-8859-1", "shift_jis", "us-ascii", ""]))
def test_whatever_was_there_is_still_there(content, charset):
    raw = plain(base64.encodebytes(content).replace(b"\n", b"\r\n"), charset or "x", "base64")
    mail = make_mail(raw)
    edits = run_hook(plugin("Bye", repeat=True), "before_forward", mail=mail)
    if edits:
        assert base64.b64decode(edits[0].body).startswith(content)
        assert base64.b64decode(edits[0].body).rstrip().endswith(b"Bye")
    else:
        assert mail.finding("footer").reason
