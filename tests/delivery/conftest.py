"""What runs on an event loop here runs on both: the standard one, and uvloop as in production."""

import asyncio

import pytest
import uvloop
from tests.delivery.harness import KINDS

from relayproxy.testing.upstream import Capabilities


def pytest_asyncio_loop_factories(config, item):
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=KINDS)
def capabilities(request: pytest.FixtureRequest) -> Capabilities:
    """Next hops with and without PIPELINING and CHUNKING."""
    return KINDS[request.param]
