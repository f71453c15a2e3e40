"""Loading the configuration: file, conf.d, environment and flags, one over the other, and every mistake in one run.

Never raises for what is written somewhere; it answers with problems, each with its place. Must not know what the
settings are used for.
"""

import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from relayproxy.api import Mistake, Plugin, Settings, Setup
from relayproxy.catalogue import Catalogue, PluginError
from relayproxy.config import yaml
from relayproxy.config.base import Context
from relayproxy.config.checks import ABSENCE, Chosen, check_config, named
from relayproxy.config.files import check_files, check_secrets
from relayproxy.config.layers import Layers
from relayproxy.config.masking import key_shown
from relayproxy.config.models import Common, Config, PipelineEntry
from relayproxy.config.partial import Partial
from relayproxy.config.problems import Found, Problem, guesses, render
from relayproxy.config.shape import misread
from relayproxy.config.translate import Translation, spoken
from relayproxy.config.values import expanded
from relayproxy.model.refused import quoted

_COMMON = tuple(Common.model_fields)

Choice: TypeAlias = tuple[PipelineEntry, type[Plugin[Any]], Settings]
Plugins: TypeAlias = Callable[[Sequence[Path]], Mapping[str, type[Plugin[Any]]]]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of it: `config` is None when there is any error. `raw` is the merged value as written.

    `choices` are the pipeline's plugins with their settings, `origins` says where each value in `raw` is from.
    """

    config: Config | None
    choices: tuple[Choice, ...]
    problems: tuple[Problem, ...]
    folder: Path
    source: str
    text: str
    raw: dict[str, Any]
    layers: Layers

    def origin(self, at: yaml.Path) -> str:
        """Return where a value is from: `file:line`, a variable's name, `command line` or `default`."""
        return self.layers.origin(at)


def load(
    path: Path | None,
    *,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    plugins: Plugins = Catalogue,
    files: bool = False,
    ask: bool = False,
) -> Loaded:
    """Load a configuration.

    `files` also looks at the files that it names (certificates, keys, passwords), `ask` has the plugins check what
    their settings name.
    """
    loading = _Loading(path, dict(overrides or {}), os.environ if environ is None else environ)
    return loading.run(plugins, files=files, ask=ask)


def report(loaded: Loaded, form: str = "text", *, color: bool = False) -> str:
    """Return the problems as they are shown: `form` is text, json or github."""
    return render(loaded.problems, form, color=color)


class _Loading:
    """The steps of one load, which share layers and problems."""

    def __init__(self, path: Path | None, overrides: dict[str, Any], environ: Mapping[str, str]) -> None:
        self._path = path
        self._context = Context(_folder_of(path), environ)
        self._layers = Layers(path, overrides, environ)
        self._problems = self._layers.problems
        self._names: dict[int, str] = {}

    def run(self, plugins: Plugins, *, files: bool, ask: bool) -> Loaded:
        raw = self._layers.raw
        config: Config | None = None
        choices: list[Choice] = []
        if self._layers.readable:
            shaped = self._shaped(raw)
            config, wrong = self._validate(raw, shaped)
            chosen = self._choose(raw, plugins)
            ruled = self._rules(raw, config, wrong, files=files)
            chosen = [replace(c, settings=ruled(c.settings)) if c.settings else c for c in chosen]
            if config is not None:
                known = {entry.name: entry for entry in config.pipeline}
                choices = [(known[c.name], c.plugin, c.settings) for c in chosen if c.settings is not None]
            partial = Partial(shaped, wrong, self._context, config)
            if partial.config is not None:
                self._check(check_config(partial.config, chosen, raw, whole=config is not None), partial)
                if files:
                    self._check(check_files(partial.config), partial)
                    for one in chosen:
                        at = ("pipeline", one.number, one.name)
                        self._check(check_secrets(one.settings, at), partial)
            if ask:
                self._ask(
                    chosen,
                    Setup(
                        self._context.folder,
                        frozenset(named(raw, "listeners")),
                        frozenset(one.name for one in chosen),
                        can_hold=raw.get("spool") is not None,
                        read_yaml=yaml.read_file,
                        queue_routes=frozenset(_queue_routes(raw)),
                    ),
                )
        problems = tuple(sorted(self._problems, key=self._layers.rank))
        failed = any(problem.severity == "error" for problem in problems)
        return Loaded(
            None if failed else config,
            tuple(choices),
            problems,
            self._context.folder,
            str(self._path) if self._path else "command line",
            self._layers.text,
            raw,
            self._layers,
        )

    # -- validation -----------------------------------------------------------------------------------------

    def _shaped(self, raw: dict[str, Any]) -> dict[str, Any]:
        """Return what the models read: pipeline entries are written shorter than they are."""
        pipeline = raw.get("pipeline")
        if not isinstance(pipeline, list):
            return raw
        return {**raw, "pipeline": [self._entry(number, entry) for number, entry in enumerate(pipeline)]}

    def _entry(self, number: int, entry: Any) -> Any:
        """Turn `name` or `{name: {...}}` into what the model reads."""
        if isinstance(entry, str):
            self._names[number] = entry
            return {"name": entry}
        if isinstance(entry, dict) and len(entry) == 1:
            name, options = next(iter(entry.items()))
            options = {} if options is None else options
            if isinstance(name, str) and isinstance(options, dict):
                self._names[number] = name
                common = {key: value for key, value in options.items() if key in _COMMON}
                rest = {key: value for key, value in options.items() if key not in _COMMON}
                return {"name": name, "options": rest, **common}
        return {}

    def _validate(self, raw: dict[str, Any], shaped: dict[str, Any]) -> tuple[Config | None, set[yaml.Path]]:
        """Return the configuration, and the paths in `shaped` that are wrong."""
        wrong: set[yaml.Path] = set()
        for number in range(len(raw["pipeline"])) if isinstance(raw.get("pipeline"), list) else ():
            if number not in self._names:
                wrong.add(("pipeline", number))
                hint = "write '- spf', or '- dmarc: {on_fail: observe}'"
                message = "an entry is the name of a plugin, or {name: {options}}"
                self._add(("pipeline", number), "RP110", message, hint)
        for found in misread(Config, shaped):
            wrong.add(found.path)
            self._add(self._place(found.path), found.code, found.message, found.hint)
        translation = Translation(
            self._add,
            Config,
            place=self._place,
            written=self._layers.has,
            known={self._place(path) for path in wrong},
        )
        config: Config | None = None
        unnamed: set[yaml.Path] = {path for path in wrong if path[0] == "pipeline" and len(path) == 2}
        try:
            config = Config.model_validate(_left(shaped, unnamed), context=self._context)
        except ValidationError as error:
            translation.take(error)
        wrong |= translation.wrong
        return (None if wrong else config), wrong

    def _place(self, loc: yaml.Path) -> yaml.Path:
        """Return where a location of the models is written: a pipeline entry stands below its name."""
        if len(loc) > 2 and loc[0] == "pipeline" and isinstance(loc[1], int):
            name = self._names.get(loc[1])
            if name is None or loc[2] == "name":
                return loc[:2]
            return ("pipeline", loc[1], name, *(loc[3:] if loc[2] == "options" else loc[2:]))
        return loc

    def _check(self, found: Iterable[Found], partial: Partial) -> None:
        """Report what the checks found, save for what only lacks because it is wrong."""
        for code, severity, at, message, hint in found:
            path = partial.original(at)
            while path and isinstance(path[-1], int) and not self._layers.has(path):
                path = path[:-1]  # one value stands where a list could
            near = path[:2] if code in ABSENCE else path if code.startswith("RP7") else None
            if near is None or not partial.lacks(near):
                self._add(path, code, message, hint, severity=severity)

    # -- rules ----------------------------------------------------------------------------------------------

    def _rules(
        self, raw: dict[str, Any], config: Config | None, wrong: set[yaml.Path], *, files: bool
    ) -> Callable[[Settings], Settings]:
        """Compile the rules and run their tests; return what gives them to the plugin that asks them."""
        pipeline = list(dict.fromkeys(self._names.values()))
        if "rules" not in pipeline and not any(raw.get(key) for key in ("rules", "lists", "tests")):
            return lambda settings: settings
        from relayproxy.builtin.rules import RulesSettings  # noqa: PLC0415  (many configurations have no rules)
        from relayproxy.config import rules  # noqa: PLC0415

        ruleset, flaws = rules.compiled(raw, pipeline, self._layers.origin)
        if config is not None and not any(flaw.severity == "error" for flaw in flaws):
            domains = frozenset(config.relay.domains)
            flaws += rules.tried(raw, ruleset, self._context.folder, domains, config.hostname)
            if files and not raw.get("tests"):
                flaws += rules.check_lists(ruleset, self._context.folder)
        for flaw in flaws:
            if flaw.path not in wrong:
                self._add(
                    flaw.path, flaw.code, flaw.message, flaw.hint, on_key=flaw.on_key, severity=flaw.severity
                )
        return lambda settings: (
            settings.with_rules(ruleset) if isinstance(settings, RulesSettings) else settings
        )

    # -- plugins --------------------------------------------------------------------------------------------

    def _choose(self, raw: dict[str, Any], plugins: Plugins) -> list[Chosen]:
        """Find the plugin of every entry and validate its options, whether or not the rest is right."""
        catalogue = self._catalogue(raw, plugins)
        chosen: list[Chosen] = []
        if catalogue is None:
            return chosen
        seen: set[str] = set()
        for number, name in self._names.items():
            written = raw["pipeline"][number]
            at: yaml.Path = ("pipeline", number, name) if isinstance(written, dict) else ("pipeline", number)
            if name in seen:
                self._add(at, "RP402", f"plugin '{name}' is there twice", on_key=True)
                continue
            seen.add(name)
            cls = self._plugin(catalogue, name, at)
            if cls is not None:
                self._known(cls, catalogue, name, at)
                options = written[name] if isinstance(written, dict) else None
                chosen.append(Chosen(number, name, cls, self._settings(cls, options or {}, at)))
        return chosen

    def _catalogue(self, raw: dict[str, Any], plugins: Plugins) -> Mapping[str, type[Plugin[Any]]] | None:
        given = raw.get("plugin_folders")
        folders = []
        for number, text in enumerate(given if isinstance(given, list) else ()):
            try:
                folder = expanded(self._context.folder, text) if isinstance(text, str) and text else None
                found = folder is None or folder.is_dir()
            except (PydanticCustomError, ValueError):
                folder, found = None, True  # the models say so
            except OSError as error:
                message = f"{quoted(text)}: {error.strerror or 'unreadable'}"
                self._add(("plugin_folders", number), "RP401", message)
                continue
            if not found:
                hint = "relative paths start at the folder of the configuration"
                self._add(("plugin_folders", number), "RP401", f"there is no folder {quoted(text)}", hint)
            elif folder is not None:
                folders.append(folder)
        try:
            return plugins(folders)
        except PluginError as error:
            self._add(("plugin_folders",), "RP401", error.message)
            return None

    def _plugin(
        self, catalogue: Mapping[str, type[Plugin[Any]]], name: str, at: yaml.Path
    ) -> type[Plugin[Any]] | None:
        if name not in catalogue:
            self._add(
                at, "RP303", f"there is no plugin '{key_shown(name)}'", guesses(name, catalogue), on_key=True
            )
            return None
        try:
            return catalogue[name]
        except PluginError as error:
            place = (
                f" ({error.file}:{error.line})" if error.line else f" ({error.file})" if error.file else ""
            )
            self._add(at, "RP401", f"{error.message}{place}", on_key=True)
            return None

    def _known(
        self, cls: type[Plugin[Any]], catalogue: Mapping[str, type[Plugin[Any]]], name: str, at: yaml.Path
    ) -> None:
        """Whether the plugins exist that this one reads."""
        for needed in cls.after or ():
            if needed not in catalogue and needed not in self._names.values():
                message = f"'{name}' reads what '{key_shown(needed)}' finds, and there is no such plugin"
                self._add(at, "RP404", message, guesses(needed, catalogue), on_key=True)

    def _ask(self, chosen: Iterable[Chosen], setup: Setup) -> None:
        """Have each plugin check its own settings."""
        for one in chosen:
            if one.settings is None:
                continue
            at: yaml.Path = ("pipeline", one.number, one.name)
            try:
                mistakes = [self._told(one.name, found) for found in one.plugin(one.settings).check(setup)]
            except Exception as error:  # noqa: BLE001  (the fence round foreign code; its text may hold a secret)
                frame = traceback.extract_tb(error.__traceback__)[-1]
                message = f"its check raised {type(error).__name__} ({frame.filename}:{frame.lineno})"
                self._add(self._there(at), "RP401", message, on_key=True)
                continue
            for found in mistakes:
                place = self._there((*at, *found.at))
                severity = "warning" if found.warning else "error"
                self._add(place, "RP403", found.message, found.hint, severity=severity)

    @staticmethod
    def _told(name: str, found: object) -> Mistake:
        if not isinstance(found, Mistake):
            raise TypeError(f"{name}.check returned {type(found).__name__}, wanted Mistakes")
        return found

    def _there(self, path: yaml.Path) -> yaml.Path:
        """Return what is written of a path: a setting may be a default, and a plugin's name all there is."""
        while len(path) > 2 and not self._layers.has(path):
            path = path[:-1]
        return path

    def _settings(self, cls: type[Plugin[Any]], options: Mapping[str, Any], at: yaml.Path) -> Settings | None:
        """Validate a plugin's own options; None where they are wrong."""
        own = {key: value for key, value in options.items() if key not in _COMMON}
        bent = list(misread(cls.settings, own))
        for found in bent:
            self._add((*at, *found.path), found.code, found.message, found.hint)
        translation = Translation(
            self._add,
            cls.settings,
            base=at,
            written=self._layers.has,
            extra=_COMMON,
            known={(*at, *found.path) for found in bent},
        )
        try:
            settings: Settings = cls.settings.model_validate(own, context=self._context)
        except ValidationError as error:
            translation.take(error)
            return None
        except Exception as error:  # noqa: BLE001  (the fence round validators of plugins; their text may hold a secret)
            frame = traceback.extract_tb(error.__traceback__)[-1]
            message = f"checking its options raised {type(error).__name__} ({frame.filename}:{frame.lineno})"
            self._add(at, "RP401", message, on_key=True)
            return None
        return None if bent else settings

    # -- problems -------------------------------------------------------------------------------------------

    def _add(
        self,
        at: yaml.Path,
        code: str,
        message: str,
        hint: str = "",
        *,
        on_key: bool = False,
        where: yaml.Path | None = None,
        severity: str = "error",
    ) -> None:
        said = spoken(at if where is None else where, self._layers.raw)
        self._problems.append(self._layers.problem(at, code, severity, message, said, hint, on_key=on_key))


def _folder_of(path: Path | None) -> Path:
    """Return where relative paths start; of a path that leads nowhere, the folder as it is written."""
    try:
        return path.resolve().parent if path else Path.cwd()
    except (OSError, RuntimeError, ValueError):  # a loop of links, an octet 0, a folder that is gone
        return path.parent if path else Path("/")


def _left(shaped: dict[str, Any], unnamed: set[yaml.Path]) -> dict[str, Any]:
    """Return the value with a name for entries that have none: what is wrong with them is said already."""
    if not unnamed:
        return shaped
    pipeline = [
        {"name": "unnamed"} if ("pipeline", number) in unnamed else entry
        for number, entry in enumerate(shaped["pipeline"])
    ]
    return {**shaped, "pipeline": pipeline}


def _queue_routes(raw: Mapping[str, Any]) -> Iterator[str]:
    """Yield what routes that queue are called, as far as they can be read."""
    routes = raw.get("routes")
    for route in routes if isinstance(routes, list) else ():
        if isinstance(route, dict) and route.get("delivery") == "queue":
            yield str(route.get("name") or route.get("upstream"))
