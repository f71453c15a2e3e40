"""Loading the configuration: file, conf.d, environment and flags, one over the other, and every mistake in one run.

Never raises for what is written somewhere; it answers with problems, each with its place. Must not know what the
settings are used for.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError

from relayproxy.api import Plugin, Settings
from relayproxy.catalogue import Catalogue, PluginError
from relayproxy.config import yaml
from relayproxy.config.base import Context
from relayproxy.config.checks import check_config, check_files
from relayproxy.config.models import Common, Config, PipelineEntry
from relayproxy.config.problems import Problem, guesses, render, snippet
from relayproxy.config.secrets import EnvText
from relayproxy.config.shape import keys_at, kind_at

PREFIX = "RELAYPROXY__"
_COMMON = tuple(Common.model_fields)
_BOOLEAN_LOOKING = frozenset({"yes", "no", "on", "off", "y", "n"})

Choice: TypeAlias = tuple[PipelineEntry, type[Plugin[Any]], Settings]
Plugins: TypeAlias = Callable[[Sequence[Path]], Mapping[str, type[Plugin[Any]]]]


@dataclass(slots=True)
class Layer:
    """One source of settings: its value, how it is called, and, for a file, its text and places."""

    name: str
    value: dict[str, Any]
    text: str = ""
    document: yaml.Document = field(default_factory=yaml.Document)
    origins: dict[yaml.Path, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of it: `config` is None when there is any error. `raw` is the merged value as written."""

    config: Config | None
    choices: tuple[Choice, ...]
    problems: tuple[Problem, ...]
    folder: Path
    source: str
    text: str
    raw: dict[str, Any]
    origins: dict[yaml.Path, str]


def load(
    path: Path | None,
    *,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    plugins: Plugins = Catalogue,
    files: bool = False,
) -> Loaded:
    """Load a configuration; `files` also looks at the files that it names (certificates, keys, passwords)."""
    loading = _Loading(path, dict(overrides or {}), os.environ if environ is None else environ)
    return loading.run(plugins, files=files)


def report(loaded: Loaded, form: str = "text") -> str:
    """Return the problems as they are shown."""
    return render(loaded.problems, form)


class _Loading:
    """The steps of one load, which share layers and problems."""

    def __init__(self, path: Path | None, overrides: dict[str, Any], environ: Mapping[str, str]) -> None:
        self._path = path
        self._overrides = overrides
        self._environ = environ
        self._folder = path.resolve().parent if path else Path.cwd()
        self._problems: list[Problem] = []
        self._layers: list[Layer] = []
        self._owner: dict[yaml.Path, Layer] = {}
        self._names: dict[int, str] = {}

    def run(self, plugins: Plugins, *, files: bool) -> Loaded:
        self._read_layers()
        raw: dict[str, Any] = {}
        for layer in self._layers:
            self._merge(raw, layer.value, (), layer)
        config: Config | None = None
        choices: tuple[Choice, ...] = ()
        broken = any(problem.code in ("RP107", "RP108") for problem in self._problems)
        if not broken:
            self._booleans(raw)
            config = self._validate(raw)
            catalogue = self._catalogue(raw, plugins)
            if catalogue is not None:
                choices = self._choose(raw, config, catalogue)
            if config is not None:
                for code, severity, at, message, hint in check_config(config, choices):
                    self._add(code, severity, at, message, hint)
                if files:
                    for code, severity, at, message, hint in check_files(config, self._folder):
                        self._add(code, severity, at, message, hint)
        problems = tuple(sorted(self._problems, key=lambda p: (p.file, p.line, p.column, p.code)))
        failed = any(problem.severity == "error" for problem in problems)
        return Loaded(
            None if failed else config,
            choices,
            problems,
            self._folder,
            str(self._path) if self._path else "command line",
            self._layers[0].text if self._layers else "",
            raw,
            {at: self._origin(at) for at, _ in yaml.walk(raw)},
        )

    # -- layers ---------------------------------------------------------------------------------------------

    def _read_layers(self) -> None:
        if self._path is not None:
            self._read_file(self._path)
            for extra in sorted((self._path.parent / "conf.d").glob("*.yaml")):
                self._read_file(extra)
        self._read_environment()
        if self._overrides:
            self._layers.append(Layer("command line", self._overrides))

    def _read_file(self, path: Path) -> None:
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            self._problems.append(
                Problem("RP108", "error", str(path), 0, 0, f"not UTF-8 at octet {error.start}")
            )
            return
        except OSError as error:
            reason = error.strerror or "unreadable"
            self._problems.append(Problem("RP108", "error", str(path), 0, 0, f"can't be read: {reason}"))
            return
        document = yaml.read(text.removeprefix("\ufeff"))
        layer = Layer(str(path), {}, text, document)
        for fault in document.faults:
            self._problems.append(
                Problem(
                    fault.code,
                    "error",
                    layer.name,
                    fault.span.line,
                    fault.span.column,
                    fault.message,
                    hint=fault.hint,
                    snippet=snippet(text, fault.span.line, secret=False),
                    length=fault.span.length,
                )
            )
        if document.value is None and not document.faults:
            self._problems.append(Problem("RP107", "error", layer.name, 1, 1, "the file is empty"))
        elif isinstance(document.value, dict):
            layer.value = document.value
        elif not document.faults:
            self._problems.append(Problem("RP110", "error", layer.name, 1, 1, "a mapping of keys is wanted"))
        self._layers.append(layer)

    def _read_environment(self) -> None:
        """RELAYPROXY__A__B is the key a.b; with _FILE behind it, the value is in that file."""
        layer = Layer("environment", {})
        for name in sorted(self._environ):
            if not name.startswith(PREFIX):
                continue
            text, parts, file = self._environ[name], name.removeprefix(PREFIX).lower().split("__"), ""
            if parts[-1].endswith("_file") and parts[-1] != "_file":
                parts[-1], file = parts[-1].removesuffix("_file"), text
                try:
                    text = Path(file).read_text("utf-8").rstrip("\r\n")
                except (OSError, UnicodeDecodeError) as error:
                    self._problems.append(Problem("RP108", "error", name, 0, 0, f"{file}: {error}"))
                    continue
            path: yaml.Path = tuple(
                int(part) if part.isascii() and part.isdigit() else part for part in parts
            )
            read = yaml.parse_scalar(text)
            value = EnvText.of(text, name, file) if isinstance(read, str) else read
            layer.origins[path] = name
            self._put(layer.value, path, value)
        if layer.value:
            self._layers.append(layer)

    @staticmethod
    def _put(target: dict[Any, Any], path: yaml.Path, value: Any) -> None:
        for part in path[:-1]:
            inner = target.get(part)
            if not isinstance(inner, dict):
                inner = target[part] = {}
            target = inner
        target[path[-1]] = value

    def _merge(self, into: Any, value: Any, path: yaml.Path, layer: Layer) -> None:
        """Lay a value over what is there: mappings key by key, anything else in its place."""
        for key, item in value.items():
            at = (*path, key)
            if isinstance(into, list):
                if not (isinstance(key, int) and key < len(into)):
                    self._foreign(at, layer)
                    continue
                there: Any = into[key]
            else:
                there = into.get(key)
            if (
                isinstance(item, dict)
                and isinstance(there, (dict, list))
                and (item or isinstance(there, dict))
            ):
                self._merge(there, item, at, layer)
            else:
                into[key] = item
                for below, _ in yaml.walk(item, at):
                    self._owner[below] = layer
            self._owner.setdefault(at, layer)

    def _foreign(self, at: yaml.Path, layer: Layer) -> None:
        name = layer.origins.get(at, ".".join(map(str, at)))
        self._problems.append(
            Problem("RP109", "error", name, 0, 0, "names an element of a list that isn't there")
        )

    # -- validation -----------------------------------------------------------------------------------------

    def _booleans(self, raw: dict[str, Any]) -> None:
        """yes, no, on and off are text; where true or false is wanted, say so instead of guessing."""
        for layer in self._layers:
            for at, text in layer.document.plain.items():
                if (
                    text.lower() in _BOOLEAN_LOOKING
                    and self._owner.get(at) is layer
                    and kind_at(Config, at) is bool
                ):
                    meant = "true" if text.lower() in ("yes", "on", "y") else "false"
                    self._add("RP105", "error", at, f"'{text}' is text in YAML 1.2", f"write {meant}")
                    self._replace(raw, at, meant == "true")

    @staticmethod
    def _replace(raw: Any, at: yaml.Path, value: Any) -> None:
        for part in at[:-1]:
            raw = raw[part]
        raw[at[-1]] = value

    def _context(self) -> Context:
        return Context(self._folder, self._environ)

    def _validate(self, raw: dict[str, Any]) -> Config | None:
        shaped = dict(raw)
        if isinstance(raw.get("pipeline"), list):
            shaped["pipeline"] = [self._entry(number, entry) for number, entry in enumerate(raw["pipeline"])]
        try:
            return Config.model_validate(shaped, context=self._context())
        except ValidationError as error:
            self._take(error, Config, ())
        return None

    def _entry(self, number: int, entry: Any) -> Any:
        """Turn `name` or `{name: {...}}` into what the model reads."""
        if isinstance(entry, str):
            self._names[number] = entry
            return {"name": entry}
        if isinstance(entry, dict) and len(entry) == 1:
            name, options = next(iter(entry.items()))
            if options is None:
                options = {}
            if isinstance(options, dict):
                self._names[number] = name
                common = {key: value for key, value in options.items() if key in _COMMON}
                rest = {key: value for key, value in options.items() if key not in _COMMON}
                return {"name": name, "options": rest, **common}
        self._add(
            "RP110",
            "error",
            ("pipeline", number),
            "an entry is the name of a plugin, or {name: {options}}",
            "write '- spf', or '- dmarc: {on_fail: observe}'",
        )
        return {"name": f"entry_{number}"}

    def _take(self, error: ValidationError, model: type[BaseModel], base: yaml.Path) -> None:
        """Turn pydantic's errors into problems at their places."""
        items = error.errors(include_url=False)
        places = [tuple(item["loc"]) for item in items]
        for item in items:
            loc = tuple(item["loc"])
            if item["type"] == "too_short" and any(
                len(p) > len(loc) and p[: len(loc)] == loc for p in places
            ):
                # What is in the list is wrong, so it counts as empty: one cause, one problem.
                continue
            self._take_one(item, self._place((*base, *loc)), model, base)

    def _place(self, loc: tuple[Any, ...]) -> yaml.Path:
        """Find what a location means in the file: pipeline entries are written differently, unions add tags."""
        path: yaml.Path = tuple(loc)
        if (
            len(path) > 2
            and path[0] == "pipeline"
            and isinstance(path[1], int)
            and path[2] != self._names.get(path[1])
        ):
            name = self._names.get(path[1])
            rest = path[3:] if path[2] == "options" else path[2:]
            path = ("pipeline", path[1], name, *rest) if name and path[2] != "name" else path[:2]
        kept: yaml.Path = ()
        for part in path:
            if (*kept, part) in self._owner or part == path[-1]:
                kept = (*kept, part)
        return kept

    def _take_one(self, item: Any, at: yaml.Path, model: type[BaseModel], base: yaml.Path) -> None:
        kind, context = item["type"], item.get("ctx") or {}
        inner: yaml.Path = at[len(base) :]
        match kind:
            case "extra_forbidden":
                known = keys_at(model, inner[:-1])
                if base or at[:1] == ("pipeline",):
                    known = [*known, *_COMMON]
                self._add(
                    "RP101", "error", at, f"unknown key '{at[-1]}'", guesses(str(at[-1]), known), on_key=True
                )
            case "missing":
                self._add("RP102", "error", at[:-1], f"key '{at[-1]}' is missing", on_key=True)
            case "literal_error":
                wanted = str(context.get("expected", ""))
                words = [word.strip("' ") for word in wanted.replace(" or ", ",").split(",")]
                hint = (
                    guesses(str(item["input"]), words)
                    if isinstance(item["input"], str)
                    else f"one of {wanted}"
                )
                self._add("RP202", "error", at, "not one of the known words", hint or f"one of {wanted}")
            case _ if kind.startswith("RP"):
                self._add(kind, "error", at, item["msg"], str(context.get("hint", "")))
            case "too_short":
                self._add("RP102", "error", at, "at least one is needed here")
            case _ if "greater" in kind or "less" in kind:
                self._add("RP203", "error", at, _first_lower(item["msg"]))
            case _ if kind.endswith(("_type", "_parsing")):
                self._add("RP110", "error", at, _wanted(kind), _surprise(item["input"]))
            case _:
                text = str(item["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
                self._add("RP210", "error", at, _first_lower(text))

    # -- plugins --------------------------------------------------------------------------------------------

    def _catalogue(self, raw: dict[str, Any], plugins: Plugins) -> Mapping[str, type[Plugin[Any]]] | None:
        given = raw.get("plugin_folders") or []
        folders = [
            self._folder / Path(folder).expanduser()
            for folder in (given if isinstance(given, list) else [])
            if isinstance(folder, str)
        ]
        try:
            return plugins(folders)
        except PluginError as error:
            self._add("RP401", "error", ("plugin_folders",), error.message)
            return None

    def _choose(
        self, raw: dict[str, Any], config: Config | None, catalogue: Mapping[str, type[Plugin[Any]]]
    ) -> tuple[Choice, ...]:
        """Find the plugin of every entry and validate its options, whether or not the rest is right."""
        choices: list[Choice] = []
        seen: set[str] = set()
        for number, name in self._names.items():
            at: yaml.Path = ("pipeline", number)
            written = raw["pipeline"][number]
            if isinstance(written, dict):
                at = (*at, name)
            if name in seen:
                self._add("RP402", "error", at, f"plugin '{name}' is there twice", on_key=True)
                continue
            seen.add(name)
            if name not in catalogue:
                self._add(
                    "RP303",
                    "error",
                    at,
                    f"there is no plugin '{name}'",
                    guesses(name, catalogue),
                    on_key=True,
                )
                continue
            try:
                cls = catalogue[name]
            except PluginError as error:
                place = (
                    f" ({error.file}:{error.line})"
                    if error.line
                    else f" ({error.file})"
                    if error.file
                    else ""
                )
                self._add("RP401", "error", at, f"{error.message}{place}", on_key=True)
                continue
            options = (written.get(name) or {}) if isinstance(written, dict) else {}
            own = {key: value for key, value in options.items() if key not in _COMMON}
            try:
                settings = cls.settings.model_validate(own, context=self._context())
            except ValidationError as error:
                self._take(error, cls.settings, ("pipeline", number, name))
                continue
            if config is not None:
                choices.append((config.pipeline[number], cls, settings))
        return tuple(choices)

    # -- problems -------------------------------------------------------------------------------------------

    def _add(
        self, code: str, severity: str, at: yaml.Path, message: str, hint: str = "", *, on_key: bool = False
    ) -> None:
        layer = self._owner_of(at)
        where = _spoken(at)
        if layer is None or not layer.text:
            name = "configuration"
            if layer is not None:
                name = layer.origins.get(at, layer.name)
            elif self._path is not None:
                name = str(self._path)
            self._problems.append(Problem(code, severity, name, 0, 0, message, where, hint))
            return
        spans = layer.document
        span = (spans.keys.get(at) if on_key else None) or spans.values.get(at) or spans.keys.get(at)
        near = at
        while span is None and near:
            near = near[:-1]
            span = spans.keys.get(near) or spans.values.get(near)
        span = span or yaml.Span(1, 1)
        secret = code.startswith("RP12")
        shown = snippet(layer.text, span.line, secret=secret)
        whole = not shown.endswith("***")
        self._problems.append(
            Problem(
                code,
                severity,
                layer.name,
                span.line,
                span.column,
                message,
                where,
                hint,
                shown,
                span.length if whole else 1,
            )
        )

    def _owner_of(self, at: yaml.Path) -> Layer | None:
        while at and at not in self._owner:
            at = at[:-1]
        if at in self._owner:
            return self._owner[at]
        return self._layers[0] if self._layers else None

    def _origin(self, at: yaml.Path) -> str:
        layer = self._owner.get(at)
        if layer is None:
            return "default"
        span = layer.document.values.get(at)
        if span is not None and layer.text:
            return f"{layer.name}:{span.line}"
        return layer.origins.get(at, layer.name)


def _spoken(at: yaml.Path) -> str:
    text = ""
    for part in at[:-1] if len(at) > 1 else at[:0]:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def _first_lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _wanted(kind: str) -> str:
    names = {
        "string": "text is wanted",
        "bool": "true or false is wanted",
        "int": "a whole number is wanted",
        "float": "a number is wanted",
        "tuple": "a list is wanted",
        "list": "a list is wanted",
        "dict": "a mapping is wanted",
        "model": "a mapping is wanted",
        "model_attributes": "a mapping is wanted",
    }
    return names.get(kind.rpartition("_")[0], "another kind of value is wanted")


def _surprise(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return f"YAML reads this as {str(value).lower() if value is not None else 'nothing'}; quote it to make it text"
    if isinstance(value, (int, float)):
        return "YAML reads this as a number; quote it to make it text"
    return ""
