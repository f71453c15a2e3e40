"""The supervisor as a process of its own, with its patience shortened: restarts, reloads, the control socket, the end."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.servers.client import Client, HangUpError
from tests.servers.process import PATIENCE, free_port, wait_for
from tests.servers.relay import Relay, a_relay, as_yaml, configuration

from relayproxy.testing.upstream import Fault, Stall, Step, UpstreamSink

MESSAGE = b"Subject: one\r\n\r\nbody\r\n"
SHORT = """
import relayproxy.app, relayproxy.supervisor, sys
relayproxy.app._BEAT = 0.05
relayproxy.supervisor._BACKOFF = (0.05, 0.1, 0.2)
for name, value in json.loads(sys.argv.pop(1)).items():
    module, _, name = name.rpartition(".")
    setattr(sys.modules[f"relayproxy.{module or 'supervisor'}"], name, value)
from relayproxy.cli import main
main()
"""
BROKEN_PLUGIN = """
from relayproxy.api import hook

@hook
def startup(app):
    raise RuntimeError("no model file")
"""
SLOW_PLUGIN = """
import asyncio
from pathlib import Path
from relayproxy.api import hook

@hook
async def startup(app):
    (app.folder / "begun").touch()
    while not (app.folder / "go").exists():
        await asyncio.sleep(0.01)
"""


class Supervised(Relay):
    """relayproxy with other constants in its supervisor."""

    def __init__(self, folder: Path, constants: dict[str, Any]) -> None:
        super().__init__(folder)
        self.constants = constants

    def command(self, *arguments: str) -> tuple[str, ...]:
        return (sys.executable, "-c", f"import json{SHORT}", json.dumps(self.constants), *arguments)

    async def ask(self, request: Any) -> dict[str, Any]:
        """One question to the control socket: data, or octets as they are."""
        reader, writer = await asyncio.open_unix_connection(str(self.folder / "control.sock"))
        writer.write(request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n")
        try:
            answer = await reader.readline()
            return json.loads(answer) if answer else {}
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def reloaded(self) -> dict[str, Any]:
        return await self.ask({"command": "reload"})

    async def status(self) -> dict[str, Any]:
        return await self.ask({"command": "status"})

    def said(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.events if line["event"] == event]

    async def serves(self) -> str:
        """Send a message and return the host name in the banner. Fails when the proxy does not serve."""
        async with await Client.open(self.port) as client:
            assert (await client.message(MESSAGE)).code == 250
            return client.banner.text.split()[0]


@asynccontextmanager
async def supervised(
    sink: UpstreamSink, constants: dict[str, Any] | None = None, **changes: Any
) -> AsyncIterator[Supervised]:
    """A supervisor that has started; in the end it must leave properly."""
    async with a_relay() as plain:
        relay = Supervised(plain.folder, constants or {})
        try:
            relay.configure(sink.address, **changes)
            await relay.start()
            yield relay
            await relay.finish()
        finally:
            if relay.popen is not None and relay.popen.poll() is None:
                os.killpg(relay.popen.pid, signal.SIGKILL)
                relay.popen.wait()


@pytest.fixture
async def sink() -> AsyncIterator[UpstreamSink]:
    async with UpstreamSink() as sink:
        yield sink


async def kill_worker(relay: Supervised, number: int = signal.SIGKILL) -> int:
    """Kill the first worker and wait until another stands in its place; its id."""
    victim = (await relay.status())["workers"][0]["pid"]
    died = len(relay.said("worker_died"))
    os.kill(victim, number)
    await wait_for(lambda: len(relay.said("worker_died")) > died, "the death to be noticed")
    await wait_for(lambda: victim not in relay.workers() and relay.workers() != [relay.pid], "a new worker")
    return victim


async def until_ready(relay: Supervised) -> None:
    """Wait until there are workers, and all of them serve."""
    async with asyncio.timeout(PATIENCE):
        states: set[str] = set()
        while states != {"ready"}:
            states = {worker["state"] for worker in (await relay.status())["workers"]}


class TestRestarts:
    async def test_a_killed_worker_comes_back_later_each_time(self, sink: UpstreamSink):
        async with supervised(sink) as relay:
            for number in range(4):
                await kill_worker(relay)
                await until_ready(relay)
                assert await relay.serves() == "relay.test"
                assert len(sink.messages) == number + 1
            died = relay.said("worker_died")
            assert [event["restart_in"] for event in died] == [0.05, 0.1, 0.2, 0.2]
            assert {(event["worker"], event["how"]) for event in died} == {(0, "signal SIGKILL")}

    async def test_one_that_lived_long_comes_back_soon(self, sink: UpstreamSink):
        async with supervised(sink, {"_STEADY": 0.0}) as relay:
            for _ in range(3):
                await kill_worker(relay)
                await until_ready(relay)
            assert [event["restart_in"] for event in relay.said("worker_died")] == [0.05] * 3

    async def test_one_whose_loop_stands_still_is_killed(self, sink: UpstreamSink):
        async with supervised(sink, {"_STALLED": 0.5}, workers=2) as relay:
            first, second = (await relay.status())["workers"]
            os.kill(first["pid"], signal.SIGSTOP)
            await wait_for(lambda: relay.said("worker_died"), "the stalled worker to be killed")
            (stalled,) = relay.said("worker_stalled")
            assert (stalled["pid"], stalled["worker"]) == (first["pid"], first["worker"])
            await wait_for(lambda: len(relay.workers()) == 2, "a new worker")
            await until_ready(relay)
            pids = {worker["pid"] for worker in (await relay.status())["workers"]}
            assert second["pid"] in pids
            assert first["pid"] not in pids
            assert await relay.serves() == "relay.test"

    async def test_workers_end_with_their_supervisor(self, sink: UpstreamSink):
        async with supervised(sink, workers=2) as relay:
            workers = relay.workers()
            assert relay.popen is not None
            relay.popen.kill()
            relay.popen.wait()
            await wait_for(lambda: not any(runs(pid) for pid in workers), "the workers to end")
            relay.popen = None


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def listening(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    links = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
    return {link for link in links if link.startswith("socket:")}


def connects(port: int) -> bool:
    """Whether the port takes connections, be it that nobody ever accepts them."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


class TestReload:
    @pytest.mark.parametrize("workers", [1, 2])
    async def test_sockets_stay_open_and_nobody_is_refused(self, sink: UpstreamSink, workers: int):
        async with supervised(sink, hostname="old.test", workers=workers) as relay:
            refused: list[Exception] = []
            served: list[str] = []

            async def knock() -> None:
                while True:
                    try:
                        served.append(await relay.serves())
                    except (OSError, HangUpError) as error:
                        refused.append(error)

            before = listening(relay.pid)
            knocking = asyncio.create_task(knock())
            await wait_for(lambda: served, "the first message")
            relay.configure(sink.address, hostname="new.test", workers=workers)
            assert (await relay.reloaded())["ok"] is True
            await wait_for(lambda: "new.test" in served, "the new configuration")
            knocking.cancel()
            await asyncio.gather(knocking, return_exceptions=True)
            assert refused == []
            assert set(served) == {"old.test", "new.test"}
            assert len(listening(relay.pid) & before) >= workers
            status = await relay.status()
            assert (status["generation"], status["reload"]["ok"]) == (1, True)
            await wait_for(lambda: len(relay.workers()) == workers, "the old workers to leave")

    @pytest.mark.parametrize(
        "what", ["syntax", "unknown key", "certificate", "port in use", "plugin", "control"]
    )
    async def test_one_that_fails_keeps_the_old_generation(self, sink: UpstreamSink, what: str):
        """Whatever is wrong, and also for a worker that dies afterwards."""
        async with supervised(sink, hostname="old.test") as relay:
            good = configuration(relay.port, sink.address, relay.folder, hostname="new.test")
            (relay.folder / "plugins").mkdir()
            (relay.folder / "plugins" / "broken.py").write_text(BROKEN_PLUGIN)
            with socket.create_server(("127.0.0.1", 0)) as taken:
                broken: Any = {
                    "syntax": "version: 1\nhostname: [",
                    "unknown key": as_yaml(good | {"hostnam": "x"}),
                    "certificate": as_yaml(
                        good
                        | {
                            "listeners": [
                                {
                                    "name": "main",
                                    "listen": f"127.0.0.1:{relay.port}",
                                    "tls": {"cert": "/etc/hostname", "key": "/etc/hostname"},
                                }
                            ]
                        }
                    ),
                    "port in use": as_yaml(
                        good
                        | {
                            "listeners": [
                                *good["listeners"],
                                {"name": "other", "listen": f"127.0.0.1:{taken.getsockname()[1]}"},
                            ]
                        }
                    ),
                    "plugin": as_yaml(good | {"plugin_folders": ["plugins"], "pipeline": ["broken"]}),
                    "control": "",
                }[what]
                relay.write(broken)
                answer = await relay.reloaded()
            assert answer["ok"] is False
            assert answer["problem"]
            if what == "plugin":
                assert answer["problem"] == "RuntimeError: no model file"
            assert relay.said("reload_failed")[0]["kept"] == "the running configuration"
            assert await relay.serves() == "old.test"
            status = await relay.status()
            assert (status["generation"], status["reload"]["ok"], len(status["workers"])) == (0, False, 1)
            await kill_worker(relay)
            await until_ready(relay)
            assert await relay.serves() == "old.test"
            relay.write(as_yaml(good))
            assert (await relay.reloaded())["ok"] is True
            assert await relay.serves() == "new.test"

    async def test_a_listener_comes(self, sink: UpstreamSink):
        async with supervised(sink) as relay:
            other = free_port()
            more = [
                {"name": "main", "listen": f"127.0.0.1:{relay.port}"},
                {"name": "other", "listen": f"127.0.0.1:{other}"},
            ]
            relay.configure(sink.address, listeners=more)
            assert (await relay.reloaded())["ok"] is True
            async with await Client.open(other) as client:
                assert client.banner.code == 220
            assert await relay.serves() == "relay.test"

    async def test_and_goes(self, sink: UpstreamSink):
        other = free_port()
        async with supervised(sink) as relay:
            main = {"name": "main", "listen": f"127.0.0.1:{relay.port}"}
            relay.configure(sink.address, listeners=[main, {"name": "other", "listen": f"127.0.0.1:{other}"}])
            assert (await relay.reloaded())["ok"] is True
            relay.configure(sink.address)
            assert (await relay.reloaded())["ok"] is True
            await wait_for(lambda: len(relay.workers()) == 1, "the old workers to leave")
            assert await relay.serves() == "relay.test"
            assert not connects(other)

    async def test_a_failed_reload_leaves_no_port_open(self, sink: UpstreamSink):
        other = free_port()
        async with supervised(sink) as relay:
            main = {"name": "main", "listen": f"127.0.0.1:{relay.port}"}
            with socket.create_server(("127.0.0.1", 0)) as taken:
                more = [("other", other), ("third", taken.getsockname()[1])]
                listeners = [{"name": name, "listen": f"127.0.0.1:{port}"} for name, port in more]
                relay.configure(sink.address, listeners=[main, *listeners])
                assert (await relay.reloaded())["ok"] is False
            assert not connects(other)

    async def test_a_worker_that_dies_after_a_reload_comes_back_with_the_new_configuration(
        self, sink: UpstreamSink
    ):
        async with supervised(sink, hostname="old.test") as relay:
            relay.configure(sink.address, hostname="new.test")
            await relay.reloaded()
            await wait_for(lambda: len(relay.workers()) == 1, "the old worker to leave")
            await kill_worker(relay)
            await until_ready(relay)
            assert await relay.serves() == "new.test"

    @pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
    async def test_another_number_of_workers(self, sink: UpstreamSink, before: int, after: int):
        async with supervised(sink, workers=before) as relay:
            relay.configure(sink.address, workers=after)
            answer = await relay.reloaded()
            assert answer["ok"] is True, answer
            await wait_for(lambda: len(relay.workers()) == after, "the old workers to leave")
            async with asyncio.timeout(PATIENCE):
                for _ in range(20):
                    assert await relay.serves() == "relay.test"

    async def test_a_failed_reload_to_another_number_of_workers_harms_nobody(self, sink: UpstreamSink):
        async with supervised(sink, workers=1) as relay:
            (relay.folder / "broken.py").write_text(BROKEN_PLUGIN)
            relay.configure(sink.address, workers=2, plugin_folders=["."], pipeline=["broken"])
            assert (await relay.reloaded())["ok"] is False
            await kill_worker(relay)
            await until_ready(relay)
            assert await relay.serves() == "relay.test"

    async def test_one_that_is_asked_for_during_another_comes_after_it(self, sink: UpstreamSink):
        async with supervised(sink) as relay:
            await slow_reload(relay, sink)
            relay.configure(sink.address, hostname="last.test")
            for _ in range(3):
                relay.signal(signal.SIGHUP)
            assert await relay.serves() == "relay.test"
            (relay.folder / "go").touch()
            await wait_for(lambda: len(relay.said("reloaded")) == 2, "both reloads")
            assert await relay.serves() == "last.test"
            assert [event["generation"] for event in relay.said("reloaded")] == [1, 2]

    async def test_a_worker_that_dies_meanwhile_comes_back(self, sink: UpstreamSink):
        """The end of an old worker's pipe is none of the new generation's business, and is not lost either."""
        async with supervised(sink, workers=2) as relay:
            old = relay.workers()
            await slow_reload(relay, sink)
            os.kill(old[0], signal.SIGKILL)
            (relay.folder / "go").touch()
            await wait_for(lambda: relay.said("reloaded"), "the reload")
            assert await relay.serves() == "slow.test"
            await wait_for(lambda: len(relay.workers()) == 1, "the old workers to leave")


class TestControl:
    async def test_status(self, sink: UpstreamSink):
        async with supervised(sink, workers=2, metrics={"listen": "127.0.0.1:0"}) as relay:
            status = await relay.status()
            assert status["ok"] is True
            assert status["pid"] == relay.pid
            assert status["config"] == str(relay.config_file)
            assert status["listeners"] == {"main": f"127.0.0.1:{relay.port}"}
            assert not status["metrics"].endswith(":0")
            assert status["stopping"] is False
            assert sorted(worker["pid"] for worker in status["workers"]) == sorted(relay.workers())
            assert sorted(worker["worker"] for worker in status["workers"]) == [0, 1]
            assert {worker["state"] for worker in status["workers"]} == {"ready"}

    async def test_what_is_no_request(self, sink: UpstreamSink):
        async with supervised(sink) as relay:
            assert (await relay.ask({"command": "dance"}))["problem"] == "unknown command 'dance'"
            assert (await relay.ask([1, 2]))["ok"] is False
            assert await relay.ask(b"no json\n") == {}
            assert await relay.ask(b"\xff\xfe\n") == {}
            with contextlib.suppress(ConnectionError):  # it is not read to its end
                assert await relay.ask(b'{"command": "' + b"x" * 100_000 + b'"}\n') == {}
            assert (await relay.status())["ok"] is True
            assert await relay.serves() == "relay.test"

    async def test_stop(self, sink: UpstreamSink):
        async with supervised(sink) as relay:
            assert await relay.ask({"command": "stop"}) == {"ok": True}
            assert await relay.until_ended() == 0
            assert not (relay.folder / "control.sock").exists()

    async def test_without_it_mail_flows_nevertheless(self, sink: UpstreamSink):
        async with a_relay() as plain:
            relay = Supervised(plain.folder, {})
            (relay.folder / "file").write_text("")
            relay.configure(sink.address, control={"socket": str(relay.folder / "file" / "control.sock")})
            await relay.start()
            assert relay.said("no_control_socket")
            assert await relay.serves() == "relay.test"
            await relay.finish()


class TestEnd:
    async def test_a_second_signal_ends_at_once(self, sink: UpstreamSink):
        """The first waits for what is in progress, a whole minute if need be."""
        sink.plan.add(Fault(Step.DOT, Stall()))
        async with supervised(sink, workers=2) as relay, await Client.open(relay.port) as client:
            sending = asyncio.create_task(client.message(MESSAGE))
            await sink.until_reached(Step.DOT)
            relay.signal(signal.SIGTERM)
            await relay.until_logged("stopping")
            await wait_for(
                lambda: len(relay.workers()) == 1 or relay.workers() == [relay.pid], "the idle worker to end"
            )
            assert relay.popen is not None
            assert relay.popen.poll() is None
            status = await relay.status()
            assert (status["stopping"], status["listeners"]) == (True, {"main": "closed"})
            relay.signal(signal.SIGTERM)
            assert await relay.until_ended() == 0
            sink.release()
            with pytest.raises(HangUpError):
                await sending

    async def test_a_reload_during_the_end_is_not_obeyed(self, sink: UpstreamSink):
        sink.plan.add(Fault(Step.DOT, Stall()))
        async with supervised(sink) as relay, await Client.open(relay.port) as client:
            sending = asyncio.create_task(client.message(MESSAGE))
            await sink.until_reached(Step.DOT)
            relay.signal(signal.SIGINT)
            await relay.until_logged("stopping")
            relay.signal(signal.SIGHUP)
            await relay.status()
            sink.release()
            assert (await sending).code == 250
            assert await relay.until_ended() == 0
            assert not relay.said("reloaded")

    async def test_nor_one_through_the_control_socket(self, sink: UpstreamSink):
        sink.plan.add(Fault(Step.DOT, Stall()))
        async with supervised(sink) as relay, await Client.open(relay.port) as client:
            sending = asyncio.create_task(client.message(MESSAGE))
            await sink.until_reached(Step.DOT)
            relay.signal(signal.SIGTERM)
            await relay.until_logged("stopping")
            answer = await relay.reloaded()
            sink.release()
            assert (await sending).code == 250
            assert await relay.until_ended() == 0
            assert answer["ok"] is False
            assert not relay.said("reloaded")

    async def test_a_killed_worker_is_not_replaced_during_the_end(self, sink: UpstreamSink):
        sink.plan.add(Fault(Step.DOT, Stall()))
        async with supervised(sink) as relay, await Client.open(relay.port) as client:
            sending = asyncio.create_task(client.message(MESSAGE))
            await sink.until_reached(Step.DOT)
            relay.signal(signal.SIGTERM)
            await relay.until_logged("stopping")
            os.kill(relay.workers()[0], signal.SIGKILL)
            assert await relay.until_ended() == 0
            assert not relay.said("worker_died")
            with pytest.raises(HangUpError):
                await sending
            sink.release()

    async def test_a_reload_that_waits_for_its_workers_does_not_hold_it_up(self, sink: UpstreamSink):
        async with supervised(sink) as relay:
            await slow_reload(relay, sink)
            workers = relay.workers()
            relay.signal(signal.SIGTERM)
            assert await relay.until_ended() == 0
            assert not any(runs(pid) for pid in workers)
            (failed,) = relay.said("reload_failed")
            assert "told to stop" in failed["problem"]

    async def test_nor_does_a_start(self, sink: UpstreamSink):
        async with a_relay() as plain:
            relay = Supervised(plain.folder, {})
            slow(relay, sink)
            starting = asyncio.create_task(relay.start())
            await wait_for((relay.folder / "begun").exists, "the worker to begin")
            relay.signal(signal.SIGTERM)
            assert await relay.until_ended() == 0
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            assert not (relay.folder / "control.sock").exists()


def slow(relay: Supervised, sink: UpstreamSink) -> None:
    """Write a configuration whose workers are ready only when there is a file called "go"."""
    (relay.folder / "slow.py").write_text(SLOW_PLUGIN)
    relay.configure(sink.address, hostname="slow.test", plugin_folders=["."], pipeline=["slow"])


async def slow_reload(relay: Supervised, sink: UpstreamSink) -> None:
    """Begin a reload by SIGHUP that waits for its worker."""
    slow(relay, sink)
    relay.signal(signal.SIGHUP)
    await wait_for((relay.folder / "begun").exists, "the new worker to begin")


class TestStart:
    @pytest.mark.parametrize("what", ["plugin", "port"])
    async def test_what_keeps_it_from_starting_is_said(self, sink: UpstreamSink, what: str):
        async with a_relay() as plain:
            relay = Supervised(plain.folder, {})
            (relay.folder / "broken.py").write_text(BROKEN_PLUGIN)
            with socket.create_server(("127.0.0.1", 0)) as taken:
                if what == "plugin":
                    relay.configure(sink.address, plugin_folders=["."], pipeline=["broken"], workers=2)
                    reason = "can't start: RuntimeError: no model file"
                else:
                    relay.port = taken.getsockname()[1]
                    relay.configure(sink.address)
                    reason = f"can't listen on 127.0.0.1:{relay.port}: Address already in use"
                status, output = await relay.output("run", "-C", str(relay.config_file))
            assert status != 0
            assert reason in output
            assert "Traceback" not in output
            assert not (relay.folder / "control.sock").exists()

    async def test_systemd_is_told(self, sink: UpstreamSink, short_folder: Path):
        said: list[str] = []
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(short_folder / "notify"))
            notified.setblocking(False)
            loop = asyncio.get_running_loop()
            loop.add_reader(notified, lambda: said.append(notified.recv(1024).decode()))
            async with a_relay() as plain:
                relay = Supervised(plain.folder, {})
                relay.configure(sink.address)
                await relay.start(env={"NOTIFY_SOCKET": str(short_folder / "notify")})
                await relay.reloaded()
                await relay.finish()
            await wait_for(lambda: "STOPPING=1" in said, "the last word")
            loop.remove_reader(notified)
        words = [text for text in said if text != "WATCHDOG=1"]
        assert "WATCHDOG=1" in said
        assert words[0] == "READY=1"
        assert words[1].startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert words[2:] == ["READY=1", "STOPPING=1"]

    async def test_a_systemd_that_does_not_read_stops_nobody(self, sink: UpstreamSink, short_folder: Path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(short_folder / "notify"))
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
                filler.setblocking(False)
                filler.connect(str(short_folder / "notify"))
                with contextlib.suppress(BlockingIOError):
                    while True:
                        filler.send(b"WATCHDOG=1")
            async with a_relay() as plain:
                relay = Supervised(plain.folder, {"sd_notify._PATIENCE": 0.05})
                relay.configure(sink.address)
                await relay.start(env={"NOTIFY_SOCKET": str(short_folder / "notify")})
                assert (await relay.reloaded())["ok"] is True
                await relay.finish()
