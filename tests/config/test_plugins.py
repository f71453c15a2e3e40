"""Plugins of the pipeline as the configuration sees them: what they read of each other, and what they check."""

import pytest
from click.testing import CliRunner

from relayproxy.cli.root import main
from relayproxy.config.load import load

BASE = """\
version: 1
hostname: mx.example.org
listeners:
  - {name: inbound, listen: "127.0.0.1:2525"}
relay: {domains: [example.org]}
upstreams:
  store: {address: "127.0.0.1:2526"}
plugin_folders: [plugins]
pipeline:
"""
HOOK = "\nfrom relayproxy.api import hook\n\n\n@hook\ndef message(mail):\n    return None\n"


@pytest.fixture
def found(tmp_path):
    """Load a pipeline of these lines with these plugin files, and return what is said: code, line, message."""
    (tmp_path / "plugins").mkdir()

    def loaded(*lines, ask=False, **files):
        for name, text in files.items():
            (tmp_path / "plugins" / f"{name}.py").write_text(text)
        path = tmp_path / "relayproxy.yaml"
        path.write_text(BASE + "".join(f"  - {line}\n" for line in lines))
        result = load(path, environ={}, ask=ask)
        errors = any(problem.severity == "error" for problem in result.problems)
        assert (result.config is None) is errors
        return [(problem.code, problem.line, problem.message) for problem in result.problems]

    return loaded


def after(value):
    return f"after = {value!r}\n{HOOK}"


def test_a_plugin_that_is_read_and_does_not_exist(found):
    problems = found("spf", "reader: {timeout: 3s}", reader=after(("spf", "dkim_verfy")))
    assert problems == [("RP404", 11, "'reader' reads what 'dkim_verfy' finds, and there is no such plugin")]


def test_a_plugin_that_is_read_need_not_be_in_the_pipeline(found):
    assert found("reader", reader=after(("spf",))) == []


@pytest.mark.parametrize("value", ["spf", ("spf", 3), 7, {"spf": 1}])
def test_what_is_no_list_of_names(found, value):
    [(code, line, message)] = found("reader", reader=after(value))
    assert (code, line) == ("RP401", 10)
    assert f"`after` is {value!r}" in message


def test_plugins_that_read_each_other(found):
    [(code, line, message)] = found("one", "two", one=after(("two",)), two=after(("one",)))
    assert (code, line) == ("RP306", 10)
    assert message == "'one' reads what it finds itself, through 'two'"


CHECKED = """
from relayproxy.api import Mistake, Plugin, Settings, hook


class Options(Settings):
    files: tuple[str, ...] = ("default",)


class Checked(Plugin[Options]):
    settings = Options

    def check(self, setup):
        %s

    @hook
    def message(self, mail):
        return None
"""
LOOK = """for number, file in enumerate(self.options.files):
            if not (setup.folder / file).exists():
                yield Mistake(f"no {file} for {sorted(setup.listeners)}", ("files", number), warning=file == "odd")"""


def test_a_mistake_stands_where_the_setting_does(found):
    lines = "checked:\n      files:\n        - relayproxy.yaml\n        - missing\n        - odd"
    assert found(lines, ask=True, checked=CHECKED % LOOK) == [
        ("RP403", 13, "no missing for ['inbound']"),
        ("RP403", 14, "no odd for ['inbound']"),
    ]


@pytest.mark.parametrize("line", ["checked", "checked: {}", "checked: {timeout: 3s}"])
def test_a_mistake_in_a_default_stands_at_the_plugin(found, line):
    assert found(line, ask=True, checked=CHECKED % LOOK) == [("RP403", 10, "no default for ['inbound']")]


def test_plugins_are_asked_only_where_that_is_wanted(found):
    assert found("checked", checked=CHECKED % LOOK) == []


@pytest.mark.parametrize(
    "fault", ['raise RuntimeError("hunter2")', 'return ["hunter2"]', "return 7", "yield None"]
)
def test_a_check_that_fails_is_an_error_and_keeps_its_text(found, fault):
    [(code, line, message)] = found("checked", ask=True, checked=CHECKED % fault)
    assert (code, line) == ("RP401", 10)
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dkim_sign: {keys: nowhere}", "there is no folder"),
        ("dkim_sign: {sign: [{domain: example.org, selector: s, key: none.pem}]}", "No such file"),
        ("dkim_sign: {keys: keys}", "bad.key"),
        ("arc: {seal: {domain: example.org, selector: s, key: none.pem}}", "No such file"),
        ("require_tls: {requirements: [{listeners: [inbund]}]}", "there is no listener 'inbund'"),
    ],
)
def test_built_in_plugins_check_what_they_name(found, tmp_path, line, message):
    (tmp_path / "keys" / "example.org").mkdir(parents=True)
    (tmp_path / "keys" / "example.org" / "bad.key").write_text("no key")
    [(code, number, said)] = found(line, ask=True)
    assert (code, number) == ("RP403", 10)
    assert message in said


def test_check_and_run_exit_78_and_say_where(found, tmp_path):
    found("require_tls: {requirements: [{listeners: [inbund]}]}")
    path = tmp_path / "relayproxy.yaml"
    for command in ("check", "run"):
        result = CliRunner().invoke(main, [command, "-C", str(path)])
        assert result.exit_code == 78
        assert f"{path}:10:" in result.output
        assert "did you mean" in result.output or "there is inbound" in result.output
