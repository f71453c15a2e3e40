"""All plugins that can be named in a pipeline: built in, installed (entry points), and single files in folders.

Names are known at once, code is imported only when its name is used. pluggy checks what a plugin registers: an
unknown hook or argument is an error here, not a silence later.
"""

import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from relayproxy.api import API_VERSION, Plugin
from relayproxy.hookspecs import DECIDE, IDENTIFY, LIFE, PREPARE, PROJECT, REPORT, REWRITE, SERVE, Hooks

GROUP = "relayproxy"
HOOKS = (*DECIDE, *PREPARE, *REWRITE, *REPORT, *LIFE, *IDENTIFY, *SERVE)


class PluginError(Exception):
    """A plugin can't be used; `file` and `line` say where, if that is known."""

    def __init__(self, message: str, file: str = "", line: int = 0) -> None:
        super().__init__(message)
        self.message, self.file, self.line = message, file, line


@dataclass(frozen=True, slots=True)
class Source:
    """Where a plugin comes from: `kind` is built-in, installed or file; `place` a module or a path."""

    kind: str
    place: str


class Catalogue(Mapping[str, type[Plugin[Any]]]):
    """Plugin classes by name. Looking one up imports it and may raise PluginError."""

    def __init__(self, folders: Iterable[Path] = ()) -> None:
        self.sources: dict[str, Source] = {}
        self._loaded: dict[str, type[Plugin[Any]]] = {}
        package = importlib.import_module("relayproxy.builtin")
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                self.sources[module.name] = Source("built-in", f"relayproxy.builtin.{module.name}")
        for point in importlib.metadata.entry_points(group=GROUP):
            self._add(point.name, Source("installed", point.value))
        for folder in folders:
            if not folder.is_dir():
                raise PluginError(f"the plugin folder {folder} does not exist")
            for path in sorted(folder.glob("*.py")):
                if not path.name.startswith(("_", "test_", "conftest")):
                    self._add(path.stem, Source("file", str(path)))

    def _add(self, name: str, source: Source) -> None:
        if name in self.sources:
            raise PluginError(
                f"two plugins are called {name!r}: {self.sources[name].place} and {source.place}",
                source.place,
            )
        self.sources[name] = source

    def __getitem__(self, name: str) -> type[Plugin[Any]]:
        if name not in self._loaded:
            self._loaded[name] = _load(name, self.sources[name])
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self.sources

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __len__(self) -> int:
        return len(self.sources)


def _load(name: str, source: Source) -> type[Plugin[Any]]:
    found: Any
    try:
        match source.kind:
            case "file":
                found = _import_file(Path(source.place))
            case "installed":
                module, _, attribute = source.place.partition(":")
                found = importlib.import_module(module)
                for part in attribute.split(".") if attribute else ():
                    found = getattr(found, part)
            case _:
                found = importlib.import_module(source.place)
    except SyntaxError as error:
        raise PluginError(
            f"{name}: {error.msg}", error.filename or source.place, error.lineno or 0
        ) from error
    except PluginError:
        raise
    except Exception as error:  # the fence round foreign code that runs when it is imported
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == source.place]
        line = frames[-1].lineno or 0 if frames else 0
        raise PluginError(f"{name}: {type(error).__name__}: {error}", source.place, line) from error
    plugin = _class_of(name, found, source)
    if plugin.api != API_VERSION:
        raise PluginError(f"{name} is written for API {plugin.api}, this is API {API_VERSION}", source.place)
    if plugin.after is not None and not (
        isinstance(plugin.after, tuple | list) and all(isinstance(one, str) for one in plugin.after)
    ):
        raise PluginError(
            f"{name}: `after` is {plugin.after!r}, wanted the names of plugins: after = ('spf',)",
            source.place,
        )
    if plugin.name and plugin.name != name:
        raise PluginError(
            f"{source.place} calls itself {plugin.name!r} but is found as {name!r}", source.place
        )
    return plugin


def _import_file(path: Path) -> ModuleType:
    """Import a single file under a name of its own, anew each time, so that a reload sees its changes."""
    module_name = f"relayproxy_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module


def _class_of(name: str, found: Any, source: Source) -> type[Plugin[Any]]:
    """Return the plugin class in `found` (a class, or a module with one class or with plain hooks)."""
    if inspect.isclass(found) and issubclass(found, Plugin):
        return found
    if isinstance(found, ModuleType):
        classes = [
            value
            for value in vars(found).values()
            if inspect.isclass(value) and issubclass(value, Plugin) and value.__module__ == found.__name__
        ]
        if len(classes) > 1:
            chosen = [cls for cls in classes if cls.name == name]
            classes = chosen or classes
        if len(classes) == 1:
            return classes[0]
        marked = [v for v in vars(found).values() if hasattr(v, f"{PROJECT}_impl")]
        if not classes and marked:
            return _module_class(name, found)
    raise PluginError(
        f"{source.place} holds no plugin: neither one class derived from Plugin nor a @hook", source.place
    )


def _module_class(name: str, module: ModuleType) -> type[Plugin[Any]]:
    """Wrap a module of plain hooks, which may say `after`, `directions`, `signer` and `settings` itself."""
    attributes: dict[str, Any] = {"name": name, "__doc__": module.__doc__, "module": module}
    for key in ("after", "directions", "signer", "default_timeout", "api", "settings", "uses_state"):
        if key in vars(module):
            attributes[key] = vars(module)[key]
    return type(f"{name.title().replace('_', '')}Module", (Plugin,), attributes)


def hooks_of(name: str, plugin: Plugin[Any]) -> dict[str, Callable[..., Any]]:
    """Register a plugin with pluggy, which checks it, and return its hooks by name. Raises PluginError."""
    subject = getattr(type(plugin), "module", plugin)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    try:
        manager.register(subject, name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{name}: {_explained(error, subject)}", _file_of(subject)) from error
    callers = manager.get_hookcallers(subject) or ()
    hooks = {
        caller.name: next(impl.function for impl in caller.get_hookimpls() if impl.plugin is subject)
        for caller in callers
    }
    for called, function in hooks.items():
        screen = getattr(function, "relayproxy_screen", "")
        if screen and not callable(getattr(subject, screen, None)):
            raise PluginError(
                f"{name}: the hook {called!r} names the screen {screen!r}, which is not there",
                _file_of(subject),
            )
    return hooks


def _explained(error: pluggy.PluginValidationError, subject: Any) -> str:
    for attribute in dir(subject):
        if hasattr(getattr(subject, attribute, None), f"{PROJECT}_impl") and attribute not in HOOKS:
            guess = difflib.get_close_matches(attribute, HOOKS, 1, 0.6)
            hint = f"; did you mean {guess[0]!r}?" if guess else ""
            return f"there is no hook {attribute!r}{hint}"
    return str(error).partition("\n")[2].replace("\n", " ") or str(error)


def _file_of(subject: Any) -> str:
    if isinstance(subject, ModuleType):
        return subject.__file__ or ""
    return inspect.getsourcefile(type(subject)) or ""
