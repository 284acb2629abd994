"""One client per process, with deadlines on everything and the write concern spelled out."""

from __future__ import annotations

import asyncio
import re
import warnings
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.errors import ConfigurationError, ConnectionFailure, PyMongoError
from pymongo.uri_parser import validate_options

from worker.codes import Code, Stage
from worker.failure import Dependency, Failure, store_silent
from worker.mongo.errors import DRIVER_ERRORS, failure_of, store_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.database import AsyncDatabase

Document = dict[str, Any]

_CERTIFICATE_REFUSED: Final = "CERTIFICATE_VERIFY_FAILED"
"""How OpenSSL says it. The driver hides it in the text of a server that cannot be found, which looks like an outage."""
_AUTHORITY_END: Final = re.compile("[/?#]")
_HOST: Final = re.compile(r"([\w.%-]+|\[[0-9A-Fa-f:.%]+\])(:[0-9]{1,5})?")
_EMBEDDED: Final = "nx_27017"
"""What the embedded server calls itself."""
# Said aloud, because the server's default is w:1 in a set with an arbiter.
MAJORITY: Final = WriteConcern(w="majority", j=True)
# Others write here, too: a date beyond the year 9999, or what is no UTF-8, must not make a whole answer unreadable.
_WHATEVER_COMES: Final[CodecOptions[Document]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_AUTO, unicode_decode_error_handler="replace"
)


class Store:
    """The connection of one process to the store. Make it after any fork; close it at the end."""

    def __init__(self, client: AsyncMongoClient[Document], database: str, address: str, timeout_ms: int) -> None:
        """Use `connect` instead."""
        self._client = client
        self.database: AsyncDatabase[Document] = client.get_database(
            database,
            codec_options=_WHATEVER_COMES,
            write_concern=MAJORITY,
            read_preference=ReadPreference.PRIMARY,
        )
        """The database of all collections; majority writes, reads from the primary."""
        self._timeout_seconds = timeout_ms / 1000
        self.address = address
        """Host and port, without user and password: for people and logs."""
        self._is_embedded: bool | None = None

    def collection(self, name: str) -> AsyncCollection[Document]:
        """Return a collection whose writes are acknowledged by a majority and whose reads go to the primary."""
        return self.database.get_collection(name)

    async def ping(self) -> None:
        """Return when the store answers. Raises `StoreUnavailable` or `OperatorFault`."""
        async with self.operation():
            await self._client.admin.command("ping")

    async def is_embedded(self) -> bool:
        """Tell whether this is the embedded server for trying out, which differs in what is quick; asked once.

        Raises `StoreUnavailable` or `OperatorFault`.
        """
        if self._is_embedded is None:
            async with self.operation():
                told = await self._client.admin.command("buildInfo")
            self._is_embedded = told.get("process") == _EMBEDDED
        return self._is_embedded

    async def close(self) -> None:
        """Close all connections. The object cannot be used afterwards."""
        await self._client.close()

    @asynccontextmanager
    async def operation(self, *, writes: bool = False) -> AsyncIterator[None]:
        """Give the block a deadline, and turn what the driver raises in it into our exceptions.

        Say *writes* when it sends a document that could be at fault itself; what else fails is the store's fault.

        The driver's exception is not kept as the cause: it can hold whole documents.

        Raises:
            StoreUnavailable: the store is away or sick, or slower than the deadline: the effect of a write is unknown.
            OperatorFault: credentials, permissions or configuration.
            StoreRefused: the document at hand cannot be stored, or failed for a reason nobody listed (its class says).
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                yield
        except TimeoutError:
            failure = store_silent()
        except DRIVER_ERRORS as exc:
            failure = failure_of(exc, holds_documents=writes)
            if isinstance(exc, ConnectionFailure) and _CERTIFICATE_REFUSED in str(exc):
                failure = replace(failure, detail=f"{failure.detail} Its TLS certificate is not accepted.")
        else:
            return
        raise store_error(failure)


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
        timeout_ms: longest any one operation may take, the driver's own second attempt included.
        selection_timeout_ms: longest to look for a usable server, so that an outage is noticed early.
        ca_file: PEM file of the authorities to trust for TLS; None for the system's.
        app_name: shown in the server's log and in `currentOp`.

    Raises:
        OperatorFault: the address or an option in it cannot be used.
    """
    unusable = _unusable_options(uri)  # the driver would leave them out with a warning, TLS included
    if unusable:
        raise store_error(_address_unusable(f"options that cannot be used: {', '.join(unusable)}"))
    # The driver's own total deadline, timeoutMS, would also replace the shorter one for finding a server.
    selection_timeout_ms = min(selection_timeout_ms, timeout_ms)
    options: Document = {} if ca_file is None else {"tlsCAFile": ca_file}
    try:
        client = _client(
            uri,
            appname=app_name,
            serverSelectionTimeoutMS=selection_timeout_ms,
            # Also the deadline of the driver's own heartbeat, whose failure ends every operation in progress: a server
            # that is slow must not count as gone before the configured time.
            connectTimeoutMS=timeout_ms,
            socketTimeoutMS=timeout_ms,
            waitQueueTimeoutMS=timeout_ms,
            **options,
        )
        return Store(client, database, redacted(uri), timeout_ms)
    except (PyMongoError, ValueError, TypeError, OSError):
        # Their texts may quote the address.
        failure = _address_unusable("options that exclude each other, or a file that cannot be read")
    raise store_error(failure)


def _client(uri: str, **options: Any) -> AsyncMongoClient[Document]:
    with warnings.catch_warnings():  # such as of a compression that is not there: it does without
        warnings.simplefilter("ignore", UserWarning)
        return AsyncMongoClient(uri, **options)


def _unusable_options(uri: str) -> list[str]:
    """Return the options of *uri* that the driver cannot use; only names that it knows are repeated."""
    found = []
    for name, value in parse_qsl(urlsplit(uri).query, keep_blank_values=True):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                validate_options({name: value})
        except ConfigurationError as error:
            found.append("one that nobody knows" if "Unknown option" in str(error) else name)
        except (PyMongoError, ValueError, TypeError, OSError):
            found.append(name)
    return found


def _address_unusable(cause: str) -> Failure:
    return Failure.of(Code.STORE_ACCESS_REFUSED, cause, dependency=Dependency.STORE, stage=Stage.STORE)


def redacted(uri: str) -> str:
    """Return `host:port` of every server in *uri*, and nothing else of it; nothing at all of an ambiguous one."""
    authority, rest = _AUTHORITY_END.split(uri.partition("://")[2] + "/", maxsplit=1)
    hosts = authority.rpartition("@")[2]
    is_clear = "@" not in rest and all(_HOST.fullmatch(host) for host in hosts.split(","))
    return hosts if is_clear else "an address that cannot be read"
