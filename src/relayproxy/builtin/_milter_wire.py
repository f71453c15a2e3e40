"""The milter protocol (version 6) as octets: packets to a milter and replies from it.

There is no specification beside libmilter's headers (mfdef.h of Sendmail 8.14 and later); the names here are theirs
without their prefix. Must not know any socket, nor what a reply means for the mail.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, IntFlag
from ipaddress import ip_address
from typing import Final

from relayproxy.api import Client, HeaderField, ServiceError

VERSION: Final = 6
CHUNK: Final = 65_535
"""Octets of body in a packet (MILTER_CHUNK_SIZE)."""
LONGEST_REPLY: Final = 1024 * 1024 + 64
"""Octets of a reply: what libmilter sends at most (MILTER_MAX_DATA_SIZE of 1 MB)."""


class Does(IntFlag):
    """What a milter may do to a message (SMFIF_)."""

    ADDHDRS = 0x01
    CHGBODY = 0x02
    ADDRCPT = 0x04
    DELRCPT = 0x08
    CHGHDRS = 0x10
    QUARANTINE = 0x20
    CHGFROM = 0x40


class Skips(IntFlag):
    """What needs no sending (NO) or is not answered (NR), and other habits (SMFIP_)."""

    NOCONNECT = 0x01
    NOHELO = 0x02
    NOMAIL = 0x04
    NORCPT = 0x08
    NOBODY = 0x10
    NOHDRS = 0x20
    NOEOH = 0x40
    NR_HDR = 0x80
    NOUNKNOWN = 0x100
    NODATA = 0x200
    SKIP = 0x400
    NR_CONN = 0x1000
    NR_HELO = 0x2000
    NR_MAIL = 0x4000
    NR_RCPT = 0x8000
    NR_DATA = 0x1_0000
    NR_EOH = 0x4_0000
    NR_BODY = 0x8_0000
    HDR_LEADSPC = 0x10_0000


ALL_DEEDS: Final = Does(0x7F)
ALL_HABITS: Final = Skips(sum(Skips))


class Step(Enum):
    """A command that carries news: its octet, the bit that says it isn't wanted, and the one that it isn't answered."""

    CONNECT = b"C", Skips.NOCONNECT, Skips.NR_CONN
    HELO = b"H", Skips.NOHELO, Skips.NR_HELO
    MAIL = b"M", Skips.NOMAIL, Skips.NR_MAIL
    RCPT = b"R", Skips.NORCPT, Skips.NR_RCPT
    DATA = b"T", Skips.NODATA, Skips.NR_DATA
    HEADER = b"L", Skips.NOHDRS, Skips.NR_HDR
    EOH = b"N", Skips.NOEOH, Skips.NR_EOH
    BODY = b"B", Skips.NOBODY, Skips.NR_BODY
    END = b"E", Skips(0), Skips(0)

    @property
    def code(self) -> bytes:
        """The octet."""
        return self.value[0]

    def wanted(self, habits: Skips) -> bool:
        """Whether the milter wants to be told."""
        return not habits & self.value[1]

    def answered(self, habits: Skips) -> bool:
        """Whether the milter answers."""
        return not habits & self.value[2]


@dataclass(frozen=True, slots=True)
class Reply:
    """One packet from a milter: `code` is its octet (SMFIR_)."""

    code: str
    data: bytes

    def texts(self) -> list[str]:
        """Return the strings, each ended by NUL, that the data consists of; odd octets as surrogates."""
        if not self.data:
            return []
        body = self.data.removesuffix(b"\0")
        return [text.decode("utf-8", "surrogateescape") for text in body.split(b"\0")]

    def numbered(self) -> tuple[int, list[str]]:
        """Return the number in front and the strings after it. Raises ServiceError."""
        if len(self.data) < 4:
            raise ServiceError(f"a reply {self.code!r} is too short")
        return int.from_bytes(self.data[:4], "big"), Reply(self.code, self.data[4:]).texts()


def packet(code: bytes, data: bytes | memoryview = b"") -> bytes:
    """Return a packet: the length of what follows in four octets, the command, its data."""
    return b"".join(((len(data) + 1).to_bytes(4, "big"), code, data))


def strings(*texts: str) -> bytes:
    """Return texts as a milter reads them, each ended by NUL."""
    return b"".join(text.replace("\0", "").encode("utf-8", "surrogateescape") + b"\0" for text in texts)


def offer() -> bytes:
    """Return the packet that begins the negotiation."""
    return packet(b"O", struct.pack("!III", VERSION, ALL_DEEDS, ALL_HABITS))


def agreed(reply: Reply) -> Skips:
    """Return the habits that a milter chose. Raises ServiceError for a version or a wish that was not on offer."""
    if reply.code != "O" or len(reply.data) < 12:
        raise ServiceError("does not speak the milter protocol")
    version, deeds, habits = struct.unpack("!III", reply.data[:12])
    if not 2 <= version <= VERSION:
        raise ServiceError(f"speaks version {version} of the milter protocol")
    if deeds & ~int(ALL_DEEDS) or habits & ~int(ALL_HABITS):
        raise ServiceError("wants something of the milter protocol that was not on offer")
    return Skips(habits)


def macros(step: Step, values: Mapping[str, str]) -> bytes:
    """Return the packet that tells macros before a step; b"" if there are none."""
    known = [text for name, value in values.items() if value for text in (name, value)]
    return packet(b"D", step.code + strings(*known)) if known else b""


def connect(client: Client) -> bytes:
    """Return the packet of a new connection: the client's name, kind of address, port and address."""
    name = client.ptr or (f"[{client.ip}]" if client.ip else "localhost")
    if not client.ip:
        return packet(b"C", strings(name) + b"U")
    family = b"6" if ip_address(client.ip).version == 6 else b"4"
    return packet(b"C", strings(name) + family + client.port.to_bytes(2, "big") + strings(client.ip))


def header(field: HeaderField, habits: Skips) -> bytes:
    """Return the packet of a header field; folds are a bare LF here, as Sendmail has them."""
    value = field.raw.partition(b":")[2].removesuffix(b"\r\n").replace(b"\r\n", b"\n")
    if not habits & Skips.HDR_LEADSPC:
        value = value.lstrip(b" \t")
    return packet(b"L", field.name.encode() + b"\0" + value.replace(b"\0", b"") + b"\0")


def arguments(address: str, parameters: Iterable[str]) -> bytes:
    """Return an address of the envelope and its parameters as MAIL and RCPT carry them."""
    return strings(f"<{address}>", *parameters)
