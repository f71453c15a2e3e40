"""What runs on an event loop here runs on both: the standard one, and uvloop as in production."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import uvloop

from relayproxy.testing.upstream import UpstreamSink


def pytest_asyncio_loop_factories(config, item):
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def sink() -> AsyncIterator[UpstreamSink]:
    """An upstream that takes everything."""
    async with UpstreamSink() as sink:
        yield sink
