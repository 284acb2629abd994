"""The store's contract suite: what the adapter promises, held against one server, whichever it is.

`pytest tests/contract/store` uses the store of the whole run (see tests/conftest.py); `--store NAME` a named server of
`servers.py`. Tests that break the server always use one of their own.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import tempfile
import uuid
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pymongo
import pytest

from tests.contract.store import servers
from worker.mongo.client import Store, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.services.store import LocalStore


class OpenStore(Protocol):
    """Connects to the store under test; as many times as a test likes, each a client of its own."""

    def __call__(self, timeout_ms: int = 10_000) -> AbstractAsyncContextManager[Store]: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--store", choices=sorted(servers.SERVERS), help="the server to hold to the store's contract")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests, each in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(scope="session")
def _own_server(request: pytest.FixtureRequest) -> Iterator[LocalStore]:
    name = request.config.getoption("--store", default=None) or servers.default()
    with tempfile.TemporaryDirectory(prefix="cim-store-contract-") as folder:
        server = servers.SERVERS[name](Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.thaw()
            server.stop()


@pytest.fixture
def breakable_store(_own_server: LocalStore) -> Iterator[LocalStore]:
    """Return a server that the test may kill and freeze; it is brought back to life afterwards."""
    yield _own_server
    _own_server.thaw()
    _own_server.restart()


@pytest.fixture
def late_sockets() -> Iterator[None]:
    """Collect what PyMongo leaves to the garbage collector, while the warning about it is expected.

    PyMongo 4.20 does not close the socket when an attempt to connect is cancelled, which happens when a client is
    closed during an outage; without this the warning would fail some later, innocent test.
    """
    yield
    gc.collect()


@pytest.fixture(scope="session")
def store_uri(request: pytest.FixtureRequest) -> str:
    """URI of the server under test."""
    wanted = request.config.getoption("--store", default=None)
    return str(request.getfixturevalue("_own_server" if wanted else "store").uri)


@pytest.fixture
def database(store_uri: str) -> Iterator[str]:
    """Name of a database that only this test knows; it is dropped afterwards."""
    name = f"contract_{uuid.uuid4().hex[:16]}"
    yield name
    with pymongo.MongoClient[dict[str, object]](store_uri) as client:
        client.drop_database(name)


@pytest.fixture
def open_store(store_uri: str, database: str) -> OpenStore:
    """Return a function that connects to this test's database."""

    @asynccontextmanager
    async def opened(timeout_ms: int = 10_000) -> AsyncIterator[Store]:
        store = connect(store_uri, database, timeout_ms=timeout_ms)
        try:
            yield store
        finally:
            await store.close()

    return opened
