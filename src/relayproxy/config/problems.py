"""Problems of a configuration as values, and how they are shown: where, what, why, and a likely fix.

Codes are stable; docs/errors.md is made from the table below.
"""

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_SECRET = re.compile(r"pass|pasw|secret|token|pwd|credential|login", re.IGNORECASE)
_FEW = 8

CODES: dict[str, tuple[str, str]] = {
    "RP101": (
        "unknown key",
        "No such key exists here. Keys are never ignored: a misspelt one would change nothing, silently.",
    ),
    "RP102": ("missing key", "A key that has no default must be there."),
    "RP103": ("duplicate key", "YAML readers disagree on which of two equal keys counts. Keep one."),
    "RP104": ("key is not text", "Keys are plain words; lists, mappings and merge keys can't be keys."),
    "RP105": ("looks like a boolean", "yes, no, on and off are text in YAML 1.2. Write true or false."),
    "RP106": (
        "ambiguous number",
        "A number with a leading zero reads as octal in YAML 1.1 and as decimal or text in YAML 1.2. Quote it.",
    ),
    "RP107": (
        "not YAML",
        "The file can't be parsed: a tab in the indentation, a missing colon or quote, more than one document.",
    ),
    "RP108": ("unreadable file", "The configuration file, or one in conf.d beside it, can't be read."),
    "RP109": ("unknown environment variable", "RELAYPROXY__A__B sets the key a.b; this one names no key."),
    "RP110": ("wrong type", "Another kind of value is wanted here."),
    "RP120": (
        "secret in the file",
        "Secrets are not written in the configuration: name the place they are kept in.",
    ),
    "RP121": (
        "secret can't be found",
        "A secret names one place: {env: NAME}, {file: path} or {credential: name}.",
    ),
    "RP201": ("unknown version", "This file is for another version of the format."),
    "RP202": ("not one of the choices", "Only certain words are known here."),
    "RP203": ("out of range", "The value is too small or too large."),
    "RP204": ("not a size", "A size is a number and a unit: 50 MB, 1 MiB."),
    "RP205": (
        "not a duration",
        "A duration is a number and a unit: 30s, 5m, 1h30m. A bare number would hide its unit.",
    ),
    "RP206": ("not a network", "A network is an address with a prefix length and no host bits: 10.0.0.0/8."),
    "RP207": ("not an address", "Addresses are host:port, [v6]:port or unix:/path."),
    "RP208": (
        "not a domain",
        "Domains are written bare: example.org, or .example.org for all names below it.",
    ),
    "RP209": ("not a name", "Names are letters, digits, dots, dashes and underscores."),
    "RP210": ("invalid value", "The value doesn't fit; the message says why."),
    "RP211": ("not a path", "A path of a file is wanted."),
    "RP212": ("not a known kind", "What is named here is of no kind that this version knows."),
    "RP301": ("no such upstream", "A route or an AUTH back end names an upstream that is not defined."),
    "RP302": ("no such listener", "A condition or a route names a listener that is not defined."),
    "RP303": (
        "no such plugin",
        "The pipeline names a plugin that is neither built in, installed, nor in a plugin folder.",
    ),
    "RP304": ("defined twice", "Two things have the same name, or two listeners the same address."),
    "RP305": ("can never be reached", "An earlier route takes everything that this one could."),
    "RP306": ("wrong order", "A plugin stands before one whose findings it reads."),
    "RP307": ("comes with a later version", "The word is known, but this version can't do it yet."),
    "RP308": ("nowhere to send", "There is more than one upstream and no route says which to use."),
    "RP309": ("contradiction", "Two settings exclude each other."),
    "RP401": (
        "plugin can't be used",
        "The plugin can't be loaded, or its hooks are not what they should be.",
    ),
    "RP402": ("plugin is there twice", "A plugin can stand in the pipeline once."),
    "RP501": ("TLS files", "A certificate, key or CA file is missing, unreadable, or doesn't fit."),
    "RP502": ("file permissions", "A private key or password file can be read by everybody."),
    "RP503": ("certificate ends soon", "A certificate has ended, or ends within two weeks."),
    "RP504": ("password file", "The password file is missing, unreadable or malformed."),
    "RP701": ("open relay", "Strangers could send mail through this proxy to anywhere."),
    "RP702": ("trusts too many", "Peers in a very wide network may speak for other clients, or relay."),
    "RP703": ("passwords in the clear", "AUTH is offered, or used, without TLS that is verified."),
    "RP704": ("open to the world", "The monitoring port listens on a public address, without a password."),
    "RP705": ("too wide a domain", "The domain is one that others register names below."),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: `severity` error or warning, its place (line and column from 1, 0 when unknown), and the fix."""

    code: str
    severity: str
    file: str
    line: int
    column: int
    message: str
    where: str = ""
    hint: str = ""
    snippet: str = ""
    length: int = 1

    @property
    def place(self) -> str:
        """`file:line:column`, as editors understand it."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def render(self) -> str:
        """Show it for people: one line, the offending line with carets, the hint, where to read more."""
        where = f" in {self.where}" if self.where else ""
        lines = [f"{self.place}: {self.severity}[{self.code}]: {self.message}{where}"]
        if self.snippet:
            number = str(self.line)
            gutter = " " * len(number)
            lines += [
                f"{gutter} |",
                f"{number} | {self.snippet}",
                f"{gutter} | {' ' * (min(self.column, len(self.snippet)) - 1)}{'^' * max(1, self.length)}",
            ]
            margin = gutter
        else:
            margin = " "
        if self.hint:
            lines.append(f"{margin} = hint: {self.hint}")
        lines.append(f"{margin} = help: relayproxy help {self.code}")
        return "\n".join(lines)


def guesses(word: str, known: Iterable[str]) -> str:
    """Return a hint for a misspelt word: up to three guesses, and all that is known if that is little."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, 3, 0.6)
    parts = []
    if close:
        parts.append("did you mean " + " or ".join(f"'{name}'" for name in close) + "?")
    if names and len(names) <= _FEW:
        parts.append(f"(known here: {', '.join(names)})")
    return "  ".join(parts)


def snippet(text: str, line: int, *, secret: bool) -> str:
    """Return a line of a file as it may be shown: never one that may hold a secret."""
    lines = text.splitlines()
    if not 0 < line <= len(lines):
        return ""
    shown = lines[line - 1].replace("\t", " ")
    if not shown.isprintable():
        shown = "".join(char if char.isprintable() else "?" for char in shown)
    if secret or _SECRET.search(shown):
        key, colon, _ = shown.partition(":")
        return f"{key}{colon} ***" if colon else "***"
    return shown[:200]


def count_line(problems: Sequence[Problem]) -> str:
    """Say how many errors and warnings there are."""
    errors = sum(problem.severity == "error" for problem in problems)
    warnings = len(problems) - errors
    return f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"


def render(problems: Sequence[Problem], form: str = "text") -> str:
    """Show problems as text for people, as JSON, or as annotations that code forges understand."""
    if form == "json":
        return json.dumps(
            [
                {
                    "code": p.code,
                    "severity": p.severity,
                    "file": p.file,
                    "line": p.line,
                    "column": p.column,
                    "message": p.message,
                    "where": p.where,
                    "hint": p.hint,
                }
                for p in problems
            ],
            indent=2,
        )
    if form == "github":
        return "\n".join(
            f"::{p.severity} file={p.file},line={p.line},col={p.column},title={p.code}::{p.message}"
            + (f" ({p.hint})" if p.hint else "")
            for p in problems
        )
    return "\n\n".join([*(problem.render() for problem in problems), count_line(problems)])
