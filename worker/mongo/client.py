"""One client per process, with deadlines on everything and the write concern spelled out."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from bson.errors import BSONError
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from worker.codes import Stage
from worker.failure import classify, store_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.database import AsyncDatabase

Document = dict[str, Any]

# Said aloud, because the server's default is w:1 in a set with an arbiter.
MAJORITY: Final = WriteConcern(w="majority", j=True)


class Store:
    """The connection of one process to the store. Make it after any fork; close it at the end."""

    def __init__(self, client: AsyncMongoClient[Document], database: str, address: str) -> None:
        """Use `connect` instead."""
        self._client = client
        self._database: AsyncDatabase[Document] = client.get_database(
            database, write_concern=MAJORITY, read_preference=ReadPreference.PRIMARY
        )
        self.address = address
        """Host and port, without user and password: for people and logs."""

    def collection(self, name: str) -> AsyncCollection[Document]:
        """Return a collection whose writes are acknowledged by a majority and whose reads go to the primary."""
        return self._database.get_collection(name)

    async def ping(self) -> None:
        """Return when the store answers. Raises `StoreUnavailable` or `OperatorFault`."""
        with translated():
            await self._client.admin.command("ping")

    async def close(self) -> None:
        """Close all connections. The object cannot be used afterwards."""
        await self._client.close()


def connect(
    uri: str,
    database: str,
    *,
    timeout_ms: int = 10_000,
    selection_timeout_ms: int = 2_500,
    ca_file: str | None = None,
    app_name: str = "cim-worker",
) -> Store:
    """Return a `Store`; nothing is sent before the first operation.

    Args:
        uri: `mongodb://` or `mongodb+srv://`, with credentials if the server wants them.
        database: the database of all collections.
        timeout_ms: longest any one operation may take, all of the driver's own attempts together.
        selection_timeout_ms: longest to look for a usable server, so that an outage is noticed early.
        ca_file: PEM file of the authorities to trust for TLS; None for the system's.
        app_name: shown in the server's log and in `currentOp`.

    Raises:
        OperatorFault: the address or an option in it cannot be used.
    """
    options: Document = {} if ca_file is None else {"tlsCAFile": ca_file}
    with translated():
        client: AsyncMongoClient[Document] = AsyncMongoClient(
            uri,
            appname=app_name,
            timeoutMS=timeout_ms,
            serverSelectionTimeoutMS=min(selection_timeout_ms, timeout_ms),
            connectTimeoutMS=min(selection_timeout_ms, timeout_ms),
            **options,
        )
        return Store(client, database, redacted(uri))


def redacted(uri: str) -> str:
    """Return `host:port` of every server in *uri*, and nothing else of it."""
    if uri.startswith("mongodb+srv://"):
        return uri.removeprefix("mongodb+srv://").rpartition("@")[2].partition("/")[0].partition("?")[0]
    try:
        nodes = parse_uri(uri, warn=False, normalize=False)["nodelist"]
    except (PyMongoError, ValueError):
        return "an address that cannot be read"
    return ",".join(host if port is None else f"{host}:{port}" for host, port in nodes)


@contextmanager
def translated() -> Iterator[None]:
    """Turn what the driver raises into our exceptions.

    The driver's exception is not kept as the cause: it can hold whole documents.

    Raises:
        StoreUnavailable: the store is away or the effect of a write is unknown.
        OperatorFault: credentials, permissions or configuration.
        StoreRefused: the document at hand cannot be stored.
    """
    try:
        yield
    except (PyMongoError, BSONError) as exc:
        ours = store_error(classify(exc, Stage.STORE))
    else:
        return
    raise ours
