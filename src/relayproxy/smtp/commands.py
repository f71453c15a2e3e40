"""The arguments of MAIL and RCPT (RFC 5321 section 4.1.1, 3461, 4954, 6152, 6531, 8689).

Knows grammar only: what an address or a parameter may look like and what it means. Must not know whether it is
welcome.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from relayproxy.model.address import NULL_SENDER, Address
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.reply import Reply

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\-]"
_PLAIN = re.compile(
    rf"[ \t]*<({_ATOM}+)@(?=[^>]{{1,255}}>)([A-Za-z0-9_\-]+(?:\.[A-Za-z0-9_\-]+)*)\.?>(?:[ \t]+(.*))?\Z"
)
_ROUTE = re.compile(r"@[^@,:<>\s]+(?:,@[^@,:<>\s]+)*:")
_ATOMS = re.compile(rf"(?:{_ATOM}|[^\x00-\x7f])+\Z")
_QUOTED = re.compile(r'"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*"\Z')
_DOMAIN = re.compile(r"(?:[A-Za-z0-9_\-]|[^\x00-\x7f])+(?:\.(?:[A-Za-z0-9_\-]|[^\x00-\x7f])+)*\.?\Z")
_LITERAL = re.compile(r"\[[0-9A-Za-z:.\-]+\]\Z")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9\-]*)(?:=([^\x00-\x20=\x7f](?:[^\x00-\x20\x7f])*))?\Z")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*\Z")
_NOTIFY = frozenset({"NEVER", "SUCCESS", "FAILURE", "DELAY"})
_SIZE_DIGITS = 20  # RFC 1870 section 5


class CommandError(Exception):
    """The command can't be carried out as written; `reply` is the answer. State is unchanged."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Offered:
    """The extensions that this listener offers right now; parameters of others are refused with 555."""

    size: int = 0
    eightbit: bool = True
    smtputf8: bool = True
    dsn: bool = True
    auth: bool = True
    requiretls: bool = False


def _bad(text: str, status: str = "5.5.4", code: int = 501) -> CommandError:
    return CommandError(Reply(code, status, text))


def parse_path(text: str, what: str) -> tuple[Address, str]:
    """Split `<path> parameters` into the address and the rest.

    Source routes are accepted and dropped (RFC 5321 appendix C). Raises CommandError.
    """
    text = text.lstrip(" \t")
    if not text.startswith("<"):
        raise _bad(f"Syntax: {what}:<address>")
    end = _path_end(text)
    if end < 0:
        raise _bad(f"Syntax: {what}:<address>")
    path, rest = text[1:end], text[end + 1 :]
    if rest and rest[0] not in " \t":
        raise _bad(f"Syntax: {what}:<address> [parameters]")
    if not path:
        return NULL_SENDER, rest.strip(" \t")
    route = _ROUTE.match(path)
    return parse_address(path[route.end() :] if route else path), rest.strip(" \t")


def _path_end(text: str) -> int:
    quoted = escaped = False
    for position, char in enumerate(text):
        if escaped:
            escaped = False
        elif quoted and char == "\\":
            escaped = True
        elif char == '"':
            quoted = not quoted
        elif char == ">" and not quoted:
            return position
    return -1


def parse_address(path: str) -> Address:
    """Parse one mailbox without angle brackets. Raises CommandError (501 5.1.3)."""
    local, at, domain = path.rpartition("@")
    if not at:
        if path.lower() == "postmaster":
            return Address(path, "")
        raise _bad("The address needs a domain", "5.1.3")
    if not (_ATOMS.match(local) or _QUOTED.match(local)):
        raise _bad("Bad local part in the address", "5.1.3")
    if not (_DOMAIN.match(domain) or _LITERAL.match(domain)) or len(domain) > 255:
        raise _bad("Bad domain in the address", "5.1.3")
    return Address(local, domain.removesuffix("."))


def _parameters(text: str) -> Iterator[tuple[str, str | None]]:
    seen: set[str] = set()
    for word in text.split():
        match = _PARAMETER.match(word)
        if not match:
            raise _bad("Bad parameter syntax")
        key = match[1].upper()
        if key in seen:
            raise _bad(f"Parameter {key} given twice")
        seen.add(key)
        yield key, match[2]


def _unknown(key: str) -> CommandError:
    return CommandError(Reply(555, "5.5.4", f"Parameter {key} not recognized or not offered"))


def _envelope(sender: Address, text: str, offered: Offered) -> Envelope:
    values: dict[str, object] = {}
    for key, value in _parameters(text):
        match key, value:
            case "SIZE", str() if offered.size:
                if not (value.isascii() and value.isdigit()) or len(value) > _SIZE_DIGITS:
                    raise _bad("SIZE takes a number")
                values["size"] = int(value)
            case "BODY", str() if offered.eightbit:
                if value.upper() not in ("7BIT", "8BITMIME"):
                    raise _bad("BODY takes 7BIT or 8BITMIME")
                values["body"] = value.upper()
            case "SMTPUTF8", None if offered.smtputf8:
                values["smtputf8"] = True
            case "RET", str() if offered.dsn:
                if value.upper() not in ("FULL", "HDRS"):
                    raise _bad("RET takes FULL or HDRS")
                values["ret"] = value.upper()
            case "ENVID", str() if offered.dsn:
                if len(value) > 100 or not _XTEXT.match(value):
                    raise _bad("ENVID takes up to 100 characters of xtext")
                values["envid"] = value
            case "AUTH", str() if offered.auth:
                if not _XTEXT.match(value):
                    raise _bad("AUTH takes xtext")
                values["auth"] = value
            case "REQUIRETLS", None if offered.requiretls:
                values["requiretls"] = True
            case _:
                raise _unknown(key)
    return Envelope(sender, **values)  # type: ignore[arg-type]


def parse_mail(arg: str, offered: Offered) -> Envelope:
    """Parse the argument of MAIL, `FROM:<path> [parameters]`. Raises CommandError."""
    if arg[:5].upper() != "FROM:":
        raise _bad("Syntax: MAIL FROM:<address> [parameters]")
    match = _PLAIN.match(arg, 5)
    if match:
        sender, rest = Address(match[1], match[2]), match[3]
        if not rest:
            return Envelope(sender)
    else:
        sender, rest = parse_path(arg[5:], "MAIL FROM")
    envelope = _envelope(sender, rest, offered)
    if sender.needs_utf8 and not envelope.smtputf8:
        raise CommandError(Reply(553, "5.6.7", "The address needs SMTPUTF8"))
    return envelope


def parse_rcpt(arg: str, offered: Offered, *, smtputf8: bool) -> Recipient:
    """Parse the argument of RCPT, `TO:<path> [parameters]`. Raises CommandError."""
    if arg[:3].upper() != "TO:":
        raise _bad("Syntax: RCPT TO:<address> [parameters]")
    match = _PLAIN.match(arg, 3)
    if match:
        address, rest = Address(match[1], match[2]), match[3]
        if not rest:
            return Recipient(address)
    else:
        address, rest = parse_path(arg[3:], "RCPT TO")
    if not address:
        raise _bad("The recipient can't be the null address", "5.1.3")
    if address.needs_utf8 and not smtputf8:
        raise CommandError(Reply(553, "5.6.7", "The address needs SMTPUTF8"))
    notify: tuple[str, ...] = ()
    orcpt = ""
    for key, value in _parameters(rest):
        match key, value:
            case "NOTIFY", str() if offered.dsn:
                notify = tuple(value.upper().split(","))
                if not _NOTIFY.issuperset(notify) or ("NEVER" in notify and len(notify) > 1):
                    raise _bad("NOTIFY takes NEVER, or a list of SUCCESS, FAILURE and DELAY")
            case "ORCPT", str() if offered.dsn:
                kind, semicolon, _ = value.partition(";")
                if not (semicolon and kind) or len(value) > 500:
                    raise _bad("ORCPT takes type;address")
                orcpt = value
            case _:
                raise _unknown(key)
    return Recipient(address, notify, orcpt)


def mail_command(envelope: Envelope, size: int, extensions: frozenset[str]) -> str:
    """Write MAIL for a next hop that offers `extensions` (upper-case keywords); `size` in octets or 0."""
    words = [f"MAIL FROM:<{envelope.sender}>"]
    if size and "SIZE" in extensions:
        words.append(f"SIZE={size}")
    if envelope.body and "8BITMIME" in extensions:
        words.append(f"BODY={envelope.body}")
    if envelope.smtputf8 and "SMTPUTF8" in extensions:
        words.append("SMTPUTF8")
    if "DSN" in extensions:
        if envelope.ret:
            words.append(f"RET={envelope.ret}")
        if envelope.envid:
            words.append(f"ENVID={envelope.envid}")
    if envelope.auth and "AUTH" in extensions:
        words.append(f"AUTH={envelope.auth}")
    if envelope.requiretls:
        words.append("REQUIRETLS")
    return " ".join(words)


def rcpt_command(recipient: Recipient, extensions: frozenset[str]) -> str:
    """Write RCPT for a next hop that offers `extensions`."""
    command = f"RCPT TO:<{recipient.address}>"
    if "DSN" in extensions:
        if recipient.notify:
            command += f" NOTIFY={','.join(recipient.notify)}"
        if recipient.orcpt:
            command += f" ORCPT={recipient.orcpt}"
    return command
