"""Environment variables as settings: RELAYPROXY__A__B is the key a.b, RELAYPROXY__A__B_FILE a file that holds it.

Must not know the models; which keys there are is decided where the value is laid over the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relayproxy.config import yaml
from relayproxy.config.masking import is_secret_name
from relayproxy.secrets import EnvText

PREFIX = "RELAYPROXY__"
_FILE = "_file"
_MOST_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable: the parts of the key it names, in lower case, and its text or the file that holds it."""

    name: str
    parts: tuple[str, ...]
    text: str
    file: str = ""

    def read(self) -> Any:
        """Return the value, read as YAML would read it. Raises OSError and UnicodeDecodeError for a file.

        A list or a mapping is written in brackets; what is no YAML, or a secret, is text.
        """
        text = Path(self.file).read_text("utf-8").rstrip("\r\n") if self.file else self.text
        if not is_secret_name(self.parts[-1]):
            if text.startswith(("[", "{")):
                document = yaml.read(text)
                if not document.faults:
                    return document.value
            value = yaml.parse_scalar(text)
            if not isinstance(value, str):
                return value
        return EnvText.of(text, self.name, self.file)


def is_number(part: str) -> bool:
    """Whether a part of a variable's name can be the place of an element in a list."""
    return part.isascii() and part.isdigit()


def read_environment(environ: Mapping[str, str]) -> tuple[list[Variable], list[tuple[str, str, str]]]:
    """Return the variables that are meant for us, by name, and (name, message, hint) for what can't be one."""
    variables, faults = [], []
    for name in sorted(environ):
        if not name.startswith(PREFIX):
            continue
        text, parts, file = environ[name], name.removeprefix(PREFIX).lower().split("__"), ""
        if not all(parts) or any(is_number(part) and len(part) > _MOST_DIGITS for part in parts):
            faults.append((name, "names no key", f"write {PREFIX}HOSTNAME, {PREFIX}DNS__TIMEOUT"))
            continue
        if parts[-1].endswith(_FILE) and parts[-1] != _FILE:
            parts[-1], file = parts[-1].removesuffix(_FILE), text
            if not file or "\0" in file:
                faults.append((name, "names no file", ""))
                continue
        variables.append(Variable(name, tuple(parts), "" if file else text, file))
    return variables, faults
