"""What is wrong with a rule, as a value: the configuration adds file and line.

Must not know where a rule is written, only its path below the top of the configuration.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

Path: TypeAlias = tuple[str | int, ...]

_FEW = 8


@dataclass(frozen=True, slots=True)
class Flaw:
    """One mistake: a stable `code`, the `path` of keys and numbers that leads to it, what is wrong, a likely fix.

    `severity` is "error" or "warning"; `on_key` says that the key is wrong rather than its value.
    """

    code: str
    path: Path
    message: str
    hint: str = ""
    severity: str = "error"
    on_key: bool = False


class FlawError(Exception):
    """Raised inside a compiler step for the one value it reads; carries the flaw."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.message)
        self.flaw = flaw


def fail(code: str, path: Path, message: str, hint: str = "", *, on_key: bool = False) -> FlawError:
    """Return the error to raise."""
    return FlawError(Flaw(code, path, message, hint, on_key=on_key))


def guess(word: str, known: Iterable[str], what: str = "known here") -> str:
    """Return a hint for a misspelt word: what is like it, and all there is when that is little."""
    names = sorted(known)
    close = difflib.get_close_matches(word.lower(), names, 3, 0.6)
    parts = ["did you mean " + " or ".join(f"'{name}'" for name in close) + "?"] if close else []
    if names and len(names) <= _FEW:
        parts.append(f"({what}: {', '.join(names)})")
    return "  ".join(parts)
