"""One message told to one milter: the steps of an SMTP transaction, its answers, and what it wants changed.

Takes a pair of streams and has no time limits of its own. Must not know where the milter is, nor at which point of the
pipeline it is asked.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from relayproxy.api import (
    Action,
    AddRecipient,
    Address,
    DropRecipient,
    Edit,
    Mail,
    Message,
    Recipient,
    ReplaceBody,
    ServiceError,
    SetSender,
    Verdict,
    defer,
    discard,
    hold,
    printable,
    reject,
)
from relayproxy.api import Reply as SmtpReply
from relayproxy.builtin import _milter_wire as wire
from relayproxy.builtin._changes import added, dropped, replaced
from relayproxy.builtin._milter_wire import Reply, Skips, Step
from relayproxy.builtin._remote import acknowledge, send

_REPLY_LINE: Final = re.compile(
    r"([45][0-9]{2})(?:[ -](?:([45]\.[0-9]{1,3}\.[0-9]{1,3}) )?(.*))?\Z", re.DOTALL
)
_BODY_ROOM: Final = 16 * 1024 * 1024  # octets that a new body may have beyond twice those of the old one
_MOST_EDITS: Final = 1000
_REFUSALS: Final = "rtyd4f"


@dataclass(slots=True)
class Said:
    """What a milter said about a message: a verdict or None, and the edits that it wants."""

    verdict: Verdict | None = None
    edits: list[Edit] = field(default_factory=list)


class Talk:
    """The conversation about `mail` over one connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mail: Mail, hostname: str
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._mail = mail
        self._hostname = hostname
        self._habits = Skips(0)

    async def held(self) -> Said:
        """Tell everything and return what the milter said.

        Raises ServiceError for what the protocol does not allow, OSError and EOFError.
        """
        await send(self._writer, wire.offer())
        self._habits = wire.agreed(await self._reply())
        said = Said()
        reply = await self._told()
        if reply is None:
            await self._tell(Step.END, wire.packet(Step.END.code))
            reply = await self._changes(said)
        said.verdict = _strongest(said.verdict, _verdict(reply))
        if said.verdict is not None and said.verdict.action is not Action.HOLD:
            said.edits.clear()
        with suppress(OSError):  # all is said; it may have left already
            await send(self._writer, wire.packet(b"Q"))
        return said

    async def _told(self) -> Reply | None:
        """Tell what precedes the end; return the answer that makes the rest needless, or None."""
        for step, packet in self._steps():
            if not step.wanted(self._habits):
                continue
            await self._tell(step, packet)
            if not step.answered(self._habits):
                continue
            reply = await self._reply()
            if reply.code in _REFUSALS:
                return reply
            if reply.code == "a" and step is not Step.RCPT:
                return reply
            if reply.code == "s" and step is Step.BODY:
                return None
            if reply.code not in "ca":
                raise ServiceError(f"answered {reply.code!r} to {step.name}")
        return None

    def _steps(self) -> Iterator[tuple[Step, bytes]]:
        mail = self._mail
        yield Step.CONNECT, wire.connect(mail.client)
        yield Step.HELO, wire.packet(b"H", wire.strings(mail.client.helo))
        yield Step.MAIL, wire.packet(b"M", wire.arguments(str(mail.envelope.sender), _mail_parameters(mail)))
        for recipient in mail.envelope.recipients:
            parameters = [f"NOTIFY={','.join(recipient.notify)}"] if recipient.notify else []
            yield Step.RCPT, wire.packet(b"R", wire.arguments(str(recipient.address), parameters))
        yield Step.DATA, wire.packet(b"T")
        for one in mail.message.fields:
            if one.name:
                yield Step.HEADER, wire.header(one, self._habits)
        yield Step.EOH, wire.packet(b"N")
        for chunk in _body(mail.message):
            yield Step.BODY, wire.packet(b"B", chunk)

    async def _tell(self, step: Step, packet: bytes) -> None:
        macros = wire.macros(step, _macros(step, self._mail, self._hostname))
        await send(self._writer, macros + packet)

    async def _reply(self) -> Reply:
        """Read one reply; those that only ask for patience are passed over."""
        while True:
            length = int.from_bytes(await self._reader.readexactly(4), "big")
            if not 0 < length <= wire.LONGEST_REPLY:
                raise ServiceError(f"sent a reply of {length} octets")
            octets = await self._reader.readexactly(length)
            if octets[:1] != b"p":
                return Reply(octets[:1].decode("latin-1"), octets[1:])

    async def _changes(self, said: Said) -> Reply:
        """Read what is wanted, up to the reply that ends it, which is returned."""
        body: bytearray | None = None
        room = 2 * self._mail.message.size + _BODY_ROOM
        while True:
            acknowledge(self._writer)
            reply = await self._reply()
            match reply.code:
                case "a" | "c" | "r" | "t" | "y" | "d" | "4" | "f":
                    if body is not None:
                        said.edits.append(ReplaceBody(_with_crlf(body)))
                    return reply
                case "b":
                    body = bytearray() if body is None else body
                    body += reply.data
                    if len(body) > room:
                        raise ServiceError("wants a body that has no end")
                case "q":
                    said.verdict = hold(printable(" ".join(reply.texts())) or "a milter's quarantine")
                case _:
                    said.edits += _edits(reply, self._mail.message)
            if len(said.edits) > _MOST_EDITS:
                raise ServiceError("wants more changes than a message can have")


def _edits(reply: Reply, message: Message) -> list[Edit]:
    """Return the edits that one reply asks for. Raises ServiceError for one that is malformed."""
    match reply.code, reply.texts():
        case "h", [name, *rest]:
            return [added(name, "".join(rest[:1]), bottom=True)]
        case "+" | "2", [address, *_]:
            return [AddRecipient(Recipient(_address(address)))]
        case "-", [address, *_]:
            return [DropRecipient(_address(address))]
        case "e", [address, *_]:
            return [SetSender(_address(address))]
    if reply.code in "im":
        number, texts = reply.numbered()
        match reply.code, texts:
            case "i", [name, *rest]:
                return [added(name, "".join(rest[:1]))]
            case "m", [name] | [name, ""]:
                return dropped(message, name, max(1, number))
            case "m", [name, value, *_]:
                return [replaced(name, value, max(1, number) - 1)]
    raise ServiceError(f"sent a reply {reply.code!r} that can't be understood")


def _address(text: str) -> Address:
    bare = text.strip().removeprefix("<").removesuffix(">")
    local, at, domain = bare.rpartition("@")
    if not bare.isprintable() or any(c in bare for c in "<> "):
        raise ServiceError(f"wants the address {printable(text)!r}")
    return Address(local, domain) if at else Address(bare, "")


def _with_crlf(body: bytearray) -> bytes:
    plain = bytes(body).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return plain.replace(b"\n", b"\r\n")


def _body(message: Message) -> Iterator[bytes | memoryview]:
    body = memoryview(message.body)
    for start in range(0, len(body), wire.CHUNK):
        yield body[start : start + wire.CHUNK]


def _strongest(first: Verdict | None, second: Verdict | None) -> Verdict | None:
    if first is None or second is None:
        return first or second
    return max(first, second, key=lambda verdict: verdict.action)


def _verdict(reply: Reply) -> Verdict | None:
    """Return what the reply that ends a conversation means; raise ServiceError for a milter that is closing."""
    match reply.code:
        case "r":
            return reject("Message refused", reason="the milter said reject")
        case "t":
            return defer("Try again later", reason="the milter said tempfail")
        case "d":
            return discard("the milter said discard")
        case "y":
            return _reply_code(" ".join(reply.texts()))
        case "4" | "f":
            raise ServiceError("is shutting down")
        case _:
            return None


def _reply_code(text: str) -> Verdict:
    """Return the verdict of a reply that the milter wrote itself. Raises ServiceError for one that is none."""
    lines = [_REPLY_LINE.match(line) for line in text.replace("%%", "%").splitlines()]
    found = [line for line in lines if line is not None]
    if not lines or len(found) < len(lines):
        raise ServiceError(f"sent {printable(text, 100)!r} as a reply")
    code, status = int(found[0][1]), found[0][2] or ""
    if status and status[0] != found[0][1][0]:
        status = ""
    status = status or ("5.7.1" if code >= 500 else "4.7.1")
    words = "\n".join(printable(line[3] or "") for line in found)
    action = Action.REJECT if code >= 500 else Action.DEFER
    return Verdict(action, SmtpReply(code, status, words), "the milter's own reply")


def _mail_parameters(mail: Mail) -> list[str]:
    envelope = mail.envelope
    size = f"SIZE={envelope.size}" if envelope.size else ""
    body = f"BODY={envelope.body}" if envelope.body else ""
    return [text for text in (size, body, "SMTPUTF8" if envelope.smtputf8 else "") if text]


def _macros(step: Step, mail: Mail, hostname: str) -> Mapping[str, str]:
    """Return the macros that go before a step, as Postfix and Sendmail name them; only what is known."""
    client, tls = mail.client, mail.client.tls
    match step:
        case Step.CONNECT:
            name = client.ptr or "unknown"
            return {
                "j": hostname,
                "{daemon_name}": client.listener,
                "{daemon_addr}": client.local_ip,
                "{client_addr}": client.ip,
                "{client_name}": name,
                "_": f"{name} [{client.ip}]",
                "v": "relayproxy",
            }
        case Step.HELO if tls is not None:
            return {
                "{tls_version}": tls.version,
                "{cipher}": tls.cipher,
                "{cipher_bits}": str(tls.bits),
                "{cert_subject}": tls.subject,
            }
        case Step.MAIL:
            sender = mail.envelope.sender
            return {
                "i": mail.id,
                "{mail_addr}": str(sender),
                "{mail_host}": sender.ascii_domain,
                "{auth_authen}": client.identity,
            }
        case Step.DATA | Step.EOH | Step.END:
            return {"i": mail.id}
        case _:
            return {}
