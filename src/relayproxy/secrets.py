"""Secrets: where they are kept, never what they are.

The YAML names a place: `{env: NAME}`, `{file: path}` or `{credential: name}` (systemd's $CREDENTIALS_DIRECTORY).
The value is read when it is needed, so that a reload sees a new one, and shows in no repr, dump or error. Settings of
plugins may have secrets too, so this is below the API; it must not know the configuration.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import PlainSerializer, PlainValidator, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

_KINDS = ("env", "file", "credential")
_HINT = "write {env: NAME}, {file: path} or {credential: name}"
_LONGEST = 65_536


class SecretError(Exception):
    """A secret can't be read; the text says why and holds nothing of it."""


class EnvText(str):
    """A text that came from the environment variable `name`, or from the file that `file` names."""

    __slots__ = ("file", "name")
    name: str
    file: str

    @classmethod
    def of(cls, text: str, name: str, file: str = "") -> "EnvText":
        """Return `text` with its origin."""
        made = cls(text)
        made.name = name
        made.file = file
        return made


@dataclass(frozen=True, slots=True)
class Secret:
    """A reference to a secret: `kind` env, file or credential, and the `name` of the place."""

    kind: str
    name: str
    environ: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        return f"({self.kind} {self.name})"

    def reveal(self) -> str:
        """Return the secret itself, without a final line break. Raises SecretError."""
        if self.kind == "env":
            if self.name not in self.environ:
                raise SecretError(f"the environment variable {self.name} is not set")
            text = self.environ[self.name]
        else:
            text = _read(self._path())
        if not text:
            raise SecretError(f"{self} is empty")
        return text

    def _path(self) -> Path:
        if self.kind == "file":
            return Path(self.name)
        folder = self.environ.get("CREDENTIALS_DIRECTORY", "")
        if not folder:
            raise SecretError("$CREDENTIALS_DIRECTORY is not set: systemd sets it for LoadCredential=")
        return Path(folder) / self.name


def _read(path: Path) -> str:
    """Return the content of a file that only its owner and group can read."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o007:
                raise SecretError(f"{path} can be read by everybody (mode {mode:04o}): chmod o= {path}")
            data = file.read(_LONGEST)
        return data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise SecretError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise SecretError(f"{path}: {error.strerror or 'unreadable'}") from None


def _refusal(code: str, message: str) -> PydanticCustomError:
    return PydanticCustomError(code, "{text}", {"text": message, "hint": _HINT})


def _parse(value: object, info: ValidationInfo) -> Secret:
    # Where paths start, and the environment: the loader of the configuration gives both with each validation.
    folder: Path = getattr(info.context, "folder", Path())
    environ: Mapping[str, str] = getattr(info.context, "environ", {})
    if isinstance(value, Secret):
        return value
    if isinstance(value, EnvText):
        return Secret("file" if value.file else "env", value.file or value.name, environ)
    if not isinstance(value, dict):
        raise _refusal("RP120", "a secret is not written in the configuration")
    if len(value) != 1 or (kind := next(iter(value))) not in _KINDS:
        raise _refusal("RP121", "a secret names one place")
    name = value[kind]
    if not isinstance(name, str) or not name or "\0" in name:
        raise _refusal("RP121", f"the name of the {kind} is missing")
    if kind == "file":
        try:
            name = str(folder / Path(name).expanduser())
        except RuntimeError:
            raise _refusal("RP121", "the path begins with a home that isn't there") from None
    if kind == "credential" and ("/" in name or name in (".", "..")):
        raise _refusal("RP121", "a credential is named without a path")
    return Secret(kind, name, environ)


SecretRef: TypeAlias = Annotated[
    Secret,
    PlainValidator(_parse),
    PlainSerializer(lambda secret: {secret.kind: secret.name}, return_type=dict[str, str], when_used="json"),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {kind: {"type": "string"} for kind in _KINDS},
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
            "title": "secret",
        }
    ),
]
