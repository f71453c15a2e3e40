"""The one thread of a worker that writes: it takes what has been asked for since, and commits it together.

While one commit waits for the disk the next group gathers, so the busier the worker, the larger the group. Workers
take turns by a lock on a file beside the database, which ends with its holder. A failed sync latches: what the kernel
said it could not write may look written afterwards (fsync(2)), so nothing is taken for stored any more.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from relayproxy.spool.protocol import SpoolError, SpoolFullError

Many: TypeAlias = Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Any]]
"""Does one kind of change for several arguments; returns a result for each, or an exception for one left undone."""

_GROUP = 64
_PATIENCE = 30.0  # for our turn to write; after that the client hears 451
_NAP = 0.0005


@dataclass(slots=True, eq=False)
class _Job:
    many: Many
    argument: Any
    future: "asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop
    asked: float
    result: Any = None


class Writer:
    """Runs changes in groups. `open_database` is called in the thread; `failed` is told of a latch."""

    def __init__(
        self, open_database: Callable[[], sqlite3.Connection], lock: Path, failed: Callable[[str], None]
    ) -> None:
        self._open = open_database
        self._lock_path = lock
        self._failed = failed
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._started: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._closed = False
        self.latched = ""

    def start(self) -> None:
        """Open the database and begin; raises what the opening raised."""
        self._thread.start()
        problem = self._started.get()
        if problem is not None:
            raise problem

    async def do(self, many: Many, argument: Any) -> Any:
        """Have a change made and return its result when it is durable. Raises SpoolError."""
        if self._closed or self.latched:
            raise SpoolError(self.latched or "the store is closed")
        loop = asyncio.get_running_loop()
        job = _Job(many, argument, loop.create_future(), loop, time.monotonic())
        self._jobs.put(job)
        return await job.future

    def stop(self) -> None:
        """Do what has been asked for, then end; waits for the thread."""
        self._closed = True
        self._jobs.put(None)
        self._thread.join()

    # -- in the thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            database = self._open()
        except (OSError, sqlite3.Error, SpoolError) as error:
            self._started.put(error)
            return
        self._started.put(None)
        try:
            while (job := self._jobs.get()) is not None:
                group, ends = self._group(job)
                self._work(database, lock, group)
                if ends:
                    break
        finally:
            with contextlib.suppress(sqlite3.Error):
                database.close()
            os.close(lock)

    def _group(self, first: _Job) -> tuple[list[_Job], bool]:
        """Return what is to be done together, and whether it is the last."""
        group = [first]
        with contextlib.suppress(queue.Empty):
            while len(group) < _GROUP:
                job = self._jobs.get_nowait()
                if job is None:
                    return group, True
                group.append(job)
        return group, False

    def _work(self, database: sqlite3.Connection, lock: int, group: list[_Job]) -> None:
        try:
            self._together(database, lock, group)
        except Exception as error:  # noqa: BLE001  (the fence of the thread: whoever waits must hear of it)
            problem = self._problem(error)
            if len(group) > 1 and not self.latched:
                # One of them may be at fault: each for itself, so that the others don't suffer for it.
                for job in group:
                    self._work(database, lock, [job])
                return
            for job in group:
                job.result = problem
        _tell(group)

    def _together(self, database: sqlite3.Connection, lock: int, group: list[_Job]) -> None:
        """One transaction for all of a group. Raises, with nothing done, when any of it can't be done."""
        kinds: dict[Many, list[_Job]] = {}
        for job in group:
            kinds.setdefault(job.many, []).append(job)
        _take(lock, min(job.asked for job in group) + _PATIENCE)
        try:
            database.execute("BEGIN IMMEDIATE")
            try:
                for many, jobs in kinds.items():
                    for job, result in zip(jobs, many(database, [j.argument for j in jobs]), strict=True):
                        job.result = result
                database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)

    def _problem(self, error: Exception) -> SpoolError:
        """Return what the asker is told, and latch if the disk can't be trusted any more."""
        if isinstance(error, SpoolError):
            return error
        name = getattr(error, "sqlite_errorname", "") or ""
        text = f"{name} {error}".strip()
        if name == "SQLITE_FULL" or getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT):
            return SpoolFullError(text)
        if "FSYNC" in name:
            self.latch(text)
        return SpoolError(text)

    def latch(self, problem: str) -> None:
        """Take nothing for stored any more, as a sync failed; from any thread."""
        if not self.latched:
            self.latched = f"a sync failed, so nothing is taken until the next start: {problem}"
            self._failed(self.latched)


def _take(lock: int, until: float) -> None:
    """Wait for our turn among the workers. Raises SpoolError when it doesn't come in time."""
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise SpoolError("another worker holds the store") from None
            time.sleep(_NAP)
        else:
            return


def _tell(group: list[_Job]) -> None:
    """Hand results over to the loops that wait for them, one call for each loop."""
    loops: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in group:
        loops.setdefault(job.loop, []).append(job)
    for loop, jobs in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(_resolve, jobs)


def _resolve(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if isinstance(job.result, Exception):
            job.future.set_exception(job.result)
        else:
            job.future.set_result(job.result)
