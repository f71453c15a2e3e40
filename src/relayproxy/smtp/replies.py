"""Reading the replies of a next hop (RFC 5321 section 4.2, RFC 2034): bytes in, Reply values out.

Strict about what decides (the code, where a line ends) and forgiving about the words: a foreign text is made
printable, never passed on raw. Lines and octets are bounded.
"""

import re

from relayproxy.model.reply import Reply, printable

MAX_LINES = 100
MAX_OCTETS = 32_768
_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?\Z", re.DOTALL)
_STATUS = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |\Z)")


class NonsenseError(Exception):
    """The next hop sent something that is no SMTP reply; the connection can't be used any more.

    `replies` had been complete before it.
    """

    def __init__(self, text: str, replies: list[Reply] | None = None) -> None:
        super().__init__(text)
        self.replies = replies or []


_KNOWN: dict[bytes, Reply] = {}
_KNOWN_ROOM = 1024


class ReplyReader:
    """Feed it octets; complete replies come out in order."""

    __slots__ = ("_buffer", "_lines")

    def __init__(self) -> None:
        self._buffer = b""
        self._lines: list[tuple[bytes, bytes]] = []

    def feed(self, data: bytes) -> list[Reply]:
        """Return the replies that `data` completes. Raises NonsenseError."""
        buffer = self._buffer + data if self._buffer else data
        replies: list[Reply] = []
        *lines, self._buffer = buffer.split(b"\n")
        for line in lines:
            known = _KNOWN.get(line)
            if known is not None and not self._lines:
                replies.append(known)
                continue
            match = _LINE.match(line.removesuffix(b"\r"))
            if not match:
                shown = printable(line.decode("latin-1"), 80)
                raise NonsenseError(f"not an SMTP reply: {shown}", replies)
            code, more, text = match[1], match[2], match[3] or b""
            if self._lines and self._lines[0][0] != code:
                raise NonsenseError(
                    f"the reply code changes from {self._lines[0][0].decode()} to {code.decode()}", replies
                )
            self._lines.append((code, text))
            if more == b"-":
                if len(self._lines) >= MAX_LINES:
                    raise NonsenseError(f"a reply of more than {MAX_LINES} lines", replies)
                continue
            reply = make_reply(int(code), [text for _, text in self._lines])
            if len(self._lines) == 1:
                # A next hop says the same few lines all day; values can be shared.
                if len(_KNOWN) >= _KNOWN_ROOM:
                    _KNOWN.clear()
                _KNOWN[line] = reply
            replies.append(reply)
            self._lines.clear()
        if len(self._buffer) > MAX_OCTETS:
            raise NonsenseError(f"a reply line of more than {MAX_OCTETS} octets", replies)
        return replies

    @property
    def idle(self) -> bool:
        """Whether no part of a reply is waiting for its rest."""
        return not self._buffer and not self._lines


def make_reply(code: int, lines: list[bytes]) -> Reply:
    """Build a Reply from foreign text lines; an enhanced code that contradicts the code stays in the text."""
    texts = [printable(line.decode("utf-8", "replace").replace("\t", " ")) for line in lines]
    match = _STATUS.match(texts[-1])
    status = ""
    if match and match[1][0] == str(code)[0]:
        status = match[1]
        lead = f"{status} "
        texts = ["" if text == status else text.removeprefix(lead) for text in texts]
    return Reply(code, status, "\n".join(texts))
