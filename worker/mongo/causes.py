"""The `dead_letter_causes` collection: when each cause of dead letters was seen first, though its letters are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bson.datetime_ms import DatetimeMS
from pymongo import UpdateOne

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from worker.dead_letters.letter import LetterRecord
    from worker.mongo.client import Document, Store

COLLECTION: Final = "dead_letter_causes"
_DAY_MS: Final = 86_400_000
_KEPT_MS: Final = 400 * _DAY_MS
"""A cause that was not seen for so long is forgotten: a publisher can make as many as there are names of fields."""
_REMEMBERED: Final = 10_000


class Causes:
    """Writes down each cause that letters die of, once a day at most, and tells since when it is known.

    Every method raises `StoreUnavailable` or `OperatorFault`.
    """

    def __init__(self, store: Store) -> None:
        """Write through *store*."""
        self._store = store
        self.collection = store.collection(COLLECTION)
        """Its documents say when they may be deleted (`expiresAt`)."""
        self._noted: dict[str, int] = {}
        """When (epoch ms) this process wrote each cause last."""

    async def note(self, letters: Iterable[LetterRecord]) -> None:
        """Write down the causes of *letters* that were not written in the last day."""
        first: dict[str, tuple[int, LetterRecord]] = {}
        for letter in letters:
            if letter.fingerprint and letter.recorded_at - self._noted.get(letter.fingerprint, 0) > _DAY_MS:
                seen = first.get(letter.fingerprint, (letter.first_seen, letter))[0]
                first[letter.fingerprint] = (min(seen, letter.first_seen), letter)
        if not first:
            return
        updates = [_update(seen, letter) for seen, letter in first.values()]
        async with self._store.operation(writes=True):
            await self.collection.bulk_write(updates, ordered=False)
        if len(self._noted) > _REMEMBERED:
            self._noted.clear()
        self._noted |= {cause: letter.recorded_at for cause, (_, letter) in first.items()}

    async def first_seen(self, causes: Collection[str]) -> dict[str, int]:
        """Return when (epoch ms) each of *causes* was seen first, of those that are known."""
        async with self._store.operation():
            found = self.collection.find({"_id": {"$in": list(causes)}}, {"firstSeen": 1})
            return {document["_id"]: document["firstSeen"] async for document in found}


def _update(first_seen: int, letter: LetterRecord) -> UpdateOne:
    expires_at = DatetimeMS(letter.recorded_at + _KEPT_MS)
    update: Document = {"$min": {"firstSeen": first_seen}, "$set": {"code": letter.code, "expiresAt": expires_at}}
    return UpdateOne({"_id": letter.fingerprint}, update, upsert=True)
