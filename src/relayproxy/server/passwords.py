"""A password file as AUTH back end: `login:hash` lines, argon2 (`$argon2id$...`) or bcrypt (`$2b$...`).

Read again when the file changes. Hashing happens in a thread, few at a time, so that guessing passwords can't use
up the machine. An unknown login takes as long as a wrong password.
"""

import asyncio
from pathlib import Path

import argon2
import bcrypt

from relayproxy.core.log import Log
from relayproxy.model.client import Client, Credentials

_AT_ONCE = 2


class PasswordFile:
    """Implements ports.Authenticator."""

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log
        self._stamp: tuple[int, int] | None = None
        self._hashes: dict[str, str] = {}
        self._hasher = argon2.PasswordHasher()
        self._nobody = self._hasher.hash("nobody has this password")
        self._places = asyncio.Semaphore(_AT_ONCE)

    def load(self) -> None:
        """Read the file if it has changed. Raises OSError, and ValueError for a line that makes no sense."""
        facts = self._path.stat()
        stamp = (facts.st_mtime_ns, facts.st_size)
        if stamp == self._stamp:
            return
        hashes: dict[str, str] = {}
        for number, line in enumerate(self._path.read_text("utf-8").splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            login, colon, hashed = line.strip().partition(":")
            if not colon or not hashed.startswith(("$argon2", "$2a$", "$2b$", "$2y$")):
                raise ValueError(f"{self._path}:{number}: wanted login:hash, with an argon2 or bcrypt hash")
            hashes[login] = hashed
        self._hashes, self._stamp = hashes, stamp

    async def check(self, client: Client, credentials: Credentials) -> bool | None:
        """Compare; None when the file can't be read."""
        try:
            self.load()
        except (OSError, ValueError) as error:
            self._log.error("password_file", id=client.id, problem=str(error))
            return None
        hashed = self._hashes.get(credentials.login)
        async with self._places:
            right = await asyncio.to_thread(self._verify, hashed or self._nobody, credentials.password)
        return right and hashed is not None

    def _verify(self, hashed: str, password: str) -> bool:
        if hashed.startswith("$argon2"):
            try:
                return self._hasher.verify(hashed, password)
            except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
                return False
        try:
            # bcrypt looks at 72 octets and refuses more; what follows them never counted.
            return bcrypt.checkpw(password.encode()[:72], hashed.encode())
        except ValueError:
            return False
