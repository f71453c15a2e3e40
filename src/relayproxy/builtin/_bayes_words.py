"""The words of a message for the classifier: hashes of what stands in the subject, the sender, the text and its links.

Bounded whatever arrives, and nothing that is kept can be read back as text. Must not know how often a word was seen.
"""

import re
from collections.abc import Iterator
from hashlib import blake2b, sha256
from html import unescape
from itertools import islice

from relayproxy.api import Message
from relayproxy.mailauth.from_header import read_author
from relayproxy.model.encoded_words import in_charset
from relayproxy.model.mime import Part, read_tree
from relayproxy.model.mime_content import decoded_octets

MOST = 2000
"""Different words of a message that count, the first ones."""
_ALL = 20_000  # words that are looked at for them
_OCTETS = 65_536  # of a part, as encoded
_PARTS = 8
_SUBJECT = 1000
_WORD = re.compile(r"[^\W_][\w$€£-]{1,200}")
_LINK = re.compile(r"https?://([A-Za-z0-9.-]{1,253})")
_TAG = re.compile(r"<[^<>]{0,2000}>")
_LONGEST = 30
_RUN = 8  # letters beyond ASCII that are hardly one word, but a sentence in Chinese or Thai


def words_of(message: Message) -> frozenset[int]:
    """Return the hashes of a message's words: signed numbers of 64 bits."""
    found: set[str] = set()
    for word in islice(_words(message), _ALL):
        found.add(word)
        if len(found) >= MOST:
            break
    return frozenset(map(_hashed, found))


def digest_of(message: Message) -> bytes:
    """Return what tells a message from others, however it travelled: of its Message-ID and body."""
    told = sha256((message.header("Message-ID") or "").encode())
    told.update(message.body)
    return told.digest()[:16]


def _hashed(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), signed=True)


def _words(message: Message) -> Iterator[str]:
    yield f"from:{read_author(message).domain}"
    yield from (f"subject:{word}" for word in _split(message.subject[:_SUBJECT]))
    texts = (part for part in read_tree(message).root.leaves() if part.type.startswith("text/"))
    for part in islice(texts, _PARTS):
        text = _text(message, part)
        yield from (f"link:{host.lower()}" for host in _LINK.findall(text))
        if part.type == "text/html":
            text = unescape(_TAG.sub(" ", text))
        yield from _split(text)


def _text(message: Message, part: Part) -> str:
    octets = decoded_octets(message, part, _OCTETS)
    return in_charset(octets, part.described.charset or "utf-8")


def _split(text: str) -> Iterator[str]:
    """Yield words in lower case; long runs beyond ASCII, which have no blanks between words, as pairs of letters."""
    for match in _WORD.finditer(text):
        word = match[0].lower().rstrip("-")
        if len(word) > _RUN and not word.isascii():
            yield from (word[n : n + 2] for n in range(len(word) - 1))
        if 2 < len(word) <= _LONGEST:
            yield word
