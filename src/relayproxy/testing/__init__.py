"""The test kit that ships with relayproxy, for its own tests and for those of plugin authors."""

from relayproxy.testing.clock import FakeClock
from relayproxy.testing.resolver import FakeResolver

__all__ = ["FakeClock", "FakeResolver"]
