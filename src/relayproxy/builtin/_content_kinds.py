"""What a file is, by its first octets and by what its name promises. Must not know messages or actions."""

import re

HEAD = 49_152
"""Octets of a part, as encoded, that are enough to tell its kind: an ISO 9660 image says so at 32 KiB."""

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"MZ", "executable"),
    (0, b"\x7fELF", "executable"),
    (0, b"\xfe\xed\xfa\xce", "executable"),
    (0, b"\xfe\xed\xfa\xcf", "executable"),
    (0, b"\xce\xfa\xed\xfe", "executable"),
    (0, b"\xcf\xfa\xed\xfe", "executable"),
    (0, b"\xca\xfe\xba\xbe", "executable"),  # a Java class, or Mach-O for several processors
    (0, b"dex\n", "executable"),
    (0, b"#!", "script"),
    (0, b"L\0\0\0\x01\x14\x02\0", "shortcut"),
    (0, b"MSCF", "cabinet"),
    (0, b"ITSF", "help"),
    (0x8001, b"CD001", "disk-image"),
    (0, b"conectix", "disk-image"),
    (0, b"vhdxfile", "disk-image"),
    (0, b"\xe4\x52\x5c\x7b\x8c\xd8\xa7\x4d", "onenote"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "ole"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"PK00PK\x03\x04", "zip"),
    (0, b"Rar!\x1a\x07", "rar"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"\x60\xea", "arj"),
    (7, b"**ACE**", "ace"),
    (2, b"-lh", "lzh"),
    (257, b"ustar", "tar"),
    (0, b"\x78\x9f\x3e\x22", "tnef"),
    (0, b"%PDF-", "pdf"),
    (0, b"{\\rt", "rtf"),
    (0, b"\x89PNG\r\n", "image"),
    (0, b"\xff\xd8\xff", "image"),
    (0, b"GIF8", "image"),
)
_HTML = re.compile(rb"\s*<(?:!doctype\s+html|html|script|hta:application)[\s>]", re.IGNORECASE)

KINDS = frozenset(kind for _, _, kind in _MAGIC) | {"html"}
"""All kinds that `kind_of` tells apart."""
UNLISTED = frozenset({"zstd", "arj", "ace", "lzh", "tnef"})
"""Archives whose contents nobody lists here."""
ARCHIVES = frozenset(
    {
        "zip",
        "rar",
        "7z",
        "gz",
        "tgz",
        "bz2",
        "tbz",
        "tbz2",
        "xz",
        "txz",
        "zst",
        "arj",
        "ace",
        "lzh",
        "lha",
        "tar",
        "cab",
        "z",
    }
)
"""Extensions of archives."""
MACRO_FILES = frozenset(
    {"docm", "dotm", "xlsm", "xltm", "xlam", "xlsb", "pptm", "potm", "ppam", "ppsm", "sldm"}
)
"""Extensions of office files that may hold macros."""

_SAYS = {
    "pdf": {"pdf"},
    **{key: {"image"} for key in ("png", "jpg", "jpeg", "gif")},
    **{key: {"zip", "ole"} for key in ("docx", "xlsx", "pptx", "odt", "ods", "odp")},
    **{key: {"ole", "zip", "rtf", "html"} for key in ("doc", "xls", "ppt")},
    "rtf": {"rtf"},
    **{key: {"html", "script", "rtf"} for key in ("txt", "csv", "log", "ics", "vcf")},
    **{key: {"image"} for key in ("mp3", "mp4", "wav", "avi", "mov", "bmp", "webp", "tif", "tiff")},
}
"""What may be found in files whose extension promises that they are harmless."""
_DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")


def kind_of(head: bytes) -> str:
    """Return the kind of the content that begins with `head`, or ""."""
    for place, magic, kind in _MAGIC:
        if head.startswith(magic, place) and (magic != b"MZ" or b"\0" in head[:64]):
            return kind
    return "html" if _HTML.match(head[:1024]) else ""


def is_disguised(extensions: frozenset[str], kind: str) -> bool:
    """Whether a name promises something harmless, and the content is known to be something else."""
    promised = [_SAYS[extension] for extension in extensions if extension in _SAYS]
    return bool(kind) and any(kind not in kinds for kinds in promised)


def has_direction_trick(name: str) -> bool:
    """Whether characters that turn the direction of writing hide what a name ends with (Unicode TR 36 section 2.1)."""
    return _DIRECTION.search(name) is not None
