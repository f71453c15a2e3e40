"""The password file: argon2 and bcrypt, lines that make no sense, changes while it is in use."""

import asyncio
import os
from pathlib import Path
from typing import Any

import argon2
import bcrypt
import pytest

from relayproxy.core.log import Log
from relayproxy.model.client import Client, Credentials
from relayproxy.server.passwords import PasswordFile

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])

SOMEBODY = Client("1", "main", "192.0.2.1")
CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


def hashed(password: str, kind: str = "bcrypt") -> str:
    if kind == "bcrypt":
        return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    return CHEAP.hash(password)


class File:
    """A password file, what reads it, and what that logs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []
        self.backend = PasswordFile(path, Log(self.lines.append, lambda: 0.0))

    def write(self, text: str, *, stamp: int = 0) -> None:
        self.path.write_text(text, "utf-8")
        if stamp:
            os.utime(self.path, ns=(stamp, stamp))

    async def check(self, login: str, password: str) -> bool | None:
        return await self.backend.check(SOMEBODY, Credentials("PLAIN", login, password))


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "passwords")


@pytest.mark.parametrize("kind", ["argon2", "bcrypt"])
async def test_right_and_wrong(file: File, kind: str):
    file.write(f"# who may send\n\nana:{hashed('sésame', kind)}\n  bob:{hashed('other', kind)}  \n")
    assert await file.check("ana", "sésame") is True
    assert await file.check("bob", "other") is True
    assert await file.check("ana", "other") is False
    assert await file.check("Ana", "sésame") is False
    assert await file.check("ana", "") is False
    assert await file.check("", "") is False
    assert await file.check("# who may send", "") is False
    assert file.lines == []


@pytest.mark.parametrize("variant", ["$2a$", "$2b$", "$2y$"])
async def test_the_variants_of_bcrypt(file: File, variant: str):
    file.write(f"ana:{variant}{hashed('sesame')[4:]}\n")
    assert await file.check("ana", "sesame") is True
    assert await file.check("ana", "Sesame") is False


async def test_an_unknown_login_costs_a_hash_and_has_none(file: File, monkeypatch: pytest.MonkeyPatch):
    file.write(f"ana:{hashed('sesame')}\n")
    verified: list[str] = []
    verify = PasswordFile._verify

    def watched(backend: PasswordFile, hashed: str, password: str) -> bool:
        verified.append(hashed)
        return verify(backend, hashed, password)

    monkeypatch.setattr(PasswordFile, "_verify", watched)
    assert await file.check("nobody", "nobody has this password") is False
    assert len(verified) == 1
    assert verified[0].startswith("$argon2id$")


async def test_passwords_longer_than_bcrypt_looks_at(file: File):
    file.write(f"ana:{hashed('x' * 72)}\n")
    assert await file.check("ana", "x" * 72) is True
    assert await file.check("ana", "x" * 100) is True
    assert await file.check("ana", "x" * 71) is False


@pytest.mark.parametrize("broken", ["$argon2id$v=19$nonsense", "$2b$04$short", "$2b$99$" + "x" * 53])
async def test_a_hash_that_cannot_be_read_fits_no_password(file: File, broken: str):
    file.write(f"ana:{broken}\n")
    assert await file.check("ana", "sesame") is False
    assert await file.check("ana", "\0") is False


@pytest.mark.parametrize("line", ["no colon", "ana:plaintext", "ana:{SHA}xyz", "ana:"])
async def test_a_line_that_makes_no_sense(file: File, line: str):
    """It is named at start; met later it is an answer of 'not now', and the log names the place."""
    file.write(f"bob:{hashed('sesame')}\n{line}\n")
    with pytest.raises(ValueError, match=r"passwords:2: wanted login:hash"):
        file.backend.load()
    assert await file.check("bob", "sesame") is None
    assert "passwords:2" in file.lines[0]
    assert "plaintext" not in file.lines[0]


async def test_a_file_that_is_missing_or_no_text(file: File):
    with pytest.raises(FileNotFoundError):
        file.backend.load()
    assert await file.check("ana", "sesame") is None
    file.path.write_bytes(b"\xff\xfe")
    assert await file.check("ana", "sesame") is None
    assert len(file.lines) == 2


async def test_a_change_is_seen_and_a_broken_one_is_not_taken(file: File):
    file.write(f"ana:{hashed('old')}\n", stamp=1)
    assert await file.check("ana", "old") is True
    file.write(f"ana:{hashed('new')}\n", stamp=2)
    assert await file.check("ana", "old") is False
    assert await file.check("ana", "new") is True
    file.write("ana\n", stamp=3)
    assert await file.check("ana", "new") is None
    file.write(f"ana:{hashed('newer')}\nbob:{hashed('his')}\n", stamp=4)
    assert await file.check("ana", "newer") is True
    assert await file.check("bob", "his") is True


async def test_it_is_read_again_only_when_it_changed(file: File, monkeypatch: pytest.MonkeyPatch):
    file.write(f"ana:{hashed('sesame')}\n")
    file.backend.load()
    monkeypatch.setattr(Path, "read_text", None)
    file.backend.load()
    assert await file.check("ana", "sesame") is True


async def test_few_are_hashed_at_once(file: File, monkeypatch: pytest.MonkeyPatch):
    """Guessing passwords must not use up the machine: a third waits until one of two is done."""
    file.write(f"ana:{hashed('sesame')}\n")
    running, most = 0, 0
    two, gate = asyncio.Event(), asyncio.Event()

    async def slowly(*_: Any) -> bool:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 2:
            two.set()
        await gate.wait()
        running -= 1
        return True

    monkeypatch.setattr("relayproxy.server.passwords.asyncio.to_thread", slowly)
    tasks = [asyncio.create_task(file.check("ana", "sesame")) for _ in range(10)]
    await two.wait()
    gate.set()
    assert await asyncio.gather(*tasks) == [True] * 10
    assert most == 2
