"""Archives that real programs wrote, and ones put together by the documented layouts, for what no free program writes."""

import base64
import bz2
import gzip
import io
import lzma
import os
import shutil
import struct
import subprocess
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.builtin._archive_7z import list_7z
from relayproxy.builtin._archive_rar import list_rar
from relayproxy.builtin._archive_tar import list_compressed, list_tar
from relayproxy.builtin.attachments import Attachments, AttachmentsSettings
from relayproxy.testing.mail import call, make_mail

MIB = 1 << 20


@pytest.fixture(scope="session")
def seven_zip(tmp_path_factory):
    """Return a function that has 7z make an archive of files."""
    program = shutil.which("7z")
    if program is None:
        if os.environ.get("RELAYPROXY_REQUIRE_SERVERS") == "1":
            pytest.fail("7z is not installed (Debian: p7zip-full)")
        pytest.skip("7z is not installed")

    def make(files, *options, kind="7z"):
        folder = tmp_path_factory.mktemp("packed")
        for name, content in files.items():
            (folder / name).write_bytes(content)
        out = folder / f"out.{kind}"
        subprocess.run(
            [program, "a", f"-t{kind}", *options, str(out), *files],
            cwd=folder,
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )
        return out.read_bytes()

    return make


FILES = {
    "letter.txt": b"text " * 500,
    "\xfcbung.exe": b"MZ\0\0" * 100,
    "empty": b"",
    "c.dat": bytes(range(256)),
}


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-mhc=off",),
        ("-ms=off",),
        ("-m0=LZMA2",),
        ("-m0=Copy",),
        ("-m0=BZip2", "-ms=off"),
        ("-m0=BCJ2", "-m1=LZMA:d20", "-m2=LZMA:d19", "-m3=LZMA:d19", "-mb0:1", "-mb0s1:2", "-mb0s2:3"),
    ],
    ids=" ".join,
)
def test_7z_files_are_listed(seven_zip, options):
    listing = list_7z(seven_zip(FILES, *options), 100)
    assert set(listing.names) == set(FILES)
    assert listing.unpacked == sum(map(len, FILES.values()))
    assert (listing.encrypted, listing.full) == (False, True)


def test_encrypted_7z_files(seven_zip):
    contents = list_7z(seven_zip(FILES, "-psecret"), 100)
    assert set(contents.names) == set(FILES)
    assert contents.encrypted
    names_too = list_7z(seven_zip(FILES, "-psecret", "-mhe=on"), 100)
    assert names_too.encrypted
    assert names_too.names == ()


def test_many_files_in_a_7z_file(seven_zip):
    data = seven_zip({f"{n}.txt": b"%d" % n for n in range(300)})
    assert len(list_7z(data, 300).names) == 300
    assert list_7z(data, 300).full
    assert len(list_7z(data, 299).names) == 299
    assert not list_7z(data, 299).full


def test_a_7z_bomb(seven_zip):
    listing = list_7z(seven_zip({"zeros": bytes(20 * MIB)}), 100)
    assert listing.unpacked == 20 * MIB
    assert listing.ratio > 1000


def in_7z(content):
    """Return the front of an archive and, behind it, its list."""
    return b"7z\xbc\xaf\x27\x1c\0\x04" + bytes(4) + struct.pack("<QQL", 0, len(content), 0) + content


def packed_list(packed, size, settings):
    """Return an archive whose list is `packed` by LZMA, of `size` octets."""
    numbers = b"\xff" + struct.pack("<Q", len(packed)), b"\xff" + struct.pack("<Q", size)
    said = b"\x17\x06\x00\x01\x09" + numbers[0] + b"\x00"
    said += b"\x07\x0b\x01\x00\x01\x23\x03\x01\x01\x05" + settings + b"\x0c" + numbers[1] + b"\x00\x00"
    front = b"7z\xbc\xaf\x27\x1c\0\x04" + bytes(4) + struct.pack("<QQL", len(packed), len(said), 0)
    return front + packed + said


def lzma_raw(content):
    how = {"id": lzma.FILTER_LZMA1, "dict_size": 1 << 16, "lc": 3, "lp": 0, "pb": 2}
    return lzma.compress(content, lzma.FORMAT_RAW, filters=[how])


NAMES = b"\x01\x05\x01\x11\x0d\x00" + "a.exe\0".encode("utf-16-le") + b"\x00\x00"


def test_a_packed_list_of_7z_within_the_limits_and_beyond():
    packed = lzma_raw(NAMES)
    assert list_7z(packed_list(packed, len(NAMES), b"\x5d" + struct.pack("<L", 1 << 16)), 10).names == (
        "a.exe",
    )
    beyond = [
        packed_list(packed, len(NAMES), b"\x5d" + struct.pack("<L", 1 << 30)),
        packed_list(packed, 1 << 40, b"\x5d" + struct.pack("<L", 1 << 16)),
        packed_list(packed, len(NAMES), b"\xff" + struct.pack("<L", 1 << 16)),
        packed_list(packed[:-8], len(NAMES), b"\x5d" + struct.pack("<L", 1 << 16)),
    ]
    for data in beyond:
        assert not list_7z(data, 10).full


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x17\x00",
        b"\x01\x04\x07\x0b\xff" + b"\xff" * 8 + b"\x00",  # so many folders
        b"\x01\x04\x07\x0b\x01\x00\xff" + b"\xff" * 8,  # so many coders
        b"\x01\x04\x07\x0b\x01\x00\x01\x11\x00\xff" + b"\xff" * 8 + b"\x01",  # so many inputs
        b"\x01\x04\x06\x00\xff" + b"\xff" * 8 + b"\x0a\x01",  # so many checksums
        b"\x01\x05\x01\x11\xff" + b"\xff" * 8,  # names of such a length
        b"\x01\x05\x01\x11\x01\x01",  # names that stand elsewhere
        b"\x01\x63",
    ],
)
def test_what_no_7z_file_has_is_not_believed(content):
    listing = list_7z(in_7z(content), 10)
    assert not listing.full
    assert listing.names == ()


def rar4(*blocks, flags=0):
    return b"Rar!\x1a\x07\x00" + b"\0\0\x73" + struct.pack("<HH", flags, 13) + bytes(6) + b"".join(blocks)


def rar4_file(name, content=b"", size=None, flags=0, large=0):
    if large:
        flags |= 0x100
    head = struct.pack("<LL", len(content), len(content) if size is None else size)
    head += b"\x02" + bytes(8) + b"\x1d\x30" + struct.pack("<HL", len(name), 32)
    head += struct.pack("<LL", 0, large) if large else b""
    head += name + (bytes(8) if flags & 0x400 else b"")
    return b"\0\0\x74" + struct.pack("<HH", flags | 0x8000, 7 + len(head)) + head + content


def test_rar_4_files_are_listed():
    comment = b"\0\0\x7a" + struct.pack("<HHL", 0x8000, 11, 4) + b"text"
    data = rar4(
        rar4_file(b"a.txt", b"packed", 900), comment, rar4_file(b"b\\c.exe", large=2), b"\0\0\x7b\0\x40\7\0"
    )
    listing = list_rar(data + b"whatever follows", 10)
    assert listing.names == ("a.txt", "b\\c.exe")
    assert listing.unpacked == 900 + (2 << 32)
    assert (listing.encrypted, listing.full) == (False, True)


def test_encrypted_rar_4_files():
    assert list_rar(rar4(rar4_file(b"a.txt", b"x" * 16, flags=0x404)), 10).encrypted
    names_too = list_rar(rar4(b"\x12" * 100, flags=0x80), 10)
    assert (names_too.encrypted, names_too.full, names_too.names) == (True, True, ())


def test_the_other_name_of_a_rar_4_file():
    """By its own name it is text, by that in Unicode, which counts, it is not."""
    every_way = b"".join(
        (
            b"\x04",  # the high octet of what comes
            bytes((0b00_01_10_11, ord("x"), 0x30, 0xAC, 0x20, 0x00)),  # x, U+0430, U+20AC, two as they are
            bytes((0b11_00_00_00, 0x80, 0x01))
            + b".ex"
            + b"\0e",  # two that are one higher, then as they stand
        )
    )
    name = b"???ab??" + b"\0" + every_way
    listing = list_rar(rar4(rar4_file(name, flags=0x200), rar4_file("\xe9.txt".encode(), flags=0x200)), 10)
    assert listing.names == ("???ab??", "x\u0430\u20acab\u0440\u0440.exe", "\xe9.txt")


def vint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def rar5(*blocks):
    return b"Rar!\x1a\x07\x01\x00" + rar5_block(1, vint(0)) + b"".join(blocks)


def rar5_block(kind, fields, extra=b"", data=b""):
    flags = (1 if extra else 0) | (2 if data else 0)
    head = (
        vint(kind) + vint(flags) + (vint(len(extra)) if extra else b"") + (vint(len(data)) if data else b"")
    )
    head += fields + extra
    return bytes(4) + vint(len(head)) + head + data


def rar5_file(name, size=0, data=b"", extra=b""):
    fields = vint(2 | 4) + vint(size) + vint(0x20) + bytes(8) + vint(0x580) + vint(1) + vint(len(name)) + name
    return rar5_block(2, fields, extra, data)


def test_rar_5_files_are_listed():
    data = rar5(
        rar5_file("\xfcbung.exe".encode(), 5000, b"packed"), rar5_block(3, b"CMT"), rar5_file(b"b.txt", 1 << 40),
        rar5_block(5, vint(0)),
    )  # fmt: skip
    listing = list_rar(data + b"whatever follows", 10)
    assert listing.names == ("\xfcbung.exe", "b.txt")
    assert listing.unpacked == 5000 + (1 << 40)
    assert (listing.encrypted, listing.full) == (False, True)


def test_encrypted_rar_5_files():
    crypt = vint(1 + 40) + vint(1) + bytes(40)
    time = vint(1 + 5) + vint(3) + bytes(5)
    assert list_rar(rar5(rar5_file(b"a.txt", 5, b"x", time + crypt)), 10).encrypted
    assert not list_rar(rar5(rar5_file(b"a.txt", 5, b"x", time)), 10).encrypted
    names_too = list_rar(rar5(rar5_block(4, bytes(20)), b"\x12" * 100), 10)
    assert (names_too.encrypted, names_too.full, names_too.names) == (True, True, ())


@pytest.mark.parametrize(
    "data", [rar4(b"\0\0\x74\0\0\3\0"), rar5(bytes(20)), rar5(b"\xff" * 30), b"Rar!\x1a\x07\x00"]
)
def test_broken_rar_files(data):
    assert not list_rar(data, 10).full


def test_many_files_in_rar_files():
    for data in (
        rar4(*[rar4_file(b"%d" % n) for n in range(11)]),
        rar5(*[rar5_file(b"%d" % n) for n in range(11)]),
    ):
        assert len(list_rar(data, 10).names) == 10
        assert not list_rar(data, 10).full
        assert list_rar(data, 11).full
    assert not list_rar(rar4(*[b"\0\0\x75\0\0\7\0"] * 50), 10).full


def tar(*entries, form=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


LONG = "folder/" * 40 + "\xfcbung.exe"


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_tar_files_are_listed(form):
    data = tar(("a.txt", b"x" * 1000), (LONG, b"MZ"), ("b", b""), form=form)
    listing = list_tar(data, 10)
    assert {"a.txt", LONG, "b"} <= set(listing.names)
    assert listing.full


def test_a_long_name_of_ustar():
    name = "folder/" * 20 + "a.exe"
    assert list_tar(tar((name, b""), form=tarfile.USTAR_FORMAT), 10).names == (name,)


def test_what_stands_behind_the_end_of_a_tar_file_counts():
    assert list_tar(tar(("a.txt", b"")) + tar(("b.exe", b"")), 10).names == ("a.txt", "b.exe")


def test_many_files_and_broken_ones_in_tar_files():
    data = tar(*((f"{n}", b"x") for n in range(11)))
    assert len(list_tar(data, 10).names) == 10
    assert not list_tar(data, 10).full
    assert list_tar(data, 11).full
    assert not list_tar(data[:1400] + b"?" * 5000, 11).full
    assert not list_tar(b"no archive", 10).full


@pytest.mark.parametrize(
    ("kind", "pack"), [("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)]
)
def test_compressed_tar_files(kind, pack):
    data = tar(("a.txt", os.urandom(100_000)), (LONG, b"MZ"))
    listing = list_compressed(pack(data), kind, 10, MIB)
    assert {"a.txt", LONG} <= set(listing.names)
    assert listing.full
    assert listing.unpacked == listing.read == len(data)
    halves = pack(data[:60_000]) + pack(data[60_000:])
    assert LONG in list_compressed(halves, kind, 10, MIB).names
    assert not list_compressed(pack(data), kind, 10, 50_000).full
    assert not list_compressed(pack(data)[:-20_000], kind, 10, MIB).full
    assert not list_compressed(pack(data)[:100], kind, 10, MIB).names


@pytest.mark.parametrize(
    ("kind", "pack"), [("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)]
)
def test_compressed_bombs_are_seen_by_a_part_of_them(kind, pack):
    listing = list_compressed(pack(bytes(40 * MIB)), kind, 10, 16 * MIB)
    assert listing.ratio > 100
    assert not listing.full
    assert listing.read <= 17 * MIB


def test_an_xz_file_that_wants_much_memory_is_left_alone():
    data = lzma.compress(b"x" * 1000, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}])
    assert not list_compressed(data, "xz", 10, MIB).full


@given(st.binary(max_size=2000))
def test_octets_that_are_compressed_are_seen_whole_and_what_is_cut_off_is_not(data):
    for kind, pack in (("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)):
        whole = list_compressed(pack(data), kind, 10, MIB)
        assert (whole.read, whole.full) == (len(data), True)
        assert not list_compressed(pack(data)[:-9], kind, 10, MIB).full


def test_a_gzip_file_says_its_name():
    out = io.BytesIO()
    with gzip.GzipFile("a.exe", "wb", fileobj=out) as file:
        file.write(b"MZ")
    assert list_compressed(out.getvalue(), "gzip", 10, MIB).names == ("a.exe",)


async def sorts(content, name="a.bin", **settings):
    head = f"Content-Disposition: attachment; filename={name}\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    raw = head.encode() + base64.b64encode(content)
    mail = make_mail(raw)
    noted = dict.fromkeys(("dangerous", "disguised", "encrypted", "nested", "bomb", "unreadable"), "note")
    await call(Attachments(AttachmentsSettings(**{**noted, **settings})), "message", mail=mail)
    return {f.props["problem"] for f in mail.findings if f.result == "hit"}


async def test_what_is_in_each_kind_of_archive_counts(seven_zip):
    bad = ("a.exe", b"MZ")
    for content in (
        seven_zip(dict([bad])),
        rar4(rar4_file(b"a.exe", b"MZ")),
        rar5(rar5_file(b"a.exe")),
        tar(bad),
        gzip.compress(tar(bad)),
        bz2.compress(tar(bad)),
        lzma.compress(tar(bad)),
    ):
        assert await sorts(content) == {"dangerous"}
    assert await sorts(seven_zip({"b.rar": b"x"})) == {"nested"}
    assert await sorts(seven_zip({"a": b"x"}, "-psecret", "-mhe=on")) == {"encrypted"}
    assert await sorts(seven_zip({"a": bytes(20 * MIB)})) == {"bomb"}
    assert await sorts(lzma.compress(bytes(20 * MIB))) == {"bomb"}
    assert await sorts(gzip.compress(tar(("a.txt", b"x")))) == set()
    assert await sorts(b"no archive", "a.rar") == {"unreadable"}
