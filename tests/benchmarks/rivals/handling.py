"""What every contender does with a message: our own checks and translation, so that only the plumbing differs."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bson.datetime_ms import DatetimeMS
from pymongo import AsyncMongoClient, WriteConcern

from worker import contract
from worker.cim import CimMessage, parse
from worker.conversations.cache import ConversationCache
from worker.conversations.conversation import ConversationRecord
from worker.mongo.activities import activity_document
from worker.pipeline.translate import EVENT_NAME, Activity, Destination, place, translate

if TYPE_CHECKING:
    from worker.conversations.conversation import Conversation

RABBITMQ_URL: Final = os.environ.get("CIM_RABBITMQ_URL", "")
MONGODB_URI: Final = os.environ.get("CIM_MONGODB_URI", "")
DATABASE: Final = os.environ.get("CIM_MONGODB_DATABASE", "bench")
PREFETCH: Final = int(os.environ.get("BENCH_PREFETCH", "0"))
MAJORITY: Final = WriteConcern(w="majority", j=True)
_CACHE_SIZE, _CACHE_MS = 20_000, 10_000

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Live:
    """Publish this to the hub."""

    conversation_id: str
    event_id: str
    body: bytes
    activity: Activity

    @property
    def document(self) -> Document:
        """What is stored when nobody listens."""
        return stored(self.activity).document


@dataclass(frozen=True, slots=True)
class Stored:
    """Insert this document."""

    document: Document


@dataclass(frozen=True, slots=True)
class Invalid:
    """Publish the delivery to the dead letters with this id and these headers."""

    message_id: str | None
    headers: dict[str, Any]


def read(body: bytes) -> CimMessage | Invalid:
    """Return the message in *body*, or why it is none."""
    message = parse(body, received_at=_now())
    if isinstance(message, CimMessage):
        return message
    return Invalid(
        message.identity.message_id, {contract.CODE: message.first.code.value, contract.POINTER: message.first.pointer}
    )


def decide(message: CimMessage, conversation: Conversation | None) -> Live | Stored:
    """Return what has to be done with a valid message."""
    activity = translate(message, conversation, now=_now())
    if place(message, conversation)[0] is Destination.HUB:
        return Live(activity.conversation_id or "", activity.event_id, activity.event_bytes(), activity)
    return stored(activity)


def stored(activity: Activity) -> Stored:
    """Return the document of an activity."""
    return Stored(activity_document(activity, DatetimeMS(_now())))


def conversation_of(document: Document | None) -> Conversation | None:
    """Return the conversation in a document of the registry."""
    record = None if document is None else ConversationRecord.from_document(document)
    return record.to_conversation() if isinstance(record, ConversationRecord) else None


class CachedRegistry:
    """Looks conversations up one by one and remembers the active ones for ten seconds, as our worker does."""

    def __init__(self, client: AsyncMongoClient[Document]) -> None:
        self._collection = client[DATABASE].conversations
        self._cache = ConversationCache(max_size=_CACHE_SIZE, ttl_ms=_CACHE_MS)

    async def conversation(self, message: CimMessage) -> Conversation | None:
        """Return what is known of the conversation the message names."""
        if message.conversation_id is None:
            return None
        known = self._cache.by_conversation(message.conversation_id, time.monotonic())
        if known is None:
            known = conversation_of(await self._collection.find_one({"_id": message.conversation_id}))
            if known is not None:
                self._cache.remember(known, time.monotonic())
        return known


def properties(live: Live) -> dict[str, Any]:
    """Return the AMQP properties of an event, by the names of pika."""
    return {
        "message_id": live.event_id,
        "correlation_id": live.event_id,
        "type": EVENT_NAME,
        "app_id": "bench",
        "content_type": "application/json",
        "delivery_mode": 2,
    }


def _now() -> int:
    return time.time_ns() // 1_000_000
