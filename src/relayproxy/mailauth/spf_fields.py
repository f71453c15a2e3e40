"""SPF in header fields: Received-SPF written, and what earlier hops say about SPF read.

Must not evaluate SPF, nor believe what it reads: an earlier hop's word can only lower our trust.
"""

import re

from relayproxy.mailauth.authres import parse, parse_arc
from relayproxy.model.address import to_a_label
from relayproxy.model.message import HeaderField, Message
from relayproxy.model.reply import printable

_DOT_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*\Z")
_RECEIVED = re.compile(r"[ \t]*(fail|softfail)\b", re.IGNORECASE)
_FROM = re.compile(r'envelope-from\s*=\s*"?(?:[^"\s;]*@)?([^"\s;@]+)', re.IGNORECASE)
_ROOM = 8192
_SAYING = frozenset({"arc-authentication-results", "authentication-results", "received-spf"})
_READ = 32_768  # octets of all such fields together, from the top, where the last hops write


def received_spf(result: str, comment: str, **pairs: str) -> str:
    """Return the value of a Received-SPF field (RFC 7208 section 9.1), folded.

    Of the pairs those with a value are written, "_" in a key as "-":
    `received_spf("pass", "mx.example.com", client_ip="192.0.2.1", identity="mailfrom")`.
    """
    words = re.sub(r"([()\\])", r"\\\1", printable(comment, 200))
    listed = [f"{key.replace('_', '-')}={_quote(value)}" for key, value in pairs.items() if value]
    lead = f"{result} ({words})"
    return "\r\n\t".join([lead, ";\r\n\t".join(listed)]) if listed else lead


def _quote(value: str) -> str:
    text = printable(value, 256)
    if _DOT_ATOM.match(text):
        return text
    escaped = text.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'


def upgraded(message: Message, domain: str) -> str:
    """Return who says that SPF did not pass for `domain` before the message came here, or "".

    A forwarder whose address is in the victim's own record turns a forger's fail into a pass, by resending with
    the sender unchanged. Read are ARC-Authentication-Results, Authentication-Results and Received-SPF.
    """
    left = _READ
    for field in message.fields:
        name = field.name.lower()
        if name not in _SAYING:
            continue
        left -= len(field.raw)
        if left < 0:
            break
        if name == "received-spf":
            said = _received_says(field, domain)
        else:
            said = _results_say(field, arc=name.startswith("arc"), domain=domain)
        if said:
            return said
    return ""


def _results_say(field: HeaderField, *, arc: bool, domain: str) -> str:
    try:
        results = parse_arc(field.value)[1] if arc else parse(field.value)
    except ValueError:
        return ""
    for result in results.results:
        mail_from = result.props.get("smtp.mailfrom", "").rpartition("@")[2]
        if result.method == "spf" and result.result in ("fail", "softfail") and _same(mail_from, domain):
            return f"{printable(results.authserv_id, 80)} said {result.result}"
    return ""


def _received_says(field: HeaderField, domain: str) -> str:
    text = field.value[:_ROOM]
    result, sender = _RECEIVED.match(text), _FROM.search(text)
    if result and sender and _same(sender[1], domain):
        return f"Received-SPF said {result[1].lower()}"
    return ""


def _same(left: str, right: str) -> bool:
    return to_a_label(left).rstrip(".") == right
