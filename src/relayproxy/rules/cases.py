"""Tests that stand beside the rules: a message with its envelope, and what the rules must say of it.

Reads them and makes the mail that they describe. Must not know how rules are asked.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from relayproxy.api import Address, Client, Direction, Envelope, Finding, Mail, Message, Recipient, TlsInfo
from relayproxy.model.finding import RESULTS
from relayproxy.model.refused import Refused, quoted
from relayproxy.model.sizes import parse_size
from relayproxy.rules.operators import as_list
from relayproxy.rules.problems import Flaw, FlawError, Path, fail, guess
from relayproxy.rules.texts import encoded

KEYS = ("name", "given", "expect")
GIVEN = {
    "sender": "the envelope sender; <> is the null sender",
    "recipients": "an address or a list; left out: ana@example.net",
    "client": "a mapping: ip, ptr, helo, login, trusted, tls (true or a version)",
    "listener": "the name of the listener",
    "direction": "inbound, outbound or internal; left out: outbound with a login or trust, else inbound",
    "headers": "a mapping of header fields; a list of values makes several fields",
    "message": "the whole message, instead of headers and body",
    "body": "the text of the message",
    "attachments": "a list of file names",
    "size": "the size that the message shall have",
    "findings": "what plugins before the rules found: {spf: fail}, or {dkim: {result: pass, header.d: example.org}}",
    "time": "when it arrives",
    "listed": "names of DNS lists that list whatever is asked",
    "repeat": "how often it has come before, for rate limits",
}
EXPECT = {
    "verdict": "accept, reject, defer, discard or hold",
    "rule": "the id of the rule that decided, or of one or several that matched",
    "code": "the code of the reply",
    "status": "its enhanced status",
    "text": "what its text holds",
    "score": "the sum of all scores",
    "tags": "the tags of the message",
    "headers": "a mapping: what fields are afterwards (null: not there)",
    "recipients": "who gets it afterwards",
    "route": "the route that a rule chose (null: none did)",
    "require_tls": "whether it goes onward over TLS only",
}
CLIENT = ("ip", "ptr", "helo", "login", "trusted", "tls")
VERDICTS = ("accept", "reject", "defer", "discard", "hold")
_LONGEST_FILL = 64 << 20
_TLS = TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256)
_USUAL = {"From": "Someone <someone@example.org>", "To": "ana@example.net", "Subject": "test"}


@dataclass(frozen=True, slots=True)
class Case:
    """One test: how it is called, where it stands, the mail, and what is expected of it."""

    name: str
    path: Path
    mail: Mail
    now: float
    expect: Mapping[str, Any]
    listed: frozenset[str] = frozenset()
    repeat: int = 0
    recipients: tuple[Recipient, ...] = field(default=())


def read_cases(value: Any, rule_ids: Sequence[str]) -> tuple[list[Case], list[Flaw]]:
    """Return the tests as written under `tests:`, and what is wrong with them."""
    flaws: list[Flaw] = []
    cases: list[Case] = []
    if value is not None and not isinstance(value, (list, tuple)):
        return [], [
            Flaw("RP110", ("tests",), "a list of tests is wanted", "begin each with a dash: - name: ...")
        ]
    for number, given in enumerate(value or ()):
        try:
            cases.append(_read(given, ("tests", number), rule_ids))
        except FlawError as error:
            flaws.append(error.flaw)
    return cases, flaws


def _known(value: Any, known: Any, at: Path, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise fail("RP816", at, f"{what} is a mapping", f"keys here: {', '.join(known)}")
    for key in value:
        if key not in known:
            hint = guess(str(key), known, "keys here") or f"one of {', '.join(known)}"
            raise fail("RP101", (*at, key), f"unknown key {quoted(key)}", hint, on_key=True)
    return value


def _read(value: Any, at: Path, rule_ids: Sequence[str]) -> Case:
    _known(value, KEYS, at, "a test")
    name = value.get("name", f"test {at[-1]}")
    if not isinstance(name, str):
        raise fail("RP110", (*at, "name"), "text is wanted", "quote it to make it text")
    if "expect" not in value:
        raise fail(
            "RP102", at, "key 'expect' is missing: a test that expects nothing tells nothing", on_key=True
        )
    expect = _expected(value["expect"], (*at, "expect"), rule_ids)
    given = _known(value.get("given", {}), GIVEN, (*at, "given"), "given")
    where = (*at, "given")
    now = _moment(given.get("time", "2026-06-15T12:00:00Z"), (*where, "time"))
    recipients = tuple(
        Recipient(_address(text, (*where, "recipients")))
        for text in as_list(given.get("recipients", "ana@example.net"))
    )
    client = _client(given, where)
    direction = _direction(given, client, where)
    message = _message(given, where)
    mail = Mail(
        "test.1",
        client,
        Envelope(
            _address(given.get("sender", "someone@example.org"), (*where, "sender")),
            recipients,
            size=message.size,
        ),
        message,
        direction=direction,
        received_at=now,
        findings=_findings(given.get("findings", {}), (*where, "findings")),
    )
    repeat = given.get("repeat", 0)
    if not isinstance(repeat, int) or isinstance(repeat, bool) or not 0 <= repeat <= 100_000:
        raise fail("RP203", (*where, "repeat"), "a number from 0 to 100000 is wanted")
    return Case(
        name, at, mail, now, expect, frozenset(map(str, as_list(given.get("listed", ())))), repeat, recipients
    )


def _expected(value: Any, at: Path, rule_ids: Sequence[str]) -> Mapping[str, Any]:
    expect = _known(value, EXPECT, at, "expect")
    if not expect:
        raise fail("RP816", at, "nothing is expected", f"one of {', '.join(EXPECT)}")
    verdict = expect.get("verdict")
    if verdict is not None and verdict not in VERDICTS:
        raise fail(
            "RP202", (*at, "verdict"), f"{quoted(verdict)} is no verdict", guess(str(verdict), VERDICTS)
        )
    for name in as_list(expect.get("rule", ())):
        if name not in rule_ids:
            raise fail("RP816", (*at, "rule"), f"there is no rule {quoted(name)}", guess(str(name), rule_ids))
    return expect


def _address(text: Any, at: Path) -> Address:
    if not isinstance(text, str):
        raise fail("RP110", at, "an address is wanted")
    local, sign, domain = text.removeprefix("<").removesuffix(">").rpartition("@")
    if not sign and text not in ("", "<>") and text.lower() != "postmaster":
        raise fail("RP822", at, f"{quoted(text)} is no address", "write one such as ana@example.net")
    return Address(local, domain) if sign else Address(text.removeprefix("<").removesuffix(">"), "")


def _client(given: Mapping[str, Any], where: Path) -> Client:
    said = _known(given.get("client", {}), CLIENT, (*where, "client"), "client")
    tls = said.get("tls", False)
    login = str(said.get("login", ""))
    version = tls if isinstance(tls, str) else f"TLSv{tls}" if isinstance(tls, float) else _TLS.version
    return Client(
        "test",
        str(given.get("listener", "inbound")),
        str(said.get("ip", "192.0.2.1")),
        port=49152,
        helo=str(said.get("helo", "client.example.org")),
        ptr=str(said.get("ptr", "")),
        proto="ESMTP",
        tls=TlsInfo(version, _TLS.cipher, _TLS.bits) if tls else None,
        identity=login,
        trusted=bool(said.get("trusted", login)),
    )


def _direction(given: Mapping[str, Any], client: Client, where: Path) -> Direction:
    said = given.get("direction", "outbound" if client.trusted else "inbound")
    words = [direction.value for direction in Direction]
    if said not in words:
        raise fail("RP202", (*where, "direction"), f"{quoted(said)} is no direction", guess(str(said), words))
    return Direction(said)


def _moment(value: Any, at: Path) -> float:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise fail("RP210", at, f"{quoted(value)} is no date", "write 2026-06-15T12:00:00Z") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _findings(value: Any, at: Path) -> tuple[Finding, ...]:
    if not isinstance(value, Mapping):
        raise fail("RP816", at, "findings is a mapping", "write {spf: fail}")
    found = []
    for method, given in value.items():
        for item in as_list(given):
            said = item if isinstance(item, Mapping) else {"result": item}
            result = said.get("result", "hit")
            if not isinstance(result, str) or result not in RESULTS:
                raise fail(
                    "RP202",
                    (*at, method),
                    f"{quoted(result)} is no result",
                    guess(str(result), RESULTS) or f"one of {', '.join(sorted(RESULTS))}",
                )
            props = {key: str(text) for key, text in said.items() if key not in ("result", "score", "reason")}
            score = said.get("score", 0)
            if isinstance(score, bool) or not isinstance(score, (int, float)):
                raise fail("RP110", (*at, method, "score"), "a score is a number")
            found.append(Finding(method, result, float(score), props, str(said.get("reason", "")), method))
    return tuple(found)


def _message(given: Mapping[str, Any], where: Path) -> Message:
    """Return the message that is described; without a word about it, a short one."""
    if "message" in given:
        if not isinstance(given["message"], str):
            raise fail("RP110", (*where, "message"), "text is wanted", "write it as a block: message: |")
        text = given["message"].replace("\r\n", "\n").replace("\n", "\r\n")
        return _filled(Message.from_bytes(text.encode()), given, where)
    headers = given.get("headers", {})
    if not isinstance(headers, Mapping):
        raise fail("RP816", (*where, "headers"), "headers is a mapping", "write {Subject: hello}")
    names = {str(name).lower() for name in headers}
    lines = [f"{name}: {value}" for name, value in _USUAL.items() if name.lower() not in names]
    for name, value in headers.items():
        if value is not None:
            lines += [f"{name}: {_clean(one)}" for one in as_list(value)]
    body = str(given.get("body", "Hello\n")).replace("\r\n", "\n").replace("\n", "\r\n")
    files = as_list(given.get("attachments", ()))
    if files:
        lines.append('Content-Type: multipart/mixed; boundary="between"')
        body = _with_files(body, [str(name) for name in files])
    raw = ("\r\n".join(lines) + "\r\n\r\n" + body).encode("utf-8", "replace")
    return _filled(Message.from_bytes(raw), given, where)


def _clean(value: Any) -> str:
    return " ".join(str(value).split())


def _with_files(body: str, names: Sequence[str]) -> str:
    parts = [f"--between\r\nContent-Type: text/plain\r\n\r\n{body}"]
    for name in names:
        written = encoded(_clean(name).replace('"', ""))
        content = b64encode(name.encode()).decode()
        parts.append(
            f"--between\r\nContent-Type: application/octet-stream\r\n"
            f'Content-Disposition: attachment; filename="{written}"\r\n'
            f"Content-Transfer-Encoding: base64\r\n\r\n{content}"
        )
    return "\r\n".join((*parts, "--between--", ""))


def _filled(message: Message, given: Mapping[str, Any], where: Path) -> Message:
    """Fill a message up to the size that it shall have."""
    if "size" not in given:
        return message
    size = given["size"]
    try:
        octets = parse_size(size)
    except Refused as error:
        raise fail("RP204", (*where, "size"), error.message, error.hint) from error
    if octets > _LONGEST_FILL:
        raise fail("RP204", (*where, "size"), f"{quoted(size)} is not a size up to 64 MiB", "write 10 MB")
    missing = octets - message.size
    if missing <= 2:
        return message
    return Message(message.head, bytes(message.body) + b"x" * (missing - 2) + b"\r\n")
