"""Fixtures for the whole suite: real servers, each the test's own."""

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import settings
from tests.servers.authentication import Authentication
from tests.servers.dovecot import Dovecot
from tests.servers.postfix import Postfix
from tests.servers.process import public_folder
from tests.servers.relay import Relay, a_relay
from tests.servers.tls import Certificates, make_certificates

# In CI the examples are the same every time: a new counter-example belongs to the developer who finds it, and no
# example has a deadline, as the machine is shared.
settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A CA, a server's certificate for localhost, a client's."""
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def authentication() -> AsyncIterator[Authentication]:
    """DNS, keys, and a Postfix with OpenDKIM and Rspamd as its milters; started once, as there are many of them."""
    servers = Authentication()
    try:
        await servers.start()
        yield servers
    finally:
        await servers.stop()


@pytest.fixture
async def start_postfix() -> AsyncIterator[Callable[..., Awaitable[Postfix]]]:
    """Start a Postfix; takes the arguments of the class."""
    started: list[Postfix] = []

    async def start(**arguments: Any) -> Postfix:
        started.append(Postfix(**arguments))
        await started[-1].start()
        return started[-1]

    yield start
    for postfix in started:
        await postfix.stop()


@pytest.fixture
async def start_dovecot() -> AsyncIterator[Callable[..., Awaitable[Dovecot]]]:
    """Start a Dovecot; takes the arguments of the class."""
    started: list[Dovecot] = []

    async def start(**arguments: Any) -> Dovecot:
        started.append(Dovecot(**arguments))
        await started[-1].start()
        return started[-1]

    yield start
    for dovecot in started:
        await dovecot.stop()


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    """A relayproxy that is not started yet; at the test's end it is ended, and its log is looked at."""
    async with a_relay() as relay:
        yield relay


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    folder = public_folder("tmp")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
