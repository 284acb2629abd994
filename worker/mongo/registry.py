"""The registry: the `conversations` collection, shared by all workers, changed without undoing each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pymongo import ASCENDING, InsertOne, ReplaceOne
from pymongo.errors import BulkWriteError, OperationFailure

from worker.codes import Code
from worker.conversations.conversation import NOT_ACTIVE, ConversationRecord, UnreadableRecord
from worker.conversations.lifecycle import merge
from worker.conversations.ports import Applied, Lookup
from worker.failure import Failure, StoreRefused, StoreUnavailable
from worker.mongo.bulk import Encoded, encode_alone
from worker.mongo.errors import (
    DUPLICATE_KEYS,
    CommandRefused,
    failure_of_write_error,
    is_listed,
    not_on_a_majority,
    store_error,
    store_too_busy,
)
from worker.mongo.evidence import Inserted, InsertResult, against_the_store

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from pymongo.asynchronous.cursor import AsyncCursor

    from worker.conversations.lifecycle import LifecycleChange
    from worker.mongo.client import Document, Store

    _Request = InsertOne[Any] | ReplaceOne[Any]
    _Results = list[InsertResult]

COLLECTION: Final = "conversations"
_IDS_PER_QUERY: Final = 500
_MAX_RACES: Final = 50
_OVER: Final = sorted(NOT_ACTIVE)
_SOMEBODY_ELSES: Final = "a unique index that is not ours already has its key"


@dataclass(slots=True)
class _Change:
    """Changes of one conversation on their way into its record."""

    conversation_id: str
    changes: Sequence[LifecycleChange]
    read: Document | None = None
    """The document that was there when we looked last."""
    result: Applied | Failure | None = None


class Registry:
    """Which conversations exist, their state, sessions, customer and room.

    Each record is read and written alone: one that nobody can read, or that the store refuses, does not touch its
    neighbours. What cannot be read counts as an unknown conversation.
    """

    def __init__(self, store: Store, on_unreadable: Callable[[UnreadableRecord], None] = lambda _record: None) -> None:
        """Keep the registry in *store*; *on_unreadable* is called for each record met that nobody can read."""
        self._store = store
        self._on_unreadable = on_unreadable
        self._collection = store.collection(COLLECTION)

    async def lookup(self, conversation_ids: Collection[str], session_ids: Collection[str]) -> Lookup:
        """Return the records for these conversation ids and channel session ids: one query each, from the primary.

        A session that two conversations claim belongs to the active one, or else to the one in which it started last.

        Raises:
            StoreUnavailable: the store is away.
            OperatorFault: credentials, permissions or configuration.
        """
        wanted = set(session_ids)
        by_session: dict[str, ConversationRecord] = {}
        for record in await self._find("channelSessionIds", wanted):
            for session_id in wanted.intersection(fact.id for fact in record.sessions):
                by_session[session_id] = _owner(session_id, by_session.get(session_id), record)
        return Lookup(await self.read(conversation_ids), by_session)

    async def read(self, conversation_ids: Collection[str]) -> dict[str, ConversationRecord]:
        """Return the records of these conversations by id. Raises `StoreUnavailable` or `OperatorFault`."""
        return {record.id: record for record in await self._find("_id", conversation_ids)}

    async def apply(self, change: LifecycleChange) -> Applied:
        """Merge *change* into its conversation and return the record as it is afterwards, changed or not.

        Raises what `apply_each` does, and `StoreRefused` for what that returns.
        """
        (result,) = await self.apply_each([change])
        if isinstance(result, Failure):
            raise StoreRefused(result)
        return result

    async def apply_each(self, changes: Sequence[LifecycleChange]) -> list[Applied | Failure]:
        """Merge each of *changes*, in order, into its conversation; return for each what became of that conversation.

        Read, merge, write only if nobody wrote in between, else again: workers cannot undo each other.

        Returns a `Failure` where the record cannot be read or the store refuses the changed one.

        Raises:
            StoreUnavailable: the store is away, or the effect is unknown. Apply all again later.
            OperatorFault: credentials, permissions or configuration.
        """
        by_conversation: dict[str, list[LifecycleChange]] = {}
        for change in changes:
            by_conversation.setdefault(change.conversation_id, []).append(change)
        cases = {key: _Change(key, some) for key, some in by_conversation.items()}
        await self._apply_all(list(cases.values()))
        return [await self._result(cases[change.conversation_id], change) for change in changes]

    async def _result(self, case: _Change, change: LifecycleChange) -> Applied | Failure:
        if isinstance(case.result, Failure) and len(case.changes) > 1:
            return (await self.apply_each([change]))[0]  # another change may be at fault
        return case.result or store_too_busy()

    async def get(self, conversation_id: str) -> ConversationRecord | UnreadableRecord | None:
        """Return what is known of one conversation, or None. Raises `StoreUnavailable` or `OperatorFault`."""
        async with self._store.operation():
            document = await self._collection.find_one({"_id": conversation_id})
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
        return await self._page(_filter(state, active=active), limit, after)

    async def with_exchange(
        self, *, active: bool, limit: int, after: str | None
    ) -> Sequence[ConversationRecord | UnreadableRecord]:
        """Return a page of conversations, active or over, for which an exchange may have been made and not deleted.

        Raises `StoreUnavailable` or `OperatorFault`.
        """
        return await self._page({"exchange": 1, **_filter(None, active=active)}, limit, after)

    async def exchanges_deleted(self, conversation_ids: Collection[str]) -> None:
        """Note that the exchanges of these conversations are gone, unless they are active again.

        Raises `StoreUnavailable` or `OperatorFault`.
        """
        change = {"$unset": {"exchange": ""}, "$inc": {"revision": 1}}
        for some in _slices(conversation_ids):
            async with self._store.operation():
                await self._collection.update_many({"_id": {"$in": some}, "state": {"$in": _OVER}}, change)

    async def _page(
        self, query: Document, limit: int, after: str | None
    ) -> Sequence[ConversationRecord | UnreadableRecord]:
        if after is not None:
            query["_id"] = {"$gt": after}
        async with self._store.operation():
            cursor = self._collection.find(query).sort("_id", ASCENDING).limit(limit)
            page = [self._read(document) async for document in cursor]
        if after is None:
            return page
        # An id of bytes that are no UTF-8 reads as one that may stand before itself: it must not come again for ever.
        return [record for record in page if record.id.encode() > after.encode()]

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

    # -- changing -------------------------------------------------------------------------------------------------

    async def _apply_all(self, cases: Sequence[_Change]) -> None:
        """Fill the results of *cases*; each gets its own."""
        lost_races: Sequence[_Change] = []
        for _ in range(_MAX_RACES):
            documents = await self._documents([case.conversation_id for case in cases])
            for case in lost_races:
                if _is_unchanged(case.read, documents.get(case.conversation_id)):
                    case.result = Failure.of(Code.STORE_REJECTED, _SOMEBODY_ELSES)
            writes = []
            for case in cases:
                case.read = documents.get(case.conversation_id)
                if case.result is None and (encoded := self._merged(case)) is not None:
                    writes.append((case, encoded))
            if not writes:
                return
            lost_races = await self._write_each(writes)
            if not lost_races:
                return
            cases = lost_races

    def _merged(self, case: _Change) -> Encoded | None:
        """Return the document to write, or None: then the result is known without a write."""
        before = self._read(case.read or {"_id": case.conversation_id})
        if isinstance(before, UnreadableRecord):
            case.result = Failure.of(Code.UNREADABLE_RECORD, before.problem)
            return None
        after = before
        for change in case.changes:
            after = merge(after, change) or after
        if after == before:
            case.result = Applied(before, written=False)
            return None
        encoded = encode_alone({**after.to_document(), "revision": _revision(case.read) + 1})
        if isinstance(encoded, Failure):
            case.result = encoded
            return None
        case.result = Applied(after, written=True)
        return encoded

    async def _documents(self, conversation_ids: Sequence[str]) -> dict[str, Document]:
        documents: dict[str, Document] = {}
        for some in _slices(conversation_ids):
            async with self._store.operation():
                async for document in self._collection.find({"_id": {"$in": some}}):
                    documents[document["_id"]] = document
        return documents

    async def _write_each(self, writes: Sequence[tuple[_Change, Encoded]]) -> Sequence[_Change]:
        """Write each record over the document that was read; return those whose key somebody else holds by now.

        A failure of one is its result. Raises `StoreUnavailable` or `OperatorFault`.
        """
        lost = []
        for (case, _), result in zip(writes, await self._apart(writes), strict=True):
            if isinstance(result, Failure):
                case.result = result
            elif result is Inserted.KEY_TAKEN:
                case.result = None
                lost.append(case)
        return lost

    async def _apart(self, writes: Sequence[tuple[_Change, Encoded]]) -> _Results:
        """Write by one command, or by halves until whoever is refused stands alone, so that the others get through."""
        try:
            return _judged(await self._call([_request(case, encoded) for case, encoded in writes]))
        except (StoreRefused, CommandRefused) as error:
            if len(writes) == 1:
                return [error.of_one if isinstance(error, CommandRefused) else error.failure]
        half = len(writes) // 2
        first = await self._apart(writes[:half])
        return _judged([*first, *await self._apart(writes[half:])])

    async def _call(self, requests: Sequence[_Request]) -> _Results:
        results: _Results = [Inserted.NEW] * len(requests)
        async with self._store.operation(writes=True):
            try:
                await self._collection.bulk_write(requests, ordered=False)
            except BulkWriteError as error:
                details = error.details or {}
            except OperationFailure as error:
                if is_listed(error):
                    raise
                raise CommandRefused(error) from None
            else:
                return results
        if details.get("writeConcernErrors"):
            raise StoreUnavailable(not_on_a_majority())
        for entry in details.get("writeErrors", ()):
            is_taken = entry["code"] in DUPLICATE_KEYS
            text = str(entry.get("errmsg", ""))
            results[entry["index"]] = Inserted.KEY_TAKEN if is_taken else failure_of_write_error(entry["code"], text)
        return results


def _request(case: _Change, encoded: Encoded) -> _Request:
    if case.read is None:
        return InsertOne(encoded.document)
    # Where somebody else has written since, nothing matches, and the insertion in its place meets the taken id: so
    # each lost race is told by itself, which the count of matched documents would not do.
    return ReplaceOne(
        {"_id": case.conversation_id, "revision": case.read.get("revision")}, encoded.document, upsert=True
    )


def _judged(results: _Results) -> _Results:
    """Return *results*. Raises `StoreUnavailable` or `OperatorFault` if they prove that the store is sick."""
    failure = against_the_store(results)
    if failure is not None:
        raise store_error(failure)
    return results


def _revision(document: Document | None) -> int:
    return 0 if document is None else int(document.get("revision") or 0)


def _is_unchanged(before: Document | None, now: Document | None) -> bool:
    return (before is None) == (now is None) and _revision(before) == _revision(now)


def _slices(ids: Collection[str]) -> Iterator[list[str]]:
    ordered = sorted(set(ids))
    for start in range(0, len(ordered), _IDS_PER_QUERY):
        yield ordered[start : start + _IDS_PER_QUERY]


def _owner(session_id: str, known: ConversationRecord | None, other: ConversationRecord) -> ConversationRecord:
    if known is None:
        return other
    return max(known, other, key=lambda record: (record.active, _since(record, session_id), record.id))


def _since(record: ConversationRecord, session_id: str) -> int:
    session = record.session(session_id)
    return 0 if session is None else session.since


def _filter(state: str | None, *, active: bool | None) -> Document:
    query: dict[str, Any] = {}
    if active is not None:
        query["state"] = {"$nin" if active else "$in": _OVER}
    if state is not None:
        query["state"] = {**query.get("state", {}), "$eq": state}
    return query
