"""config.example.yaml shows every key and loads; the pages made from the code are up to date."""

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from relayproxy.config import yaml
from relayproxy.config.load import load
from relayproxy.config.models import Config, PipelineEntry
from relayproxy.config.schema import show

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config.example.yaml"
ELSEWHERE = {"name", "options"}  # of a pipeline entry: how it is written


def models(annotation: Any, seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation not in seen:
            seen.add(annotation)
            for field in annotation.model_fields.values():
                models(field.annotation, seen)
    else:
        for argument in get_args(annotation):
            models(argument, seen)
    return seen


def test_the_example_loads_without_a_word():
    loaded = load(EXAMPLE, environ={})
    assert [problem.render() for problem in loaded.problems] == []
    assert loaded.config is not None


def test_the_example_shows_every_key():
    document = yaml.read(EXAMPLE.read_text("utf-8"))
    shown = {path[-1] for path, _ in yaml.walk(document.value) if path}
    for model in models(Config, set()):
        keys = set(model.model_fields) - (ELSEWHERE if model is PipelineEntry else set())
        assert keys - {"file"} <= shown, model.__name__


def dumped(more: dict[str, Any], upstream: dict[str, Any]) -> dict[str, Any]:
    """Return the smallest configuration with something more in it, as it would be shown."""
    raw = {
        "version": 1,
        "listeners": [{"name": "a", "listen": "h:1"}],
        "upstreams": {"a": {"address": "h:1", **upstream}},
        **more,
    }
    return Config.model_validate(raw).model_dump(mode="json")


def test_the_defaults_in_the_example_are_the_defaults():
    shown = yaml.read(EXAMPLE.read_text("utf-8")).value
    keys = (
        "limits",
        "log",
        "metrics",
        "workers",
        "shutdown_timeout",
        "reload_grace",
        "plugin_folders",
    )
    assert dumped({key: shown[key] for key in keys}, {}) == dumped({}, {})
    keys = ("timeouts", "pool", "breaker")
    assert dumped({}, {key: shown["upstreams"]["smarthost"][key] for key in keys}) == dumped({}, {})


def test_the_example_shown_loads_to_the_same(tmp_path):
    first = load(EXAMPLE, environ={})
    path = tmp_path / "relayproxy.yaml"
    for origin in (False, True):
        path.write_text(show(first, origin=origin), "utf-8")
        again = load(path, environ={})
        assert again.problems == ()
        assert again.config == first.config


def test_pages_are_up_to_date():
    done = subprocess.run(
        [sys.executable, "-m", "docs.generate", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
