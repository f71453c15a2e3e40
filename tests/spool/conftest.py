"""A PostgreSQL for the stores that are kept there, started once, a database for each test; libraries to preload."""

import itertools
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from tests.servers.postgres import LOGIN, PASSWORD, Postgres, a_postgres
from tests.servers.process import do_without

from relayproxy.postgres import Server

_HERE = Path(__file__).parent
_NUMBERS = itertools.count()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server() -> AsyncIterator[Postgres]:
    server = await a_postgres()
    yield server
    await server.end()
    server.remove()


@pytest.fixture
def new_database(postgres_server: Postgres) -> Callable[[], Server]:
    """Makes new, empty databases, and says how to get there."""

    def make() -> Server:
        name = f"spool{next(_NUMBERS)}"
        postgres_server.create_database(name)
        return Server((("127.0.0.1", postgres_server.port),), name, LOGIN, PASSWORD)

    return make


@pytest.fixture
def postgres_database(new_database: Callable[[], Server]) -> Server:
    """A new, empty database, and how to get there."""
    return new_database()


@pytest.fixture
async def own_postgres() -> AsyncIterator[Postgres]:
    """A server that the test may end and start again."""
    server = await a_postgres()
    yield server
    await server.end()
    server.remove()


def _compiled(source: str, folder: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        do_without("no C compiler")
    assert compiler is not None
    made = folder / f"{source}.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-w", "-o", made, _HERE / source, "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return made


@pytest.fixture(scope="session")
def shim(tmp_path_factory) -> Path:
    """The library that makes calls fail."""
    return _compiled("faults.c", tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def recorder(tmp_path_factory) -> Path:
    """The library that writes calls down."""
    return _compiled("record.c", tmp_path_factory.mktemp("recorder"))
