"""The torture that admins can run, in small, and whether it notices what it should."""

import asyncio
import json

import pytest
from click.testing import CliRunner

from relayproxy.cli.torture import _report, torture
from relayproxy.cli.torture_run import Result, time_syncs
from relayproxy.cli.torture_tunnel import Tunnel
from relayproxy.testing.faults import Disconnect, Fault, Step, answer
from relayproxy.testing.upstream import UpstreamSink


def test_two_kills_lose_nothing(tmp_path):
    said = CliRunner().invoke(torture, [str(tmp_path), "--kills", "2", "--seconds", "90", "--json"])
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert (found["kills"], found["lost"], found["problem"], found["good"]) == (2, 0, "", True)
    assert found["acknowledged"] >= 10
    assert 0 < found["sync_median"] <= found["sync_p95"] <= found["sync_longest"]
    assert list(tmp_path.iterdir()) == []


def test_syncs_are_timed_and_leave_nothing(tmp_path):
    median, p95, longest = time_syncs(tmp_path)
    assert 0 < median <= p95 <= longest
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (
            Result(kills=1, acknowledged={1, 2}, lost=(2,)),
            "FAILED: acknowledged messages are missing (X-Torture: 2)",
        ),
        (Result(kills=1, acknowledged={1}), "PASSED"),
        (Result(kills=1), "NOT TESTED: nothing was acknowledged"),
        (Result(problem="the upstream refused mail: 550"), "NOT TESTED: the upstream refused mail: 550"),
        (Result(acknowledged={1}, sync_median=1e-6), "faster than disks are"),
        (Result(acknowledged={1}, sync_median=0.1), "that is slow"),
    ],
)
def test_the_verdict_is_plain(result, verdict):
    assert verdict in _report(result)


async def say(port: int, *numbers: int) -> list[bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    heard = [await reader.readline()]
    writer.write(b"EHLO x.example\r\n")
    while heard[-1][3:4] != b" " or len(heard) == 1:
        heard.append(await reader.readline())
    for number in numbers:
        writer.write(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n")
        heard += [await reader.readline() for _ in range(3)]
        writer.write(b"Subject: x\r\nX-Torture: %d\r\n\r\nbody\r\n.\r\n" % number)
        heard.append(await reader.readline())
    writer.close()
    await writer.wait_closed()
    return heard


async def test_what_the_upstream_took_is_counted_by_number():
    async with UpstreamSink() as sink, Tunnel("127.0.0.1", sink.port) as tunnel:
        heard = await say(tunnel.port, 7, 8)
        await say(tunnel.port, 7)
        assert tunnel.taken == {7: 2, 8: 1}
        assert not [line for line in heard if b"250-CHUNKING" in line]


async def test_what_it_did_not_take_is_not():
    async with UpstreamSink() as sink, Tunnel("127.0.0.1", sink.port) as tunnel:
        sink.plan.add(Fault(Step.DOT, answer(451, "4.3.0 later")))
        await say(tunnel.port, 1)
        sink.plan.add(Fault(Step.DOT, Disconnect()))
        await say(tunnel.port, 2)
        await say(tunnel.port, 3)
        assert tunnel.taken == {3: 1}
        assert tunnel.refused == ""
