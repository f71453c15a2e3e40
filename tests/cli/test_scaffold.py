import ast
import subprocess
import sys

import pytest

from relayproxy.cli.scaffold import new_plugin


def test_the_plugin_and_its_test_are_written(tmp_path):
    folder = tmp_path / "plugins"
    plugin, test = new_plugin("big_mail", folder)
    assert plugin == folder / "big_mail.py"
    assert test == folder / "tests" / "test_big_mail.py"
    assert {path for path in folder.rglob("*") if path.is_file()} == {plugin, test}
    classes = [node.name for node in ast.parse(plugin.read_text()).body if isinstance(node, ast.ClassDef)]
    assert classes == ["BigMailSettings", "BigMail"]
    assert 'name = "big_mail"' in plugin.read_text()


@pytest.mark.parametrize("name", ["big_mail", "x", "a1__b"])
def test_the_new_test_passes_at_once(tmp_path, name):
    new_plugin(name, tmp_path)
    options = ["-W", "error", "-p", "no:cacheprovider", "-p", "no:asyncio", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_a_second_plugin_joins_the_first(tmp_path):
    first = new_plugin("one", tmp_path)
    second = new_plugin("two", tmp_path)
    assert all(path.is_file() for path in first + second)


@pytest.mark.parametrize("place", ["mine.py", "tests/test_mine.py"])
def test_nothing_is_overwritten_and_nothing_written_then(tmp_path, place):
    there = tmp_path / place
    there.parent.mkdir(exist_ok=True)
    there.write_text("mine")
    with pytest.raises(FileExistsError, match="left alone"):
        new_plugin("mine", tmp_path)
    assert there.read_text() == "mine"
    assert [path for path in tmp_path.rglob("*.py") if path != there] == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "won't do"),
        ("Big", "won't do"),
        ("big-mail", "won't do"),
        ("1st", "won't do"),
        ("_x", "won't do"),
        ("../x", "won't do"),
        ("x\n", "won't do"),
        ("größe", "won't do"),
        ("class", "word of Python"),
        ("conftest", "pytest would take"),
        ("test_x", "pytest would take"),
        ("headers", "built-in plugin"),
        ("require_tls", "built-in plugin"),
    ],
)
def test_names_that_will_not_do(tmp_path, name, words):
    with pytest.raises(ValueError, match=words):
        new_plugin(name, tmp_path)
    assert list(tmp_path.iterdir()) == []
