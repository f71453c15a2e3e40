"""Which lines of a file may hold a secret and are therefore never shown, whatever is wrong with them.

Works on text, since a file that can't be parsed needs it most. Errs on the side of hiding: a line too few in an
error message costs a look into the file, a line too many costs a password.
"""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import cached_property, lru_cache

from relayproxy.config.syntax import LINE_BREAK, Span

_NAMES = ("password", "passwd", "passphrase", "secret", "token", "credential", "credentials", "apikey")
_PARTS = frozenset(
    {"pass", "pwd", "pw", "psw", "passwort", "api_key", "private_key", "access_key", "auth_key"}
)
_KEY = re.compile(r"""(?:^\W*|[,{]\s*["']?)([A-Za-z][\w-]*)|([A-Za-z][\w-]*)[^\w,]*:""", re.ASCII)
_WORD = re.compile(r"[A-Za-z][\w-]*", re.ASCII)
_NEW_KEY = re.compile(r"""(?:-\s+)*(["']?)[A-Za-z_][\w.-]*\1\s*:(?:\s|$)""", re.ASCII)
_LOGIN_IN_URL = re.compile(r"://[^/\s@]*@")
_HARMLESS = frozenset({"pass_through", "passthrough"})
_SHORTEST = 4
_ALIKE = 0.75


@lru_cache(maxsize=4096)
def is_secret_name(word: str) -> bool:
    """Whether a key of this name, or the name it was meant to be, holds a secret."""
    lowered = word.lower().replace("-", "_").rstrip("0123456789_")
    if lowered in _HARMLESS:
        return False
    if any(part in lowered for part in ("pass", "secret", "token", "credential")):
        return True
    for part in {lowered, *lowered.split("_")}:
        if part in _PARTS:
            return True
        if len(part) > _SHORTEST and any(
            SequenceMatcher(None, part, name).ratio() >= _ALIKE for name in _NAMES
        ):
            return True
    return any(lowered.endswith(name) for name in _PARTS)


def key_shown(key: str) -> str:
    """Return a key as a message may say it: `password:hunter2`, a blank forgotten, is a key that holds a secret."""
    for word in _WORD.finditer(key):
        if is_secret_name(word[0]) and word.end() < len(key):
            return key[: word.end()] + "..."
    return key


def hidden_lines(lines: Sequence[str]) -> frozenset[int]:
    """Return the numbers (from 1) of the lines that name a secret, or stand below or within one that does."""
    hidden: set[int] = set()
    above: list[tuple[int, int]] = []
    last = 0
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        indent = len(line) - len(line.lstrip(" \t"))
        while above and above[-1][0] >= indent:
            above.pop()
        continues = last in hidden and (_is_open(lines[last - 1]) or not _NEW_KEY.match(text))
        below = bool(above) and above[-1][1] in hidden
        names = _KEY.findall(text)
        if below or continues or _LOGIN_IN_URL.search(text) or any(is_secret_name(a or b) for a, b in names):
            hidden.add(number)
        above.append((indent, number))
        last = number
    return frozenset(hidden)


def _is_open(line: str) -> bool:
    """Whether a value may go on in the next line: the key has none yet, or a quote or bracket is open."""
    text = line.rstrip()
    if text.endswith((":", ",", "|", ">", "-", "+", "{", "[", "?")):
        return True
    opened = text.count("{") + text.count("[") > text.count("}") + text.count("]")
    return opened or any(text.count(sign) % 2 for sign in "'\"")


_WIDEST = 110
_LEAD = 40


class Listing:
    """The lines of a file, as far as they may be shown."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def lines(self) -> list[str]:
        """The lines, cut where YAML cuts them."""
        return LINE_BREAK.split(self._text)

    @cached_property
    def hidden(self) -> frozenset[int]:
        """The numbers of the lines that are not shown."""
        return hidden_lines(self.lines)

    def excerpt(self, span: Span) -> tuple[str, int, int]:
        """Return a line in printable form, where in it the carets begin (from 0), and how many there are.

        A long line is cut to what is round the span. Without carets, the line is not shown or not there.
        """
        if not 0 < span.line <= len(self.lines):
            return "", 0, 0
        if span.line in self.hidden:
            return "(not shown: this line may hold a secret)", 0, 0
        line, start = self.lines[span.line - 1], span.column - 1
        if not line.strip():
            return "", 0, 0
        first = max(0, start - _LEAD) if len(line) > _WIDEST else 0
        shown = "".join(
            c if c.isprintable() else " " if c == "\t" else "?" for c in line[first : first + _WIDEST]
        )
        if first:
            shown = "..." + shown[3:]
        if first + _WIDEST < len(line):
            shown = shown[:-3] + "..."
        caret = min(start - first, len(shown))
        return shown, caret, max(1, min(span.length, len(shown) - caret))
