"""The plugins that people copy, loaded as the pipeline loads them: by path."""

from pathlib import Path

import pytest

from relayproxy.api import App
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.mail import load_plugin
from relayproxy.testing.resolver import FakeResolver

FOLDER = Path(__file__).parents[2] / "plugins"


@pytest.fixture
def load():
    """A function that loads a plugin of the folder by its name, with settings."""

    def by_name(name, **settings):
        return load_plugin(FOLDER / f"{name}.py", **settings)

    return by_name


@pytest.fixture
def resolver():
    """An empty DNS, for the test to fill."""
    return FakeResolver()


@pytest.fixture
def app(tmp_path, resolver):
    """What plugins get at startup: a clock that stands still, and a folder of their own."""
    return App("mx.example.com", resolver, FakeClock(1_800_000_000.0), tmp_path)
