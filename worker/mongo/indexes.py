"""The indexes that reads need: which there are, which are missing, and making one without ever stopping the work.

Those of our own collections are made at start. The platform's collection can be large, and an index takes its server's
time: nobody but an operator (`cim-worker store apply`) makes one there, unless the collection is empty.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from pymongo import ASCENDING
from pymongo.errors import OperationFailure

from worker.failure import OperatorFault
from worker.mongo import activities, causes, dead_letters, operator_actions, registry
from worker.mongo.errors import index_refused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.failure import Failure
    from worker.mongo.client import Store

_NAMESPACE_NOT_FOUND: Final = 26


@dataclass(frozen=True, slots=True)
class Index:
    """An index that serves finding documents by *fields*: equal in all but the last, and in the order of the last."""

    collection: str
    fields: tuple[str, ...]
    expires: bool = False
    """Whether the server deletes a document when the time in its (only) field has come; where it does not, we do."""
    unique: bool = False

    @property
    def name(self) -> str:
        """Its fields, for people."""
        return " + ".join(self.fields)

    def is_served_by(self, existing: Mapping[str, Any]) -> bool:
        """Tell whether *existing* (of `listIndexes`) does for every document: same fields first, no matter its name.

        The direction of a field does not matter to what we read; indexes of part of the documents do not count.
        """
        is_partial = existing.get("sparse") or "partialFilterExpression" in existing
        first = list(existing["key"].items())[: len(self.fields)]
        return not is_partial and [name for name, way in first if way in {1, -1}] == list(self.fields)


PLATFORMS: Final = tuple(
    Index(activities.COLLECTION, fields)
    for fields in (
        ("conversationId", "timestamp"),
        ("customerId", "timestamp"),
        ("channelSessionId", "timestamp"),
        ("messageId",),
    )
)
"""For the reads people do in the platform's collection."""

OWN: Final = (
    Index(registry.COLLECTION, ("channelSessionIds",)),
    Index(registry.COLLECTION, ("state",)),
    Index(registry.COLLECTION, ("exchange",)),
    *(Index(dead_letters.COLLECTION, (field,)) for field in dead_letters.INDEXED),
    Index(dead_letters.COLLECTION, ("expiresAt",), expires=True),
    Index(causes.COLLECTION, ("expiresAt",), expires=True),
    Index(operator_actions.COLLECTION, ("jobId",)),
    Index(operator_actions.COLLECTION, ("startedAt",)),
)
"""For our own lookups and commands."""
ALL: Final = (*OWN, *PLATFORMS)

CLAIMS: Final = Index(dead_letters.COLLECTION, ("_id", "status", "jobId"), unique=True)
"""For servers that use an index only for a question about exactly its fields: claiming a letter would look at all.

The others find it by `_id`, so it is not missed where it cannot be made. The embedded server must not be asked for it:
a collection for which it has refused an index takes no document.
"""


async def missing(store: Store, collection: str) -> Sequence[Index]:
    """Return the indexes of *collection* that no existing one serves. Raises `StoreUnavailable` or `OperatorFault`."""
    existing = await _existing(store, collection)
    wanted = [index for index in ALL if index.collection == collection]
    return [index for index in wanted if not any(index.is_served_by(one) for one in existing)]


async def make(store: Store, index: Index) -> Failure | None:
    """Make *index*, and return why the store will not, or None when it is there.

    A server that deletes nothing by itself gets an ordinary one in place of one that expires; the embedded server, too,
    where there may be many documents: for one that expires it looks through all of them at every command.
    Raises `StoreUnavailable`; an index whose making takes longer than the store's deadline may still come to be.
    """
    plain = replace(index, expires=False)
    if index.expires and index.collection == dead_letters.COLLECTION and await store.is_embedded():
        return await _make(store, plain)
    failure = await _make(store, index)
    return await _make(store, plain) if failure is not None and index.expires else failure


async def _make(store: Store, index: Index) -> Failure | None:
    try:
        async with store.operation():
            try:
                options: dict[str, Any] = {"expireAfterSeconds": 0} if index.expires else {}
                options |= {"unique": True} if index.unique else {}
                keys = [(field, ASCENDING) for field in index.fields]
                await store.collection(index.collection).create_index(keys, **options)
            except OperationFailure as error:
                failure = index_refused(error)
                if failure is None:
                    raise
                return failure
    except OperatorFault as error:
        return error.failure
    return None


async def is_empty(store: Store, collection: str) -> bool:
    """Tell whether *collection* holds nothing. Raises `StoreUnavailable` or `OperatorFault`."""
    async with store.operation():
        return await store.collection(collection).find_one({}, {"_id": 1}) is None


async def size(store: Store, collection: str) -> int:
    """Return about how many documents *collection* holds. Raises `StoreUnavailable` or `OperatorFault`."""
    async with store.operation():
        return await store.collection(collection).estimated_document_count()


async def _existing(store: Store, collection: str) -> Sequence[Mapping[str, Any]]:
    async with store.operation():
        try:
            return [index async for index in await store.collection(collection).list_indexes()]
        except OperationFailure as error:
            if error.code == _NAMESPACE_NOT_FOUND:
                return []
            raise
