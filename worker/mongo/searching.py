"""What the store knows by an id: stored activities and dead letters, for whoever asks what became of a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.objectid import ObjectId

from worker.dead_letters.letter import LetterRecord
from worker.desk.story import StoredActivity
from worker.mongo import activities, dead_letters

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from worker.mongo.client import Document, Store

_FIELDS: Final = (
    *("conversationId", "customerId", "channelSessionId", "messageId", "storedBecause", "recordCreationTime"),
    *("activity.eventEmitter", "activity.data.header"),
)
# The platform writes there, too: what Python cannot hold, or what is no UTF-8, is no reason to see nothing.
_ANY_DATE: Final[CodecOptions[Document]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS, unicode_decode_error_handler="replace"
)


class StoreSearch:
    """Looks for stored activities and dead letters by id."""

    def __init__(self, store: Store) -> None:
        """Look into *store*."""
        self._store = store
        self._activities = store.collection(activities.COLLECTION).with_options(codec_options=_ANY_DATE)
        self._letters = store.collection(dead_letters.COLLECTION)

    async def activities(self, ids: Collection[str], limit: int) -> Sequence[StoredActivity]:
        """Return at most *limit* activities whose event id or message id is one of *ids*.

        Raises `StoreUnavailable`, also when an index on `messageId` is missing and the collection is large, or
        `OperatorFault`.
        """
        event_ids = [ObjectId(one) for one in ids if ObjectId.is_valid(one)]
        documents: list[Document] = []
        projection = dict.fromkeys(_FIELDS, 1)
        for query in ({"_id": {"$in": event_ids}}, {"messageId": {"$in": sorted(ids)}}):
            async with self._store.operation():
                documents += await self._activities.find(query, projection).limit(limit).to_list()
        found = {str(document["_id"]): _activity(document) for document in documents}
        return list(found.values())[:limit]

    async def letters(self, ids: Collection[str], limit: int) -> Sequence[LetterRecord]:
        """Return at most *limit* letters that have to do with *ids*.

        Letters with these ids, letters of messages with these ids, and replays of letters with these ids. Raises
        `StoreUnavailable` or `OperatorFault`.
        """
        wanted = {"$in": sorted(ids)}
        found: dict[str, LetterRecord] = {}
        for field in ("_id", "messageId", "replayOf"):
            found |= {one.id: one for one in await self._found({field: wanted}, limit)}
        return list(found.values())[:limit]

    async def letters_by_amqp_id(self, amqp_id: str, limit: int) -> Sequence[LetterRecord]:
        """Return at most *limit* letters whose AMQP message id is this. Raises as `letters` does."""
        found = await self._found({"properties.value": amqp_id}, limit)
        return [one for one in found if dict(one.properties).get("message_id") == amqp_id]

    async def _found(self, query: Document, limit: int) -> Sequence[LetterRecord]:
        async with self._store.operation():
            documents = await self._letters.find(query).limit(limit).to_list()
        return [LetterRecord.read(document) for document in documents]


def _activity(document: Document) -> StoredActivity:
    nested = _object(document.get("activity"))
    header = _object(_object(nested.get("data")).get("header"))
    emitter = _object(nested.get("eventEmitter"))
    created = document.get("recordCreationTime")
    return StoredActivity(
        event_id=str(document["_id"]),
        message_id=_text(document.get("messageId")),
        sender_id=_text(emitter.get("id")) or _text(_object(header.get("sender")).get("id")),
        conversation_id=_text(document.get("conversationId")),
        channel_session_id=_text(header.get("channelSessionId")) or _text(document.get("channelSessionId")),
        customer_id=_text(_object(header.get("customer")).get("_id")) or _text(document.get("customerId")),
        stored_because=_text(document.get("storedBecause")),
        created_at=int(created) if isinstance(created, DatetimeMS) else None,
    )


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
