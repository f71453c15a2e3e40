"""The content of messages on a connection: DATA (RFC 5321 section 4.1.1.4) and BDAT (RFC 3030).

Must not know what a message is for: it is read, checked for the wire's own rules, and given to the session.
"""

from relayproxy.core.session import Session
from relayproxy.model.reply import Reply
from relayproxy.server.sasl import Sasl
from relayproxy.server.store import ContentStore
from relayproxy.server.stream import Shared
from relayproxy.smtp.datastream import ChunkReader, ContentCheck, DataReader

_SIZE_DIGITS = 20
_GO = bytes(Reply(354, "", "End data with <CRLF>.<CRLF>"))


class Contents(Sasl):
    """The part of a connection that takes messages."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._chunks: ChunkReader | None = None
        self._idle = 0

    async def _data(self, talk: Session, arg: str, verb: str) -> None:
        if arg or self._chunks is not None:
            self._answer(
                verb,
                Reply(
                    *((501, "5.5.4", "DATA takes no argument") if arg else (503, "5.5.1", "Go on with BDAT"))
                ),
            )
            return
        refusal = talk.may_send_data()
        if refusal is not None:
            self._answer(verb, refusal)
            return
        reader = self._new_reader()
        self._out.append(_GO)
        self._expect(reader)
        if await self._receive():
            await self._deliver(talk, reader, verb)
        else:
            self._release(reader)

    def _data_at_once(self, talk: Session, arg: str, _verb: str) -> bool:
        if arg or talk.may_send_data() is not None:
            return False
        self._begun = self._new_reader()
        self._expect(self._begun)
        self._out.append(_GO)
        return True

    async def _deliver_begun(self, talk: Session) -> None:
        """The content of a DATA that was carried out at once has arrived."""
        reader, self._begun, self._arrived = self._begun, None, False
        assert reader is not None
        await self._deliver(talk, reader, "DATA")

    async def _bdat(self, talk: Session, arg: str, verb: str) -> None:
        words = arg.upper().split()
        good = bool(words) and words[0].isascii() and words[0].isdigit() and len(words[0]) <= _SIZE_DIGITS
        if not good or words[1:] not in ([], ["LAST"]):
            # How much to skip isn't known, so what follows can't be told from commands.
            self._answer(verb, Reply(501, "5.5.4", "Syntax: BDAT size [LAST]"))
            talk.closing = True
            return
        refusal = talk.may_send_data()
        chunks = self._chunks or ChunkReader(
            self._new_store(), ContentCheck(normalise=self._at.policy.normalise)
        )
        self._chunks = chunks
        size = int(words[0])
        if size:
            chunks.begin(size)
            self._expect(chunks)
            if not await self._receive():
                self._drop_chunks()
                return
        if refusal is not None:
            self._drop_chunks()
            self._answer(verb, refusal)
            return
        if words[1:]:
            chunks.finish()
            self._chunks = None
            await self._deliver(talk, chunks, verb)
        else:
            self._answer(verb, Reply(250, "2.0.0", f"{size} octets received"))

    def _drop_chunks(self) -> None:
        chunks, self._chunks = self._chunks, None
        if chunks is not None:
            self._release(chunks)

    def _new_store(self) -> ContentStore:
        limits = self._limits
        return ContentStore(
            limits.message_size, self._services.budget, self._shared.folder, limits.header_bytes
        )

    def _new_reader(self) -> DataReader:
        return DataReader(self._new_store(), ContentCheck(normalise=self._at.policy.normalise))

    @staticmethod
    def _release(reader: DataReader | ChunkReader) -> None:
        store = reader.store
        assert isinstance(store, ContentStore)
        store.release()

    async def _receive(self) -> bool:
        """Wait until the reader has seen the end of the content; False if the client went before."""
        content = self._content
        if self._buffer and content is not None:
            data, self._buffer = self._buffer, b""
            self._content = None
            rest = content.feed(data)
            if rest is not None:
                self._buffer = rest
                return True
            self._content = content
        while self._content is not None:
            if not await self._wait(self._limits.data_timeout) and self._content is not None:
                self._content = None
                return False
        return not self._ended

    async def _deliver(self, talk: Session, reader: DataReader | ChunkReader, verb: str) -> None:
        store = reader.store
        assert isinstance(store, ContentStore)
        try:
            check = reader.check
            refusal = store.refusal
            if refusal is not None:
                self._services.log.warning(
                    "content_refused", id=talk.client.id, problem=store.problem, size=store.size
                )
            elif check.nul or (check.bare and not check.normalise):
                what = "NUL octets" if check.nul else "bare CR or LF: lines end in CRLF"
                refusal = Reply(550, "5.5.2", f"Message has {what}")
            if refusal is not None:
                replies = talk.refuse_content(refusal, store.size)
            else:
                message = store.message(dotless=not check.dots)
                self._heard = False
                self._idle = 0
                replies = await talk.deliver(message, gone=self._gone)
        finally:
            store.release()
        self._heard = False
        for reply in replies:
            self._answer(verb, reply)
        if talk.has_report:
            self._flush()
            await talk.reported()

    def _gone(self) -> bool:
        return self.lost
