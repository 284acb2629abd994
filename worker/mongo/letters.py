"""The `dead_letters` collection as the desk reads and changes it: in pages, by single fields, strings and integers."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from bson.datetime_ms import DatetimeMS
from pymongo import UpdateOne

from worker.dead_letters.letter import LetterRecord, RecordResult
from worker.desk.ports import GroupCount
from worker.failure import AdapterError
from worker.mongo.bulk import Encoded, encode_alone, insert_each
from worker.mongo.causes import Causes
from worker.mongo.dead_letters import COLLECTION, time_of
from worker.mongo.errors import lacks_what_was_asked
from worker.mongo.evidence import Inserted
from worker.mongo.letter_pages import NO_LARGE, LetterPages, unspecific

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from worker.desk.ports import Change, Query
    from worker.mongo.client import Document, Store

_WRITTEN_AT_ONCE: Final = 1000
_TOGETHER: Final = 50
"""Letters that the embedded server changes by one command: it puts each on the disk, and answers nobody else."""
_SENDERS_SHOWN: Final = 20


class LetterCollection:
    """Letters for the desk. Every method raises `StoreUnavailable` or `OperatorFault`."""

    def __init__(self, store: Store) -> None:
        """Read and write through *store*."""
        self._store = store
        self._collection = store.collection(COLLECTION)
        self._causes = Causes(store)
        self._pages = LetterPages(store, self._collection)

    async def groups(self, query: Query) -> list[GroupCount]:
        """Count letters by cause.

        Where the server cannot do that in one go (it lacks what is needed, or there are more senders than an answer
        holds), it counts, and what else there is to say comes from the latest letters of each cause.
        """
        group: Document = {
            "_id": "$fingerprint",
            "letters": {"$sum": 1},
            "deaths": {"$sum": "$count"},
            "first": {"$min": "$firstSeen"},
            "last": {"$max": "$lastSeen"},
            "senders": {"$addToSet": "$senderId"},
            "users": {"$addToSet": "$userId"},
        }
        try:
            return [_group(document) for document in await self._aggregate(query, group)]
        except AdapterError as error:
            if not lacks_what_was_asked(error):
                raise
            return await self._groups_by_reading(query)

    async def _groups_by_reading(self, query: Query) -> list[GroupCount]:
        sums: Document = {"_id": "$fingerprint", "letters": {"$sum": 1}, "deaths": {"$sum": "$count"}}
        found = []
        for counted in await self._aggregate(query, sums):
            own = {**query, "fingerprint": counted["_id"]}
            latest = await self.latest(own, _SENDERS_SHOWN)
            found.append(
                GroupCount(
                    fingerprint=str(counted["_id"] or ""),
                    letters=counted["letters"],
                    deaths=max(int(counted["deaths"]), counted["letters"]),
                    first_seen=await self._earliest(own),
                    last_seen=max((one.last_seen for one in latest), default=0),
                    senders=_names(sorted({one.sender_id for one in latest})),
                    users=_names(sorted({one.user_id for one in latest})),
                )
            )
        return found

    async def _earliest(self, query: Query) -> int:
        async with self._store.operation():
            cursor = self._collection.find(query, {"firstSeen": 1}).sort("firstSeen", 1).limit(1)
            documents = await cursor.to_list(1)
        return (time_of(documents[0].get("firstSeen")) or 0) if documents else 0

    async def counts(self, query: Query, field: str) -> dict[str, int]:
        """Count letters by the value of one field."""
        found = await self._aggregate(query, {"_id": f"${field}", "n": {"$sum": 1}})
        return {str(document["_id"] or ""): document["n"] for document in found}

    async def first_seen(self) -> dict[str, int]:
        """Return when (epoch ms) each cause was seen first, by its fingerprint."""
        try:
            found = await self._aggregate({}, {"_id": "$fingerprint", "at": {"$min": "$firstSeen"}})
        except AdapterError as error:  # a server that only counts
            if not lacks_what_was_asked(error):
                raise
            return {one: await self._earliest({"fingerprint": one}) for one in await self.counts({}, "fingerprint")}
        return {one["_id"]: time_of(one["at"]) or 0 for one in found if isinstance(one["_id"], str)}

    async def known_since(self, causes: Collection[str]) -> dict[str, int]:
        """Return when (epoch ms) each of *causes* was seen first, deleted letters included, where that is known."""
        return await self._causes.first_seen(causes)

    async def latest(self, query: Query, limit: int, *, oldest_first: bool = False) -> list[LetterRecord]:
        """Return letters by the time they were seen last, without what is large."""
        async with self._store.operation():
            found = self._collection.find(unspecific(query), NO_LARGE)
            cursor = found.sort("lastSeen", 1 if oldest_first else -1).limit(limit)
            return [LetterRecord.read(document) async for document in cursor]

    async def some(self, query: Query, limit: int) -> list[LetterRecord]:
        """Return some letters, whole."""
        async with self._store.operation():
            return [LetterRecord.read(document) async for document in self._collection.find(query).limit(limit)]

    async def stream(
        self, query: Query, page: int, *, bodies: bool = True, limit: int | None = None
    ) -> AsyncIterator[list[LetterRecord]]:
        """Yield letters in pages, by number and by bytes, without their headers; without *bodies* these are empty."""
        async with aclosing(self._pages.pages(query, page, bodies=bodies, limit=limit)) as pages:
            async for documents in pages:
                yield [LetterRecord.read(document) for document in documents]

    async def change(self, ids: Collection[str], guard: Query, change: Change) -> int:
        """Change those of *ids* that *guard* holds for; return how many."""
        update = _update(change)
        is_embedded = await self._store.is_embedded()
        write, number = (self._change_at_once, _TOGETHER) if is_embedded else (self._change_each, _WRITTEN_AT_ONCE)
        changed = 0
        for some in _in_parts(ids, number):
            async with self._store.operation(writes=True):
                changed += await write(some, guard, update)
        return changed

    async def _change_at_once(self, ids: list[str], guard: Query, update: Document) -> int:
        """Change letters by one update: the embedded server reads each whole for an update of its own."""
        return (await self._collection.update_many({**guard, "_id": {"$in": ids}}, update)).matched_count

    async def _change_each(self, ids: list[str], guard: Query, update: Document) -> int:
        """Change letters one by one in one command: there are servers that find only what equals a whole index."""
        updates = [UpdateOne({"_id": one, **guard}, update) for one in ids]
        return (await self._collection.bulk_write(updates, ordered=False)).matched_count

    async def delete(self, ids: Collection[str]) -> int:
        """Delete letters; return how many."""
        deleted = 0
        for some in _in_parts(ids, _WRITTEN_AT_ONCE):
            async with self._store.operation(writes=True):
                deleted += (await self._collection.delete_many({"_id": {"$in": some}})).deleted_count
        return deleted

    async def insert(self, letters: Sequence[LetterRecord]) -> list[RecordResult]:
        """Add letters as they are; one that is there already stays as it is."""
        encoded = [encode_alone({**letter.to_document(), "unsettled": 0}) for letter in letters]
        answers = iter(await insert_each(self._store, self._collection, [e for e in encoded if isinstance(e, Encoded)]))
        return [_result(next(answers)) if isinstance(one, Encoded) else RecordResult.REFUSED for one in encoded]

    async def _aggregate(self, query: Query, group: Mapping[str, Any]) -> list[Document]:
        matching: list[Document] = [{"$match": unspecific(query)}] if query else []
        pipeline: list[Document] = [*matching, {"$group": dict(group)}]
        async with self._store.operation():
            cursor = await self._collection.aggregate(pipeline, allowDiskUse=True)
            return [document async for document in cursor]


def _update(change: Change) -> Document:
    values: Document = dict(change.values)
    if change.expires_at is not None:
        values["expiresAt"] = DatetimeMS(change.expires_at)
    update: Document = {"$set": values}
    if change.add:
        update["$inc"] = dict(change.add)
    if change.remove:
        update["$unset"] = dict.fromkeys(change.remove, "")
    return update


def _group(document: Document) -> GroupCount:
    return GroupCount(
        fingerprint=str(document["_id"] or ""),
        letters=document["letters"],
        deaths=max(int(document["deaths"]), document["letters"]),
        first_seen=time_of(document["first"]) or 0,
        last_seen=time_of(document["last"]) or 0,
        senders=_names(document.get("senders", ())),
        users=_names(document.get("users", ())),
    )


def _names(values: Sequence[object]) -> tuple[str, ...]:
    return tuple(sorted(one for one in values if isinstance(one, str) and one)[:_SENDERS_SHOWN])


def _result(answer: object) -> RecordResult:
    if answer is Inserted.NEW:
        return RecordResult.RECORDED
    return RecordResult.ALREADY_RECORDED if answer is Inserted.KEY_TAKEN else RecordResult.REFUSED


def _in_parts(ids: Collection[str], number: int) -> list[list[str]]:
    listed = list(ids)
    return [listed[start : start + number] for start in range(0, len(listed), number)]
