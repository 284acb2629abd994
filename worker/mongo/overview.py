"""What the store shows at a glance: open letters, and the last report of each pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from worker.dead_letters.letter import OPEN
from worker.desk.status import LetterSummary
from worker.mongo import dead_letters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.mongo.client import Document, Store

_POOLS: Final = "pools"
_MOST_POOLS: Final = 100


class Overview:
    """Looks into the store without changing anything. Every method raises `StoreUnavailable` or `OperatorFault`."""

    def __init__(self, store: Store) -> None:
        """Look into *store*."""
        self._store = store
        self._letters = store.collection(dead_letters.COLLECTION)
        self._pools = store.collection(_POOLS)

    async def letters(self, since: int) -> LetterSummary:
        """Return how many letters are open, of how many causes, how old they are, and how many died since *since*."""
        causes = await self._count({"status": OPEN}, "$fingerprint", {"oldest": {"$min": "$firstSeen"}})
        new = await self._count({"status": OPEN, "lastSeen": {"$gte": since}}, "$status", {})
        oldest = min((at for one in causes if (at := dead_letters.time_of(one["oldest"])) is not None), default=None)
        return LetterSummary(_sum(causes), len(causes), oldest, _sum(new))

    async def pools(self) -> Sequence[Document]:
        """Return the last report of each pool."""
        async with self._store.operation():
            return await self._pools.find({}).limit(_MOST_POOLS).to_list()

    async def _count(self, query: Document, field: str, more: Document) -> Sequence[Document]:
        """Count letters by a field: on the embedded store a count of its own takes twenty times as long."""
        group: Document = {"_id": field, "letters": {"$sum": 1}, **more}
        async with self._store.operation():
            cursor = await self._letters.aggregate([{"$match": query}, {"$group": group}])
            return await cursor.to_list()


def _sum(groups: Sequence[Document]) -> int:
    return sum(one["letters"] for one in groups)
