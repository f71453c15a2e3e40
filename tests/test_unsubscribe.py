"""Around the plugins behind the unsubscribe page: what fails or takes too long is a 503, and the log says so."""

import asyncio
import json

import pytest

from relayproxy import unsubscribe
from relayproxy.core.log import Log
from relayproxy.core.unsubscribing import UnsubscribeFault
from relayproxy.server.unsubscribe import Unavailable


async def test_what_takes_too_long_is_named_in_the_log(monkeypatch):
    monkeypatch.setattr(unsubscribe, "_ANSWERING", 0.01)
    lines: list[str] = []
    never = unsubscribe._in_time(asyncio.Event().wait, Log(lines.append, lambda: 0.0))
    with pytest.raises(Unavailable):
        await never()
    (said,) = map(json.loads, lines)
    assert (said["level"], said["event"], said["seconds"]) == ("error", "unsubscribe_late", 0.01)


async def test_a_fault_of_a_plugin_is_not_named_twice():
    async def fails() -> None:
        raise UnsubscribeFault("suppression")

    lines: list[str] = []
    with pytest.raises(Unavailable):
        await unsubscribe._in_time(fails, Log(lines.append, lambda: 0.0))()
    assert lines == []
