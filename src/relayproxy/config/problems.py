"""Problems of a configuration as values, and how they are shown: where, what, why, and a likely fix."""

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from relayproxy.config.codes import CODES

__all__ = ["CODES", "Found", "Problem", "count_line", "guesses", "render"]

_FEW = 8
_MOST_GUESSES = 3
_ALIKE = 0.6
_RED, _YELLOW, _BLUE, _BOLD, _PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[34m", "\x1b[1m", "\x1b[0m"

Found: TypeAlias = tuple[str, str, tuple[str | int, ...], str, str]
"""What a check yields: code, severity, path in the configuration, message, hint."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: `severity` error or warning, its place (line and column from 1, 0 when unknown), and the fix.

    `where` is the place in the configuration's own words. `snippet` is the line as it may be shown, `caret` the
    offset in it where `length` carets stand.
    """

    code: str
    severity: str
    file: str
    line: int
    column: int
    message: str
    where: str = ""
    hint: str = ""
    snippet: str = ""
    caret: int = 0
    length: int = 0

    @property
    def place(self) -> str:
        """`file:line:column`, as editors understand it."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def render(self, *, color: bool = False) -> str:
        """Show it for people: one line, the offending line with carets, the hint, where to read more."""

        def paint(text: str, sign: str) -> str:
            return f"{sign}{text}{_PLAIN}" if color else text

        mark = _RED if self.severity == "error" else _YELLOW
        where = f" in {self.where}" if self.where else ""
        head = paint(f"{self.severity}[{self.code}]", mark)
        lines = [f"{paint(self.place, _BOLD)}: {head}: {self.message}{where}"]
        number = str(self.line) if self.snippet else " "
        gutter = " " * len(number)
        bar = paint("|", _BLUE)
        if self.snippet:
            lines += [f"{gutter} {bar}", f"{number} {bar} {self.snippet}"]
            if self.length:
                lines.append(f"{gutter} {bar} {' ' * self.caret}{paint('^' * self.length, mark)}")
        if self.hint:
            lines.append(f"{gutter} = hint: {self.hint}")
        lines.append(f"{gutter} = help: relayproxy help {self.code}")
        return "\n".join(lines)


def guesses(word: str, known: Iterable[str], what: str = "known here") -> str:
    """Return a hint for a misspelt word: up to three guesses, and all that is known if that is little."""
    names = sorted(known)
    lowered = {name.lower(): name for name in names}
    close = [
        lowered[name] for name in difflib.get_close_matches(word.lower(), lowered, _MOST_GUESSES, _ALIKE)
    ]
    parts = []
    if close:
        parts.append("did you mean " + " or ".join(f"'{name}'" for name in close) + "?")
    if names and len(names) <= _FEW:
        parts.append(f"({what}: {', '.join(names)})")
    return "  ".join(parts)


def is_like(word: str, name: str) -> bool:
    """Whether `word` may be a misspelt `name`."""
    return bool(difflib.get_close_matches(word.lower(), [name], 1, _ALIKE))


def count_line(problems: Sequence[Problem]) -> str:
    """Say how many errors and warnings there are."""
    errors = sum(problem.severity == "error" for problem in problems)
    warnings = len(problems) - errors
    return f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"


def render(problems: Sequence[Problem], form: str = "text", *, color: bool = False) -> str:
    """Show problems as text for people, as JSON, or as annotations that code forges understand."""
    if form == "json":
        return json.dumps([_plain(problem) for problem in problems], indent=2)
    if form == "github":
        return "\n".join(map(_annotation, problems))
    return "\n\n".join([*(problem.render(color=color) for problem in problems), count_line(problems)])


def _plain(problem: Problem) -> dict[str, str | int]:
    names = ("code", "severity", "file", "line", "column", "message", "where", "hint")
    return {name: getattr(problem, name) for name in names}


def _annotation(problem: Problem) -> str:
    """Write a workflow command; a text can't end it or begin another."""
    where = f" in {problem.where}" if problem.where else ""
    text = f"{problem.message}{where}" + (f" ({problem.hint})" if problem.hint else "")
    place = f",line={problem.line},col={problem.column}" if problem.line else ""
    file = _escaped(problem.file).replace(":", "%3A").replace(",", "%2C")
    return f"::{problem.severity} file={file}{place},title={problem.code}::{_escaped(text)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
