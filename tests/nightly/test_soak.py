"""Mail comes and goes for a long time, every tenth message is put off once: nothing is lost, and nothing grows.

NIGHTLY_MINUTES is how long, a third of it for this. Without it there is no soak: some seconds show no slope.
"""

import asyncio
import itertools
import re
import statistics
import time
from collections import Counter

import pytest
from tests.integration.test_queue import configure, until_empty
from tests.nightly.night import MINUTES, anonymous, descriptors
from tests.servers.client import Client
from tests.servers.relay import Relay

from relayproxy.testing.upstream import Fault, Step, UpstreamSink, answer

SECONDS = MINUTES * 60 / 3
SESSIONS = 8
BUSY = answer(450, "4.2.1 busy")


def _content(name: str) -> bytes:
    head = b"From: a@example.org\r\nSubject: soak\r\nMessage-ID: <%s@example.org>\r\nX-Name: %s\r\n"
    return head % (name.encode(), name.encode()) + b"\r\n" + b"body\r\n" * 500


@pytest.mark.skipif(not MINUTES, reason="a soak takes minutes: make nightly")
async def test_nothing_is_lost_and_nothing_grows(relay: Relay):
    async with UpstreamSink() as sink:
        configure(relay, sink.address, workers=2, limits={"messages_per_connection": 50})
        await relay.start()
        acknowledged: Counter[str] = Counter()
        arrived: Counter[str] = Counter()
        numbers = itertools.count()
        end = time.monotonic() + SECONDS
        sizes: list[tuple[int, int]] = []

        def collect() -> None:
            for message in sink.messages:
                found = re.search(rb"X-Name: (\S+)", message.content)
                assert found
                arrived[found[1].decode()] += 1
            sink.arrived.clear()

        async def session() -> None:
            while time.monotonic() < end:
                async with await Client.open(relay.port) as client:
                    for _ in range(40):
                        number = next(numbers)
                        if number % 10 == 9:
                            sink.plan.add(Fault(Step.RCPT, BUSY))
                        heard = await client.message(_content(f"n{number}"))
                        assert heard.code == 250, heard
                        acknowledged[f"n{number}"] += 1

        async def watch() -> None:
            while time.monotonic() < end:
                await asyncio.sleep(min(5.0, SECONDS / 60))  # the distance of samples
                collect()
                pids = {relay.pid, *relay.workers()}
                sizes.append((descriptors(pids), anonymous(pids)))

        await asyncio.gather(watch(), *(session() for _ in range(SESSIONS)))
        await until_empty(relay)
        collect()
        assert set(arrived) == set(acknowledged)
        assert sum(arrived.values()) == len(acknowledged), "delivered twice without a crash"
        # Of the second half of the time, its first and its last part: what is kept from the start is there by then.
        later = sizes[len(sizes) // 2 :]
        part = max(1, len(later) // 3)
        for place, slack in ((0, 20), (1, 4_000_000)):
            first, last = (
                statistics.median(size[place] for size in some) for some in (later[:part], later[-part:])
            )
            assert last <= first * 1.03 + slack, (place, sizes)
