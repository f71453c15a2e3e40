"""Fixtures for tests of plugins; pytest loads this wherever relayproxy is installed, so it imports nothing at once."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from relayproxy.testing.clock import FakeClock
    from relayproxy.testing.resolver import FakeResolver
    from relayproxy.testing.session import SessionDriver
    from relayproxy.testing.upstream import UpstreamSink


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
def session(fake_clock: "FakeClock", fake_resolver: "FakeResolver") -> "Callable[..., SessionDriver]":
    """What makes conversations over the clock and the resolver of this test.

    It takes what relayproxy.testing.session.SessionDriver takes: `await session(MyPlugin).deliver(b"...")`.
    """
    from relayproxy.testing.session import SessionDriver

    def make(*plugins: "object", **settings: "object") -> SessionDriver:
        return SessionDriver(*plugins, **{"clock": fake_clock, "resolver": fake_resolver, **settings})  # type: ignore[arg-type]

    return make


@pytest.fixture
def upstream() -> "UpstreamSink":
    """An SMTP server that keeps what it gets, over real sockets; it listens within `async with upstream:`."""
    from relayproxy.testing.upstream import UpstreamSink

    return UpstreamSink()
