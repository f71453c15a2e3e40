"""From a configuration to the entries of the pipeline, what the YAML says over what the plugin says; and what plugins are given."""

from pathlib import Path
from typing import Any

import pytest
from tests.test_build import a_config, covered

from relayproxy import plugging
from relayproxy.api import App, Direction, Plugin, Settings, hook
from relayproxy.catalogue import PluginError
from relayproxy.config.models import PipelineEntry, When
from relayproxy.config.yaml import read_file
from relayproxy.core.entry import Entry
from relayproxy.core.entry import When as Condition
from relayproxy.core.metrics import Metrics
from relayproxy.testing import FakeClock, FakeResolver, MemoryState


class Seen(Plugin[Settings]):
    """Has a hook, defaults of its own, and something it reads."""

    name = "seen"
    after = ("spf",)
    directions = frozenset({Direction.OUTBOUND})
    signer = True
    default_timeout = 3.0

    @hook
    def mail(self, mail):
        return None


class Plain(Plugin[Settings]):
    """Has nothing of its own."""

    name = "plain"

    @hook
    def before_forward(self, mail, route):
        return None


def an_entry(plugin: type[Plugin[Any]] = Seen, **common: Any) -> Entry:
    given = PipelineEntry.model_validate({"name": plugin.name, **common})
    return plugging.entries_of([(given, plugin, plugin.settings())])[0]


def test_what_the_plugin_says():
    covered(PipelineEntry, "when", "mode", "on_error", "timeout", "name", "options")
    entry = an_entry()
    assert isinstance(entry.plugin, Seen)
    assert set(entry.hooks) == {"mail"}
    assert (entry.name, entry.after, entry.signer, entry.timeout) == ("seen", ("spf",), True, 3.0)
    assert (entry.observe, entry.on_error) == (False, "defer")
    assert entry.when == Condition(directions=frozenset({Direction.OUTBOUND}))


def test_what_the_configuration_says():
    entry = an_entry(mode="observe", on_error="skip", timeout="7s")
    assert (entry.observe, entry.on_error, entry.timeout) == (True, "skip", 7.0)


def test_a_plugin_knows_how_long_its_hooks_may_take():
    assert an_entry().plugin.timeout == 3.0
    assert an_entry(timeout="7s").plugin.timeout == 7.0
    assert an_entry(Plain).plugin.timeout == 10.0


def test_a_plugin_without_wishes():
    entry = an_entry(Plain)
    assert (entry.after, entry.signer, entry.timeout, entry.when) == (None, False, 10.0, Condition())


@pytest.mark.parametrize(
    ("when", "condition"),
    [
        ({}, Condition(directions=frozenset({Direction.OUTBOUND}))),
        ({"direction": "inbound"}, Condition(directions=frozenset({Direction.INBOUND}))),
        (
            {"direction": ["inbound", "internal"]},
            Condition(directions=frozenset({Direction.INBOUND, Direction.INTERNAL})),
        ),
        (
            {"listener": ["a", "b"]},
            Condition(listeners=frozenset({"a", "b"}), directions=frozenset({Direction.OUTBOUND})),
        ),
        (
            {"authenticated": True, "tls": False},
            Condition(directions=frozenset({Direction.OUTBOUND}), authenticated=True, tls=False),
        ),
        (
            {"authenticated": [True, False], "tls": [True, True]},
            Condition(directions=frozenset({Direction.OUTBOUND}), tls=True),
        ),
    ],
)
def test_conditions(when: dict[str, Any], condition: Condition):
    covered(When, "listener", "authenticated", "direction", "tls")
    assert an_entry(when=when).when == condition


def test_the_order_is_that_of_the_configuration():
    choices = [(PipelineEntry(name=cls.name), cls, cls.settings()) for cls in (Plain, Seen)]
    assert [entry.name for entry in plugging.entries_of(choices)] == ["plain", "seen"]


def test_a_plugin_that_cannot_be_made_is_named():
    class Broken(Plugin[Settings]):
        name = "broken"

        def __init__(self, options: Settings) -> None:
            raise RuntimeError("no model file")

    with pytest.raises(PluginError, match=r"^broken: RuntimeError: no model file$"):
        an_entry(Broken)


def test_a_plugin_with_an_unknown_hook_is_named():
    class Misspelt(Plugin[Settings]):
        name = "misspelt"

        @hook
        def messages(self, mail):
            return None

    with pytest.raises(PluginError, match="no hook 'messages'; did you mean 'message'"):
        an_entry(Misspelt)


def test_what_plugins_get_at_startup(tmp_path: Path):
    config = a_config(relay={"domains": ["example.com", ".example.net"]})
    resolver, clock = FakeResolver({}), FakeClock()
    app = plugging.app_for(config, resolver, clock, tmp_path)
    domains = frozenset({"example.com", ".example.net"})
    assert app == App(
        "mx.example.org",
        resolver,
        clock,
        tmp_path,
        domains,
        state=app.state,
        read_yaml=read_file,
        suppression=app.suppression,
    )
    assert not app.suppression(tmp_path / "list.db").remote
    assert isinstance(app.state, MemoryState)


@pytest.mark.parametrize(
    ("address", "tls", "plain"),
    [
        ("192.0.2.1:25", "off", True),
        ("192.0.2.1:25", "opportunistic", False),
        ("127.0.0.1:25", "off", False),
        ("unix:/run/lmtp", "off", False),
    ],
)
def test_plugins_learn_which_upstreams_have_no_tls(tmp_path: Path, address: str, tls: str, plain: bool):
    config = a_config(upstreams={"up": {"address": address, "tls": tls}})
    app = plugging.app_for(config, FakeResolver({}), FakeClock(), tmp_path)
    assert app.unencrypted == ({"up"} if plain else frozenset())


def test_alarms_of_plugins_are_gauges():
    metrics = Metrics()
    alarm = plugging.alarms_of([(PipelineEntry(name="plain"), Plain, Settings())], metrics)
    cell = metrics.cell("plugin_alarms", "plain")
    assert cell.value == 0
    alarm("plain", 2)
    assert cell.value == 2


def test_names_of_a_plugin_are_counted_and_not_without_end(monkeypatch):
    monkeypatch.setattr(plugging, "MOST_COUNTED", 2)
    metrics = Metrics()
    counter = plugging.counters_of(metrics)
    for name in ("a", "b", "c", "d", "a"):
        counter("rules", name, "enforced")()
    counter("other", "c", "enforced")()
    numbers = {one.labels: one.value for one in metrics.samples()}
    assert numbers == {
        ("rules", "a", "enforced"): 2,
        ("rules", "b", "enforced"): 1,
        ("rules", "(others)", "enforced"): 2,
        ("other", "c", "enforced"): 1,
    }


def test_a_service_has_its_numbers():
    metrics = Metrics()
    meter = plugging.meters_of(metrics)("scanner")
    meter.asked("ok", 0.5)
    meter.asked("refused", 0.0)
    meter.breaker(True)
    meter.remembered(True)
    assert metrics.cell("service_answers_total", "scanner", "hit").value == 1
    assert metrics.cell("service_requests_total", "scanner", "ok").value == 1
    assert metrics.cell("service_requests_total", "scanner", "refused").value == 1
    assert metrics.cell("service_breaker_open", "scanner").value == 1
    durations = next(one for one in metrics.samples() if one.family.name == "service_duration_seconds")
    assert (durations.value, durations.buckets[-1][1]) == (0.5, 1)
