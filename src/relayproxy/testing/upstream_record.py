"""What the test upstream offers and what it remembers: plain values, octets as they came."""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from relayproxy.testing.faults import Say

PATH = re.compile(rb'[^<]*<((?:"(?:[^"\\]|\\.)*"|[^>"])*)>')
_PARAMETERS = {  # the extension that allows a parameter of MAIL or RCPT
    b"SIZE": "size",
    b"BODY": "eightbitmime",
    b"SMTPUTF8": "smtputf8",
    b"RET": "dsn",
    b"ENVID": "dsn",
    b"NOTIFY": "dsn",
    b"ORCPT": "dsn",
    b"AUTH": "auth",
    b"REQUIRETLS": "requiretls",
}


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the upstream offers at EHLO. `size` is the limit in octets, 0 for none, None for no SIZE at all.

    `starttls` is the context to offer STARTTLS with, `auth` maps logins to passwords, `xclient` and
    `xforward` list attribute names, `extra` are further EHLO lines.
    """

    pipelining: bool = True
    size: int | None = 0
    eightbitmime: bool = True
    smtputf8: bool = True
    chunking: bool = False
    dsn: bool = False
    enhancedstatuscodes: bool = True
    requiretls: bool = False
    starttls: ssl.SSLContext | None = None
    auth: Mapping[str, str] = field(default_factory=dict)
    xclient: tuple[str, ...] = ()
    xforward: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    def lines(self, *, secure: bool) -> list[str]:
        """Return the lines after the greeting of an EHLO reply."""
        offered = {
            "PIPELINING": self.pipelining,
            f"SIZE {self.size or ''}".strip(): self.size is not None,
            "8BITMIME": self.eightbitmime,
            "SMTPUTF8": self.smtputf8,
            "CHUNKING": self.chunking,
            "DSN": self.dsn,
            "ENHANCEDSTATUSCODES": self.enhancedstatuscodes,
            "REQUIRETLS": self.requiretls and secure,
            "STARTTLS": self.starttls is not None and not secure,
            "AUTH PLAIN LOGIN": bool(self.auth),
            f"XCLIENT {' '.join(self.xclient)}": bool(self.xclient),
            f"XFORWARD {' '.join(self.xforward)}": bool(self.xforward),
        }
        return [line for line, on in offered.items() if on] + list(self.extra)

    def allows(self, parameter: bytes) -> bool:
        """Whether a parameter of MAIL or RCPT (upper case, without its value) belongs to what is offered."""
        name = _PARAMETERS.get(parameter, "")
        if name == "size":
            return self.size is not None
        return bool(name) and bool(getattr(self, name))


@dataclass(frozen=True, slots=True)
class Peer:
    """What a session knows of its client: numbers, names, TLS and what XCLIENT and XFORWARD said (raw).

    `ip` is where its connection came from, "" for a Unix socket.
    """

    session: int
    ip: str = ""
    helo: bytes = b""
    tls: str = ""
    certificate: bytes = b""
    login: str = ""
    xclient: Mapping[bytes, bytes] = field(default_factory=dict)
    xforward: Mapping[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sunk:
    """One message whose content arrived whole.

    `mail` and `rcpts` are the raw command lines of what was agreed to, without line end. `replies` are the
    final replies as sent: one in all under SMTP, one per recipient under LMTP, fewer if the connection ended.
    """

    peer: Peer
    mail: bytes
    rcpts: tuple[bytes, ...]
    content: bytes
    chunked: bool
    lmtp: bool
    replies: list[bytes] = field(default_factory=list)

    @property
    def sender(self) -> str:
        """The address in MAIL."""
        return path_of(self.mail)

    @property
    def recipients(self) -> tuple[str, ...]:
        """The addresses that the final reply made ours to deliver."""
        yes = [Say(reply).agrees for reply in self.replies]
        if not self.lmtp:
            yes *= len(self.rcpts)
        return tuple(path_of(line) for line, agreed in zip(self.rcpts, yes, strict=False) if agreed)

    @property
    def body(self) -> bytes:
        """The octets after the header block, or all of them when there is no blank line."""
        head, blank, body = self.content.partition(b"\r\n\r\n")
        return body if blank else head


def path_of(line: bytes) -> str:
    """Return the address of a MAIL or RCPT line, "" for the null sender or none."""
    match = PATH.match(line)
    return match[1].decode("utf-8", "replace") if match else ""
