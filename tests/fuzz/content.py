"""What looks into messages, as functions of octets: the MIME tree, attachments, archives, the form, words, aliases."""

from contextlib import suppress

from relayproxy.api import Client, Envelope, Mail, Message
from relayproxy.builtin._alias_table import AliasTable, read_lines
from relayproxy.builtin._anomalies import find
from relayproxy.builtin._append import appended
from relayproxy.builtin._archive_7z import list_7z
from relayproxy.builtin._archive_list import list_zip
from relayproxy.builtin._archive_rar import RAR4, RAR5, list_rar
from relayproxy.builtin._archive_tar import COMPRESSED, list_compressed, list_tar
from relayproxy.builtin._attachment_scan import Scan, Wanted
from relayproxy.builtin._bayes_words import words_of
from relayproxy.builtin._content_kinds import kind_of
from relayproxy.mailauth.dkim_impact import broken_by_body, broken_by_fields
from relayproxy.mailauth.unsubscribe_token import TokenFault, read_token
from relayproxy.model.file_names import extensions_of
from relayproxy.model.mime import read_tree
from relayproxy.model.mime_content import decoded_octets

MIME_HEAD = b"Content-Type: multipart/mixed; boundary=a\r\n\r\n"
MIME_WORDS = (
    b"\r\n--a\r\n", b"\r\n--a--\r\n", b"--", b"\r\n", b"\r\n\r\n", b"Content-Type: ", b"multipart/mixed; boundary=", b"a", b'"',
    b"message/rfc822", b"text/html; charset=", b"Content-Transfer-Encoding: ", b"base64", b"quoted-printable", b"=", b";",
    b"Content-Disposition: attachment; filename=", b"filename*0*=utf-8''", b"*", b"%41", b".exe", b"=?utf-8?b?YQ==?=",
    b"UEsDBA==", b"</body>", b"begin 644 a.exe\r\n",
)  # fmt: skip
_WANTED = Wanted(frozenset({"exe"}), frozenset({"executable"}), 100, 100.0, 1 << 25, 1 << 26, 1000, 1 << 24)


def mime_tree(data: bytes) -> None:
    for message in (Message.from_bytes(MIME_HEAD + data), Message.from_bytes(data)):
        for part in read_tree(message).root.walk():
            decoded_octets(message, part, 1000)


def attachments(data: bytes) -> None:
    message = Message.from_bytes(MIME_HEAD + data)
    for problem in Scan(message, read_tree(message), _WANTED).problems():
        assert problem.name.isascii()
        assert problem.detail.isprintable()


def header_form(data: bytes) -> None:
    message = Message.from_bytes(data)
    list(find(Mail("1", Client("1", "in", "192.0.2.1"), Envelope(), message), 1000, 262_144))


def archive(data: bytes) -> None:
    kind_of(data)
    for signature in (b"", b"PK\x03\x04", b"PK\x01\x02"):
        list_zip(signature + data, 100)


def rar(data: bytes) -> None:
    """Headers as they are, and behind a main header each as RAR 4 and RAR 5 begin."""
    for head in (RAR4, RAR5, RAR5 + b"\0\0\0\0\x03\x01\0\0"):
        assert len(list_rar(head + data, 1000).names) <= 1000


def seven_zip(data: bytes) -> None:
    """A list that stands at the end as it is, and one that is packed."""
    for head in (b"", b"\x01\x04", b"\x01\x05\x01\x11", b"\x17\x06\0\x01\x09"):
        size = (len(head) + len(data)).to_bytes(8, "little")
        front = b"7z\xbc\xaf\x27\x1c\0\x04" + bytes(4) + bytes(8) + size + bytes(4)
        assert len(list_7z(front + head + data, 1000).names) <= 1000


def tar(data: bytes) -> None:
    """A file that begins with an entry which holds nothing, a long name, or the records of pax."""
    for kind in (b"0", b"L", b"x"):
        assert (
            len(list_tar(tar_header(b"a", len(data) if kind != b"0" else 0, kind) + data, 1000).names) <= 1001
        )


def tar_header(name: bytes, size: int, kind: bytes) -> bytes:
    block = (
        name.ljust(100, b"\0") + b"0000644\0" * 3 + b"%011o\0" % size + b"0" * 11 + b"\0" + b" " * 8 + kind
    )
    block = block.ljust(257, b"\0") + b"ustar\x0000"
    block = block.ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def compressed(data: bytes) -> None:
    """Octets as a stream of each kind."""
    for kind, head in zip(COMPRESSED, (b"\x1f\x8b\x08\0" + bytes(6), b"BZh9", b"\xfd7zXZ\0"), strict=True):
        list_compressed(data, kind, 100, 1 << 20)
        list_compressed(head + data, kind, 100, 1 << 20)


def file_name(data: bytes) -> None:
    extensions_of(data.decode("utf-8", "replace"))


def appended_text(data: bytes) -> None:
    for head in (b"", b"Content-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"):
        message = Message.from_bytes(head + data)
        appended(message, read_tree(message).root, "B\xfce\n")


def impact(data: bytes) -> None:
    message = Message.from_bytes(data)
    broken_by_body(message, b"x\r\n")
    broken_by_fields(message, ["Subject"])


def learned_words(data: bytes) -> None:
    words_of(Message.from_bytes(b"Content-Type: text/html\r\n\r\n" + data))


def token(data: bytes) -> None:
    with suppress(TokenFault):
        read_token(data.decode("utf-8", "replace"), (b"a key",), 0)


def alias_lines(data: bytes) -> None:
    lines = enumerate(data.decode("utf-8", "replace").split("\n"), 1)
    with suppress(ValueError):
        AliasTable(read_lines(lines), frozenset({"example.org"}), 100)
