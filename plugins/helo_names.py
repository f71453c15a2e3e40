"""Refuse mail from strangers whose server introduces itself by a name that can't be one.

    - helo_names

A plain module with hooks in it: to change what is accepted, edit it. The name is judged at EHLO and the mail refused
at MAIL, when it is known that the client has not logged in. Whether the name belongs to the client's address isn't
asked: RFC 5321 section 4.1.4 forbids refusing for that.
"""

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from relayproxy.api import Direction, Mail, Opinion, hook, printable, reject

after = ()
directions = frozenset({Direction.INBOUND})
PRIVATE = ("localhost", ".localhost", ".localdomain", ".local", ".lan", ".internal", ".invalid", ".test")


@hook
def helo(name: str, note: Callable[..., Any]) -> None:
    """Note what is wrong with the name; every message of the connection will carry that."""
    wrong = problem(name.rstrip(".").lower())
    note("helo", "fail" if wrong else "pass", reason=wrong)


@hook
def mail(mail: Mail) -> Opinion:
    """Refuse what a stranger sends under such a name."""
    found = mail.finding("helo")
    if found is None or found.result != "fail":
        return None
    return reject(f"Your mail server says it is {printable(mail.client.helo, 100)}, which {found.reason}")


def problem(name: str) -> str:
    """Return what is wrong with a HELO name, or ""."""
    if name.startswith("["):
        try:
            ip_address(name.strip("[]").removeprefix("ipv6:"))
        except ValueError:
            return "is not an IP address"
        return ""
    if name.endswith(PRIVATE):
        return "is a name for private networks"
    return "" if "." in name else "is not a full host name"
