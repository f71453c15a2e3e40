import asyncio
import signal

import pytest
from tests.servers.valkey import PASSWORD, a_valkey

from relayproxy.api import Unavailable
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.state.guard import GuardedState


@pytest.fixture
def made(valkey, clock):
    from relayproxy.state.valkey import ValkeyState

    return ValkeyState(valkey.url, clock.time, timeout=0.3)


async def test_two_proxies_share_what_they_keep(valkey, made, clock):
    from relayproxy.state.valkey import ValkeyState

    other = ValkeyState(valkey.url, clock.time)
    assert await made.put_new("t", "x", ttl=10.0) is None
    assert await other.put_new("t", "y", ttl=10.0) == "x"
    await made.close()
    await other.close()


async def test_keys_have_our_prefix_and_end_by_themselves(valkey, made):
    from redis.asyncio import Redis

    await made.put("t", "x", ttl=10.0)
    await made.add("c", ttl=20.0)
    await made.take("b", 1.0, 5.0)
    server = Redis.from_url(valkey.url)
    keys = await server.keys()
    assert sorted(keys) == [b"relayproxy:b", b"relayproxy:c", b"relayproxy:t"]
    left = {key: await server.pttl(key) for key in keys}
    assert 9000 < left[b"relayproxy:t"] <= 11000
    assert 19000 < left[b"relayproxy:c"] <= 21000
    assert 0 < left[b"relayproxy:b"] <= 2000
    await server.aclose()
    await made.close()


async def test_a_server_that_was_killed_and_comes_back_is_used_again(valkey, made):
    await made.put("t", "x", ttl=10.0)
    await valkey.end()
    with pytest.raises(Unavailable):
        await made.get("t")
    await valkey.start()
    assert await made.get("t") is None, "it kept nothing on disk, and the script is sent again"
    await made.close()


async def test_a_server_that_stalls_costs_a_limited_time(valkey, made, clock):
    lines: list[str] = []
    metrics = Metrics()
    guarded = GuardedState(
        made,
        name="valkey",
        log=Log(lines.append, clock.time),
        metrics=metrics,
        monotonic=clock.monotonic,
        timeout=1.0,
    )
    await guarded.put("t", "x", ttl=10.0)
    valkey.signal(signal.SIGSTOP)
    try:
        for _ in range(5):
            with pytest.raises(Unavailable):
                await guarded.get("t")
    finally:
        valkey.signal(signal.SIGCONT)
    clock.advance(6.0)
    assert await guarded.get("t") == "x"
    assert [line.split('"event":"')[1].split('"')[0] for line in lines] == [
        "state_unavailable",
        "state_available",
    ]
    assert metrics.cell("state_calls_total", "refused").value == 2
    await guarded.close()


async def test_a_password_is_used(clock):
    from relayproxy.state.valkey import ValkeyState

    server = await a_valkey("--requirepass", PASSWORD)
    right = ValkeyState(server.url, clock.time, password=PASSWORD)
    wrong = ValkeyState(server.url, clock.time, password="another")
    assert await right.add("c", ttl=10.0) == 1.0
    with pytest.raises(Unavailable) as caught:
        await wrong.get("c")
    assert "another" not in str(caught.value)
    await asyncio.gather(right.close(), wrong.close())
    await server.end()
    server.remove()
