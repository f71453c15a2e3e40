"""The messages that are sent: plain text of a given size, the same for all relays; for some cells with a signature."""

import random
import string
import time
from pathlib import Path

from bench.names import DOMAIN, SELECTOR
from relayproxy.mailauth.dkim_keys import read_key
from relayproxy.mailauth.dkim_sign import sign
from relayproxy.model.message import Message

_HEADER = (
    "From: Sender <sender@bench.example>\r\n"
    "To: Recipient <recipient@bench.example>\r\n"
    "Subject: A message of the bench\r\n"
    "Date: Mon, 02 Nov 2026 10:00:00 +0000\r\n"
    "Message-ID: <1@bench.example>\r\n"
    "MIME-Version: 1.0\r\n"
    "Content-Type: text/plain; charset=us-ascii\r\n"
    "\r\n"
)
_WIDTH = 74


def plain(size: int) -> bytes:
    """A message of `size` octets: words in lines of 74 characters, none beginning with a dot."""
    chance = random.Random(20261102)
    words = ["".join(chance.choices(string.ascii_letters, k=chance.randint(1, 12))) for _ in range(500)]
    text = ""
    while len(text) < 32 * _WIDTH:
        text += chance.choice(words) + " "
    block = "".join(text[at : at + _WIDTH].ljust(_WIDTH, "x") + "\r\n" for at in range(0, len(text), _WIDTH))
    room = size - len(_HEADER)
    body = (block * (room // len(block) + 1))[: room - 2]
    return (_HEADER + body.rstrip("\r\n") + "\r\n").encode("ascii")


def write(folder: Path, size: int) -> Path:
    """Write the message of `size` octets into `folder`, once."""
    path = folder / f"plain-{size}.eml"
    if not path.exists():
        path.write_bytes(plain(size))
    return path


def write_signed(folder: Path, size: int, key: Path) -> Path:
    """Write the same message with a DKIM signature of the file `key` on top, once."""
    path = folder / f"signed-{size}.eml"
    if not path.exists():
        octets = plain(size)
        value = sign(
            Message.from_bytes(octets),
            read_key(key.read_bytes()),
            domain=DOMAIN,
            selector=SELECTOR,
            now=int(time.time()),
        )
        path.write_bytes(b"DKIM-Signature: " + value.encode("ascii") + b"\r\n" + octets)
    return path
