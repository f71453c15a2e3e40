"""What `state` in the configuration becomes."""

import pytest
from pydantic import ValidationError

from relayproxy import plugging
from relayproxy.config.models import Config
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.state.guard import GuardedState
from relayproxy.testing import FakeClock, MemoryState


def config(**state):
    return Config.model_validate(
        {
            "version": 1,
            "listeners": [{"name": "a", "listen": "h:1"}],
            "upstreams": {"a": {"address": "h:1"}},
            **({"state": state} if state else {}),
        }
    )


def built(**state):
    clock = FakeClock()
    return plugging.state_of(config(**state), clock, Log([].append, clock.time), Metrics())


async def test_a_file_is_used_through_the_guard(tmp_path):
    state = built(url=f"sqlite://{tmp_path}/state.db")
    assert isinstance(state, GuardedState)
    await state.put("t", "x", ttl=10.0)
    assert (tmp_path / "state.db").is_file()
    await state.close()


async def test_without_a_word_it_is_memory():
    assert isinstance(built(), MemoryState)


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("valkey://127.0.0.1:6379/3", "redis://127.0.0.1:6379/3"),
        ("valkeys://state.example.org", "rediss://state.example.org"),
        ("redis://[::1]:6380", "redis://[::1]:6380"),
        ("rediss://h:1/", "rediss://h:1/"),
    ],
)
def test_servers_in_both_names(url, server):
    made = config(url=url).state
    assert (made.server, made.path) == (server, None)


@pytest.mark.parametrize("url", ["valkey://", "valkey://h:1/x", "valkey://h?db=1", "sqlite://x", "http://h"])
def test_what_is_no_store_is_refused(url):
    with pytest.raises(ValidationError):
        config(url=url)
