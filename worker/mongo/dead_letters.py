"""The `dead_letters` collection: one document for all letters of one content, with their number."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from bson.datetime_ms import DatetimeMS
from pymongo import UpdateOne

from worker.codes import Code
from worker.dead_letters.letter import DECIDED, OPEN, UNDER_WAY, LetterRecord, RecordResult, claim_state, reopened
from worker.mongo.bulk import Encoded, encode_alone, insert_each
from worker.mongo.causes import Causes
from worker.mongo.evidence import Inserted, InsertResult, is_own

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.dead_letters.outcomes import ReplayOutcome
    from worker.mongo.client import Document, Store

COLLECTION: Final = "dead_letters"
INDEXED: Final = (
    "fingerprint",
    "code",
    "status",
    "lastSeen",
    "senderId",
    "userId",
    "conversationId",
    "customerId",
    "messageId",
    "jobId",
    "replayOf",
)
"""What letters are looked for by."""
_READ_BACK_IDS: Final = 500


class OpenLetters(NamedTuple):
    """The open letters of one code."""

    code: str
    letters: int
    """Documents: letters of one content count once."""
    oldest: int | None
    """When the first of them was seen, in epoch milliseconds."""


class DeadLetterStore:
    """Records dead letters: one document for all letters of one content, with their number.

    A letter that is delivered again must not be counted again, and the broker's word that it was delivered before does
    not tell whether it was recorded then. So a document also knows how many of its letters were counted and are not
    known to have left the queue (`unsettled`): a letter delivered again is one of those, if there are any, and else it
    was never recorded. That is wrong only where a process dies between its acknowledgements and saying `settled`, or
    another process is just there, and such letters come from both: then the number is too small by as many.
    """

    def __init__(self, store: Store, *, retention_ms: int = 30 * 86_400_000) -> None:
        """Record through *store*; letters whose replay has an outcome are kept *retention_ms* longer."""
        self._retention_ms = retention_ms
        self._store = store
        self._collection = store.collection(COLLECTION)
        self._causes = Causes(store)

    async def record(self, letters: Sequence[LetterRecord], left: Mapping[str, int]) -> list[RecordResult]:
        """Record *letters* and return what became of each, in the same order. Say `settled` when they left the queue.

        Another letter of a content that somebody has decided about opens it again; nothing else of it changes.

        Args:
            letters: any number of them.
            left: how many letters of each id have left the queue since `settled` was last said.

        Raises:
            StoreUnavailable: the store is away or sick, or the effect is unknown. Give the letters back to the queue:
                when they are delivered again, those that were counted are known.
            OperatorFault: credentials, permissions or configuration.
        """
        groups: dict[str, list[LetterRecord]] = {}
        for letter in letters:
            groups.setdefault(letter.id, []).append(letter)
        replays = await self._replays([group[0].replay_of for group in groups.values()])
        encoded = {key: encode_alone(_document(group, replays)) for key, group in groups.items()}
        good = {key: item for key, item in encoded.items() if isinstance(item, Encoded)}
        answers: dict[str, InsertResult] = {key: item for key, item in encoded.items() if not isinstance(item, Encoded)}
        answers |= zip(good, await insert_each(self._store, self._collection, list(good.values())), strict=True)
        taken = [groups[key] for key, answer in answers.items() if answer is Inserted.KEY_TAKEN]
        there = await self._count(taken, left)
        await self._causes.note(letters)
        return [
            _result(answers[letter.id], first=groups[letter.id][0] is letter, present=letter.id in there)
            for letter in letters
        ]

    async def settled(self, counts: Mapping[str, int]) -> None:
        """Know that so many letters of each id have left the queue. Raises `StoreUnavailable` or `OperatorFault`."""
        updates = [UpdateOne({"_id": key}, {"$inc": {"unsettled": -count}}) for key, count in counts.items()]
        if updates:
            async with self._store.operation(writes=True):
                await self._collection.bulk_write(updates, ordered=False)

    async def count(self) -> int:
        """Return about how many letters are kept. Raises `StoreUnavailable` or `OperatorFault`."""
        async with self._store.operation():
            return await self._collection.estimated_document_count()

    async def delete_expired(self, now: int) -> int:
        """Delete letters and causes whose time has come by *now* (epoch ms), and return how many.

        Where the server deletes them by itself nothing is left to do. Raises `StoreUnavailable` or `OperatorFault`.
        """
        deleted = 0
        for collection in (self._collection, self._causes.collection):
            async with self._store.operation():
                answer = await collection.delete_many({"expiresAt": {"$lt": DatetimeMS(now)}})
                deleted += answer.deleted_count
        return deleted

    async def write_outcomes(self, outcomes: Sequence[ReplayOutcome]) -> None:
        """Write outcomes to the letters that are under way in that job; others stay as they are.

        Raises `StoreUnavailable` or `OperatorFault`; doing it twice is harmless.
        """
        for status in UNDER_WAY:
            updates = [
                UpdateOne({"_id": one.letter_id, **claim_state(status, one.job_id)}, self._settling(one))
                for one in outcomes
            ]
            async with self._store.operation(writes=True):
                answer = await self._collection.bulk_write(updates, ordered=False)
            if answer.matched_count == len(updates):
                return

    def _settling(self, one: ReplayOutcome) -> Document:
        """Return the update that writes an outcome."""
        return {
            "$set": {
                "status": one.status.value,
                "statusAt": one.at,
                "outcome": one.outcome,
                "successor": one.successor,
                "expiresAt": DatetimeMS(one.at + self._retention_ms),
            }
        }

    async def open_by_code(self) -> list[OpenLetters]:
        """Return how many letters are open, by code. Raises `StoreUnavailable` or `OperatorFault`."""
        stages: list[Document] = [
            {"$match": {"status": OPEN}},
            {"$group": {"_id": "$code", "count": {"$sum": 1}, "oldest": {"$min": "$firstSeen"}}},
        ]
        async with self._store.operation():
            cursor = await self._collection.aggregate(stages)
            found = [document async for document in cursor]
        return [OpenLetters(str(one["_id"] or ""), one["count"], time_of(one["oldest"])) for one in found]

    async def get(self, letter_id: str) -> LetterRecord | None:
        """Return the letter of that id, or None. Raises `StoreUnavailable` or `OperatorFault`."""
        async with self._store.operation():
            document = await self._collection.find_one({"_id": letter_id})
        return None if document is None else LetterRecord.read(document)

    async def _count(self, groups: Sequence[Sequence[LetterRecord]], left: Mapping[str, int]) -> set[str]:
        """Count letters whose content is recorded; return the ids that are there."""
        known = await self._known([group[0].id for group in groups])
        found = [(group, known[group[0].id]) for group in groups if group[0].id in known]
        updates = [update for group, there in found if (update := _counted(group, there, left.get(there["_id"], 0)))]
        if updates:
            async with self._store.operation(writes=True):
                await self._collection.bulk_write(updates, ordered=False)
        return set(known)

    async def _known(self, ids: Sequence[str]) -> dict[str, Document]:
        found: dict[str, Document] = {}
        for start in range(0, len(ids), _READ_BACK_IDS):
            query: Document = {"_id": {"$in": list(ids[start : start + _READ_BACK_IDS])}}
            async with self._store.operation():
                cursor = self._collection.find(query, {"unsettled": 1, "status": 1, "replays": 1})
                found |= {document["_id"]: document async for document in cursor}
        return found

    async def _replays(self, ids: Sequence[str]) -> dict[str, int]:
        """Return how often each of the letters *ids* was replayed; blank ids are nobody's."""
        known = await self._known(sorted({one for one in ids if one}))
        return {one: document.get("replays", 0) for one, document in known.items()}


def time_of(value: object) -> int | None:
    """Return *value* if it is a time of ours, epoch milliseconds; somebody else may have written anything."""
    return value if isinstance(value, int) else None


def _document(group: Sequence[LetterRecord], replays: Mapping[str, int]) -> Document:
    """Return the first document of a content; a replay's counts those of the letters it came from."""
    first, last = _seen(group)
    before = replays.get(group[0].replay_of, 0)
    counted = replace(group[0], count=len(group), first_seen=first, last_seen=last, replays=before)
    return {**counted.to_document(), "unsettled": len(group)}


def _counted(group: Sequence[LetterRecord], known: Document, left: int) -> UpdateOne | None:
    """Return the update that counts what is new in *group*, or None when nothing is."""
    again = sum(letter.redelivered for letter in group)
    new = len(group) - min(again, max(0, known.get("unsettled", 0) - left))
    if not new:
        return None
    first, last = _seen(group)
    update: Document = {
        "$inc": {"count": new, "unsettled": new},
        "$min": {"firstSeen": first},
        "$max": {"lastSeen": last},
    }
    if known.get("status") in DECIDED:
        update["$set"] = reopened(max(letter.recorded_at for letter in group))
        update["$unset"] = {"expiresAt": ""}
    return UpdateOne({"_id": group[0].id}, update)


def _seen(group: Sequence[LetterRecord]) -> tuple[int, int]:
    return min(letter.first_seen for letter in group), max(letter.last_seen for letter in group)


def _result(answer: InsertResult, *, first: bool, present: bool) -> RecordResult:
    if answer is Inserted.NEW:
        return RecordResult.RECORDED if first else RecordResult.ALREADY_RECORDED
    if answer is Inserted.KEY_TAKEN:
        return RecordResult.ALREADY_RECORDED if present else RecordResult.REFUSED
    if not is_own(answer):
        return RecordResult.UNPROVEN
    return RecordResult.TOO_LARGE if answer.code is Code.DOCUMENT_TOO_LARGE else RecordResult.REFUSED
