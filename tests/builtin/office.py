"""Office files with macros, put together here: a compound file ([MS-CFB]) with a VBA project ([MS-OVBA])."""

import io
import struct
import zipfile

FREE, END, FAT = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD
SECTOR, SMALL = 512, 64


def compressed(data):
    """Return a compressed container of literals alone ([MS-OVBA] 2.4.1)."""
    out = b"\x01"
    for at in range(0, len(data), 4096):
        chunk = data[at : at + 4096]
        packed = b"".join(b"\0" + chunk[i : i + 8] for i in range(0, len(chunk), 8))
        if len(packed) > 4094:
            out += struct.pack("<H", 0x3000 | 4095) + chunk.ljust(4096, b"\0")
        else:
            out += struct.pack("<H", 0xB000 | len(packed) - 1) + packed
    return out


def record(kind, data):
    return struct.pack("<HL", kind, len(data)) + data


def project_directory(modules):
    wide = "Project".encode("utf-16-le")
    out = (
        record(1, struct.pack("<L", 1))
        + record(2, struct.pack("<L", 0x409))
        + record(0x14, struct.pack("<L", 0x409))
    )
    out += record(3, struct.pack("<H", 1252)) + record(4, b"Project")
    out += record(5, b"") + record(0x40, b"") + record(6, b"") + record(0x3D, b"")
    out += record(7, bytes(4)) + record(8, bytes(4)) + struct.pack("<HLLH", 9, 4, 1, 1)
    out += record(0x0C, b"") + record(0x3C, b"")
    out += record(0x0F, struct.pack("<H", len(modules))) + record(0x13, b"\xff\xff")
    for name in modules:
        wide = name.encode("utf-16-le")
        out += (
            record(0x19, name.encode())
            + record(0x47, wide)
            + record(0x1A, name.encode())
            + record(0x32, wide)
        )
        out += record(0x1C, b"") + record(0x48, b"") + record(0x31, bytes(4)) + record(0x1E, bytes(4))
        out += record(0x2C, b"\xff\xff") + record(0x21, b"") + record(0x2B, b"")
    return compressed(out + record(0x10, b""))


def compound_file(tree):
    """Return a compound file of a dictionary of folders and streams; each folder's entries are a list by right siblings."""
    entries, small = [["Root Entry", 5, FREE, FREE, END, 0]], b""
    small_table, large = [], []

    def add(folder, parent):
        nonlocal small
        last = None
        for name, content in folder.items():
            index = len(entries)
            is_folder = isinstance(content, dict)
            entry = [name, 1 if is_folder else 2, FREE, FREE, 0 if is_folder else END, 0]
            entries.append(entry)
            if last is None:
                entries[parent][3] = index
            else:
                entries[last][2] = index
            last = index
            if is_folder:
                add(content, index)
            elif len(content) < 4096 and content:
                entry[4], entry[5] = len(small) // SMALL, len(content)
                count = -(-len(content) // SMALL)
                small_table.extend([*range(entry[4] + 1, entry[4] + count), END])
                small += content.ljust(count * SMALL, b"\0")
            elif content:
                entry[5] = len(content)
                large.append((entry, content))

    add(tree, 0)
    entries[0][5] = len(small)
    sectors, table = [], []

    def put(content):
        first, count = len(sectors), -(-len(content) // SECTOR)
        if not count:
            return END
        sectors.extend(content[i * SECTOR : (i + 1) * SECTOR].ljust(SECTOR, b"\0") for i in range(count))
        table.extend([*range(first + 1, first + count), END])
        return first

    for entry, content in large:
        entry[4] = put(content)
    entries[0][4] = put(small)
    padded = small_table + [FREE] * (-len(small_table) % 128)
    small_first = put(struct.pack(f"<{len(padded)}L", *padded))
    directory = b"".join(_entry(*entry) for entry in entries)
    directory += _entry("", 0, FREE, FREE, 0, 0) * (-len(entries) % 4)
    directory_first = put(directory)
    tables = 1
    while tables * 128 < len(sectors) + tables:
        tables += 1
    first_table = len(sectors)
    table += [FAT] * tables
    table += [FREE] * (tables * 128 - len(table))
    sectors.append(struct.pack(f"<{len(table)}L", *table))
    places = [*range(first_table, first_table + tables)] + [FREE] * (109 - tables)
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH6x", 0x3E, 3, 0xFFFE, 9, 6)
    header += struct.pack(
        "<LLLLLLLLL", 0, tables, directory_first, 0, 4096, small_first, len(padded) // 128, END, 0
    )
    return header + struct.pack("<109L", *places) + b"".join(sectors)


def _entry(name, kind, right, child, first, size):
    wide = name.encode("utf-16-le")
    return (
        wide.ljust(64, b"\0")
        + struct.pack("<HBBLLL", len(wide) + 2 if name else 0, kind, 1, FREE, right, child)
        + bytes(36)
        + struct.pack("<LQ", first, size)
    )


def project(source):
    """Return the streams of a VBA project with one module."""
    return {
        "VBA": {
            "dir": project_directory(["ThisDocument"]),
            "ThisDocument": compressed(source),
            "_VBA_PROJECT": b"\xcc\x61\xff\xff\x00\x00\x00",
        },
        "PROJECT": b'ID="{00000000-0000-0000-0000-000000000000}"\r\nDocument=ThisDocument/&H00000000\r\nName="Project"\r\n',
    }


def doc(source=None):
    """Return a Word 97 file, with a macro or without."""
    return compound_file({"WordDocument": bytes(4096), **({"Macros": project(source)} if source else {})})


def docm(source):
    """Return a Word 2007 file with a macro."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/document.xml", "<document/>")
        archive.writestr("word/vbaProject.bin", compound_file(project(source)))
    return out.getvalue()
