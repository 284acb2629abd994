"""Insert many documents so that each one gets an answer of its own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

import bson
from bson.raw_bson import RawBSONDocument
from pymongo.errors import BulkWriteError

from worker.failure import Failure, StoreRefused, StoreUnavailable
from worker.mongo.errors import (
    DUPLICATE_KEY,
    document_too_large,
    failure_at_encode,
    failure_of_write_error,
    not_on_a_majority,
    store_error,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pymongo.asynchronous.collection import AsyncCollection

    from worker.mongo.client import Document, Store

MAX_DOCUMENT_BYTES: Final = 16 * 1024 * 1024
"""What every MongoDB server accepts; more is refused before it is sent."""

_MAX_CALL_BYTES: Final = 16 * 1024 * 1024
_MAX_CALL_DOCUMENTS: Final = 1000


class Inserted(Enum):
    """What the server said about one document it did not refuse."""

    NEW = "new"
    KEY_TAKEN = "key_taken"
    """A unique index already holds its key; which one, only reading back can tell (not every server says)."""


InsertResult = Inserted | Failure


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
    if len(data) > MAX_DOCUMENT_BYTES:
        return document_too_large()
    return Encoded(RawBSONDocument(data), len(data))


async def insert_each(
    store: Store, collection: AsyncCollection[Document], documents: Sequence[Encoded]
) -> list[InsertResult]:
    """Insert *documents* in calls of bounded size and return one result for each, in order.

    Everything reported as `NEW` or `KEY_TAKEN` is known to be on a majority.

    Raises:
        StoreUnavailable: the effect of some of it is unknown. Do it all again.
        OperatorFault: the store will not let us write.
    """
    results: list[InsertResult] = []
    for chunk in chunks(documents):
        results += await _insert_chunk(store, collection, chunk)
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
    store: Store, collection: AsyncCollection[Document], chunk: Sequence[Encoded]
) -> list[InsertResult]:
    documents = [encoded.document for encoded in chunk]
    try:
        async with store.operation():
            return await _insert(collection, documents)
    except StoreRefused as error:
        if len(chunk) == 1:
            return [error.failure]
    # The server refused the whole call for the sake of one document: find it by halves, so that the others get through.
    half = len(chunk) // 2
    return [
        *await _insert_chunk(store, collection, chunk[:half]),
        *await _insert_chunk(store, collection, chunk[half:]),
    ]


async def _insert(collection: AsyncCollection[Document], documents: Sequence[RawBSONDocument]) -> list[InsertResult]:
    results: list[InsertResult] = [Inserted.NEW] * len(documents)
    try:
        await collection.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        details = error.details or {}
    else:
        return results
    if details.get("writeConcernErrors"):
        # Neither inserted nor already there counts while a majority has not got it.
        raise StoreUnavailable(not_on_a_majority())
    for entry in details.get("writeErrors", ()):
        results[entry["index"]] = _read_entry(entry["code"])
    return results


def _read_entry(number: int) -> InsertResult:
    if number == DUPLICATE_KEY:
        return Inserted.KEY_TAKEN
    failure = failure_of_write_error(number)
    if failure.dependency is not None:
        raise store_error(failure)
    return failure
