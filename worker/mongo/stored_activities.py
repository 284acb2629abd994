"""Looks into the stored activities, for the desk and the demo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bson.datetime_ms import DatetimeMS
from bson.objectid import ObjectId

from worker.failure import AdapterError, Failure
from worker.mongo.activities import COLLECTION, activity_document
from worker.mongo.bulk import encode_alone
from worker.mongo.errors import lacks_what_was_asked

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from worker.mongo.client import Document, Store
    from worker.pipeline.translate import Activity

_ASKED_AT_ONCE: Final = 500
_HAPPENED_AT: Final = "activity.data.header.timestamp"


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

    async def held(self, event_ids: Sequence[str]) -> set[str]:
        """Return those of *event_ids* that are stored."""
        found: set[str] = set()
        for start in range(0, len(event_ids), _ASKED_AT_ONCE):
            ids = [ObjectId(event_id) for event_id in event_ids[start : start + _ASKED_AT_ONCE] if event_id]
            async with self._store.operation():
                cursor = self._collection.find({"_id": {"$in": ids}}, {"_id": 1})
                found |= {str(document["_id"]) async for document in cursor}
        return found

    async def newest(self, conversation_ids: Collection[str]) -> Mapping[str, int]:
        """Return when (epoch ms) the newest activity of each conversation happened, for those that have one."""
        found: dict[str, int] = {}
        wanted = sorted(conversation_ids)
        for start in range(0, len(wanted), _ASKED_AT_ONCE):
            some = wanted[start : start + _ASKED_AT_ONCE]
            try:
                found |= await self._newest(some)
            except AdapterError as error:  # a server that only counts
                if not lacks_what_was_asked(error):
                    raise
                for one in some:
                    found |= await self._newest_by_reading(one)
        return found

    async def _newest(self, conversation_ids: Sequence[str]) -> dict[str, int]:
        group = {"_id": "$conversationId", "at": {"$max": f"${_HAPPENED_AT}"}}
        async with self._store.operation():
            cursor = await self._collection.aggregate(
                [{"$match": {"conversationId": {"$in": list(conversation_ids)}}}, {"$group": group}]
            )
            return {one["_id"]: int(one["at"]) async for one in cursor if isinstance(one["at"], int | float)}

    async def _newest_by_reading(self, conversation_id: str) -> dict[str, int]:
        query = {"conversationId": conversation_id, _HAPPENED_AT: {"$gt": 0}}
        async with self._store.operation():
            newest = await self._collection.find(query, {_HAPPENED_AT: 1}).sort(_HAPPENED_AT, -1).limit(1).to_list(1)
        return {conversation_id: int(newest[0]["activity"]["data"]["header"]["timestamp"])} if newest else {}

    async def refusals(self, activities: Sequence[Activity]) -> list[Failure | None]:
        """Return why no document can hold an activity, None where one can."""
        encoded = [encode_alone(activity_document(activity, DatetimeMS(0))) for activity in activities]
        return [one if isinstance(one, Failure) else None for one in encoded]

    async def count_of_customer(self, customer_id: str) -> int:
        """Return how many activities a customer has."""
        async with self._store.operation():
            return await self._collection.count_documents({"customerId": customer_id})

    async def delete_of_customer(self, customer_id: str) -> int:
        """Delete the activities of a customer; return how many."""
        async with self._store.operation(writes=True):
            return (await self._collection.delete_many({"customerId": customer_id})).deleted_count

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
