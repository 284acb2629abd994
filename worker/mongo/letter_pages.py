"""Many letters in pages, with memory that does not grow: how each kind of server is asked for them."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.command_cursor import AsyncCommandCursor
    from pymongo.asynchronous.cursor import AsyncCursor

    from worker.desk.ports import Query
    from worker.mongo.client import Document, Store

    _Cursor = AsyncCursor[Document] | AsyncCommandCursor[Document]

LARGE: Final = ("body", "headers", "originalBody", "properties", "problems")
NO_LARGE: Final = dict.fromkeys(LARGE, 0)
_NO_HEADERS: Final = {"headers": 0, "originalBody": 0}
_MOST_BYTES: Final = 16 * 1024 * 1024
"""Bodies in one page, but for a single one that is larger; a page more is fetched meanwhile."""
_PART: Final = 2000
"""Letters the embedded server is asked for by one command: some tenths of a second in which it answers nobody else."""

_NAME: Final = "fetch letters"


class LetterPages:
    """Reads letters in pages. Raises `StoreUnavailable` or `OperatorFault`."""

    def __init__(self, store: Store, collection: AsyncCollection[Document]) -> None:
        """Read *collection* of *store*."""
        self._store = store
        self._collection = collection

    async def pages(
        self, query: Query, page: int, *, bodies: bool, limit: int | None
    ) -> AsyncGenerator[list[Document]]:
        """Yield the letters of *query*, at most *limit*, in pages by number and by bytes, without their headers.

        Without *bodies* they are without all that is large. The next page is fetched while the caller works on one.
        """
        without = _NO_HEADERS if bodies else NO_LARGE
        in_parts = await self._store.is_embedded() and "_id" not in query
        read = self._in_parts if in_parts else self._at_once
        async with aclosing(read(query, without, page, limit)) as pages:
            coming = asyncio.create_task(anext(pages, []), name=_NAME)
            try:
                while documents := await coming:
                    coming = asyncio.create_task(anext(pages, []), name=_NAME)
                    await asyncio.sleep(0)
                    yield documents
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)

    async def _at_once(
        self, query: Query, without: Mapping[str, int], page: int, limit: int | None
    ) -> AsyncGenerator[list[Document]]:
        """Yield pages of one cursor, for the server to keep: some answer an aggregation in one piece instead."""
        async with self._store.operation():
            cursor = self._collection.find(unspecific(query), dict(without)).batch_size(page).limit(limit or 0)
        async with aclosing(self._pages_of(cursor, page, without)) as pages:
            async for documents in pages:
                yield documents

    async def _in_parts(
        self, query: Query, without: Mapping[str, int], page: int, limit: int | None
    ) -> AsyncGenerator[list[Document]]:
        """Yield pages of one command where it finds no more than a part, else of many, in the order of ids.

        The embedded server makes all of an answer before it sends the first letter, and answers nobody else meanwhile.
        Where it aggregates, it leaves fields out before it reads them.
        """
        asked, last, done = unspecific(query), None, 0
        if (limit is None or limit > _PART) and await self._count(asked, _PART + 1) > _PART:
            asked, last = await self._for_many(asked), ""
        while wanted := _PART if limit is None else min(_PART, limit - done):
            got = 0
            async with aclosing(self._part(asked, without, page, wanted, last)) as pages:
                async for documents in pages:
                    got += len(documents)
                    yield documents
                    if last is not None:
                        last = documents[-1]["_id"]
            done += got
            if last is None or got < wanted:
                return

    async def _part(
        self, query: Document, without: Mapping[str, int], page: int, number: int, last: str | None
    ) -> AsyncGenerator[list[Document]]:
        """Yield the pages of one command: at most *number* letters, with *last* those after it in the order of ids."""
        stages: list[Document] = [{"$match": query}, {"$limit": number}, {"$project": dict(without)}]
        if last is not None:
            stages[:1] = [{"$match": {**query, "_id": {"$gt": last}}}, {"$sort": {"_id": 1}}]
        async with self._store.operation():
            cursor = await self._collection.aggregate(stages, batchSize=page)
        async with aclosing(self._pages_of(cursor, page, without)) as pages:
            async for documents in pages:
                yield documents

    async def _for_many(self, query: Document) -> Document:
        """Return *query* so that each part is found quickest, of letters that are more than a part.

        By an index of another field than the id, all that equals is found and sorted for every part. Where that is
        more than one part among all letters, they are gone through in the order of ids.
        """
        async with self._store.operation():
            many = math.isqrt(_PART * await self._collection.estimated_document_count())
        if await self._count(query, many) < many:
            return query
        return {name: value if isinstance(value, dict) else {"$in": [value]} for name, value in query.items()}

    async def _count(self, query: Document, most: int) -> int:
        """Return how many letters there are of *query*, counting no further than *most*."""
        group: Document = {"_id": "$status", "n": {"$sum": 1}}
        async with self._store.operation():
            cursor = await self._collection.aggregate([{"$match": query}, {"$limit": most}, {"$group": group}])
            return sum(one["n"] for one in await cursor.to_list())

    async def _pages_of(self, cursor: _Cursor, page: int, without: Mapping[str, int]) -> AsyncGenerator[list[Document]]:
        most_bytes = None if "body" in without else _MOST_BYTES
        try:
            while documents := await self._page(cursor, page, most_bytes):
                yield documents
        finally:
            await cursor.close()

    async def _page(self, cursor: _Cursor, page: int, most_bytes: int | None) -> list[Document]:
        async with self._store.operation():
            if most_bytes is None:
                return await cursor.to_list(page)
            found: list[Document] = []
            size = 0
            async for document in cursor:
                found.append(document)
                size += len(document.get("body", b""))
                if len(found) >= page or size >= most_bytes:
                    break
            return found


def unspecific(query: Query) -> Document:
    """Return *query* so that the embedded server does not pick the index of the status, which most letters share.

    It uses an index for a single value, and none for a list.
    """
    status = query.get("status")
    return {**query, "status": {"$in": [status]}} if isinstance(status, str) else dict(query)
