"""Counts and lists stored activities, for the demo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.mongo.activities import COLLECTION

if TYPE_CHECKING:
    from worker.mongo.client import Document, Store


class StoredActivities:
    """Counts and lists stored activities. Every method raises `StoreUnavailable` or `OperatorFault`."""

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


async def drop_database(store: Store) -> None:
    """Drop the whole database of *store*. Raises `StoreUnavailable` or `OperatorFault`."""
    async with store.operation():
        await store.database.client.drop_database(store.database.name)
