"""Insert many documents so that each one gets an answer of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import bson
from bson.raw_bson import RawBSONDocument
from pymongo.errors import BulkWriteError, OperationFailure

from worker.failure import Failure, StoreRefused, StoreUnavailable
from worker.mongo.errors import (
    DUPLICATE_KEYS,
    CommandRefused,
    document_too_large,
    failure_at_encode,
    failure_of_write_error,
    is_listed,
    not_on_a_majority,
    store_error,
)
from worker.mongo.evidence import Inserted, InsertResult, against_the_store, is_own

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pymongo.asynchronous.collection import AsyncCollection

    from worker.mongo.client import Document, Store

MAX_DOCUMENT_BYTES: Final = 16 * 1024 * 1024
"""What every MongoDB server accepts; more is refused before it is sent."""

_MAX_CALL_BYTES: Final = 16 * 1024 * 1024
_MAX_CALL_DOCUMENTS: Final = 1000


@dataclass(frozen=True, slots=True)
class Encoded:
    """One document, ready to send."""

    document: RawBSONDocument
    size: int


def encode_alone(document: Mapping[str, object]) -> Encoded | Failure:
    """Encode one document; one that cannot be encoded or stored must not take its neighbours along."""
    try:
        data = bson.encode(document)
    except Exception as exc:  # noqa: BLE001 - whatever encoding raises is about this document; classified, not hidden
        return failure_at_encode(exc)
    return ready(data)


def ready(data: bytes) -> Encoded | Failure:
    """Return a document in BSON, ready to send unless it is larger than a server takes."""
    if len(data) > MAX_DOCUMENT_BYTES:
        return document_too_large()
    return Encoded(RawBSONDocument(data), len(data))


async def insert_each(
    store: Store, collection: AsyncCollection[Document], documents: Sequence[Encoded], *, just_stored: bool = False
) -> list[InsertResult]:
    """Insert *documents* in calls of bounded size and return one result for each, in order.

    *just_stored* says that another call has newly stored something a moment ago.

    Everything reported as `NEW` or `KEY_TAKEN` is known to be on a majority. A failure is the document's own
    (`evidence.is_own`) or unproven.

    Raises:
        StoreUnavailable: the store is away or sick, or the effect of some of it is unknown. Do it all again.
        OperatorFault: the store will not let us write.
    """
    results: list[InsertResult] = []
    for chunk in chunks(documents):
        results += await _insert_chunk(store, collection, chunk, just_stored=just_stored)
    return results


def chunks(documents: Sequence[Encoded]) -> Iterator[Sequence[Encoded]]:
    """Cut *documents* into runs of at most 1000 and 16 MiB, or of one larger than that."""
    start, size = 0, 0
    for index, document in enumerate(documents):
        if index > start and (size + document.size > _MAX_CALL_BYTES or index - start == _MAX_CALL_DOCUMENTS):
            yield documents[start:index]
            start, size = index, 0
        size += document.size
    if start < len(documents):
        yield documents[start:]


async def _insert_chunk(
    store: Store, collection: AsyncCollection[Document], chunk: Sequence[Encoded], *, just_stored: bool
) -> list[InsertResult]:
    """Insert what fits one call, and judge by all of its results whether the store is at fault."""
    try:
        results = await _call(store, collection, chunk)
    except StoreRefused as error:
        apart = _apart if is_own(error.failure) else _but_for_one
        results = await apart(store, collection, chunk)
    except CommandRefused:
        if len(chunk) == 1:
            raise
        results = await _but_for_one(store, collection, chunk)
    failure = against_the_store(results, just_stored=just_stored)
    if failure is not None:
        raise store_error(failure)
    return results


async def _but_for_one(
    store: Store, collection: AsyncCollection[Document], chunk: Sequence[Encoded]
) -> list[InsertResult]:
    """Insert what was refused as a whole: it may be for the sake of one document, and is the store's if two fail alone.

    Two more commands decide that, not twice as many as there are documents.
    """
    first, last = await _apart(store, collection, chunk[:1]), await _apart(store, collection, chunk[1:][-1:])
    if against_the_store(ends := [*first, *last]) is not None:
        return ends
    return [*first, *await _apart(store, collection, chunk[1:-1]), *last]


async def _apart(store: Store, collection: AsyncCollection[Document], chunk: Sequence[Encoded]) -> list[InsertResult]:
    """Insert by halves until whoever is refused stands alone, so that the others get through."""
    if not chunk:
        return []
    try:
        return await _call(store, collection, chunk)
    except (StoreRefused, CommandRefused) as error:
        if len(chunk) == 1:
            return [error.of_one if isinstance(error, CommandRefused) else error.failure]
    half = len(chunk) // 2
    return [*await _apart(store, collection, chunk[:half]), *await _apart(store, collection, chunk[half:])]


async def _call(store: Store, collection: AsyncCollection[Document], chunk: Sequence[Encoded]) -> list[InsertResult]:
    """Insert by one command.

    Raises `StoreUnavailable`, `OperatorFault`, `StoreRefused` (the call, for a reason that is about content) or
    `CommandRefused` (the call, for a reason nobody listed).
    """
    async with store.operation(writes=True):
        return await _insert(collection, [encoded.document for encoded in chunk])


async def _insert(collection: AsyncCollection[Document], documents: Sequence[RawBSONDocument]) -> list[InsertResult]:
    results: list[InsertResult] = [Inserted.NEW] * len(documents)
    try:
        await collection.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        details = error.details or {}
    except OperationFailure as error:
        if is_listed(error):
            raise
        raise CommandRefused(error) from None
    else:
        return results
    if details.get("writeConcernErrors"):
        # Neither inserted nor already there counts while a majority has not got it.
        raise StoreUnavailable(not_on_a_majority())
    for entry in details.get("writeErrors", ()):
        results[entry["index"]] = _read_entry(entry)
    return results


def _read_entry(entry: Mapping[str, Any]) -> InsertResult:
    number = entry["code"]
    if number in DUPLICATE_KEYS:
        return Inserted.KEY_TAKEN
    return failure_of_write_error(number, str(entry.get("errmsg", "")))
