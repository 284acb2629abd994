"""The `dead_letters` collection: one document per dead letter, recorded once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from worker.codes import Code
from worker.dead_letters.letter import LetterRecord, RecordResult
from worker.mongo.bulk import Encoded, encode_alone, insert_each
from worker.mongo.evidence import Inserted, InsertResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.mongo.client import Document, Store

COLLECTION: Final = "dead_letters"
_READ_BACK_IDS: Final = 500


class DeadLetterStore:
    """Records dead letters. Idempotent: the same letter handed over twice is one document."""

    def __init__(self, store: Store) -> None:
        """Record through *store*."""
        self._store = store
        self._collection = store.collection(COLLECTION)

    async def record(self, letters: Sequence[LetterRecord]) -> list[RecordResult]:
        """Record *letters* and return what became of each, in the same order.

        A letter already there is left as it is, with whatever has been decided about it since.

        Raises:
            StoreUnavailable: the store is away or the effect is unknown. Record all of them again later.
            OperatorFault: credentials, permissions or configuration.
        """
        distinct = {letter.id: letter for letter in reversed(letters)}
        encoded = {key: encode_alone(letter.to_document()) for key, letter in distinct.items()}
        good = {key: item for key, item in encoded.items() if isinstance(item, Encoded)}
        answers: dict[str, InsertResult] = {key: item for key, item in encoded.items() if not isinstance(item, Encoded)}
        answers |= zip(good, await insert_each(self._store, self._collection, list(good.values())), strict=True)
        there = await self._present([key for key, answer in answers.items() if answer is Inserted.KEY_TAKEN])
        return [
            _result(answers[letter.id], first=distinct[letter.id] is letter, present=letter.id in there)
            for letter in letters
        ]

    async def get(self, letter_id: str) -> LetterRecord | None:
        """Return the letter of that id, or None. Raises `StoreUnavailable` or `OperatorFault`."""
        async with self._store.operation():
            document = await self._collection.find_one({"_id": letter_id})
        return None if document is None else LetterRecord.from_document(document)

    async def _present(self, ids: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for start in range(0, len(ids), _READ_BACK_IDS):
            query: Document = {"_id": {"$in": list(ids[start : start + _READ_BACK_IDS])}}
            async with self._store.operation():
                found |= {document["_id"] async for document in self._collection.find(query, {"_id": 1})}
        return found


def _result(answer: InsertResult, *, first: bool, present: bool) -> RecordResult:
    if answer is Inserted.NEW:
        return RecordResult.RECORDED if first else RecordResult.ALREADY_RECORDED
    if answer is Inserted.KEY_TAKEN:
        return RecordResult.ALREADY_RECORDED if present else RecordResult.REFUSED
    return RecordResult.TOO_LARGE if answer.code is Code.DOCUMENT_TOO_LARGE else RecordResult.REFUSED
