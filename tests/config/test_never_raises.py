"""Loading answers instead of raising, whatever the file system and foreign code do."""

import os
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import AfterValidator

from relayproxy.api import Plugin, Settings
from relayproxy.config.load import load, report

BASE = """\
version: 1
hostname: mx.example.org
listeners:
  - {name: main, listen: "127.0.0.1:2525"}
relay: {domains: [example.org]}
upstreams:
  store: {address: "127.0.0.1:2526"}
"""
AS_ROOT = os.geteuid() == 0


def write(folder, more=""):
    path = folder / "relayproxy.yaml"
    path.write_text(BASE + more, "utf-8")
    return path


def codes(loaded):
    return [problem.code for problem in loaded.problems]


def test_a_path_with_an_octet_0(tmp_path):
    assert codes(load(tmp_path / "a\0b", environ={})) == ["RP108"]


def test_a_path_that_is_too_long(tmp_path):
    assert codes(load(tmp_path / ("a" * 300), environ={})) == ["RP108"]


def test_a_link_to_itself(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert codes(load(tmp_path / "loop", environ={})) == ["RP108"]


def test_a_working_folder_that_is_gone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    overrides = {
        "version": 1,
        "listeners": [{"name": "a", "listen": "127.0.0.1:1"}],
        "upstreams": {"u": {"address": "h:1"}},
        "relay": {"domains": ["example.org"]},
    }
    assert load(None, overrides=overrides, environ={}).problems == ()


def test_a_plugin_folder_that_is_too_long(tmp_path):
    loaded = load(write(tmp_path, f"plugin_folders: [{'a' * 300}]\n"), environ={})
    assert [(p.code, p.line) for p in loaded.problems] == [("RP401", 8)]


def test_a_socket_in_a_folder_that_is_too_long(tmp_path):
    loaded = load(write(tmp_path, f"control: {{socket: {'a' * 300}/s}}\n"), environ={}, files=True)
    assert [(p.code, p.line) for p in loaded.problems] == [("RP501", 8)]


@pytest.mark.skipif(AS_ROOT, reason="root may read every folder")
def test_a_folder_that_is_locked_is_said_once(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    path = write(folder)
    folder.chmod(0)
    try:
        assert codes(load(path, environ={})) == ["RP108"]
    finally:
        folder.chmod(0o700)


@pytest.mark.skipif(AS_ROOT, reason="root may read every folder")
def test_a_conf_d_that_is_locked_is_no_empty_one(tmp_path):
    folder = tmp_path / "conf.d"
    folder.mkdir()
    folder.chmod(0)
    try:
        loaded = load(write(tmp_path), environ={})
    finally:
        folder.chmod(0o700)
    assert [(p.code, p.severity, Path(p.file).name) for p in loaded.problems] == [
        ("RP108", "error", "conf.d")
    ]


def _broken(value):
    raise RuntimeError(f"no luck with {value}")


class BrokenSettings(Settings):
    """Settings whose check has a mistake."""

    token: Annotated[str, AfterValidator(_broken)] = ""
    """A secret."""


class Broken(Plugin[BrokenSettings]):
    """A plugin with a mistake."""

    settings = BrokenSettings


def test_a_plugin_whose_validator_raises_is_named_and_tells_no_secret(tmp_path):
    path = write(tmp_path, "pipeline:\n  - broken: {token: hunter2}\n")
    loaded = load(path, environ={}, plugins=lambda _: {"broken": Broken})
    assert [(p.code, p.line, p.where) for p in loaded.problems] == [("RP401", 9, 'pipeline[0] "broken"')]
    assert "RuntimeError" in loaded.problems[0].message
    assert Path(__file__).name in loaded.problems[0].message
    assert "hunter2" not in report(loaded)


def reading(*plugins):
    """Return a catalogue of plugins, each given as its name and what it reads."""
    made = {name: type(name, (Plugin,), {"name": name, "after": after}) for name, *after in plugins}
    return lambda _: made


@pytest.mark.parametrize(
    ("plugins", "message"),
    [
        ([("a", "a")], "'a' reads what it finds itself"),
        ([("a", "b"), ("b", "a")], "'a' reads what it finds itself, through 'b'"),
        ([("a", "b"), ("b", "c"), ("c", "a")], "'a' reads what it finds itself, through 'b', 'c'"),
    ],
    ids=["itself", "two", "three"],
)
def test_a_circle_of_plugins_is_said_once(tmp_path, plugins, message):
    names = ", ".join(name for name, *_ in plugins)
    loaded = load(write(tmp_path, f"pipeline: [{names}]\n"), environ={}, plugins=reading(*plugins))
    assert [(p.code, p.message) for p in loaded.problems] == [("RP306", message)]


def test_a_plugin_behind_a_circle_is_not_blamed_for_it(tmp_path):
    plugins = [("a", "b"), ("b", "a"), ("c", "a"), ("d", "e"), ("e",)]
    path = write(tmp_path, "pipeline: [a, b, c, d, e]\n")
    loaded = load(path, environ={}, plugins=reading(*plugins))
    assert [(p.code, p.where) for p in loaded.problems] == [
        ("RP306", "pipeline[0]"),
        ("RP306", "pipeline[3]"),
    ]


def test_only_the_first_of_very_many_unknown_names_come_with_a_guess(tmp_path):
    rows = "".join(f"  - {{upstream: stor{number}, senders: [d{number}.example]}}\n" for number in range(60))
    loaded = load(write(tmp_path, f"routes:\n{rows}"), environ={})
    assert codes(loaded) == ["RP301"] * 60
    assert [bool(p.hint) for p in loaded.problems] == [True] * 50 + [False] * 10
