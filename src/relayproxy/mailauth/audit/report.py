"""What an audit says: one line for each thing that was looked at, and the records that would put it right.

Must not know what is audited.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["ok", "warning", "error"]

_STRING = 255  # octets of one string of a TXT record (RFC 1035 section 3.3.14)


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a zone: `value` is the text of a TXT record in one piece, or the data of another type.

    `why` is a comment for the zone file.
    """

    name: str
    value: str
    type: str = "TXT"
    why: str = ""

    def line(self, ttl: int = 3600) -> str:
        """Return the record in the syntax of zone files (RFC 1035 section 5.1), TXT cut into strings."""
        if self.type != "TXT":
            return f"{self.name}. {ttl} IN {self.type} {self.value}"
        text = self.value.replace("\\", "\\\\").replace('"', '\\"')
        return f"{self.name}. {ttl} IN TXT ( {' '.join(_strings(text))} )"


def _strings(text: str) -> Iterable[str]:
    """Cut an escaped text into quoted strings; an escape is never cut, and counts for more than it takes up."""
    while True:
        end = _STRING
        while end > 0 and (len(text[:end]) - len(text[:end].rstrip("\\"))) % 2:
            end -= 1
        yield f'"{text[:end]}"'
        text = text[end:]
        if not text:
            return


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was looked at.

    `check` is the subject ("spf", "dkim", "dmarc", "mta-sts", "tls-rpt", "mx", "ptr"), `name` the name in DNS (or the
    address) that was looked at, `text` what was found, in words that may quote a stranger's printable characters.
    `publish` are the records that would put it right.
    """

    check: str
    name: str
    level: Level
    text: str
    publish: tuple[Record, ...] = ()


def worst(lines: Iterable[Line]) -> Level:
    """Return the gravest level of some lines, "ok" if there are none."""
    found = {line.level for line in lines}
    return "error" if "error" in found else "warning" if "warning" in found else "ok"
