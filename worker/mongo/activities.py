"""The Conversations store: one document per activity, written once, never overwritten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bson.datetime_ms import DatetimeMS
from bson.objectid import ObjectId

from worker import compiled
from worker.failure import Failure
from worker.mongo.bulk import Encoded, encode_alone, insert_each, ready
from worker.mongo.errors import DUPLICATE_KEYS, failure_of_write_error
from worker.mongo.evidence import Inserted, is_own
from worker.pipeline.ports import Refused, StoreResult, Unproven, Written
from worker.pipeline.translate import EVENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.mongo.client import Document, Store
    from worker.pipeline.translate import Activity

COLLECTION: Final = "ConversationActivities"
_READ_BACK_IDS: Final = 500
_JUST_MS: Final = 1000
"""What was stored so short a while ago proves that the store can write: documents that fail alike now are at fault."""


class ActivityStore:
    """Writes activities to `ConversationActivities`. Idempotent: the event id is the `_id`."""

    def __init__(self, store: Store) -> None:
        """Write through *store*."""
        self._store = store
        self._collection = store.collection(COLLECTION)
        self._stored_at = 0
        """When (epoch ms) something was newly stored last."""

    async def store(self, activities: Sequence[Activity], now_ms: int) -> list[StoreResult]:
        """Store *activities* and return what became of each, in the same order.

        A result is given only for what is known to be on a majority. The same event twice in one call is stored once;
        the second is a duplicate.

        Args:
            activities: any number of them; the calls to the server are kept bounded in count and bytes.
            now_ms: epoch milliseconds, written as `recordCreationTime`.

        Raises:
            StoreUnavailable: the store is away or sick, or the effect of a write is unknown. Store all of them again
                later.
            OperatorFault: credentials, permissions or configuration.
        """
        results: dict[int, StoreResult] = {}
        while len(results) < len(activities):
            leaders: dict[str, int] = {}
            for index in range(len(activities)):
                if index not in results:
                    leaders.setdefault(activities[index].event_id, index)
            answers = await self._store_distinct([activities[index] for index in leaders.values()], now_ms)
            _settle(activities, leaders, dict(zip(leaders, answers, strict=True)), results)
        return [results[index] for index in range(len(activities))]

    async def get(self, event_id: str) -> Document | None:
        """Return the stored document of an event, or None. Raises `StoreUnavailable` or `OperatorFault`."""
        async with self._store.operation():
            return await self._collection.find_one({"_id": ObjectId(event_id)})

    async def _store_distinct(self, activities: Sequence[Activity], now_ms: int) -> list[StoreResult]:
        """Store activities of different event ids; return what became of each."""
        encoded = [encode(activity, now_ms) for activity in activities]
        good = [item for item in encoded if isinstance(item, Encoded)]
        just_stored = 0 <= now_ms - self._stored_at < _JUST_MS
        results = await insert_each(self._store, self._collection, good, just_stored=just_stored)
        if Inserted.NEW in results:
            self._stored_at = now_ms
        answers = iter(results)
        inserted = [next(answers) if isinstance(item, Encoded) else item for item in encoded]
        taken = [a.event_id for a, answer in zip(activities, inserted, strict=True) if answer is Inserted.KEY_TAKEN]
        held = await self._held(taken)
        return [_result(answer, is_held=a.event_id in held) for a, answer in zip(activities, inserted, strict=True)]

    async def _held(self, event_ids: Sequence[str]) -> set[str]:
        """Return those of *event_ids* that are in the store."""
        found: set[str] = set()
        for start in range(0, len(event_ids), _READ_BACK_IDS):
            ids = [ObjectId(event_id) for event_id in event_ids[start : start + _READ_BACK_IDS]]
            async with self._store.operation():
                async for document in self._collection.find({"_id": {"$in": ids}}, {"_id": 1}):
                    found.add(str(document["_id"]))
        return found


def encode(activity: Activity, now_ms: int) -> Encoded | Failure:
    """Return the document of *activity*, created at *now_ms*, ready to send."""
    if compiled.bson is not None:
        data = _encode_compiled(activity, now_ms)
        if data is not None:
            return ready(data)
    return encode_alone(activity_document(activity, DatetimeMS(now_ms)))


def _encode_compiled(activity: Activity, now_ms: int) -> bytes | None:
    """Return what BSON makes of `activity_document`, straight from the JSON that is there; None where it is not."""
    message, session, room = activity.message, activity.channel_session, activity.room
    data = activity.data_bytes()
    if data is None or message.sender_json is None:
        return None
    document: bytes | None = compiled.bson.activity(
        activity.event_id,
        activity.customer_id,
        activity.conversation_id,
        activity.channel_session_id,
        activity.room_id,
        activity.name,
        EVENT_TYPE,
        activity.timestamp,
        message.sender_json,
        session.json if session else None,
        data,
        room.json if room else None,
        now_ms,
        message.id,
        activity.stored_because.value if activity.stored_because else None,
    )
    return document


def activity_document(activity: Activity, created: DatetimeMS) -> Document:
    """Return the platform's document for *activity*.

    `timestamp` repeats the event's own time, as in the records the platform writes, so that both sort and search alike;
    `recordCreationTime` says when this document came to be, which is later when the store was away.
    The platform's reports read `activity._id`, `activity.channelSession._id` and `activity.roomInfo._id`,
    while everything under `activity.data` stays as the publisher sent it.
    """
    event = activity.event
    timestamp = DatetimeMS(event["timestamp"])
    nested = {"_id": event["id"], **event, "timestamp": timestamp}
    del nested["id"]
    for name in ("channelSession", "roomInfo"):
        nested_object = nested.get(name)
        if isinstance(nested_object, dict) and "id" in nested_object:
            nested[name] = _id_as_underscore_id(nested_object)
    return {
        "_id": ObjectId(activity.event_id),
        "customerId": activity.customer_id,
        "conversationId": activity.conversation_id,
        "channelSessionId": activity.channel_session_id,
        "roomId": activity.room_id,
        "activity": nested,
        "timestamp": timestamp,
        "recordCreationTime": created,
        "messageId": activity.message.id,
        "storedBecause": activity.stored_because,
    }


def _id_as_underscore_id(value: Mapping[str, Any]) -> Document:
    return {"_id" if key == "id" else key: item for key, item in value.items()}


def _settle(
    activities: Sequence[Activity],
    leaders: Mapping[str, int],
    answers: Mapping[str, StoreResult],
    results: dict[int, StoreResult],
) -> None:
    """Write down all results that are known now; whatever else there is of a refused event is tried itself.

    Two of one event may differ when they came with an idempotency key, and the fault may lie in the difference.
    """
    for index, activity in enumerate(activities):
        if index in results:
            continue
        answer = answers[activity.event_id]
        if leaders[activity.event_id] == index:
            results[index] = answer
        elif not isinstance(answer, Refused):
            results[index] = Written.DUPLICATE if answer is Written.STORED else answer


def _result(answer: Inserted | Failure, *, is_held: bool) -> StoreResult:
    if isinstance(answer, Failure):
        return Refused(answer) if is_own(answer) else Unproven(answer)
    if answer is Inserted.NEW:
        return Written.STORED
    if is_held:
        return Written.DUPLICATE
    # The key that is taken is not the _id, so it is an index of somebody else's that says no.
    return Refused(failure_of_write_error(DUPLICATE_KEYS[0]))
