"""Layers, origins, and the promise that loading answers instead of raising."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.api import Plugin, Settings
from relayproxy.config import yaml
from relayproxy.config.load import load
from relayproxy.config.schema import schema, show

BASE = """\
version: 1
hostname: mx.example.org
listeners:
  - {name: main, listen: "127.0.0.1:2525"}
relay: {domains: [example.org]}
upstreams:
  store: {address: "127.0.0.1:2526"}
"""


def write(folder: Path, text: str = BASE) -> Path:
    path = folder / "relayproxy.yaml"
    path.write_text(text, "utf-8")
    return path


def test_a_file_loads(tmp_path):
    loaded = load(write(tmp_path), environ={})
    assert loaded.problems == ()
    assert loaded.config is not None
    assert loaded.config.hostname == "mx.example.org"
    assert loaded.folder == tmp_path


def test_layers_lie_one_over_the_other(tmp_path):
    path = write(tmp_path)
    folder = tmp_path / "conf.d"
    folder.mkdir()
    (folder / "10.yaml").write_text("hostname: ten.example.org\nlimits: {recipients: 10}\n")
    (folder / "20.yaml").write_text("hostname: twenty.example.org\n")
    assert load(path, environ={}).config.hostname == "twenty.example.org"
    environ = {"RELAYPROXY__HOSTNAME": "env.example.org", "RELAYPROXY__LISTENERS__0__NAME": "renamed"}
    loaded = load(path, environ=environ)
    assert loaded.config.hostname == "env.example.org"
    assert loaded.config.listeners[0].name == "renamed"
    assert loaded.config.limits.recipients == 10
    flagged = load(path, environ=environ, overrides={"hostname": "flag.example.org"})
    assert flagged.config.hostname == "flag.example.org"
    assert loaded.origin(("hostname",)) == "RELAYPROXY__HOSTNAME"
    assert loaded.origin(("limits", "recipients")) == f"{folder / '10.yaml'}:2"
    assert flagged.origin(("hostname",)) == "command line"


def test_the_environment_is_typed_by_the_same_models(tmp_path):
    path = write(tmp_path)
    loaded = load(path, environ={"RELAYPROXY__DNS__TIMEOUT": "5", "RELAYPROXY__WORKERS": "2"})
    assert [(p.code, p.file) for p in loaded.problems] == [("RP205", "RELAYPROXY__DNS__TIMEOUT")]
    assert load(path, environ={"RELAYPROXY__WORKERS": "2"}).config.workers == 2


def test_an_unknown_variable_is_an_error_with_a_guess(tmp_path):
    loaded = load(write(tmp_path), environ={"RELAYPROXY__HOSTNAM": "x"})
    assert loaded.config is None
    assert [(p.code, p.file) for p in loaded.problems] == [("RP101", "RELAYPROXY__HOSTNAM")]
    assert "'hostname'" in loaded.problems[0].hint


def test_a_secret_may_come_from_the_environment_or_a_file_it_names(tmp_path):
    text = BASE.replace('"127.0.0.1:2526"', '"127.0.0.1:2526", login: u')
    kept = tmp_path / "password"
    kept.write_text("hunter2\n")
    kept.chmod(0o600)
    for environ in (
        {"RELAYPROXY__UPSTREAMS__STORE__PASSWORD": "hunter2"},
        {"RELAYPROXY__UPSTREAMS__STORE__PASSWORD_FILE": str(kept)},
    ):
        loaded = load(write(tmp_path, text), environ=environ)
        assert loaded.problems == ()
        assert loaded.config.upstreams["store"].password.reveal() == "hunter2"
        assert "hunter2" not in show(loaded)
        assert "hunter2" not in repr(loaded.config)


def test_a_file_that_is_not_there_is_a_problem(tmp_path):
    loaded = load(tmp_path / "none.yaml", environ={})
    assert loaded.config is None
    assert [p.code for p in loaded.problems] == ["RP108"]


def test_plugin_faults_name_file_and_line(tmp_path):
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "broken.py").write_text("def message(mail)\n    return None\n")
    (folder / "misspelt.py").write_text(
        '"""X."""\nfrom relayproxy.api import hook\n\n\n@hook\ndef mesage(mail):\n    return None\n'
    )
    text = BASE + "plugin_folders: [plugins]\npipeline: [broken, misspelt]\n"
    loaded = load(write(tmp_path, text), environ={})
    assert [p.code for p in loaded.problems] == ["RP401"]
    assert "broken.py:1" in loaded.problems[0].message


def test_what_is_shown_loads_to_the_same(tmp_path):
    text = BASE + "pipeline:\n  - iprev: {mode: observe, timeout: 2s}\n  - spf\n"
    first = load(write(tmp_path, text), environ={})
    again = load(write(tmp_path, show(first)), environ={})
    assert again.problems == ()
    assert again.config == first.config
    assert f"relayproxy.yaml:{2}" in show(first, origin=True).splitlines()[1]


@pytest.mark.parametrize("draft", ["2020-12", "07"])
def test_the_schema_knows_plugins_and_their_settings(tmp_path, draft):
    from relayproxy.catalogue import Catalogue

    made = schema(Catalogue(), draft=draft)
    text = str(made)
    assert "dkim_sign" in text
    assert "subject_prefix" in text
    assert ("$defs" in made) == (draft == "2020-12")
    assert ("definitions" in made) == (draft == "07")
    for reference in re.findall(r"'\$ref': '#/([^']+)'", text):
        found = made
        for part in reference.split("/"):
            found = found[part]
        assert found


def codes(loaded):
    return [(p.code, p.severity, p.file) for p in loaded.problems]


@pytest.mark.parametrize("word", ["yes", "NO", "on", "1"])
def test_a_boolean_in_a_variable_is_not_guessed(tmp_path, word):
    name = "RELAYPROXY__LISTENERS__0__TLS__REQUIRED"
    assert codes(load(write(tmp_path), environ={name: word})) == [("RP105", "error", name)]


def test_lists_in_variables_are_written_in_brackets(tmp_path):
    loaded = load(write(tmp_path), environ={"RELAYPROXY__RELAY__DOMAINS": "[a.example, b.example]"})
    assert loaded.config.relay.domains == ("a.example", "b.example")
    loaded = load(write(tmp_path), environ={"RELAYPROXY__RELAY__DOMAINS__1": "b.example"})
    assert loaded.config.relay.domains == ("example.org", "b.example")
    name = "RELAYPROXY__RELAY__DOMAINS__3"
    assert codes(load(write(tmp_path), environ={name: "b.example"})) == [("RP109", "error", name)]


def test_a_configuration_may_be_made_of_variables_alone():
    environ = {
        "RELAYPROXY__VERSION": "1",
        "RELAYPROXY__LISTENERS__0__NAME": "main",
        "RELAYPROXY__LISTENERS__0__LISTEN": "127.0.0.1:2525",
        "RELAYPROXY__UPSTREAMS__STORE__ADDRESS": "127.0.0.1:2526",
        "RELAYPROXY__RELAY__NETWORKS": "[127.0.0.0/8]",
    }
    loaded = load(None, environ=environ)
    assert loaded.problems == ()
    assert loaded.config.listeners[0].listen.port == 2525


def test_dashes_in_names_are_found_again(tmp_path):
    path = write(tmp_path, BASE.replace("store:", "mail-store:"))
    loaded = load(path, environ={"RELAYPROXY__UPSTREAMS__MAIL_STORE__ADDRESS": "h.example:25"})
    assert str(loaded.config.upstreams["mail-store"].address) == "h.example:25"


@pytest.mark.parametrize(
    "name",
    [
        "RELAYPROXY__",
        "RELAYPROXY__A____B",
        "RELAYPROXY__LISTENERS__" + "9" * 5000,
        "RELAYPROXY__LISTENERS__\u0663",
    ],
)
def test_variables_that_name_nothing(tmp_path, name):
    assert [p.code for p in load(write(tmp_path), environ={name: "x"}).problems] == ["RP109"]


def test_one_underscore_where_two_are_meant_is_a_warning(tmp_path):
    loaded = load(
        write(tmp_path), environ={"RELAYPROXY_HOSTNAME": "x", "RELAYPROXY_SERVICE_HOST": "10.0.0.1"}
    )
    assert codes(loaded) == [("RP109", "warning", "RELAYPROXY_HOSTNAME")]
    assert loaded.config.hostname == "mx.example.org"


def test_a_secret_in_a_variable_is_not_read_as_yaml(tmp_path):
    text = BASE.replace('"127.0.0.1:2526"', '"127.0.0.1:2526", login: u')
    for secret in ("[hunter2]", "*hunter2", "12345", "true"):
        environ = {"RELAYPROXY__UPSTREAMS__STORE__PASSWORD": secret}
        loaded = load(write(tmp_path, text), environ=environ)
        assert loaded.config.upstreams["store"].password.reveal() == secret


def test_files_in_conf_d_that_are_not_read_are_named(tmp_path):
    path = write(tmp_path)
    folder = tmp_path / "conf.d"
    folder.mkdir()
    for name in ("10.yml", "20.yaml~", ".hidden.swp"):
        (folder / name).write_text("hostname: other.example.org\n")
    (folder / "30.yaml").write_text("# nothing yet\n")
    loaded = load(path, environ={})
    assert [(p.code, p.severity, Path(p.file).name) for p in loaded.problems] == [
        ("RP108", "warning", "10.yml"),
        ("RP108", "warning", "20.yaml~"),
    ]
    assert loaded.config.hostname == "mx.example.org"


def test_mistakes_of_all_layers_come_in_one_run_in_their_order(tmp_path):
    path = write(tmp_path, BASE.replace("hostname: mx.example.org", "hostname: [a]"))
    folder = tmp_path / "conf.d"
    folder.mkdir()
    (folder / "10.yaml").write_text("limits: {recipients: 0600}\n")
    loaded = load(path, environ={"RELAYPROXY__DNS__TIMEOUT": "5"}, overrides={"workers": 99})
    assert [(p.code, Path(p.file).name, p.line) for p in loaded.problems] == [
        ("RP110", "relayproxy.yaml", 2),
        ("RP106", "10.yaml", 1),
        ("RP205", "RELAYPROXY__DNS__TIMEOUT", 0),
        ("RP203", "command line", 0),
    ]


def test_a_later_listener_is_named_by_its_own_place_when_an_earlier_one_is_wrong(tmp_path):
    lines = '  - {name: broken, listen: 25}\n  - {name: main, listen: "127.0.0.1:2525"}\n'
    lines += '  - {name: main, listen: "127.0.0.1:2527"}\n'
    text = BASE.replace('  - {name: main, listen: "127.0.0.1:2525"}\n', lines)
    loaded = load(write(tmp_path, text), environ={})
    assert [(p.code, p.line, p.where) for p in loaded.problems] == [
        ("RP207", 4, 'listeners[0] "broken" > listen'),
        ("RP304", 6, 'listeners[2] "main" > name'),
    ]


def test_overrides_are_not_changed(tmp_path):
    overrides = {"limits": {"recipients": 5}, "relay": {"domains": ["a.example"]}}
    path = write(tmp_path)
    assert load(path, environ={}, overrides=overrides).config.limits.recipients == 5
    assert overrides == {"limits": {"recipients": 5}, "relay": {"domains": ["a.example"]}}


@given(st.text(max_size=300))
def test_loading_any_text_answers(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("any")
    path = folder / "relayproxy.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    loaded = load(path, environ={})
    assert loaded.config is None
    assert loaded.problems


_SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


@given(
    st.sampled_from(["listeners", "relay", "upstreams", "routes", "pipeline", "limits", "metrics", "rules"]),
    _TREES,
)
def test_any_value_at_any_key_answers(key, value):
    raw = {
        "version": 1,
        "listeners": [{"name": "a", "listen": "127.0.0.1:1"}],
        "upstreams": {"u": {"address": "h:1"}},
    }
    loaded = load(None, overrides={**raw, key: value}, environ={})
    assert loaded.config is not None or loaded.problems


def test_many_domains_are_looked_up_in_one_list(tmp_path):
    domains = ", ".join(f"d{number}.example" for number in range(2000))
    loaded = load(write(tmp_path, BASE.replace("example.org]", f"{domains}]")), environ={})
    assert len(loaded.config.relay.domains) == 2000


def test_what_is_shown_keeps_what_a_default_would_undo(tmp_path):
    text = BASE + "metrics: {listen: off}\nlimits: {recipients: 10}\n"
    first = load(write(tmp_path, text), environ={})
    again = load(write(tmp_path, show(first)), environ={})
    assert again.config.metrics.listen is None
    assert again.config.limits_of(again.config.listeners[0]).recipients == 10


def test_origins_are_shown_for_every_value(tmp_path):
    text = BASE + "pipeline:\n  - iprev: {mode: observe}\n"
    environ = {"RELAYPROXY__PIPELINE__0__IPREV__ON_ERROR": "skip", "RELAYPROXY__WORKERS": "2"}
    loaded = load(write(tmp_path, text), environ=environ)
    lines = show(loaded, origin=True).splitlines()
    path = tmp_path / "relayproxy.yaml"
    assert f"- name: main  # {path}:4" in lines
    assert f"    mode: observe  # {path}:9" in lines
    assert "    on_error: skip  # RELAYPROXY__PIPELINE__0__IPREV__ON_ERROR" in lines
    assert "workers: 2  # RELAYPROXY__WORKERS" in lines
    assert "  recipients: 1000  # default" in lines


def test_a_secret_in_a_plugin_option_is_not_shown(tmp_path):
    class Notify(Plugin):
        """A plugin with a secret among its settings."""

        class Own(Settings):
            """Its settings."""

            token: str = ""
            """What lets us in."""

        settings = Own

    path = write(tmp_path, BASE + "pipeline:\n  - notify: {token: hunter2}\n")
    loaded = load(path, environ={}, plugins=lambda _: {"notify": Notify})
    assert loaded.choices[0][2].token == "hunter2"
    assert "hunter2" not in show(loaded, origin=True)


def test_a_large_file_is_read_without_quadratic_work(tmp_path):
    names = "".join(f"  d{number}: {{address: '127.0.0.1:{number % 60000 + 1}'}}\n" for number in range(4000))
    text = BASE.replace("upstreams:\n", "upstreams:\n" + names) + "routes: [{upstream: store}]\n"
    loaded = load(write(tmp_path, text), environ={})
    assert loaded.config is not None
    assert len(loaded.config.upstreams) == 4001


def test_aliases_can_not_explode():
    text = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(8)
    )
    document = yaml.read(text)
    assert [fault.code for fault in document.faults] == ["RP107"]
    assert "too large" in document.faults[0].message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("yes", "yes"),
        ("NO", "NO"),
        ("on", "on"),
        ("22:30", "22:30"),
        ("0600", "0600"),
        ("0o600", 0o600),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("5.10", 5.1),
        ("1e3", 1000.0),
        ("~", None),
        ("", None),
        (".inf", float("inf")),
        ("-12", -12),
        ("2026-11-24", "2026-11-24"),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text, value):
    read = yaml.parse_scalar(text)
    assert read == value
    assert type(read) is type(value)
