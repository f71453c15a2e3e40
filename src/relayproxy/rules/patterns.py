"""Patterns that can't hang: RE2 automata, linear in the text whatever the pattern (the one home of re2).

Matching ignores case. Must not know what is matched.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import re2

LONGEST_PATTERN = 1000
_LONGEST_TEXT = 65_536
_MEMORY = 8 << 20  # octets for one pattern with its automaton
_MEMORY_OF_MANY = 64 << 20
_OCTETS_OF_STEP = (
    240  # a third of the memory must hold twenty states of four octets a step, or nothing is found
)
_MOST_IN_ONE = 400
_NONE: list[int] = []


class PatternError(ValueError):
    """The text is no pattern; the message says why."""


def _options(memory: int) -> re2.Options:
    options = re2.Options()
    options.case_sensitive = False
    options.dot_nl = True
    options.log_errors = False
    options.max_mem = memory
    return options


@lru_cache(maxsize=8192)
def _size(pattern: str) -> int:
    """Return the steps of a pattern's program. Raises PatternError for what is no pattern."""
    try:
        size: int = re2.compile(pattern, _options(_MEMORY)).programsize
    except re2.error as error:
        raise PatternError(_told(error)) from error
    return size


def _sets(patterns: Sequence[str], start: int) -> Iterator[tuple[int, re2.Set]]:
    """Yield sets of patterns with the number of their first; too many, or too large together, are cut in two."""
    memory = _MEMORY if len(patterns) == 1 else _MEMORY_OF_MANY
    fits = len(patterns) <= _MOST_IN_ONE and sum(map(_size, patterns)) <= memory // _OCTETS_OF_STEP
    if len(patterns) == 1 and not fits:
        raise PatternError("its repetitions make it too large")
    if fits:
        made = re2.Set.SearchSet(_options(memory))
        try:
            for pattern in patterns:
                made.Add(pattern)
            made.Compile()
        except re2.error as error:
            if len(patterns) == 1:
                raise PatternError(_told(error)) from error
        else:
            yield start, made
            return
    half = len(patterns) // 2
    yield from _sets(patterns[:half], start)
    yield from _sets(patterns[half:], start + half)


class Patterns:
    """Several patterns, searched for together: the cost is that of one pass over the text. Raises PatternError."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._sets = list(_sets(patterns, 0)) if patterns else []
        self._only = self._sets[0][1].Match if len(self._sets) == 1 else None

    def found(self, text: str) -> list[int]:
        """Return the numbers of the patterns that occur in the first 64 Ki characters of `text`."""
        data = text.encode("utf-8", "replace") if len(text) <= _LONGEST_TEXT else _cut(text)
        if self._only is not None:
            return self._only(data) or _NONE
        return [start + number for start, made in self._sets for number in made.Match(data) or _NONE]


def _cut(text: str) -> bytes:
    return text[:_LONGEST_TEXT].encode("utf-8", "replace")


def check(pattern: str) -> None:
    """Raise PatternError for what RE2 can't take: backreferences, look-around, too much repetition."""
    if len(pattern) > LONGEST_PATTERN:
        raise PatternError(f"longer than {LONGEST_PATTERN} characters")
    Patterns([pattern])


def _told(error: re2.error) -> str:
    reason = error.args[0] if error.args else "not a pattern"
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)


def from_glob(glob: str) -> str:
    """Return the pattern of a glob: * any number of characters, ? one, [abc] one of these; the whole text fits."""
    out = ["^"]
    place = 0
    while place < len(glob):
        char = glob[place]
        place += 1
        if char == "*":
            out.append(".*")
        elif char == "?":
            out.append(".")
        elif char == "[" and (end := glob.find("]", place + 1)) > 0:
            inner = glob[place:end]
            negated = inner[:1] in ("!", "^")
            body = inner[negated:].replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
            out.append(f"[{'^' * negated}{body}]")
            place = end + 1
        else:
            out.append(re2.escape(char))
    return "".join((*out, "$"))


def exactly(texts: Iterable[str], *, start: bool = False, end: bool = False) -> list[str]:
    """Return patterns for plain texts, at the start, at the end, or anywhere."""
    return [f"{'^' * start}{re2.escape(text)}{'$' * end}" for text in texts]
