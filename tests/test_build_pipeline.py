"""From a configuration to the entries of the pipeline: what the plugin says, and what the YAML says over it."""

from typing import Any

import pytest
from tests.test_build import covered

from relayproxy import build
from relayproxy.api import Direction, Plugin, Settings, hook
from relayproxy.catalogue import PluginError
from relayproxy.config.models import PipelineEntry, When
from relayproxy.core.entry import Entry
from relayproxy.core.entry import When as Condition


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
    return build.entries_of([(given, plugin, plugin.settings())])[0]


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
    assert [entry.name for entry in build.entries_of(choices)] == ["plain", "seen"]


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
