"""The test kit that ships with relayproxy, for its own tests and for those of plugin authors."""

from relayproxy.state.memory import MemoryState
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.resolver import FakeResolver

__all__ = ["FakeClock", "FakeResolver", "MemoryState"]
