"""Looks at the Conversations store from outside: how much is there, and of what kind. For the demo and for proofs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.mongo.activities import COLLECTION

if TYPE_CHECKING:
    from worker.mongo.client import Document, Store


class Census:
    """Counts stored activities. Every method raises `StoreUnavailable` or `OperatorFault`."""

    def __init__(self, store: Store) -> None:
        """Look into *store*."""
        self._store = store
        self._collection = store.collection(COLLECTION)

    async def count(self) -> int:
        """Return how many activities are stored."""
        async with self._store.operation():
            return await self._collection.count_documents({})

    async def event_ids(self) -> list[str]:
        """Return the event id of every stored activity."""
        async with self._store.operation():
            cursor = self._collection.find({}, {"_id": 1})
            return [str(document["_id"]) async for document in cursor]

    async def sample(self) -> Document | None:
        """Return one stored activity, or None when there is none."""
        async with self._store.operation():
            return await self._collection.find_one({})
