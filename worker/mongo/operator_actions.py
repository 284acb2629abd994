"""The `operator_actions` collection: one document per action, and chunks of its lines, one line per letter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

    from worker.desk.ports import Query
    from worker.mongo.client import Document, Store

COLLECTION: Final = "operator_actions"
LINES: Final = "lines"
"""The kind of a chunk of lines."""
_CHUNKS_AT_ONCE: Final = 20


class ActionCollection:
    """Actions for the desk. Every method raises `StoreUnavailable` or `OperatorFault`."""

    def __init__(self, store: Store) -> None:
        """Read and write through *store*."""
        self._store = store
        self._collection = store.collection(COLLECTION)

    async def put(self, action: Document) -> None:
        """Write one action or chunk of lines, in place of the one of its `_id`."""
        async with self._store.operation(writes=True):
            await self._collection.replace_one({"_id": action["_id"]}, action, upsert=True)

    async def update(self, action_id: str, values: Mapping[str, Any], guard: Query | None = None) -> bool:
        """Set fields of one action if *guard* holds for it; tell whether it does."""
        async with self._store.operation(writes=True):
            answer = await self._collection.update_one({**(guard or {}), "_id": action_id}, {"$set": dict(values)})
            return answer.matched_count == 1

    async def get(self, action_id: str) -> Document | None:
        """Return one action."""
        async with self._store.operation():
            return await self._collection.find_one({"_id": action_id})

    async def latest(self, limit: int, *, kinds: Collection[str] = ()) -> list[Document]:
        """Return the newest actions, of these *kinds* or all."""
        query: Document = {"kind": {"$in": list(kinds)} if kinds else {"$ne": LINES}}
        async with self._store.operation():
            return [one async for one in self._collection.find(query).sort("startedAt", -1).limit(limit)]

    async def lines(self, action_id: str) -> AsyncIterator[list[Document]]:
        """Yield the chunks of an action's lines, in their order."""
        async with self._store.operation():
            cursor = self._collection.find({"jobId": action_id}).sort("_id", 1).batch_size(_CHUNKS_AT_ONCE)
        try:
            while True:
                async with self._store.operation():
                    chunks = await cursor.to_list(_CHUNKS_AT_ONCE)
                if not chunks:
                    return
                yield chunks
        finally:
            await cursor.close()
