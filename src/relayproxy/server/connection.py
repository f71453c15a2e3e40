"""One client connection: lines to the session, replies back.

aiosmtpd's SMTP class carries the SASL conversations and is the protocol; the command loop, the data reader and the
TLS upgrade are overridden, because the stock ones cost nine times the CPU, keep whole messages line by line, and
build on private parts of asyncio. Grammar is in smtp/, meaning in core/session.py; here are only the wire's rules:
who may speak when, and how long a line is.
"""

import asyncio
import ssl
import traceback
from collections.abc import Iterable
from typing import Any

from relayproxy.core.session import Session
from relayproxy.model.client import Client
from relayproxy.model.reply import Reply
from relayproxy.server.content import Contents
from relayproxy.server.peer import Proxied, peer_of, tls_info
from relayproxy.server.stream import SHUTTING_DOWN, Shared

_LINE_TOO_LONG = Reply(500, "5.5.2", "Command line is too long")
_BAD_SYNTAX = Reply(500, "5.5.2", "Bad syntax: lines end in CRLF")
_UNKNOWN = Reply(500, "5.5.1", "Command not recognized")
_PIPELINED = Reply(554, "5.5.0", "You spoke out of turn")
_OK = Reply(250, "2.0.0", "Ok")
_IDLE_TOO_LONG = Reply(421, "4.7.0", "Too many commands without a message")
_BYE = Reply(221, "2.0.0", "Bye")
_FAULT = "Internal trouble, try again later"
_RETIRING_PATIENCE = 5.0


class Connection(Contents):
    """The protocol of one connection. Made by the listener's server for each client that connects."""

    def __init__(
        self,
        shared: Shared,
        among: "set[Connection] | None" = None,
        proxied: Proxied | None = None,
    ) -> None:
        super().__init__(shared)
        self._among = among if among is not None else set()
        self._proxied = proxied
        self._talk: Session | None = None
        self._starting_tls = False
        self._quota_ip: str | None = None
        self._bogus = 0

    # -- coming and going -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected (for implicit TLS: has finished its handshake)."""
        self.transport = transport
        peer = peer_of(transport, self._proxied)
        client = Client(
            self._shared.next_id(self._services.clock.time()),
            self._at.policy.name,
            peer.ip,
            peer.port,
            peer.peer,
            tls=tls_info(transport),
            trusted=self._at.trusts(peer.ip),
            local_ip=peer.local_ip,
            local_port=peer.local_port,
        )
        refused = ""
        if not self._services.draining:
            refused = self._shared.quota.enter(
                client.ip, self._limits.connections_per_client, self._limits.connections
            )
        if refused or self._services.draining:
            self._at.results["limited" if refused else "refused"].inc()
            text = "Too many connections, try again later" if refused else "Shutting down, try again soon"
            self.transport.write(bytes(Reply(421, "4.7.0" if refused else "4.3.2", text)))
            if refused:
                self._services.log.warning("connection_limit", ip=client.ip, limit=refused)
            self.transport.close()
            return
        self._quota_ip = client.ip
        self._at.results["accepted"].inc()
        self._at.connections.inc()
        self._talk = Session(self._at, client)
        self._among.add(self)
        self._task = self.loop.create_task(self._converse())

    def eof_received(self) -> bool:
        """The client sends no more; what it has sent is still answered (TLS allows no half-open connection)."""
        self._eof = True
        if not self._buffer and self._talk is not None and not self._talk.in_transaction:
            # It has nothing more to say, and nothing is to be answered: its place is free for its next connection.
            self._leave()
        self._wake()
        return self._talk is not None and self._talk.client.tls is None

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  (the name of the base class)
        """The connection is gone. A commit in progress goes on; all else that runs for the client is cancelled."""
        self.lost = self._eof = True
        if self._waiter is not None:
            self._wake()
        elif (
            self._talk is not None
            and self._task is not None
            and not self._talk.must_finish
            and not self._starting_tls
            and asyncio.current_task() is not self._task
        ):
            self._task.cancel()
        self.resume_writing()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._leave()

    def _leave(self) -> None:
        """Be counted no more."""
        if self._quota_ip is not None:
            self._shared.quota.leave(self._quota_ip)
            self._quota_ip = None
            self._at.connections.dec()

    def drain(self) -> None:
        """The worker shuts down: an idle connection ends now, a transaction first finishes."""
        if (
            self._waiter is not None
            and self._talk is not None
            and not self._talk.in_transaction
            and not self._content
        ):
            self._end(SHUTTING_DOWN)

    def retire(self) -> None:
        """Another generation of workers has taken over: leave when the client is idle for a moment."""
        if self._waiter is not None and self._talk is not None and not self._talk.in_transaction:
            self._arm(_RETIRING_PATIENCE)

    # -- what waits for nothing -----------------------------------------------------------------------------

    def _at_once(self, data: bytes) -> bool:
        """Carry out a command that waits for nothing and came alone, without waking the command loop.

        False: it is another one, and nothing has been done. An idle loop is all that can be spared: whatever is
        pipelined, asked of a hook or of the next hop takes its turn there.
        """
        doing = _AT_ONCE.get(data[:5].upper())
        talk = self._talk
        if (
            doing is None
            or talk is None
            or len(data) > self._limits.command_line
            or not data.endswith(b"\r\n")
            or data.find(b"\n") != len(data) - 1
            or self._waiter is None
            or self._chunks is not None
            or self._services.draining
            or self._services.retiring
        ):
            return False
        verb, method = doing
        arg = data[5:-2].decode("latin-1").strip(" \t")
        if not (arg.isascii() and arg.isprintable()):
            return False
        if talk.unconfirmed is not None:
            talk.confirm()
        try:
            if not method(self, talk, arg, verb):
                return False
        except Exception as error:  # noqa: BLE001  (a defect of ours: the client keeps the message and tries again)
            self._say(self._broken(talk, error))
        if talk.closing:
            self._wake()
        else:
            self._flush()
            self._arm(self._limits.data_timeout if self._begun is not None else self._limits.command_timeout)
        return True

    def _hello_at_once(self, talk: Session, arg: str, verb: str) -> bool:
        reply = talk.hello_at_once(verb, arg)
        if reply is not None:
            self._answer(verb, reply)
        return reply is not None

    def _mail_at_once(self, talk: Session, arg: str, verb: str) -> bool:
        reply = talk.mail_at_once(arg)
        if reply is not None:
            self._answer(verb, reply)
        return reply is not None

    # -- the conversation -----------------------------------------------------------------------------------

    async def _converse(self) -> None:
        """Serve one client from banner to goodbye."""
        talk = self._talk
        assert talk is not None
        try:
            await self._greet(talk)
            while not (talk.closing or self.lost or self._ended):
                if not self._buffer and not self._services.draining and not self._services.retiring:
                    self._listening = True
                    await self._wait(self._limits.command_timeout)
                    self._listening = False
                    if talk.closing:
                        break
                try:
                    if self._arrived:
                        await self._deliver_begun(talk)
                        continue
                    line = await self._line(talk)
                    if line is None:
                        break
                    if talk.unconfirmed is not None and self._heard:
                        talk.confirm()
                    await self._obey(talk, line)
                except Exception as error:  # noqa: BLE001  (a defect of ours: the client keeps the message and tries again)
                    self._say(self._broken(talk, error))
        except asyncio.CancelledError:
            # The client has hung up: the hooks that hear of the end are not to be cancelled too.
            assert self._task is not None
            self._task.uncancel()
        except Exception as error:  # noqa: BLE001  (the last fence: a defect of ours ends one connection, not all)
            self._defect(talk, error)
        finally:
            self._drop_chunks()
            if self._begun is not None:
                self._release(self._begun)
            if not self.lost:
                self._flush()
                self._shared.outbox.close(self.transport)
                self._arm(self._limits.command_timeout)
            await talk.close()
            self._among.discard(self)

    async def _greet(self, talk: Session) -> None:
        self._arm(self._limits.command_timeout)
        self._say(await talk.greet())
        if self._buffer:
            self._out.clear()
            self._say(_PIPELINED)
            talk.closing = True
            self._services.log.info("early_talker", id=talk.client.id, ip=talk.client.ip)

    async def _line(self, talk: Session) -> bytes | None:
        """Return the next command line without its end, or None at the end of the connection."""
        limit = self._limits.command_line
        buffer = self._buffer
        if len(buffer) <= limit and buffer.endswith(b"\r\n") and buffer.find(b"\n") == len(buffer) - 1:
            # One line and no more, as from any client that waits for its answers. Control characters within it
            # are refused with all others when the argument is looked at.
            self._buffer = b""
            return buffer[:-2]
        # From when a line is waited for it has to be whole in time, however many pieces it comes in.
        until = 0.0
        while True:
            cut = self._buffer.find(b"\n")
            if cut >= 0:
                line, self._buffer = self._buffer[: cut + 1], self._buffer[cut + 1 :]
                if len(line) > limit:
                    self._bogus_reply(talk, _LINE_TOO_LONG)
                elif line.endswith(b"\r\n") and b"\r" not in line[:-2] and b"\0" not in line:
                    return line[:-2]
                elif self._at.policy.normalise and b"\0" not in line:
                    return line.rstrip(b"\r\n")
                else:
                    self._bogus_reply(talk, _BAD_SYNTAX)
                if talk.closing:
                    return None
                until = 0.0
                continue
            until = until or self.loop.time() + self._limits.command_timeout
            if len(self._buffer) > limit:
                if not await self._skip_line(limit, until):
                    return None
                self._bogus_reply(talk, _LINE_TOO_LONG)
                if talk.closing:
                    return None
                until = 0.0
                continue
            if self._services.draining and not talk.in_transaction:
                self._say(SHUTTING_DOWN)
                return None
            patience = until - self.loop.time()
            if self._services.retiring and not talk.in_transaction:
                patience = min(patience, _RETIRING_PATIENCE)
            if not await self._wait(patience) and b"\n" not in self._buffer:
                return None

    async def _skip_line(self, limit: int, until: float) -> bool:
        """Drop an over-long line up to its end, at most 64 times the limit."""
        dropped = 0
        while b"\n" not in self._buffer:
            dropped += len(self._buffer)
            self._buffer = b""
            if dropped > 64 * limit or not await self._wait(until - self.loop.time()):
                return False
        self._buffer = self._buffer[self._buffer.find(b"\n") + 1 :]
        return True

    def _bogus_reply(self, talk: Session, reply: Reply) -> None:
        """Answer a command that makes no sense; too many end the session."""
        self._bogus += 1
        if self._bogus >= self._limits.bogus_commands:
            reply = Reply(421, "4.7.0", "Too many bad commands")
            talk.closing = True
        self._answer("other", reply)

    async def _obey(self, talk: Session, line: bytes) -> None:
        """Carry out one command (a run of pipelined RCPTs counts as one)."""
        head, _, tail = line.partition(b" ")
        verb, method = _METHODS.get(head.upper(), _NO_METHOD)
        try:
            arg = tail.decode("utf-8").strip(" \t")
        except UnicodeDecodeError:
            arg = "\n"
        if method is None or not arg.isprintable():
            self._bogus_reply(talk, _UNKNOWN if method is None else _BAD_SYNTAX)
            return
        if self._buffer and (
            verb in _ALONE or (talk.client.proto == "SMTP" and talk.client.helo and verb != "QUIT")
        ):
            # RFC 2920 section 3.1: whoever sends on after these has not waited for the answer.
            self._services.log.info(
                "unauthorised_pipelining", id=talk.client.id, ip=talk.client.ip, after=verb
            )
            if verb != "STARTTLS":
                self._say(_PIPELINED)
            talk.closing = True
            return
        if verb in _IDLE:
            # They cost nothing each, but in one piece there may be forty thousand of them.
            self._idle += 1
            if self._idle > self._limits.idle_commands:
                self._answer(verb, _IDLE_TOO_LONG)
                talk.closing = True
                return
        await method(self, talk, arg, verb)

    def _broken(self, talk: Session, error: Exception) -> Reply:
        """A command met a defect of ours: log it, drop the transaction, return the answer."""
        self._defect(talk, error)
        talk.reset()
        self._drop_chunks()
        return Reply(451, "4.3.0", f"{_FAULT} id={talk.client.id}")

    def _defect(self, talk: Session, error: Exception) -> None:
        self._services.log.error(
            "defect",
            id=talk.client.id,
            error=f"{type(error).__name__}: {error}",
            traceback="".join(traceback.format_exception(error)),
        )

    # -- commands -------------------------------------------------------------------------------------------

    async def _hello(self, talk: Session, arg: str, verb: str) -> None:
        reply = await talk.hello(verb, arg)
        if not talk.in_transaction:
            self._drop_chunks()
        self._answer(verb, reply)

    async def _mail(self, talk: Session, arg: str, verb: str) -> None:
        if self._chunks is not None:
            self._answer(verb, Reply(503, "5.5.1", "Not between chunks"))
            return
        self._answer(verb, await talk.mail(arg))

    async def _rcpt(self, talk: Session, arg: str, verb: str) -> None:
        if self._chunks is not None:
            self._answer(verb, Reply(503, "5.5.1", "Not between chunks"))
            return
        args = [arg]
        if self._buffer:
            args.extend(self._more_recipients())
        for reply in await talk.rcpt(args):
            self._answer(verb, reply)

    def _more_recipients(self) -> Iterable[str]:
        """Take further RCPT lines that have already arrived, as long as they are well-formed."""
        while self._buffer[:5].upper() == b"RCPT ":
            cut = self._buffer.find(b"\r\n")
            line = self._buffer[5:cut]
            if (
                cut < 0
                or cut + 2 > self._limits.command_line
                or b"\n" in line
                or b"\r" in line
                or not line.isascii()
            ):
                return
            arg = line.decode("ascii").strip(" \t")
            if not arg.isprintable():
                return
            self._buffer = self._buffer[cut + 2 :]
            yield arg

    async def _rset(self, talk: Session, arg: str, verb: str) -> None:
        if arg:
            self._answer(verb, Reply(501, "5.5.4", "RSET takes no argument"))
            return
        self._drop_chunks()
        talk.reset()
        self._answer(verb, _OK)

    async def _noop(self, _talk: Session, _arg: str, verb: str) -> None:
        self._answer(verb, _OK)

    async def _help(self, _talk: Session, _arg: str, verb: str) -> None:
        self._answer(verb, Reply(214, "2.0.0", "See RFC 5321"))

    async def _vrfy(self, _talk: Session, _arg: str, verb: str) -> None:
        self._answer(verb, Reply(252, "2.5.2", "Send some mail, I'll try my best"))

    async def _quit(self, talk: Session, _arg: str, verb: str) -> None:
        self._answer(verb, _BYE)
        talk.closing = True

    async def _xclient(self, talk: Session, arg: str, verb: str) -> None:
        self._answer(verb, await talk.xclient(arg))

    async def _xforward(self, talk: Session, arg: str, verb: str) -> None:
        self._answer(verb, talk.xforward(arg))

    async def _starttls(self, talk: Session, arg: str, verb: str) -> None:
        refusal = talk.ready_for_tls(arg)
        if refusal is not None or self._shared.tls is None:
            self._answer(verb, refusal or Reply(454, "4.7.0", "TLS is not available now"))
            return
        self._answer(verb, Reply(220, "2.0.0", "Ready to start TLS"))
        self._flush()
        self._shared.outbox.flush()
        self._drop_chunks()
        self._deadline = 0.0
        self._starting_tls = True
        try:
            transport = await self.loop.start_tls(
                self.transport,
                self,
                self._shared.tls,
                server_side=True,
                ssl_handshake_timeout=self._limits.handshake_timeout,
            )
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError) as error:
            self._at.results["tls_failed"].inc()
            self._services.log.info("tls_failed", id=talk.client.id, ip=talk.client.ip, problem=str(error))
            talk.closing = True
            # Not every loop says so after a handshake that failed, and what the client takes up must be given back.
            self.transport.abort()
            self.connection_lost(error)
            return
        finally:
            self._starting_tls = False
        if transport is None or self.lost:
            talk.closing = True
            return
        self.transport = transport
        info = tls_info(transport)
        assert info is not None
        talk.secured(info)


_AT_ONCE: dict[bytes, tuple[str, Any]] = {
    b"EHLO ": ("EHLO", Connection._hello_at_once),  # noqa: SLF001  (the table of this module's own methods)
    b"MAIL ": ("MAIL", Connection._mail_at_once),  # noqa: SLF001  (the table of this module's own methods)
    b"DATA\r": ("DATA", Connection._data_at_once),  # noqa: SLF001  (the table of this module's own methods)
}
_NO_METHOD: tuple[str, Any] = ("other", None)
_METHODS: dict[bytes, tuple[str, Any]] = {
    name.encode(): (name, method)
    for name, method in (
        ("EHLO", Connection._hello),  # noqa: SLF001  (the table of this module's own methods)
        ("HELO", Connection._hello),  # noqa: SLF001  (the table of this module's own methods)
        ("LHLO", Connection._hello),  # noqa: SLF001  (the table of this module's own methods)
        ("MAIL", Connection._mail),  # noqa: SLF001  (the table of this module's own methods)
        ("RCPT", Connection._rcpt),  # noqa: SLF001  (the table of this module's own methods)
        ("DATA", Connection._data),  # noqa: SLF001  (the table of this module's own methods)
        ("BDAT", Connection._bdat),  # noqa: SLF001  (the table of this module's own methods)
        ("RSET", Connection._rset),  # noqa: SLF001  (the table of this module's own methods)
        ("NOOP", Connection._noop),  # noqa: SLF001  (the table of this module's own methods)
        ("HELP", Connection._help),  # noqa: SLF001  (the table of this module's own methods)
        ("VRFY", Connection._vrfy),  # noqa: SLF001  (the table of this module's own methods)
        ("EXPN", Connection._vrfy),  # noqa: SLF001  (the table of this module's own methods)
        ("QUIT", Connection._quit),  # noqa: SLF001  (the table of this module's own methods)
        ("STARTTLS", Connection._starttls),  # noqa: SLF001  (the table of this module's own methods)
        ("AUTH", Connection._auth),  # noqa: SLF001  (the table of this module's own methods)
        ("XCLIENT", Connection._xclient),  # noqa: SLF001  (the table of this module's own methods)
        ("XFORWARD", Connection._xforward),  # noqa: SLF001  (the table of this module's own methods)
    )
}
_IDLE = frozenset({"NOOP", "RSET", "VRFY", "EXPN", "HELP"})
_ALONE = frozenset({"EHLO", "HELO", "LHLO", "DATA", "STARTTLS", "AUTH", "XCLIENT"})
