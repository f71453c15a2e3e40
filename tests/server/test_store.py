"""Where content is kept: memory, then an unlinked mapped file; every refusal gives the budget back."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayproxy.core.metrics import Metrics
from relayproxy.core.services import Budget
from relayproxy.server import store as module
from relayproxy.server.store import NO_ROOM, SPILL, TOO_BIG, ContentStore

HEADER_BYTES = 1000
HEAD = b"Subject: x\r\n\r\n"
LARGE = HEAD + b"y" * (SPILL + HEADER_BYTES)


def a_budget(limit: int = 1 << 30) -> Budget:
    return Budget(limit, Metrics().cell("bytes_in_flight"))


def a_store(budget: Budget, *, limit: int = 1 << 30, folder: Path | None = None) -> ContentStore:
    return ContentStore(limit, budget, str(folder) if folder else None, HEADER_BYTES)


def open_files() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_small_content_stays_in_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module.tempfile, "TemporaryFile", None)
    budget = a_budget()
    store = a_store(budget)
    for piece in (HEAD[:5], HEAD[5:], b"body\r\n"):
        store.write(piece)
    assert budget.used == store.size == len(HEAD) + 6
    message = store.message(dotless=True)
    assert (message.head, bytes(message.body), message.dotless) == (HEAD, b"body\r\n", True)
    store.release()
    assert budget.used == 0
    assert bytes(message) == HEAD + b"body\r\n"


def test_the_largest_that_stays_in_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module.tempfile, "TemporaryFile", None)
    store = a_store(a_budget())
    store.write(b"z" * (SPILL + HEADER_BYTES))
    assert len(store.message(dotless=False)) == SPILL + HEADER_BYTES


@pytest.mark.parametrize("piece", [4096, 1_000_000, len(LARGE)])
def test_large_content_goes_to_a_file_without_a_name(tmp_path: Path, piece: int):
    budget = a_budget()
    before = open_files()
    store = a_store(budget, folder=tmp_path)
    for start in range(0, len(LARGE), piece):
        store.write(LARGE[start : start + piece])
    assert list(tmp_path.iterdir()) == []
    assert budget.used == len(LARGE)
    message = store.message(dotless=False)
    assert message.head == HEAD
    assert isinstance(message.body, memoryview)
    assert bytes(message) == LARGE
    store.release()
    store.release()
    assert budget.used == 0
    assert bytes(message.body[-3:]) == b"yyy"  # the view lives as long as the message
    del message
    assert open_files() == before


def test_whoever_still_reads_a_message_that_is_done_with_reads_that_one():
    before = open_files()
    store = a_store(a_budget())
    store.write(LARGE)
    pieces = store.message(dotless=False).reader()
    first = next(pieces)
    store.release()
    others = [os.dup(0) for _ in range(3)]  # the file's number would be taken again at once
    assert first + b"".join(pieces) == LARGE[len(HEAD) :]
    for other in others:
        os.close(other)
    del pieces
    assert open_files() == before


@pytest.mark.parametrize(
    ("content", "head"),
    [
        (b"\r\n" + LARGE, 2),
        (b"a: b\r\n" * 100 + b"\r\n" + LARGE, 602),
        (b"x" * (HEADER_BYTES - 2) + b"\r\n\r\n" + LARGE, HEADER_BYTES + 2),
        (b"x" * (HEADER_BYTES + 1) + b"\r\n\r\n" + LARGE, HEADER_BYTES + 1),
        (b"x" * len(LARGE) + b"\r\n\r\n", HEADER_BYTES + 1),
    ],
)
def test_the_head_of_mapped_content(content: bytes, head: int):
    """A head without an end in reach is cut one octet above the limit, where the session refuses it."""
    store = a_store(a_budget())
    store.write(content)
    message = store.message(dotless=False)
    assert len(message.head) == head
    assert bytes(message) == content
    store.release()


@pytest.mark.parametrize("size", [100, len(LARGE)])
def test_over_the_limit(size: int):
    budget = a_budget()
    before = open_files()
    store = a_store(budget, limit=size)
    store.write(b"x" * size)
    assert store.refusal is None
    store.write(b"x")
    assert store.refusal is TOO_BIG
    assert budget.used == 0
    store.write(b"x" * 50)
    assert (store.size, store.problem) == (size + 51, "over the size limit")
    assert budget.used == 0
    store.release()
    assert open_files() == before


def test_over_the_budget():
    budget = a_budget(1000)
    others, store = a_store(budget), a_store(budget)
    others.write(b"x" * 600)
    store.write(b"x" * 300)
    store.write(b"x" * 200)
    assert store.refusal is NO_ROOM
    assert budget.used == 600
    others.write(b"x" * 400)
    assert others.refusal is None
    store.release()
    others.release()
    assert budget.used == 0


@pytest.mark.parametrize("fails_at", [0, 1, 2, 3])
def test_a_disk_that_fills_up(monkeypatch: pytest.MonkeyPatch, fails_at: int):
    """At the first octet of the file or later: the answer is 452, and neither budget nor descriptor stays."""
    write, count = os.write, 0

    def until_full(file: int, data: bytes) -> int:
        nonlocal count
        count += 1
        if count > fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data)

    budget = a_budget()
    before = open_files()
    store = a_store(budget)
    monkeypatch.setattr(module.os, "write", until_full)
    for start in range(0, len(LARGE), SPILL // 2):
        store.write(LARGE[start : start + SPILL // 2])
    store.write(LARGE)
    assert store.refusal is NO_ROOM
    assert store.problem == "temporary file: No space left on device"
    assert budget.used == 0
    assert open_files() == before


def test_writes_that_take_only_a_part(monkeypatch: pytest.MonkeyPatch):
    write = os.write
    monkeypatch.setattr(module.os, "write", lambda file, data: write(file, bytes(data[:70_000])))
    store = a_store(a_budget())
    store.write(LARGE)
    assert bytes(store.message(dotless=False)) == LARGE
    store.release()


def test_a_folder_that_is_gone(tmp_path: Path):
    budget = a_budget()
    store = a_store(budget, folder=tmp_path / "gone")
    store.write(LARGE)
    assert store.refusal is NO_ROOM
    assert "No such file" in store.problem
    assert budget.used == 0


def test_a_file_is_given_back_without_a_message():
    budget = a_budget()
    before = open_files()
    store = a_store(budget)
    store.write(LARGE)
    assert len(open_files()) == len(before) + 1
    store.release()
    assert open_files() == before
    assert budget.used == 0


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 700_000), max_size=6),
    limit=st.integers(1, 3_000_000),
    room=st.integers(1, 3_000_000),
    taken=st.booleans(),
)
def test_the_budget_is_given_back_whatever_happens(sizes: list[int], limit: int, room: int, taken: bool):
    budget = a_budget(room)
    store = a_store(budget, limit=limit)
    total = sum(sizes)
    for size in sizes:
        store.write(b"x" * size)
        assert 0 <= budget.used <= room
        assert budget.used == (0 if store.refusal else store.size)
    assert (store.refusal is not None) == (total > limit or total > room)
    if taken and store.refusal is None:
        assert len(store.message(dotless=False)) == total
    store.release()
    assert budget.used == 0
