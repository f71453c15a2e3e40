"""What is wrong with a file as YAML, in words that help, and where it begins.

libyaml says where it gave up, in terms of its grammar; an admin wants to know where the mistake is. Must not
repeat what the file says: the line may hold a secret.
"""

import re
from dataclasses import dataclass
from typing import Any

_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
LINE_BREAK = re.compile(r"\r\n|[\r\n\x85\u2028\u2029]")
_NEXT_VALUE = re.compile(r"\S.*?:\s")


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a file: `line` and `column` count from 1, `length` in characters (at least 1)."""

    line: int
    column: int
    length: int = 1


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with the YAML itself: `code` names it, `hint` may be empty."""

    code: str
    message: str
    span: Span
    hint: str = ""


def forbidden_character(text: str) -> Fault | None:
    """Return the first character that no YAML file may have, or None (YAML 1.2 section 5.1)."""
    found = _FORBIDDEN.search(text)
    if found is None:
        return None
    breaks = list(LINE_BREAK.finditer(text, 0, found.start()))
    column = found.start() - (breaks[-1].end() if breaks else 0) + 1
    name = f"U+{ord(found[0]):04X}"
    return Fault("RP107", f"a character that YAML doesn't allow ({name})", Span(len(breaks) + 1, column))


def explain(text: str, error: Any) -> Fault:
    """Return a PyYAML error (a MarkedYAMLError) as a fault at the place where the mistake is."""
    problem, context = error.problem or "", error.context or ""
    here = _span_of(error.problem_mark or error.context_mark)
    began = _span_of(error.context_mark) if error.context_mark else here
    lines = LINE_BREAK.split(text)
    line = lines[here.line - 1] if here.line <= len(lines) else ""
    indent = line[: len(line) - len(line.lstrip(" \t"))]
    if "\t" in indent:
        return Fault(
            "RP107", "a tab in the indentation", Span(here.line, indent.index("\t") + 1), "indent with blanks"
        )
    if "unexpected end of stream" in problem and "quoted" in context:
        return Fault("RP107", "a quote that is never closed", began)
    if "flow sequence" in context or "flow mapping" in context:
        bracket = "[" if "sequence" in context else "{"
        hint = "a comma is missing, or the bracket is closed too late or never"
        return Fault("RP107", f"the list or mapping that begins with {bracket} goes wrong", began, hint)
    if "flow node" in context:
        return Fault("RP107", "a bracket that is never closed", began)
    if "mapping values are not allowed" in problem:
        if _NEXT_VALUE.match(line[: here.column].lstrip()) and line[: here.column].count(":") > 1:
            hint = "a value that holds ': ' needs quotes"
            return Fault("RP107", "a second colon in one line", here, hint)
        return Fault(
            "RP107", "this line doesn't belong where it is indented", here, "compare it with the line above"
        )
    if "could not find expected ':'" in problem:
        return Fault("RP107", "a colon is missing after this key", began, "write key: value")
    if "did not find expected key" in problem or "expected '-' indicator" in problem:
        hint = f"the block that it would belong to begins in line {began.line}"
        return Fault("RP107", "this line doesn't fit the indentation", here, hint)
    if "cannot start any token" in problem:
        sign = line[here.column - 1 : here.column]
        return Fault("RP107", f"a value can't begin with {sign}", here, "put it in quotes")
    if "undefined alias" in problem:
        return Fault(
            "RP107",
            "an alias (*) for something that isn't there",
            here,
            "a text that begins with * needs quotes",
        )
    if "escape" in problem or "hexdecimal" in problem:
        hint = "in double quotes a backslash is written twice; in single quotes once"
        return Fault("RP107", "an escape that YAML doesn't know", here, hint)
    return Fault("RP107", f"not YAML: {problem or 'unreadable'}", here)


def _span_of(mark: Any) -> Span:
    return Span(mark.line + 1, mark.column + 1) if mark else Span(1, 1)
