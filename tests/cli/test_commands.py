"""The short commands: check, config, help, plugin, version, and what run and the control commands refuse."""

import json
import socket
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from relayproxy import __version__
from relayproxy.cli import common
from relayproxy.cli.control import UNREACHABLE, default_socket
from relayproxy.cli.root import main
from relayproxy.cli.run import without_file
from relayproxy.config.load import load

CONFIG = """\
version: 1
hostname: mx.example.org
listeners:
  - {name: main, listen: "127.0.0.1:2525"}
relay: {domains: [example.org]}
upstreams:
  store: {address: "127.0.0.1:2526"}
plugin_folders: [plugins]
pipeline:
  - spf: {mode: observe}
  - mine: {on_error: skip, timeout: 3s}
  - headers: {subject_prefix: "[x]"}
"""
MINE = '''\
"""Says yes to everybody."""

from relayproxy.api import hook


@hook
def message(mail):
    return None


@hook
def before_forward(mail):
    return None
'''


def call(*arguments: object, code: int = 0) -> str:
    """Run a command and return what it printed."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    """A configuration with a plugin of its own, in the working folder."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "mine.py").write_text(MINE)
    path = tmp_path / "relayproxy.yaml"
    path.write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return path


class TestCheck:
    def test_all_is_well(self, config):
        assert call("check", "-C", config).startswith(
            f"ok  {config}   0 rules, 3 plugins, 1 listeners, 1 upstreams   0 errors"
        )
        assert "0 errors" in call("check"), "it is found where it usually is"

    def test_mistakes_are_shown_with_their_place(self, config):
        config.write_text(CONFIG.replace("hostname", "hostnam"))
        assert f"{config}:2:1: error[RP101]" in call("check", "-C", config, code=78)
        [problem] = json.loads(call("check", "-C", config, "--format", "json", code=78))
        assert (problem["code"], problem["line"]) == ("RP101", 2)

    @pytest.mark.parametrize(
        ("terminal", "environ", "colored"),
        [
            (True, {}, True),
            (False, {}, False),
            (True, {"NO_COLOR": "1"}, False),
            (True, {"TERM": "dumb"}, False),
        ],
    )
    def test_colours_are_for_terminals(self, monkeypatch, terminal, environ, colored):
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
        assert common.colored() is colored

    def test_warnings_count_where_that_is_wanted(self, config):
        config.write_text(CONFIG.replace("relay: {domains: [example.org]}\n", ""))
        assert "1 warning" in call("check", "-C", config)
        assert "RP706" in call("check", "-C", config, "--strict", code=1)

    def test_no_file_at_all(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("relayproxy.cli.common.PLACES", (Path("relayproxy.yaml"),))
        assert "no configuration file found" in call("check", code=78)
        assert "no configuration" in call("config", "show", code=78)


class TestConfig:
    def test_show(self, config):
        shown = call("config", "show", "-C", config)
        assert "hostname: mx.example.org" in shown
        assert f"# {config}:2" in call("config", "show", "-C", config, "--origin")

    def test_schema(self, config):
        schema = json.loads(call("config", "schema", "-C", config))
        assert schema["$schema"].endswith("2020-12/schema")
        assert "mine" in json.dumps(schema)
        assert "draft-07" in json.loads(call("config", "schema", "--draft", "07"))["$schema"]


class TestHelp:
    def test_of_a_code_and_of_all(self):
        assert call("help", "rp306").startswith("RP306  wrong order\n\n")
        listed = call("help").splitlines()
        assert "RP101  unknown key" in listed
        assert len(listed) > 40

    def test_of_a_command(self):
        assert "Show every mistake of the configuration" in call("help", "check")
        assert "'dance'" in call("help", "dance", code=1)


class TestPlugin:
    def test_list(self, config):
        lines = call("plugin", "list", "-C", config).splitlines()
        assert next(line.split(maxsplit=2) for line in lines if line.startswith("mine")) == [
            "mine",
            "file",
            "Says yes to everybody.",
        ]
        assert any(line.split()[:2] == ["spf", "built-in"] for line in lines)
        rows = json.loads(call("plugin", "list", "--folder", "plugins", "-o", "json"))
        assert {
            "name": "mine",
            "source": "file",
            "place": "plugins/mine.py",
            "about": "Says yes to everybody.",
        } in rows

    def test_list_names_what_can_not_be_loaded(self, config):
        (config.parent / "plugins" / "broken.py").write_text("def f(:\n")
        assert "can't be loaded: broken: invalid syntax" in call("plugin", "list", "--folder", "plugins")

    def test_order(self, config):
        rows = [line.split() for line in call("plugin", "order", "-C", config).splitlines()[1:]]
        assert ["message", "mine", "3", "s", "skip", "enforce", "all", "before", "it"] in rows
        assert {row[5] for row in rows if row[1] == "spf"} == {"observe"}
        only = [
            line.split()[:2]
            for line in call("plugin", "order", "-C", config, "before_forward").splitlines()[1:]
        ]
        assert only == [["before_forward", name] for name in ("mine", "headers")]

    def test_show(self, config):
        shown = call("plugin", "show", "-C", config, "mine")
        assert shown.startswith("mine  (file, ")
        assert "hooks     before_forward, message" in shown or "hooks     message, before_forward" in shown
        assert "after     all before it" in shown
        assert "subject_prefix" in call("plugin", "show", "headers")
        shown = call("plugin", "show", "attachments")
        assert '(default ["executable", "shortcut", "cabinet", "help", "disk-image"])' in shown
        assert "`hold` keeps it for a human" in shown
        for name in ("ratelimit", "dmarc", "webhooks", "headers"):
            shown = call("plugin", "show", name)
            assert not [word for word in ("frozenset", "Limit(", "Scores(", "None)") if word in shown]
        assert "there is no plugin 'none'" in call("plugin", "show", "none", code=1)
        (config.parent / "plugins" / "broken.py").write_text("def f(:\n")
        assert "invalid syntax" in call("plugin", "show", "--folder", "plugins", "broken", code=1)

    def test_new(self, config):
        said = call("plugin", "new", "fresh")
        assert "wrote plugins/fresh.py" in said
        assert "- fresh" in said
        assert "fresh" in call("plugin", "list", "--folder", "plugins")
        assert "relayproxy: " in call("plugin", "new", "fresh", code=1), "it is not written over"


def test_version():
    assert __version__ in call("version")


class TestRun:
    def test_what_does_not_go_together(self, config):
        assert "belong together" in call("run", "--listen", "127.0.0.1:0", code=2)
        assert "stand for a file" in call(
            "run", "-C", config, "--listen", "127.0.0.1:0", "--to", "127.0.0.1:1", code=2
        )

    def test_without_a_file_only_loopback_clients_may_relay(self):
        loaded = load(None, overrides=without_file("127.0.0.1:2525", "127.0.0.1:2526"), environ={})
        assert loaded.config is not None
        assert [str(network) for network in loaded.config.relay.networks] == ["127.0.0.0/8", "::1/128"]
        assert loaded.config.relay.domains == ()


STATUS = {
    "ok": True,
    "pid": 7,
    "config": "relayproxy.yaml",
    "generation": 1,
    "reload": {"ok": False, "problem": "a mistake"},
    "listeners": {"main": "127.0.0.1:2525"},
    "metrics": "off",
    "unsubscribe": "off",
    "stopping": False,
    "workers": [{"pid": 8, "worker": 0, "state": "ready", "generation": 1, "seconds": 3.2}],
}


@pytest.fixture
def answering(short_folder):
    """Return a function that has a control socket give one answer; what was asked stands in its list."""
    place = short_folder / "control.sock"
    asked: list[str] = []

    def begin(answer) -> tuple[Path, list[str]]:
        place.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(place))
        listener.listen()

        def serve() -> None:
            with listener, listener.accept()[0] as peer:
                asked.append(json.loads(peer.makefile("rb").readline())["command"])
                peer.sendall(answer if isinstance(answer, bytes) else json.dumps(answer).encode() + b"\n")

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return place, asked

    threads: list[threading.Thread] = []
    yield begin
    for thread in threads:
        thread.join(5)


class TestControl:
    def test_status(self, answering):
        place, asked = answering(STATUS)
        shown = call("status", "--socket", place)
        assert asked == ["status"]
        assert "worker 0  pid 8  ready  generation 1  3 s" in shown
        assert "last reload  failed: a mistake" in shown
        place, _ = answering(STATUS)
        assert json.loads(call("status", "--socket", place, "-o", "json")) == STATUS

    @pytest.mark.parametrize(
        ("changes", "live", "ready"),
        [
            ({}, 0, 0),
            ({"stopping": True}, 0, 1),
            ({"workers": [STATUS["workers"][0] | {"state": "starting"}]}, 1, 1),
            ({"workers": []}, 1, 1),
        ],
    )
    def test_a_probe_tells_by_its_exit_code(self, answering, changes, live, ready):
        for probe, code in (("live", live), ("ready", ready)):
            place, _ = answering(STATUS | changes)
            call("status", "--socket", place, "--probe", probe, code=code)

    def test_reload(self, answering):
        place, asked = answering({"ok": True})
        assert call("reload", "--socket", place) == "reloaded\n"
        assert asked == ["reload"]
        place, _ = answering({"ok": False, "problem": "relayproxy.yaml:2:1: no"})
        said = call("reload", "--socket", place, code=1)
        assert said == "relayproxy.yaml:2:1: no\nstill running with the old configuration\n"

    def test_stop(self, answering):
        place, asked = answering({"ok": True})
        assert call("stop", "--socket", place) == "stopping\n"
        assert asked == ["stop"]

    @pytest.mark.parametrize("answer", [b"", b"no json\n"])
    def test_an_answer_that_is_none(self, answering, answer):
        place, _ = answering(answer)
        assert "no answer from a running proxy" in call("status", "--socket", place, code=UNREACHABLE)

    def test_nobody_there(self, short_folder):
        said = call("stop", "--socket", short_folder / "none.sock", code=UNREACHABLE)
        assert "No such file or directory" in said

    def test_a_configuration_that_can_not_be_read_is_named(self, tmp_path):
        file = tmp_path / "broken.yaml"
        file.write_text("version: 1\ncontrol: {socket: here.sock}\nbad: [\n")
        said = call("reload", "-C", file, code=UNREACHABLE)
        assert f"{file} can't be read" in said
        file.write_text("version: 1\ncontrol: {socket: here.sock}\nbad: 1\n")
        said = call("reload", "-C", file, code=UNREACHABLE)
        assert f"no answer from a running proxy at {tmp_path / 'here.sock'}" in said
        assert "can't be read" not in said

    def test_where_the_socket_is(self, monkeypatch):
        monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/one:/run/two")
        assert default_socket() == Path("/run/one/control.sock")
        monkeypatch.delenv("RUNTIME_DIRECTORY")
        monkeypatch.setattr("os.geteuid", lambda: 0)
        assert default_socket() == Path("/run/relayproxy/control.sock")
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
        assert default_socket() == Path("/run/user/1000/relayproxy.sock")
        monkeypatch.delenv("XDG_RUNTIME_DIR")
        assert default_socket() is None
        assert "say where the control socket is" in call("stop", code=UNREACHABLE)
