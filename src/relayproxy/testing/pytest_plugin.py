"""Fixtures for tests of plugins; pytest loads this wherever relayproxy is installed, so it imports nothing at once."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from relayproxy.testing.clock import FakeClock
    from relayproxy.testing.resolver import FakeResolver
    from relayproxy.testing.session import SessionDriver


@pytest.fixture
def fake_clock() -> "FakeClock":
    """A clock that stands still until the test moves it."""
    from relayproxy.testing.clock import FakeClock

    return FakeClock()


@pytest.fixture
def fake_resolver() -> "FakeResolver":
    """A resolver without any names; `set` gives it some."""
    from relayproxy.testing.resolver import FakeResolver

    return FakeResolver({})


@pytest.fixture
def session() -> "type[SessionDriver]":
    """The driver of a conversation: `session(MyPlugin(options)).deliver(b"...")`."""
    from relayproxy.testing.session import SessionDriver

    return SessionDriver
