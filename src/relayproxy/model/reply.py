"""SMTP replies as values (RFC 5321 section 4.2, RFC 2034, RFC 3463).

A reply refuses control characters when it is made, so no text, whoever wrote it, can become a second reply.
"""

import re
from dataclasses import dataclass, field

_LINE_ROOM = 506  # RFC 5321 section 4.5.3.1.5: 512 octets with the code, a blank and CRLF
_STATUS = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}\Z")


@dataclass(frozen=True, slots=True)
class Reply:
    """One logical reply: `code` 200-599, `status` an enhanced code such as "5.7.1" or "", `text` ASCII.

    Several lines are joined by a newline in `text`. Raises ValueError for anything that could break the line.
    """

    code: int
    status: str
    text: str
    _wire: bytes = field(default=b"", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 200 <= self.code <= 599:
            raise ValueError(f"{self.code} is not an SMTP reply code")
        text = self.text
        if not (text.isascii() and (text.isprintable() or text.replace("\n", " ").isprintable())):
            raise ValueError("a reply text is printable US-ASCII")
        if self.status and not _STATUS.match(self.status):
            raise ValueError(f"{self.status!r} is not an enhanced status code")
        if self.status and self.status[0] != str(self.code)[0] and self.code // 100 != 3:
            raise ValueError(f"status {self.status} does not belong to code {self.code}")

    def __bytes__(self) -> bytes:
        """Return the reply as it goes over the wire, every line within 512 octets."""
        if not self._wire:
            # Most replies are said again and again: what they look like is remembered.
            object.__setattr__(self, "_wire", self._written())
        return self._wire

    def _written(self) -> bytes:
        lead = f"{self.status} " if self.status else ""
        if "\n" not in self.text:
            return f"{self.code} {lead}{self.text}"[: _LINE_ROOM + 4].encode("ascii") + b"\r\n"
        *first, last = (f"{lead}{line}"[:_LINE_ROOM] for line in self.text.split("\n"))
        lines = [f"{self.code}-{line}\r\n" for line in first]
        lines.append(f"{self.code} {last}\r\n")
        return "".join(lines).encode("ascii")

    def __str__(self) -> str:
        text = self.text.replace("\n", " / ")
        return f"{self.code} {self.status} {text}" if self.status else f"{self.code} {text}"

    @property
    def ok(self) -> bool:
        """2yz: the command was carried out."""
        return 200 <= self.code <= 299

    @property
    def permanent(self) -> bool:
        """5yz: the client should not try the same again."""
        return self.code >= 500

    @property
    def temporary(self) -> bool:
        """4yz: the client keeps the mail and tries later."""
        return 400 <= self.code <= 499


def read_reply(text: str) -> Reply:
    """Return the reply that `str` made this of; several lines stay joined by a slash. Raises ValueError."""
    code, _, rest = text.partition(" ")
    status, _, after = rest.partition(" ")
    if _STATUS.match(status) and status[0] == code[:1]:
        return Reply(int(code), status, after)
    return Reply(int(code), "", rest)


def printable(text: str, limit: int = 400) -> str:
    """Return foreign text made fit for a reply or a log line: printable ASCII, at most `limit` characters."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
    return text[:limit]
