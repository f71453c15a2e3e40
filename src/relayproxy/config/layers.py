"""The layers of the configuration, one over the other: file, conf.d, environment, command line.

Knows for every value which layer it is from and where it stands there. Must not know what any key is for, save
that the models tell a list from a mapping.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relayproxy.config import yaml
from relayproxy.config.environment import Variable, is_number, read_environment
from relayproxy.config.masking import Listing
from relayproxy.config.models import Config
from relayproxy.config.problems import Problem
from relayproxy.config.shape import keys_at
from relayproxy.config.syntax import Span

_SAYS_KEY = frozenset({"RP101", "RP103", "RP209", "RP303"})
_QUOTED = re.compile("'.*'")
COMMAND_LINE = "command line"


@dataclass(slots=True, eq=False)
class Layer:
    """One source of settings: how it is called, and, for a file, its lines and places."""

    name: str
    rank: int
    listing: Listing | None = None
    document: yaml.Document = field(default_factory=yaml.Document)


class Layers:
    """All layers, merged into `raw`. `readable` is False when one of them could not be read to its end."""

    def __init__(self, path: Path | None, overrides: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self.raw: dict[str, Any] = {}
        self.problems: list[Problem] = []
        self.readable = True
        self.text = ""
        self._layers: list[Layer] = []
        self._owner: dict[yaml.Path, Layer] = {}
        if path is not None:
            self.text = self._file(path, must=True)
            for extra in self._extras(path.parent / "conf.d"):
                self._file(extra, must=False)
        self._environment(environ)
        if overrides:
            self._merge(self.raw, overrides, (), self._layer(COMMAND_LINE))

    def _layer(self, name: str) -> Layer:
        layer = Layer(name, len(self._layers))
        self._layers.append(layer)
        return layer

    # -- files ----------------------------------------------------------------------------------------------

    def _extras(self, folder: Path) -> list[Path]:
        try:
            paths = sorted(folder.iterdir()) if folder.is_dir() else []
        except OSError as error:
            if self.readable:  # else it is the same cause
                self._unreadable(str(folder), f"can't be read: {error.strerror or 'unreadable'}")
            return []
        extras = []
        for path in paths:
            if path.suffix == ".yaml":
                extras.append(path)
            elif not path.name.startswith("."):
                message = "not read: only files called *.yaml are"
                self.problems.append(Problem("RP108", "warning", str(path), 0, 0, message))
        return extras

    def _file(self, path: Path, *, must: bool) -> str:
        """Read a file and lay it over what is there; return its text."""
        layer = self._layer(str(path))
        try:
            text = path.read_bytes().decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            self._unreadable(layer.name, f"not UTF-8 at octet {error.start}")
            return ""
        except OSError as error:
            self._unreadable(layer.name, f"can't be read: {error.strerror or 'unreadable'}")
            return ""
        except ValueError:
            self._unreadable(layer.name, "is not a path")
            return ""
        document = layer.document = yaml.read(text)
        layer.listing = Listing(text)
        for fault in document.faults:
            self.problems.append(_at(layer, fault.span, fault.code, "error", fault.message, "", fault.hint))
        if not document.readable:
            self.readable = False
        elif isinstance(document.value, dict):
            self._merge(self.raw, document.value, (), layer)
        elif document.value is not None:
            self.readable = False
            message = "a mapping of keys is wanted"
            self.problems.append(
                _at(layer, Span(1, 1), "RP110", "error", message, "", "begin with version: 1")
            )
        elif must:
            self.readable = False
            hint = "begin with version: 1"
            self.problems.append(_at(layer, Span(1, 1), "RP108", "error", "the file is empty", "", hint))
        return text

    def _unreadable(self, name: str, message: str) -> None:
        self.readable = False
        self.problems.append(Problem("RP108", "error", name, 0, 0, message))

    def _merge(self, into: dict[Any, Any], value: Mapping[Any, Any], path: yaml.Path, layer: Layer) -> None:
        """Lay a value over what is there: mappings key by key, anything else in its place."""
        for key, item in value.items():
            at = (*path, key)
            there = into.get(key)
            if isinstance(item, dict) and isinstance(there, dict):
                self._merge(there, item, at, layer)
            else:
                into[key] = _copied(item)
                self._claim(at, item, layer)

    def _claim(self, at: yaml.Path, item: Any, layer: Layer) -> None:
        for below, _ in yaml.walk(item, at):
            self._owner[below] = layer

    # -- environment ----------------------------------------------------------------------------------------

    def _environment(self, environ: Mapping[str, str]) -> None:
        variables, faults = read_environment(environ)
        for name, message, hint in faults:
            self.problems.append(Problem("RP109", "error", name, 0, 0, message, hint=hint))
        for variable in variables:
            self._apply(variable, self._layer(variable.name))
        for name, meant in _nearly(environ):
            message = f"has no effect; '{meant}' needs two underscores"
            hint = f"did you mean RELAYPROXY__{name.removeprefix('RELAYPROXY_')}?"
            self.problems.append(Problem("RP109", "warning", name, 0, 0, message, hint=hint))

    def _apply(self, variable: Variable, layer: Layer) -> None:
        """Set the key that a variable names, making the mappings and list elements on the way to it."""
        path = self._resolved(variable)
        if path is None:
            return
        try:
            value = variable.read()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            self.problems.append(Problem("RP108", "error", layer.name, 0, 0, f"{variable.file}: {reason}"))
            return
        into: Any = self.raw
        for depth, part in enumerate(path[:-1]):
            into = _entered(into, part, [] if isinstance(path[depth + 1], int) else {})
            self._owner.setdefault(path[: depth + 1], layer)
        if isinstance(into, list) and path[-1] == len(into):
            into.append(value)
        else:
            into[path[-1]] = value
        self._claim(path, value, layer)

    def _resolved(self, variable: Variable) -> yaml.Path | None:
        """Find the keys that a variable's parts name; case and dashes are lost in names of variables."""
        there: Any = self.raw
        path: yaml.Path = ()
        for part in variable.parts:
            if isinstance(there, list) or (there is None and is_number(part)):
                items = there if isinstance(there, list) else []
                if not is_number(part) or int(part) > len(items):
                    self._foreign(variable, path, len(items))
                    return None
                path = (*path, int(part))
                there = items[int(part)] if int(part) < len(items) else None
                continue
            known = [*(there if isinstance(there, dict) else ()), *keys_at(Config, path)]
            key = next((str(k) for k in known if str(k).lower().replace("-", "_") == part), part)
            path = (*path, key)
            there = there.get(key) if isinstance(there, dict) else None
        return path

    def _foreign(self, variable: Variable, path: yaml.Path, length: int) -> None:
        message = f"'{'.'.join(map(str, path))}' is a list of {length}: a number from 0 to {length} is wanted"
        self.problems.append(Problem("RP109", "error", variable.name, 0, 0, message))

    # -- places ---------------------------------------------------------------------------------------------

    def has(self, at: yaml.Path) -> bool:
        """Whether something is written at a path."""
        return at in self._owner

    def origin(self, at: yaml.Path) -> str:
        """Return where a value is from: `file:line`, a variable's name, `command line` or `default`."""
        layer = self._owner.get(at)
        if layer is None:
            return "default"
        span = layer.document.keys.get(at) or layer.document.values.get(at)
        return f"{layer.name}:{span.line}" if span is not None else layer.name

    def problem(
        self, at: yaml.Path, code: str, severity: str, message: str, where: str, hint: str, *, on_key: bool
    ) -> Problem:
        """Return a problem at the place of a path, or at the nearest that is written."""
        near = at
        while near and near not in self._owner:
            near = near[:-1]
        layer = self._owner.get(near) if near else next(iter(self._layers), None)
        if layer is None:
            return Problem(code, severity, COMMAND_LINE, 0, 0, message, where, hint)
        places = layer.document
        span = (places.keys.get(near) if on_key or near != at else None) or places.values.get(near)
        if not near or span is None:
            line = 1 if layer.listing is not None else 0
            return Problem(code, severity, layer.name, line, line, message, where, hint)
        return _at(layer, span, code, severity, message, where, hint)

    def rank(self, problem: Problem) -> tuple[int, int, int, str]:
        """Return what sorts problems: by layer, then by place."""
        ranks = {layer.name: layer.rank for layer in self._layers}
        return ranks.get(problem.file, len(ranks)), problem.line, problem.column, problem.code


def _at(layer: Layer, span: Span, code: str, severity: str, message: str, where: str, hint: str) -> Problem:
    """Return a problem at a place. On a line that is not shown, a key that is like no other may be a secret."""
    listing = layer.listing
    shown, caret, length = listing.excerpt(span) if listing is not None else ("", 0, 0)
    if (
        listing is not None
        and span.line in listing.hidden
        and code in _SAYS_KEY
        and "did you mean" not in hint
    ):
        message = _QUOTED.sub("'***'", message, count=1)
    return Problem(
        code, severity, layer.name, span.line, span.column, message, where, hint, shown, caret, length
    )


def _copied(value: Any) -> Any:
    """Return the value with containers of its own, so that a layer above can't change the caller's."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, (list, tuple)) else value


def _entered(into: Any, part: str | int, new: Any) -> Any:
    """Return the container at `part`, made where there is none."""
    if isinstance(into, list):
        assert isinstance(part, int)
        if part == len(into):
            into.append(new)
        elif not isinstance(into[part], (dict, list)):
            into[part] = new
        return into[part]
    if not isinstance(into.get(part), (dict, list)):
        into[part] = new
    return into[part]


def _nearly(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return variables such as RELAYPROXY_HOSTNAME, with the key that they look like."""
    found = []
    for name in sorted(environ):
        rest = name.removeprefix("RELAYPROXY_").lower()
        if name.startswith("RELAYPROXY_") and rest in Config.model_fields:
            found.append((name, rest))
    return found
