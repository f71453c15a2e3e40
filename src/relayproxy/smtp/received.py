"""The Received trace field (RFC 5321 section 4.4, RFC 3848, RFC 8314 section 7.4), and counting those of others.

Leaves recipients out, since a "for" clause would show a blind copy to the others. Must not know the clock: the
date is an argument.
"""

from functools import lru_cache

from relayproxy.model.client import Client

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SECONDS_A_DAY = 86_400


@lru_cache(maxsize=4)
def rfc5322_date(seconds: int) -> str:
    """Write a time (seconds since the epoch) as an RFC 5322 date in UTC."""
    days, rest = divmod(seconds, _SECONDS_A_DAY)
    # Days since 0000-03-01 in the proleptic Gregorian calendar make leap days the last day of a year.
    shifted = days + 719_468
    era, day_of_era = divmod(shifted, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted_month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted_month + 2) // 5 + 1
    month = shifted_month + 3 if shifted_month < 10 else shifted_month - 9
    year = year_of_era + era * 400 + (month <= 2)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{_DAYS[(days + 3) % 7]}, {day:02} {_MONTHS[month - 1]} {year} {clock} +0000"


def protocol_keyword(client: Client, *, smtputf8: bool) -> str:
    """Return the "with" keyword (RFC 3848, RFC 6531 section 4.3)."""
    if client.proto == "SMTP":
        return "SMTP"
    base = ("UTF8" if smtputf8 else "") + (
        "LMTP" if client.proto == "LMTP" else "SMTP" if smtputf8 else "ESMTP"
    )
    return base + ("S" if client.tls else "") + ("A" if client.identity else "")


def received_field(client: Client, *, by: str, id: str, when: float, smtputf8: bool = False) -> bytes:  # noqa: A002
    """Return our Received field as octets with folds and the final CRLF."""
    tls = f"\r\n\t(using {client.tls.version} with cipher {client.tls.cipher})" if client.tls else ""
    who = _from(client.helo, client.ip, client.ptr, tls)
    keyword = protocol_keyword(client, smtputf8=smtputf8)
    date = rfc5322_date(int(when))
    return f"{who}\tby {by} (relayproxy) with {keyword} id {id};\r\n\t{date}\r\n".encode()


@lru_cache(maxsize=1000)
def _from(helo: str, ip: str, ptr: str, tls: str) -> str:
    """The first line; most clients come again, or bring several messages."""
    ip = f"IPv6:{ip}" if ":" in ip else ip
    seen = f"{_atom(ptr)} [{ip}]" if ptr else f"[{ip}]" if ip else "local socket"
    return f"Received: from {_atom(helo)} ({seen}){tls}\r\n"


def _atom(helo: str) -> str:
    """A HELO name as it may stand in a header field: nothing that could end a word or open a comment."""
    if helo.isascii() and helo.replace(".", "").replace("-", "").isalnum():
        return helo
    return "".join(c if c.isalnum() or c in ".-_:[]" else "?" for c in helo)[:255] or "unknown"


def count_hops(head: bytes) -> int:
    """How many Received fields a header block, given in lower case, holds (RFC 5321 section 6.3)."""
    return head.count(b"\r\nreceived:") + head.startswith(b"received:")
