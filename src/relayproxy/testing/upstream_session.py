"""The test upstream's side of one conversation: strict about the client, obedient to the fault plan.

What the client does against the specifications is noted, never hidden. Must not be used for anything but tests.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Protocol

from relayproxy.testing.faults import Disconnect, FaultPlan, Reset, Say, Stall, Step, Trickle
from relayproxy.testing.upstream_record import PATH, Capabilities, Peer, Sunk, path_of
from relayproxy.testing.upstream_wire import GoneError, Wire

_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_LAST_OF_GROUP = (
    b"EHLO",
    b"HELO",
    b"LHLO",
    b"STARTTLS",
    b"AUTH",
    b"DATA",
    b"XCLIENT",
)  # RFC 2920 section 3.1


class Book(Protocol):
    """What a session needs of the sink that it belongs to."""

    capabilities: Capabilities
    plan: FaultPlan
    lmtp: bool
    lax: bool
    hostname: str
    refusals: Mapping[str, bytes]
    arrived: list[Sunk]

    def reach(self, step: Step) -> None:
        """Count that a session has come to `step`."""
        ...

    def complain(self, peer: Peer, text: str) -> None:
        """Note what the client did wrong."""
        ...

    async def stall(self, wire: Wire) -> None:
        """Return when the sink is released."""
        ...


class Session:
    """One conversation; `run` ends with it."""

    def __init__(self, book: Book, wire: Wire, number: int, *, tls: bool) -> None:
        self.book = book
        self.wire = wire
        self.peer = Peer(number, wire.peer)
        self._fresh_tls = tls
        self._quit = False
        self._forget()

    def _forget(self) -> None:
        self.mail = b""
        self.rcpts: list[bytes] = []
        self.asked = 0
        self.chunks = b""

    async def run(self) -> None:
        """Speak until one side has had enough."""
        try:
            if self._fresh_tls:
                self._look_at_tls()
            await self._interject(Step.CONNECT)
            await self._reply(Step.BANNER, self._banner())
            while not self._quit:
                await self._command()
        except GoneError:
            pass
        finally:
            self.wire.close()

    def _banner(self) -> bytes:
        return f"220 {self.book.hostname} {'LMTP' if self.book.lmtp else 'ESMTP'} sink\r\n".encode()

    def _text(self, code: int, status: str, text: str) -> bytes:
        lead = f"{status} " if status and self.book.capabilities.enhancedstatuscodes else ""
        return f"{code} {lead}{text}\r\n".encode()

    async def _reply(self, step: Step, usual: bytes, nth: int = 0) -> bytes:
        """Answer at `step` as the plan has it, `usual` by default; return what was said."""
        self.book.reach(step)
        match self.book.plan.take(step, nth):
            case Disconnect():
                raise GoneError
            case Reset():
                self.wire.reset()
                raise GoneError
            case Stall():
                await self.book.stall(self.wire)
            case Trickle():
                await self.wire.trickle(usual)
                return usual
            case Say(data, close):
                self.wire.write(data)
                if close:
                    raise GoneError
                return data
        self.wire.write(usual)
        return usual

    async def _interject(self, step: Step) -> None:
        await self._reply(step, b"")

    def _complain(self, text: str) -> None:
        self.book.complain(self.peer, text)

    async def _command(self) -> None:
        raw = await self.wire.line()
        line = raw.removesuffix(b"\r\n")
        if line == raw or b"\r" in line or b"\0" in line:
            self._complain(f"a command line with odd octets: {raw!r}")
        if not line.isascii() and b"SMTPUTF8" not in self.mail.upper() + line.upper():
            self._complain(f"8-bit octets in a command: {line!r}")
        verb, _, arg = line.partition(b" ")
        verb = verb.upper()
        if self.wire.buffer and verb != b"BDAT":
            if not self.book.capabilities.pipelining:
                self._complain(f"commands pipelined behind {verb!r}, which is not offered")
            elif verb in _LAST_OF_GROUP:
                self._complain(f"octets sent ahead behind {verb!r}")
        action = getattr(self, f"_do_{verb.decode('latin-1').lower()}", None)
        if action is None:
            self._complain(f"unknown command {line!r}")
            self.wire.write(self._text(500, "5.5.2", "What?"))
        else:
            await action(line, arg)

    async def _greeted(self, line: bytes, arg: bytes) -> None:
        verb = line[:4].upper()
        if (verb == b"LHLO") is not self.book.lmtp:
            self._complain(f"{verb!r} is the other protocol's")
            self.wire.write(self._text(500, "5.5.1", "Wrong protocol"))
            return
        extensions = [] if verb == b"HELO" else self.book.capabilities.lines(secure=bool(self.peer.tls))
        texts = [self.book.hostname, *extensions]
        usual = "".join(f"250-{text}\r\n" for text in texts[:-1]) + f"250 {texts[-1]}\r\n"
        if Say(await self._reply(Step.EHLO, usual.encode())).agrees:
            self._forget()
            self.peer = replace(self.peer, helo=arg)

    _do_ehlo = _do_helo = _do_lhlo = _greeted

    async def _do_starttls(self, line: bytes, arg: bytes) -> None:
        context = self.book.capabilities.starttls
        if context is None or self.peer.tls or arg or self.mail:
            self._complain(f"{line!r} is not possible here")
            self.wire.write(self._text(503, "5.5.1", "Not now"))
            return
        if not Say(await self._reply(Step.STARTTLS, self._text(220, "2.0.0", "Go ahead"))).agrees:
            return
        if self.wire.buffer:
            self._complain("octets sent in front of the TLS handshake")
            self.wire.buffer.clear()
        await self.wire.start_tls(context)
        self._forget()
        self.peer = Peer(self.peer.session, self.peer.ip, xclient=self.peer.xclient)
        self._look_at_tls()

    def _look_at_tls(self) -> None:
        tls = self.wire.transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) or b""
        self.peer = replace(self.peer, tls=tls.version(), certificate=certificate)

    async def _do_auth(self, line: bytes, arg: bytes) -> None:
        known = self.book.capabilities.auth
        if not known or self.mail or self.peer.login:
            self._complain(f"AUTH is not possible here: {line!r}")
            self.wire.write(self._text(503, "5.5.1", "Not now"))
            return
        mechanism, _, initial = arg.partition(b" ")
        try:
            login, password = await self._credentials(mechanism.upper(), initial)
        except (binascii.Error, ValueError):
            self.wire.write(self._text(501, "5.5.2", "Not base64, or the wrong number of parts"))
            return
        good = known.get(login) == password
        usual = self._text(235, "2.7.0", "Welcome") if good else self._text(535, "5.7.8", "No such login")
        if Say(await self._reply(Step.AUTH, usual)).agrees:
            self.peer = replace(self.peer, login=login)

    async def _credentials(self, mechanism: bytes, initial: bytes) -> tuple[str, str]:
        if mechanism == b"PLAIN":
            parts = (await self._asked("", initial)).split("\0")
            _, login, password = parts
            return login, password
        login = await self._asked("Username:", initial)
        return login, await self._asked("Password:", b"")

    async def _asked(self, prompt: str, initial: bytes) -> str:
        if not initial:
            self.wire.write(b"334 " + base64.b64encode(prompt.encode()) + b"\r\n")
            initial = (await self.wire.line()).rstrip(b"\r\n")
        return base64.b64decode(initial, validate=True).decode()

    async def _attributes(self, line: bytes, arg: bytes) -> None:
        verb = line.split(b" ", 1)[0].upper()
        names = self.book.capabilities.xclient if verb == b"XCLIENT" else self.book.capabilities.xforward
        given = dict(word.partition(b"=")[::2] for word in arg.split())
        if self.mail or not given or any(name.decode().upper() not in names for name in given):
            self._complain(f"{line!r} is not possible here")
            self.wire.write(self._text(501, "5.5.4", "Not so"))
        elif verb == b"XCLIENT":
            self._forget()
            self.peer = Peer(
                self.peer.session, self.peer.ip, tls=self.peer.tls, xclient={**self.peer.xclient, **given}
            )
            self.wire.write(self._banner())
        else:
            self.peer = replace(self.peer, xforward={**self.peer.xforward, **given})
            self.wire.write(self._text(250, "2.0.0", "Noted"))

    _do_xclient = _do_xforward = _attributes

    def _bad_parameters(self, line: bytes) -> list[bytes]:
        match = PATH.match(line)
        words = line[match.end() :].split() if match else []
        keys = [word.partition(b"=")[0].upper() for word in words]
        return [key for key in keys if not self.book.capabilities.allows(key)]

    async def _do_mail(self, line: bytes, arg: bytes) -> None:
        del arg
        usual = self._text(250, "2.1.0", "Sender ok")
        limit = self.book.capabilities.size
        declared = re.search(rb" SIZE=([0-9]+)", line, re.IGNORECASE)
        if self.mail or not self.peer.helo:
            self._complain(f"MAIL out of sequence: {line!r}")
            usual = self._text(503, "5.5.1", "Not now")
        elif not PATH.match(line) or self._bad_parameters(line):
            self._complain(f"a MAIL that is not possible here: {line!r}")
            usual = self._text(555, "5.5.4", "Not with these parameters")
        elif limit and declared and int(declared[1]) > limit:
            usual = self._text(552, "5.3.4", "Too big")
        if Say(await self._reply(Step.MAIL, usual)).agrees:
            self.mail = line

    async def _do_rcpt(self, line: bytes, arg: bytes) -> None:
        del arg
        nth, self.asked = self.asked, self.asked + 1
        usual = self.book.refusals.get(path_of(line)) or self._text(250, "2.1.5", "Recipient ok")
        if not self.mail:
            usual = self._text(503, "5.5.1", "MAIL first")
        elif not PATH.match(line) or self._bad_parameters(line):
            self._complain(f"a RCPT that is not possible here: {line!r}")
            usual = self._text(555, "5.5.4", "Not with these parameters")
        if Say(await self._reply(Step.RCPT, usual, nth)).agrees and self.mail:
            self.rcpts.append(line)

    async def _do_data(self, line: bytes, arg: bytes) -> None:
        del line
        if not self.rcpts or arg or self.chunks:
            # A pipelining client can't know yet that nobody was accepted (RFC 2920 section 3.1).
            self.wire.write(self._text(503, "5.5.1", "Recipients first"))
            return
        if Say(await self._reply(Step.DATA, b"354 Go ahead\r\n")).agrees:
            content = await self.wire.until_dot(self._pause_at(), self._pause, lax=self.book.lax)
            await self._finish(content, chunked=False)

    async def _do_bdat(self, line: bytes, arg: bytes) -> None:
        words = arg.upper().split()
        if not self.book.capabilities.chunking or not words or not words[0].isdigit():
            self._complain(f"a BDAT that is not possible here: {line!r}")
            raise GoneError
        pause_at = self._pause_at()
        left = None if pause_at is None else max(0, pause_at - len(self.chunks))
        last = words[1:] == [b"LAST"]
        within = left if left is not None and (last or left <= int(words[0])) else None
        chunk = await self.wire.exactly(int(words[0]), within, self._pause)
        if not self.rcpts:
            self.wire.write(self._text(503, "5.5.1", "Recipients first"))
            return
        self.chunks += chunk
        if last:
            await self._finish(self.chunks, chunked=True)
        elif not Say(await self._reply(Step.DATA, self._text(250, "2.0.0", "Chunk ok"))).agrees:
            self._forget()

    def _pause_at(self) -> int | None:
        fault = self.book.plan.upcoming(Step.CONTENT)
        return fault.after if fault else None

    async def _pause(self) -> None:
        await self._interject(Step.CONTENT)

    async def _finish(self, content: bytes, *, chunked: bool) -> None:
        if _BARE.search(content) or b"\0" in content:
            self._complain("bare CR, bare LF or NUL in a message")
        if not content.isascii() and b"BODY=8BITMIME" not in self.mail.upper():
            self._complain("8-bit octets in a message that is not declared 8BITMIME")
        sunk = Sunk(self.peer, self.mail, tuple(self.rcpts), content, chunked, self.book.lmtp)
        self.book.arrived.append(sunk)
        number = len(self.book.arrived)
        count = len(self.rcpts) if self.book.lmtp else 1
        usual = self._text(250, "2.0.0", f"Sunk as {number}")
        for nth in range(count - 1):
            sunk.replies.append(await self._reply(Step.DOT, usual, nth))
        after = self.book.plan.upcoming(Step.AFTER)
        # Words after the final reply come in one piece with it: that is how a reader gets them wrong.
        with self.wire.together() if after and isinstance(after.action, Say) else nullcontext():
            sunk.replies.append(await self._reply(Step.DOT, usual, count - 1))
            self._forget()
            await self._interject(Step.AFTER)

    async def _do_rset(self, line: bytes, arg: bytes) -> None:
        del line, arg
        if Say(await self._reply(Step.RSET, self._text(250, "2.0.0", "Forgotten"))).agrees:
            self._forget()

    async def _do_noop(self, line: bytes, arg: bytes) -> None:
        del line, arg
        self.wire.write(self._text(250, "2.0.0", "Ok"))

    async def _do_quit(self, line: bytes, arg: bytes) -> None:
        del line, arg
        self.wire.write(self._text(221, "2.0.0", "Bye"))
        self._quit = True
