"""What an upstream can do wrong, as values: where (Step), what (an action), which time (Fault), and the plan of them.

For `relayproxy.testing.upstream`, which acts them out. Must not know sockets.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

_YES = re.compile(rb"[23][0-9][0-9](?: |\Z)")


class Step(Enum):
    """The places in a transaction where a fault can sit, in the order in which they come."""

    CONNECT = "connect"  # before the banner, which still follows if the connection lives
    BANNER = "banner"
    EHLO = "ehlo"  # also HELO and LHLO
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"  # the n-th of the transaction, 0 is the first
    DATA = "data"  # the go-ahead, or the answer to a BDAT that is not the last
    CONTENT = "content"  # in the middle of the content, after so many octets
    DOT = "dot"  # the final reply; under LMTP the n-th of them
    AFTER = "after"  # when the final reply is out
    RSET = "rset"


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the connection properly (FIN)."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Close the connection with a TCP reset."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Neither read nor answer until the sink is released; then go on as if nothing had been."""


@dataclass(frozen=True, slots=True)
class Trickle:
    """Send the usual reply one octet at a time."""


@dataclass(frozen=True, slots=True)
class Say:
    """Send `data` in place of the usual reply, octet for octet; `close` ends the connection after it.

    The sink's own state follows the code of the last line: 2yz and 3yz mean yes, all else means no.
    """

    data: bytes
    close: bool = False

    @property
    def agrees(self) -> bool:
        """Whether the sink carries on as if it had agreed."""
        return _YES.match(self.data.removesuffix(b"\r\n").rpartition(b"\r\n")[2]) is not None


Action: TypeAlias = Disconnect | Reset | Stall | Trickle | Say


def answer(code: int, *lines: str, close: bool = False) -> Say:
    """Return a proper reply as an action: `code` with one line of text or several, in UTF-8."""
    texts = lines or ("",)
    first = "".join(f"{code}-{text}\r\n" for text in texts[:-1])
    return Say(f"{first}{code} {texts[-1]}\r\n".encode(), close)


NONSENSE = {
    "binary": Say(b"\x16\x03\x01\x02\x00\x01\x00\xff\xfe\r\n"),
    "no code": Say(b"all is well\r\n"),
    "code of two digits": Say(b"25 fine\r\n"),
    "code out of range": Say(b"999 fine\r\n"),
    "code changes": Say(b"250-one\r\n550 two\r\n"),
    "over-long line": Say(b"250 " + b"x" * 200_000 + b"\r\n"),
    "too many lines": Say(b"250-more\r\n" * 5_000 + b"250 end\r\n"),
}
"""Octets that are no reply (RFC 5321 section 4.2), by a name for the test's label."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `action` at `step`.

    `nth` picks one recipient or one final LMTP reply (None: any), `after` the octets of content before a
    CONTENT fault, `times` how often it happens in all (0: always).
    """

    step: Step
    action: Action
    nth: int | None = None
    after: int = 0
    times: int = 1


class FaultPlan:
    """The faults that are still to come."""

    __slots__ = ("_pending",)

    def __init__(self, *faults: Fault) -> None:
        self._pending: list[tuple[Fault, int]] = []
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """Plan one more; of two that fit the same place, the one that was planned first comes first."""
        self._pending.append((fault, fault.times))

    def clear(self) -> None:
        """Forget all that has not happened yet."""
        self._pending.clear()

    def upcoming(self, step: Step) -> Fault | None:
        """Return the next fault planned at `step`, without using it up."""
        return next((fault for fault, _ in self._pending if fault.step is step), None)

    def take(self, step: Step, nth: int = 0) -> Action | None:
        """Return the action for this place and count it as done, or None where all goes well."""
        for position, (fault, left) in enumerate(self._pending):
            if fault.step is step and fault.nth in (None, nth):
                if left == 1:
                    del self._pending[position]
                elif left:
                    self._pending[position] = (fault, left - 1)
                return fault.action
        return None
