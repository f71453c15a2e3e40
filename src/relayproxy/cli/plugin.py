"""`relayproxy plugin`: which plugins there are, in which order they run, what they can be told, and a new one."""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import click
from pydantic.fields import FieldInfo

from relayproxy.api import Plugin
from relayproxy.catalogue import HOOKS, Catalogue, PluginError
from relayproxy.cli.common import CONFIG_OPTION, fail, load_plan
from relayproxy.core.entry import Entry
from relayproxy.hookspecs import DECIDE, LIFE
from relayproxy.plugging import entries_of


@click.group()
def plugin() -> None:
    """List, order, show and make plugins."""


_FOLDERS = click.option(
    "--folder",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Another folder of single-file plugins.",
)


def _first_line(text: str | None) -> str:
    return (inspect.cleandoc(text or "").splitlines() or [""])[0]


def _first_paragraph(text: str | None) -> str:
    return " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())


def _default(field: FieldInfo) -> str:
    """What holds if a setting is left out, as it would be written in YAML where that can be done."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "may be left out"
    if isinstance(value, frozenset | set):
        value = sorted(map(str, value))
    try:
        return f"default {json.dumps(value)}"
    except TypeError:
        return "has a default"


def _about(cls: type[Plugin[Any]]) -> str:
    """The first line of the module's docstring: what the plugin is for."""
    module = getattr(cls, "module", None) or sys.modules.get(cls.__module__)
    return _first_line(getattr(module, "__doc__", "") or cls.__doc__)


@plugin.command("list")
@CONFIG_OPTION
@_FOLDERS
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print it.")
def list_(path: Path | None, folders: tuple[Path, ...], output: str) -> None:
    """All plugins that a pipeline may name."""
    rows: list[dict[str, str]] = []
    used = load_plan(path, {}).config if path else None
    catalogue = Catalogue((*map(Path, used.plugin_folders if used else ()), *folders))
    for name, source in sorted(catalogue.sources.items()):
        try:
            about = _about(catalogue[name])
        except PluginError as error:
            about = f"can't be loaded: {error}"
        rows.append({"name": name, "source": source.kind, "place": source.place, "about": about})
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(f"{row['name']:<22} {row['source']:<10} {row['about']}")


@plugin.command()
@CONFIG_OPTION
@click.argument("hook", required=False, type=click.Choice(HOOKS))
def order(path: Path | None, hook: str | None) -> None:
    """In which order the plugins of the configuration run, hook by hook."""
    plan = load_plan(path, {})
    entries = entries_of(plan.choices)
    click.echo(f"{'HOOK':<18} {'PLUGIN':<22} {'TIMEOUT':>8} {'ON ERROR':<9} {'MODE':<9} WAITS FOR")
    for name in HOOKS:
        if name in LIFE or (hook and name != hook):
            continue
        users = [entry for entry in entries if name in entry.hooks]
        if name == "before_forward":
            users.sort(key=lambda entry: entry.signer)
        for entry in users:
            click.echo(
                f"{name:<18} {entry.name:<22} {entry.timeout:>6g} s {entry.on_error:<9} "
                f"{'observe' if entry.observe else 'enforce':<9} {_waits(entry, name)}"
            )


def _waits(entry: Entry, hook: str) -> str:
    if hook not in DECIDE:
        return "all before it"
    if getattr(entry.hooks[hook], "relayproxy_background", False):
        return "nothing; runs behind"
    if entry.after is None:
        return "all before it"
    return ", ".join(entry.after) or "nothing"


@plugin.command()
@CONFIG_OPTION
@_FOLDERS
@click.argument("name")
def show(path: Path | None, folders: tuple[Path, ...], name: str) -> None:
    """What a plugin does, its hooks and its settings."""
    used = load_plan(path, {}).config if path else None
    catalogue = Catalogue((*map(Path, used.plugin_folders if used else ()), *folders))
    if name not in catalogue:
        fail(f"there is no plugin {name!r}")
    try:
        cls = catalogue[name]
    except PluginError as error:
        fail(error)
    source = catalogue.sources[name]
    subject: Any = getattr(cls, "module", cls)
    hooks = [hook for hook in HOOKS if hasattr(getattr(subject, hook, None), "relayproxy_impl")]
    click.echo(f"{name}  ({source.kind}, {source.place})")
    click.echo(f"\n{_about(cls)}\n\n{inspect.cleandoc(cls.__doc__ or '')}\n")
    click.echo(f"hooks     {', '.join(hooks)}")
    click.echo(f"after     {'all before it' if cls.after is None else ', '.join(cls.after) or 'nothing'}")
    click.echo(f"asked of  {', '.join(sorted(d.value for d in cls.directions))} mail")
    fields = cls.settings.model_fields
    if fields:
        click.echo("\nsettings")
    for key, field in fields.items():
        click.echo(f"  {key:<18} {_first_paragraph(field.description)}  ({_default(field)})")


@plugin.command()
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("plugins"), help="Where to put it.")
def new(name: str, folder: Path) -> None:
    """Write a new plugin NAME and a test that passes."""
    from relayproxy.cli.scaffold import new_plugin

    try:
        written = new_plugin(name, folder)
    except (ValueError, OSError) as error:
        fail(error)
    for path in written:
        click.echo(f"wrote {path}")
    click.echo(f"try   pytest {written[-1]}")
    click.echo(f"use   plugin_folders: [{folder}] and a line '- {name}' in the pipeline")


@plugin.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
def test(paths: tuple[Path, ...]) -> None:
    """Run the tests of plugins with pytest: PATHS, or plugins/tests."""
    try:
        import pytest
    except ImportError:
        fail("this needs pytest and pytest-asyncio: pip install pytest pytest-asyncio")
    sys.exit(pytest.main(["-q", *map(str, paths or (Path("plugins/tests"),))]))
