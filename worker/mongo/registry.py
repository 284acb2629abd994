"""The registry: the `conversations` collection, shared by all workers, changed without undoing each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pymongo import ASCENDING
from pymongo.errors import DuplicateKeyError

from worker.codes import Code
from worker.conversations.conversation import NOT_ACTIVE, ConversationRecord, UnreadableRecord
from worker.conversations.lifecycle import merge
from worker.conversations.ports import Lookup
from worker.failure import Failure, StoreRefused, StoreUnavailable
from worker.mongo.bulk import Encoded, encode_alone
from worker.mongo.errors import store_too_busy

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from pymongo.asynchronous.cursor import AsyncCursor

    from worker.conversations.lifecycle import LifecycleChange
    from worker.mongo.client import Document, Store

COLLECTION: Final = "conversations"
_IDS_PER_QUERY: Final = 500
_MAX_RACES: Final = 50
_MAX_CLOSED: Final = 10_000


class Registry:
    """Which conversations exist, their state, sessions, customer and room.

    Each record is read alone: one that nobody can read counts as an unknown conversation, and its neighbours do not
    notice.
    """

    def __init__(self, store: Store, on_unreadable: Callable[[UnreadableRecord], None] = lambda _record: None) -> None:
        """Keep the registry in *store*; *on_unreadable* is called for each record met that nobody can read."""
        self._store = store
        self._on_unreadable = on_unreadable
        self._collection = store.collection(COLLECTION)

    async def lookup(self, conversation_ids: Collection[str], session_ids: Collection[str]) -> Lookup:
        """Return the records for these conversation ids and channel session ids: one query each, from the primary.

        A session that two conversations claim belongs to the active one, or else to the one changed last.

        Raises:
            StoreUnavailable: the store is away.
            OperatorFault: credentials, permissions or configuration.
        """
        wanted = set(session_ids)
        by_conversation = {record.id: record for record in await self._find("_id", conversation_ids)}
        by_session: dict[str, ConversationRecord] = {}
        for record in await self._find("channelSessionIds", wanted):
            for session_id in wanted.intersection(fact.value["id"] for fact in record.sessions):
                by_session[session_id] = _owner(by_session.get(session_id), record)
        return Lookup(by_conversation, by_session)

    async def apply(self, change: LifecycleChange) -> ConversationRecord:
        """Merge *change* into its conversation and return the record as it is afterwards, changed or not.

        Read, merge, write only if nobody wrote in between, else again: workers cannot undo each other.

        Raises:
            StoreUnavailable: the store is away, the effect is unknown, or others kept winning. Apply it again later.
            OperatorFault: credentials, permissions or configuration.
            StoreRefused: the changed record can never be stored, or the one that is there cannot be read.
        """
        for _ in range(_MAX_RACES):
            document = await self._document(change.conversation_id)
            before = self._read(document or {"_id": change.conversation_id})
            if isinstance(before, UnreadableRecord):
                raise StoreRefused(Failure.of(Code.UNREADABLE_RECORD, before.problem))
            after = merge(before, change)
            if after is None:
                return before
            if await self._replace(after, document):
                return after
        raise StoreUnavailable(store_too_busy())

    async def get(self, conversation_id: str) -> ConversationRecord | UnreadableRecord | None:
        """Return what is known of one conversation, or None. Raises `StoreUnavailable` or `OperatorFault`."""
        document = await self._document(conversation_id)
        return None if document is None else self._read(document)

    async def list(
        self, *, state: str | None = None, active: bool | None = None, limit: int = 100, after: str | None = None
    ) -> Sequence[ConversationRecord | UnreadableRecord]:
        """Return at most *limit* records in the order of their ids, starting behind the id *after*.

        Args:
            state: only conversations in this state.
            active: only active (True) or only not active ones (False).
            limit: page size.
            after: the last id of the page before.

        Raises `StoreUnavailable` or `OperatorFault`.
        """
        async with self._store.operation():
            cursor = (
                self._collection.find(_filter(state, active=active, after=after)).sort("_id", ASCENDING).limit(limit)
            )
            return [self._read(document) async for document in cursor]

    async def closed_since(self, since_ms: int) -> Sequence[ConversationRecord]:
        """Return conversations that were closed at *since_ms* (epoch ms) or later, at most 10 000.

        Raises `StoreUnavailable` or `OperatorFault`.
        """
        query: Document = {"state": {"$in": sorted(NOT_ACTIVE)}, "stateUpdatedAt": {"$gte": since_ms}}
        async with self._store.operation():
            return await self._readable(self._collection.find(query).limit(_MAX_CLOSED))

    async def _find(self, field: str, ids: Collection[str]) -> Sequence[ConversationRecord]:
        records: list[ConversationRecord] = []
        for some in _slices(ids):
            async with self._store.operation():
                records += await self._readable(self._collection.find({field: {"$in": some}}))
        return records

    async def _readable(self, cursor: AsyncCursor[Document]) -> Sequence[ConversationRecord]:
        records = [self._read(document) async for document in cursor]
        return [record for record in records if isinstance(record, ConversationRecord)]

    def _read(self, document: Document) -> ConversationRecord | UnreadableRecord:
        record = ConversationRecord.from_document(document)
        if isinstance(record, UnreadableRecord):
            self._on_unreadable(record)
        return record

    async def _document(self, conversation_id: str) -> Document | None:
        async with self._store.operation():
            return await self._collection.find_one({"_id": conversation_id})

    async def _replace(self, record: ConversationRecord, read: Document | None) -> bool:
        """Write *record* over the document that was read; return whether nobody else has written since."""
        revision = None if read is None else read.get("revision")
        encoded = encode_alone({**record.to_document(), "revision": (revision or 0) + 1})
        if not isinstance(encoded, Encoded):
            raise StoreRefused(encoded)
        async with self._store.operation(writes=True):
            if read is not None:
                unchanged = {"_id": record.id, "revision": revision}
                return (await self._collection.replace_one(unchanged, encoded.document)).matched_count == 1
            try:
                await self._collection.insert_one(encoded.document)
            except DuplicateKeyError:
                return False
        return True


def _slices(ids: Collection[str]) -> Iterator[list[str]]:
    ordered = sorted(set(ids))
    for start in range(0, len(ordered), _IDS_PER_QUERY):
        yield ordered[start : start + _IDS_PER_QUERY]


def _owner(known: ConversationRecord | None, other: ConversationRecord) -> ConversationRecord:
    if known is None:
        return other
    return max(known, other, key=lambda record: (record.active, record.updated_at, record.id))


def _filter(state: str | None, *, active: bool | None, after: str | None) -> Document:
    query: dict[str, Any] = {}
    if active is not None:
        query["state"] = {"$nin" if active else "$in": sorted(NOT_ACTIVE)}
    if state is not None:
        query["state"] = {**query.get("state", {}), "$eq": state}
    if after is not None:
        query["_id"] = {"$gt": after}
    return query
