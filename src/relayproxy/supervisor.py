"""The supervisor: opens sockets, starts workers, restarts those that die, reloads by starting a new generation.

A small synchronous loop over signals, worker pipes and the control socket. It never touches mail. Whatever goes
wrong with a new configuration, the running one stays.
"""

import asyncio
import contextlib
import gc
import os
import selectors
import signal
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from relayproxy.app import Place, Worker
from relayproxy.build import listener_tls, unsubscribe_tls, web_places, where_of
from relayproxy.config.models import Config
from relayproxy.control import ControlSocket
from relayproxy.core.log import Log
from relayproxy.listening import Listening
from relayproxy.plugging import Choice
from relayproxy.sd_notify import notify
from relayproxy.server.sockets import SocketError, bound
from relayproxy.shared import GenerationMemory, LedgerMemory

_STALLED = 30.0  # seconds without a heartbeat before a worker is killed
_START_PATIENCE = 60.0
_RETIRE_PATIENCE = 2.0
_BACKOFF = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_STEADY = 60.0  # a worker that lived so long starts the back-off anew
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StartError(Exception):
    """The proxy can't start (or reload) with this configuration; the text says why."""


class StoppedError(StartError):
    """Whoever waited for new workers has been told to stop."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: a configuration with its plugins, and the folder where its paths start."""

    config: Config
    choices: Sequence[Choice]
    folder: Path
    source: str


@dataclass(slots=True)
class Child:
    """One worker process; `pipe` brings its "ready" and, when it closes, its end."""

    pid: int
    slot: int
    pipe: int
    started: float
    ready: bool = False
    words: bytes = b""


@dataclass(slots=True)
class Generation:
    """The workers of one configuration."""

    number: int
    plan: Plan
    memory: GenerationMemory
    sockets: list[list[socket.socket]]
    contexts: list[ssl.SSLContext | None]
    monitor: socket.socket | None
    page: socket.socket | None
    page_tls: ssl.SSLContext | None
    children: dict[int, Child] = field(default_factory=dict)
    failures: dict[int, int] = field(default_factory=dict)
    restart_at: dict[int, float] = field(default_factory=dict)
    leaving: bool = False


def worker_count(config: Config) -> int:
    """Return the number of workers: as configured, or one per core that this process may use."""
    return len(os.sched_getaffinity(0)) if config.workers == "auto" else int(config.workers)


class Supervisor:
    """Runs until it is told to stop; `run` returns the exit code."""

    def __init__(self, load: Callable[[], Plan], log: Log, *, control: Path | None) -> None:
        self._load = load
        self._log = log
        self._control = ControlSocket(control, self._answer) if control is not None else None
        self._generations: list[Generation] = []
        self._listening = Listening()
        self._ledger: LedgerMemory | None = None
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._asked: deque[int] = deque()
        self._stopping = 0
        self._kill_at = 0.0
        self._started = time.time()
        self._last_reload: dict[str, object] = {}

    # -- life -----------------------------------------------------------------------------------------------

    def run(self, announce: Callable[[Generation], None]) -> int:
        """Start, supervise, stop. Raises StartError if the first generation doesn't come up."""
        for end in (self._wake, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        self._selector.register(self._wake, selectors.EVENT_READ, self._listen_to_signals)
        if self._control is not None:
            self._open_control(self._control)
        try:
            generation = self._start(self._load(), 0)
            announce(generation)
            notify("READY=1")
            while self._generations:
                self._turn()
        except StoppedError:
            notify("STOPPING=1")
        finally:
            if self._control is not None:
                self._control.close()
            signal.set_wakeup_fd(-1)
            for generation in self._generations:
                for child in generation.children.values():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child.pid, signal.SIGKILL)
        return 0

    def _turn(self) -> None:
        """One round: wait for something to happen, and deal with it."""
        for key, _ in self._selector.select(self._patience()):
            key.data(key.fileobj)
        self._obey()
        notify("WATCHDOG=1", patience=0.0)
        self._reap()
        self._restart()
        self._watch()
        self._generations = [g for g in self._generations if g.children or not (g.leaving or self._stopping)]

    def _patience(self) -> float:
        due = [at for generation in self._generations for at in generation.restart_at.values()]
        return max(0.05, min([1.0, *(at - time.monotonic() for at in due)]))

    def _listen_to_signals(self, wake: socket.socket) -> None:
        """Take down which signals have come; `_obey` does what they say when nothing else is being done."""
        with contextlib.suppress(BlockingIOError):
            self._asked += (n for n in wake.recv(4096) if n in (*_STOP_SIGNALS, signal.SIGHUP))

    def _obey(self) -> None:
        while self._asked:
            if self._asked.popleft() in _STOP_SIGNALS:
                self._stop()
            elif not self._stopping:
                # One reload answers all that were asked for before it began.
                while self._asked and self._asked[0] == signal.SIGHUP:
                    self._asked.popleft()
                self.reload()

    @property
    def _told_to_stop(self) -> bool:
        return any(number in _STOP_SIGNALS for number in self._asked)

    def _readable(self, pipes: Iterable[int], seconds: float) -> list[int]:
        """Wait for workers, and for nothing else but signals, which are taken down; return the pipes that can be read."""
        with selectors.DefaultSelector() as selector:
            for pipe in (self._wake.fileno(), *pipes):
                selector.register(pipe, selectors.EVENT_READ)
            ready = [key.fd for key, _ in selector.select(max(0.0, seconds))]
        if self._wake.fileno() in ready:
            self._listen_to_signals(self._wake)
            ready.remove(self._wake.fileno())
        return ready

    # -- starting -------------------------------------------------------------------------------------------

    def _start(self, plan: Plan, number: int) -> Generation:
        """Open what is needed, fork the workers and wait until all are ready. Raises StartError."""
        config = plan.config
        count = worker_count(config)
        try:
            contexts = [listener_tls(listener) for listener in config.listeners]
            sockets = [
                self._listening.sockets_for(where_of(listener), count) for listener in config.listeners
            ]
            monitor, page = map(self._listening.web_socket, web_places(config))
            page_tls = unsubscribe_tls(config.unsubscribe) if config.unsubscribe else None
            if self._ledger is None or self._ledger.workers < count:
                self._ledger = LedgerMemory(count)
        except (OSError, ssl.SSLError, SocketError) as error:
            self._forget_sockets()
            raise StartError(str(error)) from error
        generation = Generation(
            number, plan, GenerationMemory(count), sockets, contexts, monitor, page, page_tls
        )
        for slot in range(count):
            self._fork(generation, slot)
        try:
            self._await_ready(generation)
        except StartError:
            self._abandon(generation)
            raise
        self._generations.append(generation)
        self._forget_sockets()
        return generation

    def _forget_sockets(self) -> None:
        """Close at once what the newest generation does not use: nobody would accept what still arrived there."""
        newest = self._generations[-1] if self._generations else None
        used = [sock for row in newest.sockets for sock in row] if newest else []
        self._listening.keep(used, (newest.monitor, newest.page) if newest else ())

    def _fork(self, generation: Generation, slot: int) -> None:
        """Start one worker; it inherits everything and returns here never."""
        assert self._ledger is not None
        reader, writer = os.pipe()
        place = Place(
            slot=slot,
            generation=generation.number,
            memory=generation.memory,
            ledger=self._ledger,
            sockets=[row[slot] for row in generation.sockets],
            contexts=generation.contexts,
            monitor=generation.monitor,
            page=generation.page,
            page_tls=generation.page_tls,
        )
        generation.memory.beats[slot] = 0.0
        gc.freeze()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            self._become_worker(generation, place, writer, parent)
        os.close(writer)
        generation.children[pid] = Child(pid, slot, reader, time.monotonic())
        self._selector.register(reader, selectors.EVENT_READ, self._heard)

    def _become_worker(self, generation: Generation, place: Place, pipe: int, parent: int) -> NoReturn:
        """In the child: leave the supervisor's business behind and serve."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _die_with(parent)
            self._selector.close()
            if self._control is not None:
                self._control.forget()
            # Another worker's, kept open here, would go on taking connections when that one stops.
            self._listening.close_others(place.sockets)
            code = _serve(generation.plan, place, pipe)
        except BaseException as error:  # noqa: BLE001  (the process ends here; the supervisor reads why)
            with contextlib.suppress(OSError):
                os.write(pipe, f"E{type(error).__name__}: {error}".encode("utf-8", "replace")[:4000])
        finally:
            os._exit(code)

    def _await_ready(self, generation: Generation) -> None:
        """Wait until every worker of a new generation says that it serves. Raises StartError."""
        end = time.monotonic() + _START_PATIENCE
        while waiting := [child for child in generation.children.values() if not child.ready]:
            if time.monotonic() > end:
                raise StartError("a worker did not start in time")
            if self._told_to_stop:
                raise StoppedError("told to stop before the new workers were ready")
            notify("WATCHDOG=1", patience=0.0)
            for pipe in self._readable([child.pipe for child in waiting], min(1.0, end - time.monotonic())):
                self._heard(pipe, generation)
            for child in generation.children.values():
                if child.pipe < 0 and not child.ready:
                    raise StartError(
                        child.words[1:].decode("utf-8", "replace") or "a worker died while starting"
                    )

    def _child(self, pipe: int, generation: Generation) -> Child | None:
        return next((child for child in generation.children.values() if child.pipe == pipe), None)

    def _heard(self, pipe: int, generation: Generation | None = None) -> None:
        """A worker said something, or has ended."""
        found = None
        for candidate in [generation] if generation else self._generations:
            found = found or self._child(pipe, candidate)
        data = os.read(pipe, 4096)
        if not data or found is None:
            self._selector.unregister(pipe)
            os.close(pipe)
            if found is not None:
                found.pipe = -1
            return
        found.words += data
        if found.words.startswith(b"R"):
            found.ready = True

    def _abandon(self, generation: Generation) -> None:
        """A new generation did not come up: end what there is of it."""
        for child in generation.children.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            if child.pipe >= 0:
                self._selector.unregister(child.pipe)
                os.close(child.pipe)
        generation.children.clear()
        self._forget_sockets()

    # -- watching -------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        """Collect workers that have ended; those that nobody asked to end start again, after a while."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for generation in self._generations:
                child = generation.children.pop(pid, None)
                if child is None:
                    continue
                if child.pipe >= 0:
                    self._selector.unregister(child.pipe)
                    os.close(child.pipe)
                if not generation.leaving and not self._stopping:
                    self._plan_restart(generation, child, status)

    def _plan_restart(self, generation: Generation, child: Child, status: int) -> None:
        lived = time.monotonic() - child.started
        failures = 0 if lived > _STEADY else generation.failures.get(child.slot, 0)
        wait = _BACKOFF[min(failures, len(_BACKOFF) - 1)]
        generation.failures[child.slot] = failures + 1
        generation.restart_at[child.slot] = time.monotonic() + wait
        code = os.waitstatus_to_exitcode(status)
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        why = child.words[1:].decode("utf-8", "replace") if child.words.startswith(b"E") else ""
        self._log.error(
            "worker_died",
            worker=child.slot,
            pid=child.pid,
            how=how,
            why=why,
            lived=round(lived, 1),
            restart_in=wait,
        )

    def _restart(self) -> None:
        now = time.monotonic()
        for generation in self._generations:
            if generation.leaving or self._stopping:
                continue
            for slot in [slot for slot, at in generation.restart_at.items() if at <= now]:
                del generation.restart_at[slot]
                self._fork(generation, slot)

    def _watch(self) -> None:
        """Kill workers whose loop stands still, and, when stopping, those that take too long."""
        now = time.monotonic()
        for generation in self._generations:
            for child in generation.children.values():
                beat = generation.memory.beats[child.slot]
                if child.ready and beat and now - beat > _STALLED:
                    self._log.error(
                        "worker_stalled", worker=child.slot, pid=child.pid, seconds=round(now - beat)
                    )
                    generation.memory.beats[child.slot] = 0.0
                    os.kill(child.pid, signal.SIGKILL)
                elif self._kill_at and now > self._kill_at:
                    os.kill(child.pid, signal.SIGKILL)

    # -- reloading and stopping -----------------------------------------------------------------------------

    def reload(self) -> dict[str, object]:
        """Build a whole new generation from the configuration as it is now; any error keeps the old one."""
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        old = list(self._generations)
        started = time.time()
        try:
            plan = self._load()
            generation = self._start(plan, old[-1].number + 1)
        except StartError as error:
            self._log.error("reload_failed", problem=str(error), kept="the running configuration")
            self._last_reload = {"ok": False, "at": started, "problem": str(error)}
        else:
            for previous in old:
                if not previous.leaving:
                    previous.leaving = True
                    self._tell(previous, signal.SIGUSR1)
                    self._await_retired(previous)
            self._log.info("reloaded", generation=generation.number, source=plan.source)
            self._last_reload = {"ok": True, "at": started}
        notify("READY=1")
        return self._last_reload

    def _await_retired(self, generation: Generation) -> None:
        """Wait a moment until old workers accept no more: whoever connects after a reload meets the new ones."""
        end = time.monotonic() + _RETIRE_PATIENCE
        while time.monotonic() < end and not self._told_to_stop:
            pipes = [
                child.pipe
                for child in generation.children.values()
                if child.pipe >= 0 and child.ready and not child.words.endswith(b"L")
            ]
            if not pipes:
                return
            for pipe in self._readable(pipes, end - time.monotonic()):
                self._heard(pipe, generation)

    def _stop(self) -> None:
        """SIGTERM: drain; a second one ends at once."""
        self._stopping += 1
        notify("STOPPING=1")
        for generation in self._generations:
            generation.leaving = True
            self._tell(generation, signal.SIGTERM)
        longest = max((g.plan.config.shutdown_timeout for g in self._generations), default=0.0)
        self._kill_at = time.monotonic() + (longest + 10 if self._stopping == 1 else 5)
        # Nobody will accept what would arrive from here on: let it be refused at once.
        self._listening.close_others(())
        for generation in self._generations:
            if generation.page is not None:
                generation.page.close()
        if self._stopping == 1:
            self._log.info("stopping", workers=sum(len(g.children) for g in self._generations))

    @staticmethod
    def _tell(generation: Generation, number: int) -> None:
        for child in generation.children.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)

    # -- the control socket ---------------------------------------------------------------------------------

    def _open_control(self, control: ControlSocket) -> None:
        try:
            opened = control.open()
        except (OSError, SocketError) as error:
            # Without it `status` and `reload` don't work, but mail does.
            self._log.warning("no_control_socket", path=str(control.path), problem=str(error))
        else:
            self._selector.register(opened, selectors.EVENT_READ, control.serve)

    def _answer(self, command: str) -> dict[str, object]:
        match command:
            case "status":
                return self._status()
            case "reload":
                return self.reload()
            case "stop":
                self._stop()
                return {"ok": True}
            case _:
                return {"ok": False, "problem": f"unknown command {command!r}"}

    def _status(self) -> dict[str, object]:
        now = time.monotonic()
        newest = self._generations[-1]
        return {
            "ok": True,
            "pid": os.getpid(),
            "since": self._started,
            "config": newest.plan.source,
            "generation": newest.number,
            "reload": self._last_reload,
            "listeners": {
                listener.name: bound(row[0])
                for listener, row in zip(newest.plan.config.listeners, newest.sockets, strict=True)
            },
            "metrics": bound(newest.monitor) if newest.monitor else "off",
            "unsubscribe": bound(newest.page) if newest.page else "off",
            "stopping": bool(self._stopping),
            "workers": [
                {
                    "pid": child.pid,
                    "worker": child.slot,
                    "generation": generation.number,
                    "state": "leaving" if generation.leaving else "ready" if child.ready else "starting",
                    "seconds": round(now - child.started, 1),
                }
                for generation in self._generations
                for child in generation.children.values()
            ],
        }


def _serve(plan: Plan, place: Place, pipe: int) -> int:
    """Run a worker's loop to its end."""
    factory: Any = None
    if sys.platform != "win32":
        try:
            import uvloop
        except ImportError:
            factory = None
        else:
            factory = uvloop.new_event_loop

    async def main() -> None:
        worker = Worker(plan.config, plan.choices, plan.folder, place)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, worker.stop)

        def retire() -> None:
            worker.retire()
            os.write(pipe, b"L")

        loop.add_signal_handler(signal.SIGUSR1, retire)
        await worker.start()
        os.write(pipe, b"R")
        await worker.run()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    return 0


def _die_with(parent: int) -> None:
    """Ask the kernel to end this worker with the supervisor: nobody is left to restart or reload it (Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        raise StartError("the supervisor has gone")
