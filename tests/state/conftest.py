"""The three stores, each empty, on a clock that the test moves."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.servers.valkey import Valkey, a_valkey

from relayproxy.api import SharedState
from relayproxy.state.memory import MemoryState
from relayproxy.state.sqlite import SqliteState
from relayproxy.testing import FakeClock


@pytest.fixture
async def valkey() -> AsyncIterator[Valkey]:
    server = await a_valkey()
    yield server
    await server.end()
    server.remove()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "sqlite", "valkey"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock
) -> AsyncIterator[SharedState]:
    made: SharedState
    server = None
    match request.param:
        case "memory":
            made = MemoryState(clock.time)
        case "sqlite":
            made = SqliteState(tmp_path / "state.db", clock.time)
        case _:
            from relayproxy.state.valkey import ValkeyState

            server = await a_valkey()
            made = ValkeyState(server.url, clock.time)
    yield made
    await made.close()
    if server is not None:
        await server.end()
        server.remove()
